"""Weights, gradients and the optimizer's states of PaddleNLP, and what a step does to them.

Sources: `paddle/distributed/fleet/meta_parallel/sharding/group_sharded_optimizer_stage2.py`,
`group_sharded_stage2.py` and `group_sharded_storage.py`: whole tensors go to the rank that has the
least so far; gradients are reduced to it one by one in every micro-batch, and freed elsewhere;
small ones lie in a buffer for each owner; parameters lie in one buffer for each rank, which is sent
to all after the step. `paddlenlp/trainer/trainer.py`: gradients have the width of weights.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from llm_pretrain.planning.trace import Message, Traffic
from peer_traces.peer_run import PeerRun
from peer_traces.tape import Tape, Value, Weight

GRADIENT_BUFFER = 2**23
"""Elements of small parameters' gradients for one owner; `buffer_max_size` of
`group_sharded_parallel`."""

MASTER_AND_MOMENTS = 12
"""Bytes per parameter."""


@dataclass
class States:
    """What lives from step to step on a rank."""

    peer: PeerRun
    read_elsewhere: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        peer = self.peer
        self.tape = Tape(self._receive_gradient, peer.dtype)
        self.weights = {weight.name: weight for weight in self._weights()}
        self.own: dict[str, Value] = {}
        self.moments: list[Value] = []
        self.owner = self._owners()

    # Parameters

    def _weights(self) -> Iterator[Weight]:
        peer, model = self.peer, self.peer.model
        tensor = peer.degrees.tensor
        hidden, inner = model.hidden_size, model.intermediate_size
        heads = model.num_attention_heads * model.head_dim
        pairs = model.num_key_value_heads * model.head_dim
        table = -(-model.vocab_size // tensor) * hidden
        if model.vocab_size % tensor:
            table = model.vocab_size * hidden
        if peer.is_first(0):
            yield Weight("embedding", table)
            if model.learned_positions is not None:
                yield Weight("positions", model.max_position_embeddings * hidden)
        for layer in (layer for chunk in range(peer.chunks) for layer in peer.layers(chunk)):
            if self.fuses_qkv:
                yield Weight(f"{layer}.qkv", hidden * (heads + 2 * pairs) // tensor)
            else:
                yield Weight(f"{layer}.q", hidden * heads // tensor)
                yield Weight(f"{layer}.k", hidden * pairs // tensor)
                yield Weight(f"{layer}.v", hidden * pairs // tensor)
            yield Weight(f"{layer}.o", hidden * heads // tensor)
            if model.is_gated and self.fuses_ffn:
                yield Weight(f"{layer}.gate and up", 2 * hidden * inner // tensor)
            elif model.is_gated:
                yield Weight(f"{layer}.gate", hidden * inner // tensor)
            yield Weight(f"{layer}.down", hidden * inner // tensor)
            if not (model.is_gated and self.fuses_ffn):
                yield Weight(f"{layer}.up", hidden * inner // tensor)
            yield Weight(f"{layer}.norm", hidden)
            yield Weight(f"{layer}.second norm", hidden)
        if peer.is_last(peer.chunks - 1):
            yield Weight("norm", hidden)
            if not model.tie_word_embeddings or not peer.is_first(0):
                yield Weight("head", table)

    @property
    def fuses_qkv(self) -> bool:
        """Whether one projection gives queries, keys and values."""
        return self.peer.model.family == "qwen" or self.peer.model.fuse_attention_qkv

    @property
    def fuses_ffn(self) -> bool:
        """Whether one projection gives gate and up."""
        return self.peer.model.fuse_attention_ffn

    @property
    def is_split(self) -> bool:
        """Whether ranks of tensor parallelism have parts of the sequence between its layers."""
        return self.peer.run.training.sequence_parallel and self.peer.degrees.tensor > 1

    @property
    def skips_copies(self) -> bool:
        """Whether `_c_identity` is left out."""
        return "enable_mp_skip_c_identity" in self.peer.run.training.tensor_parallel_config

    @property
    def gradient_width(self) -> int:
        """Bytes of an element of what gradients are added to."""
        return 4 if self.peer.run.training.amp_master_grad else 2

    def _owners(self) -> dict[str, int]:
        """Which rank of sharding has a parameter's states: the one with the least so far."""
        sizes = [0] * self.peer.degrees.sharding
        owner = {}
        for weight in self.weights.values():
            owner[weight.name] = sizes.index(min(sizes))
            sizes[owner[weight.name]] += weight.elements
        return owner

    def is_own(self, weight: Weight) -> bool:
        """Whether this rank, the first, has the parameter's states."""
        return self.peer.stage == 0 or self.owner[weight.name] == 0

    # Start, update

    def start(self) -> None:
        """Parameters, then what sharding makes of them."""
        tape, peer = self.tape, self.peer
        tape.mark("start")
        self.parameters = {
            weight.name: tape.value(2 * weight.elements, "weights")
            for weight in self.weights.values()
        }
        owned = [weight for weight in self.weights.values() if self.is_own(weight)]
        self.masters = [
            tape.value(4 * weight.elements, "optimizer")
            for weight in sorted(owned, key=lambda weight: weight.elements)
        ]
        if peer.stage >= 2 and peer.degrees.sharding > 1:
            for rank in range(peer.degrees.sharding):
                names = [name for name in self.weights if self.owner[name] == rank]
                size = sum(self.weights[name].elements for name in names)
                for name in names:
                    del self.parameters[name]
                self.parameters[f"of rank {rank}"] = tape.value(2 * size, "weights")
            self._start_gradient_buffers()

    def _start_gradient_buffers(self) -> None:
        """Gradients that are small lie in a buffer for each owner."""
        filled = [0] * self.peer.degrees.sharding
        self.in_buffer: set[str] = set()
        for weight in self.weights.values():
            rank = self.owner[weight.name]
            if filled[rank] + weight.elements <= GRADIENT_BUFFER:
                filled[rank] += weight.elements
                self.in_buffer.add(weight.name)
        self.buffers = [self.tape.value(self.gradient_width * size, "gradients") for size in filled]

    def update(self) -> None:
        """Gradients of stage 1 and of data parallelism, clipping, AdamW, parameters to all."""
        tape, peer = self.tape, self.peer
        tape.mark("update")
        sharding = peer.degrees.sharding
        total = sum(weight.elements for weight in self.weights.values())
        owned = [weight for weight in self.weights.values() if self.is_own(weight)]
        count = sum(weight.elements for weight in owned)
        width = self.gradient_width
        if peer.stage == 1 and sharding > 1:
            tape.events.append(Message("all-reduce", width * total, "sharding", sharding))
        if peer.degrees.data > 1:
            tape.events.append(Message("all-reduce", width * total, "data", peer.degrees.data))
        tape.events += [
            Traffic("norm of gradients", width * count),
            Traffic("clip", 2 * width * count),
        ]
        for weight in owned:
            if len(self.moments) < 2 * len(owned):
                self.moments += [tape.value(4 * weight.elements, "optimizer") for _ in range(2)]
            tape.events.append(
                Traffic("AdamW", (2 * MASTER_AND_MOMENTS + 2 + width) * weight.elements)
            )
        if sharding > 1 and peer.stage:
            for rank in range(sharding):
                names = [name for name in self.weights if self.owner[name] == rank]
                size = sum(self.weights[name].elements for name in names)
                tape.events.append(Message("broadcast", 2 * size, "sharding", sharding))
        # clear_grad sets gradients to zero and keeps their memory.
        tape.events.append(Traffic("zero gradients", width * count))

    def _receive_gradient(self, weight: Weight, gradient: Value) -> None:
        """Reduced to its owner and freed there where it isn't; else added up."""
        tape, peer = self.tape, self.peer
        width = self.gradient_width
        add = Traffic("add gradient", (2 + 2 * width) * weight.elements)
        is_sharded = peer.stage >= 2 and peer.degrees.sharding > 1
        if is_sharded and weight.name in self.in_buffer:
            tape.events.append(add)
            return
        if weight.name in self.own:
            tape.events.append(add)
        elif width == 4:
            gradient = tape.value(4 * weight.elements, "gradients")
            tape.events.append(Traffic("cast gradient", 6 * weight.elements))
        if is_sharded:
            if peer.dtype == "float16":
                # By the number of ranks, before the sum can overflow.
                tape.events.append(Traffic("scale gradient", 4 * weight.elements))
            size = width * weight.elements
            tape.events.append(Message("broadcast", size, "sharding", peer.degrees.sharding))
            self.read_elsewhere.add(gradient.number)
            if self.owner[weight.name] != 0:
                return
        self.own.setdefault(weight.name, gradient)
