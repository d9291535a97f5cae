"""A program whose traces are written down by hand: a decoder with as few operators as can be."""

from __future__ import annotations

from llm_pretrain.config import Degrees, RunConfig
from llm_pretrain.config.model_config import ModelConfig
from llm_pretrain.parallel.pipeline.schedules import Place, training_schedule
from llm_pretrain.planning.trace import (
    Allocation,
    AttentionProduct,
    Event,
    Mark,
    Message,
    Part,
    Product,
    Release,
    Trace,
    Traffic,
)


class AnalyticProgram:
    """A block is attention and one product, with an all-reduce over its tensor ranks; the head is
    one product."""

    def __init__(self) -> None:
        self.traced = 0
        self.passes = 0
        """Of micro-batches through blocks, of all ranks together."""

    def trace(
        self, run: RunConfig, model: ModelConfig, degrees: Degrees, rank: int, *, steps: int
    ) -> Trace:
        self.traced += 1
        self.passes += model.num_hidden_layers * run.training.gradient_accumulation_steps
        return Trace(list(_Rank(run, model, degrees, rank).events(steps)))


class _Rank:
    def __init__(self, run: RunConfig, model: ModelConfig, degrees: Degrees, rank: int) -> None:
        self.run, self.model, self.degrees = run, model, degrees
        inner = degrees.sharding * degrees.sequence * degrees.tensor
        self.place = Place(rank // inner % degrees.pipeline, degrees.pipeline,
                           degrees.virtual_pipeline)  # fmt: skip
        self.rows = run.training.per_device_train_batch_size * run.data.max_seq_length
        self.number = 0
        ends = 2 * model.vocab_size * model.hidden_size
        self.in_blocks = (model.parameter_count() - ends) // model.num_hidden_layers
        """Parameters of each."""

    def take(self, size: float, part: Part) -> Allocation:
        self.number += 1
        return Allocation(self.number, int(size), part)

    def blocks(self, chunk: int) -> int:
        parts = self.place.ranks * self.place.chunks
        part, layers = chunk * self.place.ranks + self.place.rank, self.model.num_hidden_layers
        return (part + 1) * layers // parts - part * layers // parts

    def product(self, columns: int) -> Product:
        return Product(self.rows, self.model.hidden_size, columns, "bfloat16")

    def layer(self, count: int = 1) -> list[Event]:
        size = 2 * self.rows * self.model.hidden_size
        tensor = self.degrees.tensor
        events: list[Event] = []
        for _ in range(count):
            events.append(self.product(self.in_blocks // self.model.hidden_size // tensor))
            if tensor > 1:
                events.append(Message("all-reduce", size, "tensor", tensor))
        return events

    def attention(self, count: int, *, is_backward: bool) -> list[Event]:
        model, length = self.model, self.run.data.max_seq_length
        heads, size = model.num_attention_heads // self.degrees.tensor, model.head_dim
        batch = self.rows // length
        return [
            AttentionProduct(
                batch, heads, heads, length, length, size, "bfloat16", True, is_backward
            )
        ] * count

    def events(self, steps: int) -> list[Event]:
        training, degrees = self.run.training, self.degrees
        found: list[Event] = [Mark("start")]
        blocks = sum(self.blocks(chunk) for chunk in range(self.place.chunks))
        has_head = self.place.is_last(self.place.chunks - 1)
        end = self.model.vocab_size * self.model.hidden_size
        parameters = blocks * self.in_blocks + end * (self.place.is_first(0) + has_head)
        parameters //= degrees.tensor
        found.append(self.take(2 * parameters, "weights"))
        found.append(self.take(12 * parameters / degrees.sharding, "optimizer"))
        found.append(self.take(2 * parameters, "gradients"))
        schedule = training_schedule(self.place, training.gradient_accumulation_steps)
        for _ in range(steps):
            kept: dict[tuple[int, int], Allocation] = {}
            for each in schedule:
                if each.step not in ("forward", "backward"):
                    continue
                found.append(Mark(each.step, each.micro_batch, each.chunk))  # type: ignore[arg-type]
                at, count = (each.chunk, each.micro_batch), self.blocks(each.chunk)
                wide = 1 if training.recompute else 8
                if each.step == "forward":
                    size = 2 * self.rows * self.model.hidden_size * wide * count
                    kept[at] = self.take(size / degrees.tensor, "activations")
                    found += [kept[at], *self.layer(count)]
                    found += self.attention(count, is_backward=False)
                else:
                    again = 1 if training.recompute else 0
                    found += [*self.layer(count * (2 + again)), Release(kept.pop(at).number)]
                    found += self.attention(count, is_backward=True)
                if has_head and self.place.is_last(each.chunk):
                    found.append(self.product(self.model.vocab_size // degrees.tensor))
            found.append(Mark("update"))
            if degrees.sharding > 1:
                found.append(
                    Message("reduce-scatter", 2 * parameters, "sharding", degrees.sharding)
                )
            if degrees.data > 1:
                size = 2 * parameters // degrees.sharding
                found.append(Message("all-reduce", size, "replica", degrees.data))
            found.append(Traffic("adamw", 28 * parameters // degrees.sharding))
        return found
