"""Bits that flip: found by comparison, traced to a rank, undone by going back.

Ranks that hold the same values compare the sums of their bits every `integrity_interval` steps, and
before each checkpoint, which is published if it holds what was compared. Where they differ the run
goes back to the last checkpoint and takes the steps again. Of three replicas or more the odd one is
wrong. Of two, it is known when the step has been repeated. A flip comes with the sum of the
gradients to both; but its own rank is the first that brought another part to a step, or, where the
flip came too late for that, the only one whose values were others.

What no replica shows: a flip before gradients are summed over the replicas, and one in a weight
that the next step renews from a master before it is compared (a weight of 16 bits, or of another
sharding rank), changes the gradient of one step for all of them alike. `integrity: "repeat"` finds
these, and those of values that one rank alone holds: what AdamW has written must still stand there
before it writes again, which is checked at every step; and the step of the interval is computed
twice.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import paddle
from paddle import Tensor

from llm_pretrain.checkpoint.optimizer_state import VALUES
from llm_pretrain.config import TrainingArguments
from llm_pretrain.machine import device
from llm_pretrain.ops.bit_sum import bit_sums
from llm_pretrain.parallel.comm import collectives
from llm_pretrain.parallel.comm.topology import Topology
from llm_pretrain.parallel.sharding.optimizer import ShardedAdamW
from llm_pretrain.parallel.sharding.replicas import (
    differences,
    have_replicas,
    held_values,
    keyed_sums,
    verdict,
)
from llm_pretrain.training.reports import Reports


class FlippedBitsError(RuntimeError):
    """Values are wrong, on this rank or another: the run has to go back."""


class IntegrityError(RuntimeError):
    """Bits flip again and again; the message names the rank."""


@dataclass(frozen=True)
class Fault:
    """Values that were found to be wrong after a step.

    Attributes:
        what: the values, in words.
        rank, host: whose they are; None while it isn't known which of several is wrong.
        among: the ranks that differ, in words, where that isn't known.
    """

    step: int
    what: str
    rank: int | None = None
    host: str | None = None
    among: str = ""

    def sentence(self) -> str:
        """For the console."""
        if self.rank is None:
            return (
                f"warning: bits have flipped by step {self.step}: {self.what} differ between "
                f"{self.among}. The step is repeated to find which is wrong."
            )
        return (
            f"warning: bits have flipped by step {self.step} on rank {self.rank} on {self.host}: "
            f"{self.what}."
        )

    def fields(self) -> dict[str, str | int | None]:
        """For the log."""
        fields = {"global_step": self.step, "rank": self.rank, "rank_host": self.host}
        return {**fields, "values": self.what, "among": self.among or None}


@dataclass(frozen=True)
class _Suspicion:
    """What the ranks held at a step where it could not be told which of them is wrong."""

    step: int
    what: str
    """The values that differ, in words."""
    among: list[int]
    """The ranks that differ."""
    sums: dict[str, int]
    """This rank's."""
    parts: dict[int, list[float]]
    """What this rank brought to the steps since the last agreement, by step."""


class Integrity:
    """One rank's part in the comparisons, whose findings are the same on every rank."""

    def __init__(
        self,
        training: TrainingArguments,
        topology: Topology,
        optimizer: ShardedAdamW,
        reports: Reports,
    ) -> None:
        self.interval = training.integrity_interval
        self.last_step = training.max_steps
        self.most_in_a_row = training.max_rewinds
        self.topology = topology
        self.optimizer = optimizer
        self.reports = reports
        self.compares = training.integrity != "off" and have_replicas(topology)
        self.checks_rest = training.integrity == "repeat"
        self.resting: Tensor | None = None
        """Sums of what AdamW has written last, int64 [values]."""
        self.compared: Tensor | None = None
        """Sums of what the replicas have agreed on since AdamW has written, int64 [values]."""
        self.resting_gradients: Tensor | None = None
        self.changed = paddle.zeros([1], "float32")
        """Whether what should have stayed or come out alike did not, float32 [1]: 0 or 1."""
        self.losses: dict[int, Tensor] = {}
        """This rank's part of the losses since the last agreement, by step, float32 [1]."""
        self.gradient_sums: dict[int, int] = {}
        """Of the bits of some of its gradients, where the host can read them."""
        self.suspicion: _Suspicion | None = None
        self.in_a_row = 0
        """Times that the run went back since an agreement at a later step than the last fault's."""
        self.faulty_step = 0

    # In a step

    def note_part(self, step: int, loss: Tensor) -> Tensor:
        """This rank's part of a step's loss, float32 [1], which is given back.

        Its gradients have not been reduced. Those of vectors are few, and change with any weight.
        """
        if self.compares:
            self.losses[step] = loss.clone()
        if self.compares and device.kind() == "cpu":
            vectors = [bucket for bucket in self.optimizer.buckets if not bucket.kind.decays]
            flat = [bucket.gradients.sums.flat for bucket in vectors if not bucket.is_reducing]
            self.gradient_sums[step] = sum(bit_sums(flat).tolist())
        return loss

    def gradients(self, step: int, compute: Callable[[], tuple[Tensor, Tensor]]) -> Any:
        """What `compute` gives, which reduces the gradients: twice over in the interval's step."""
        found = compute()
        if not self.checks_rest:
            return found
        sums = bit_sums(self.optimizer.shards)
        if step % self.interval == 0:
            self.optimizer.drop_gradients()
            found = compute()
            again = bit_sums(self.optimizer.shards)
            self._note(sums, again)
            sums = again
        self.resting_gradients = sums
        return found

    def doubts(self, norm: Tensor) -> Tensor:
        """Whether the norm is not finite, whether values have changed by themselves, float32 [2].

        Each is this rank's; `assert_intact` gets the largest over all ranks.
        """
        return paddle.concat([(~paddle.isfinite(norm)).astype("float32"), self.changed])

    def before_update(self) -> None:
        """AdamW is about to read all there is; what is wrong is known by the next meeting."""
        self.compared = None
        self._check_rest()
        if self.resting_gradients is not None:
            self._note(self.resting_gradients, bit_sums(self.optimizer.shards))
            self.resting_gradients = None

    def after_update(self) -> None:
        """AdamW has written; from here on nothing changes."""
        if self.checks_rest:
            self.resting = self._sums()

    def assert_intact(self, step: int, not_finite: float, changed: float) -> None:
        """Look into the doubts about a step, which has changed nothing yet.

        Raises:
            FlippedBitsError: flipped bits are behind them; what was found is told.
        """
        if changed or (not_finite and self._has_changed()):
            self._tell_changed(step)
            raise FlippedBitsError
        if not_finite and self.compares and self._differ(step - 1, gradients=True):
            raise FlippedBitsError

    # After a step

    def compare(self, step: int, *, saves: bool) -> None:
        """Compare values after this step, if that is due; `saves`: because they are to be saved.

        Raises:
            FlippedBitsError: they are wrong; what was found is told.
        """
        is_due = saves or step % self.interval == 0 or step == self.last_step
        if not is_due and (self.suspicion is None or self.suspicion.step != step):
            return
        if self._has_changed():
            self._tell_changed(step)
            raise FlippedBitsError
        if self.compares and self._differ(step):
            raise FlippedBitsError
        self._forget_parts()
        if step >= self.faulty_step:
            self.in_a_row = 0

    def sums_of_state(self) -> list[int] | None:
        """Of master and moments of each bucket, by which a checkpoint is compared with the state
        that was found right; None where nothing was compared."""
        sums = self.compared if self.resting is None else self.resting
        if sums is None:
            return None
        held = [(value.bucket, value.kind) for value in held_values(self.optimizer)]
        found = dict(zip(held, sums.tolist(), strict=True))
        return [
            # A master of float32 that is all of the weights is held as such.
            found[number, kind] if (number, kind) in found else found[number, "weights"]
            for number in range(len(self.optimizer.buckets))
            for kind in VALUES
        ]

    def begin(self, step: int) -> None:
        """The state after `step` has just been taken up."""
        self.compared = None
        self.changed = paddle.zeros([1], "float32")
        self.resting_gradients = None
        self._forget_parts()
        self.after_update()
        if self.suspicion is not None and self.suspicion.step == step:
            self._differ(step)

    def assert_may_repeat(self) -> None:
        """Raises IntegrityError if that has not helped several times."""
        if self.in_a_row > self.most_in_a_row:
            raise IntegrityError(
                f"Bits have flipped {self.in_a_row} times by step {self.faulty_step} (max_rewinds "
                f"is {self.most_in_a_row}). Take the machine that the lines above name out of the "
                "job. No checkpoint holds wrong values; resume from the last."
            )

    # What was found

    def _sums(self) -> Tensor:
        return bit_sums([value.tensor for value in held_values(self.optimizer)])

    def _check_rest(self) -> None:
        if self.resting is not None:
            self._note(self.resting, self._sums())

    def _has_changed(self) -> bool:
        """Whether any rank's values have changed by themselves."""
        if not self.checks_rest:
            return False
        self._check_rest()
        return bool(float(collectives.all_reduce_world(self.changed.clone(), "max")))

    def _note(self, before: Tensor, after: Tensor) -> None:
        self.changed = paddle.maximum(
            self.changed, (before != after).any().astype("float32").reshape([1])
        )

    def _differ(self, step: int, *, gradients: bool = False) -> bool:
        """Compare the replicas, of which all hold the state after `step`; tell of what differs."""
        held = held_values(self.optimizer, gradients=self.optimizer.shards if gradients else ())
        sums = bit_sums([value.tensor for value in held])
        differ = bool(float(differences(held, sums, self.topology)))
        is_repeated = self.suspicion is not None and self.suspicion.step == step
        if not differ and not gradients:
            self.compared = sums
        if not differ and not is_repeated:
            return False
        found = keyed_sums(held, sums.tolist(), self.topology)
        ranks = self._gathered(found)
        if is_repeated:
            self._name_who_has_changed(step, found)
        if differ:
            self._judge(step, ranks, found)
        return differ

    def _gathered(self, found: dict[str, Any]) -> list[dict[str, Any]]:
        """What every rank has found, and on which host."""
        texts = collectives.gather_texts(json.dumps({"host": socket.gethostname(), "found": found}))
        return [json.loads(text) for text in texts]

    def _judge(self, step: int, ranks: list[dict[str, Any]], own: dict[str, int]) -> None:
        odd, undecided = verdict([rank["found"] for rank in ranks])
        for rank, keys in odd.items():
            self._tell(Fault(step, _described(keys), rank, ranks[rank]["host"]))
        if not odd:
            what = _described(list(undecided))
            among = sorted({rank for found in undecided.values() for rank in found})
            if any(not key.endswith("/gradient") for key in undecided):
                self.suspicion = _Suspicion(step, what, among, own, self._parts())
            names = " and ".join(f"rank {rank} on {ranks[rank]['host']}" for rank in among)
            self._tell(Fault(step, what, among=names))
        self._count(step)

    def _name_who_has_changed(self, step: int, found: dict[str, int]) -> None:
        """The step has been repeated: whose numbers were others, and from which step on?"""
        assert self.suspicion is not None
        before, self.suspicion = self.suspicion, None
        now = self._parts()
        other = [
            number
            for number, part in before.parts.items()
            if number in now and repr(part) != repr(now[number])
        ]
        # Values that were wrong after the last step only.
        changed = any(before.sums.get(key, total) != total for key, total in found.items())
        first = min(other, default=step + 1) if changed else None
        ranks = self._gathered({"first": first})
        firsts = {
            rank: ranks[rank]["found"]["first"]
            for rank in before.among
            if ranks[rank]["found"]["first"] is not None
        }
        wrong = [rank for rank, number in firsts.items() if number == min(firsts.values())]
        if 0 < len(wrong) < len(before.among):
            for rank in wrong:
                self._tell(Fault(step, before.what, rank, ranks[rank]["host"]))

    def _parts(self) -> dict[int, list[float]]:
        if not self.losses:
            return {}
        losses = paddle.concat([*self.losses.values()]).tolist()
        return {
            step: [loss, self.gradient_sums.get(step, 0)]
            for step, loss in zip(self.losses, losses, strict=True)
        }

    def _forget_parts(self) -> None:
        self.losses.clear()
        self.gradient_sums.clear()

    def _tell_changed(self, step: int) -> None:
        """Something has changed by itself; on which ranks?"""
        for number, rank in enumerate(self._gathered({"changed": float(self.changed)})):
            if rank["found"]["changed"]:
                self._tell(Fault(step, _RESTING, number, rank["host"]))
        self._count(step)

    def _tell(self, fault: Fault) -> None:
        self.reports.event("integrity", fault.sentence(), **fault.fields())

    def _count(self, step: int) -> None:
        self.faulty_step = max(self.faulty_step, step)
        self.in_a_row += 1


_RESTING = "values between two updates, or gradients"


def _described(keys: list[str]) -> str:
    """Values by their keys, such as "moment1 of bucket 0, 2"."""
    kinds: dict[str, set[int]] = {}
    for key in keys:
        *_, bucket, kind = key.split("/")
        kinds.setdefault(kind, set()).add(int(bucket))
    return ", ".join(
        f"{kind} of bucket {', '.join(map(str, sorted(buckets)))}"
        for kind, buckets in kinds.items()
    )
