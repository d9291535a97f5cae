"""A step of Megatron-LM's GPT as of the summer of 2022, when arXiv:2205.05198 was measured.

From the paper (sections 4 and 5) and from what that state of the program still has in common with
today's sources:

- `megatron/core/tensor_parallel/layers.py`: with sequence parallelism a column-parallel layer keeps
  its shard of the input and gathers it again going back, beside the product for the input's
  gradient; without, it keeps the whole, and the all-reduce of the gradient goes on beside the
  product for the weight's gradient. Weights' gradients are added to float32 buffers by the product.
- `megatron/core/transformer`: one projection for queries, keys and values; softmax with scale and
  mask in one operator, then dropout, all of it kept; bias and GELU in one, bias, dropout and
  residual in one, which keep inputs and masks of a byte.
- Recompute "core_attn" is the paper's selective one, "full" keeps each layer's input.
- `megatron/core/optimizer`: float32 masters, gradients and moments, 18 bytes per parameter, split
  over data-parallel ranks only with stage 1 (the distributed optimizer).
"""

from __future__ import annotations

from collections.abc import Iterator

from llm_pretrain.planning.trace import (
    Axis,
    Event,
    Message,
    Product,
    Traffic,
    Wait,
)
from peer_traces.peer_run import PeerRun
from peer_traces.tape import Tape, Value, Weight, elementwise

UPDATE_TRAFFIC = 54
"""Bytes read and written per parameter once a step: gradients tested for infinities (4), their norm
(4), clipped (8), zeroed (4); AdamW reads four float32 and writes three (28); masters copied to
weights (6)."""


class Step:
    """What lives from step to step on a rank, and the forward pass."""

    def __init__(self, peer: PeerRun) -> None:
        self.peer = peer
        self.read_elsewhere: set[int] = set()
        self.tape = Tape(lambda weight, gradient: None, peer.dtype)
        # Products add to the float32 buffers: there is no tensor for a weight's gradient.
        self.tape.has_gradient_tensors = False
        self.tensor = peer.degrees.tensor
        self.is_split = peer.run.training.sequence_parallel and self.tensor > 1
        self.hidden = peer.model.hidden_size
        self.tokens = peer.tokens
        self.boundary = 2 * self.tokens * self.hidden // (self.tensor if self.is_split else 1)

    # Start, update

    def _weights(self) -> Iterator[Weight]:
        peer, model, tensor = self.peer, self.peer.model, self.tensor
        hidden, inner = self.hidden, model.intermediate_size
        table = model.vocab_size * hidden // tensor
        if peer.is_first(0):
            yield Weight("embedding", table + model.max_position_embeddings * hidden)
        for chunk in range(peer.chunks):
            for layer in peer.layers(chunk):
                attention = (4 * hidden * hidden + 3 * hidden) // tensor + hidden
                feed_forward = (2 * hidden * inner + inner) // tensor + hidden
                yield Weight(f"{layer}", attention + feed_forward + 4 * hidden)
        if peer.is_last(peer.chunks - 1):
            yield Weight("norm", 2 * hidden)
            if not peer.is_first(0):
                yield Weight("head", table)

    def start(self) -> None:
        """Weights, and buffers of float32."""
        tape, peer = self.tape, self.peer
        tape.mark("start")
        self.count = sum(weight.elements for weight in self._weights())
        shards = peer.degrees.dataset if peer.stage else 1
        self.states = [
            tape.value(2 * self.count, "weights"),
            tape.value(4 * self.count, "gradients"),
            tape.value(12 * self.count / shards, "optimizer"),
        ]

    def update(self) -> None:
        """Gradients over replicas and over both ends' tables, clipping, AdamW."""
        tape, peer = self.tape, self.peer
        tape.mark("update")
        ranks = peer.degrees.dataset
        axis: Axis = "sharding" if peer.degrees.sharding > 1 else "data"
        if ranks > 1 and peer.stage:
            tape.events.append(Message("reduce-scatter", 4 * self.count, axis, ranks))
        elif ranks > 1:
            tape.events.append(Message("all-reduce", 4 * self.count, axis, ranks))
        if peer.degrees.pipeline > 1:
            table = 4 * peer.model.vocab_size * self.hidden // self.tensor
            tape.events.append(Message("all-reduce", table, "pipeline", 2))
        shards = ranks if peer.stage else 1
        tape.events.append(Traffic("update", UPDATE_TRAFFIC * self.count // shards))
        if ranks > 1 and peer.stage:
            tape.events.append(Message("all-gather", 2 * self.count, axis, ranks))

    # Layers of tensor parallelism

    def column(self, value: Value, columns: int) -> Value:
        """A column-parallel layer of the whole model's `columns`."""
        tape, tokens, hidden = self.tape, self.tokens, self.hidden
        share = columns // self.tensor
        whole = 2 * tokens * hidden
        product = Product(tokens, hidden, share, tape.dtype)
        to_input = Product(tokens, share, hidden, tape.dtype)
        to_weight = Product(hidden, tokens, share, tape.dtype)
        size = 2 * tokens * share
        if self.tensor == 1:
            return tape.apply(
                [value], size, saves=[value], forward=[product], backward=[to_input, to_weight]
            )
        first, second = tape.new_number(), tape.new_number()
        if not self.is_split:
            reduce = Message("all-reduce", whole, "tensor", self.tensor, first)
            back: list[Event] = [to_input, reduce, to_weight, Wait(first)]
            return tape.apply([value], size, saves=[value], forward=[product], backward=back)
        gather = Message("all-gather", whole, "tensor", self.tensor)
        again = Message("all-gather", whole, "tensor", self.tensor, first)
        scatter = Message("reduce-scatter", whole, "tensor", self.tensor, second)
        gathered = tape.value(whole, "communication")
        back = [again, to_input, Wait(first), scatter, to_weight, Wait(second)]
        result = tape.apply([value], size, saves=[value], forward=[gather, product], backward=back)
        del gathered
        return result

    def row(self, value: Value, inner: int) -> Value:
        """A row-parallel layer of the whole model's `inner`, without its bias."""
        tape, tokens, hidden = self.tape, self.tokens, self.hidden
        share = inner // self.tensor
        whole = 2 * tokens * hidden
        product = Product(tokens, share, hidden, tape.dtype)
        back = [
            Product(tokens, hidden, share, tape.dtype),
            Product(share, tokens, hidden, tape.dtype),
        ]
        if self.tensor == 1:
            return tape.apply([value], whole, saves=[value], forward=[product], backward=back)
        if not self.is_split:
            reduce = Message("all-reduce", whole, "tensor", self.tensor)
            return tape.apply(
                [value], whole, saves=[value], forward=[product, reduce], backward=back
            )
        scatter = Message("reduce-scatter", whole, "tensor", self.tensor)
        gather = Message("all-gather", whole, "tensor", self.tensor)
        partial = tape.value(whole, "communication")
        result = tape.apply(
            [value],
            self.boundary,
            saves=[value],
            forward=[product, scatter],
            backward=[gather, *back],
        )
        del partial
        return result

    # Forward

    def attention(self, value: Value) -> Value:
        """From the normalised input to what goes into the last projection."""
        tape, peer, model = self.tape, self.peer, self.peer.model
        mixed = self.column(value, 3 * self.hidden)
        mixed = elementwise(tape, "add bias", [mixed])
        heads = peer.micro_batch * model.num_attention_heads // self.tensor
        scores = 2 * heads * peer.sequence**2
        size = 2 * self.tokens * self.hidden // self.tensor

        def core(each: Value) -> Value:
            if peer.run.model.use_flash_attention:
                return self.flash(each, size)
            ways = (peer.sequence, model.head_dim, peer.sequence, tape.dtype, heads)
            there = Product(*ways)
            back = Product(peer.sequence, peer.sequence, model.head_dim, tape.dtype, heads)
            weights = tape.apply(
                [each], scores, saves=[each], forward=[there], backward=[back, back]
            )
            weights = elementwise(tape, "softmax", [weights], saves_output=True)
            weights = elementwise(tape, "dropout", [weights], extra=scores // 2)
            return tape.apply(
                [weights, each],
                size,
                saves=[weights, each],
                forward=[back],
                backward=[there, back],
            )

        if peer.recompute == "core_attn":
            return tape.checkpoint(core, mixed)
        return core(mixed)

    def flash(self, mixed: Value, size: int) -> Value:
        """Attention without its scores in memory."""
        peer, model = self.peer, self.peer.model

        return self.tape.apply(
            [mixed],
            size,
            saves=[mixed],
            saves_output=True,
            extra=4 * self.tokens * model.num_attention_heads // self.tensor,
            forward=[peer.attention(is_backward=False)],
            backward=[peer.attention(is_backward=True)],
        )

    def layer(self, value: Value) -> Value:
        """One layer."""
        tape, inner = self.tape, self.peer.model.intermediate_size
        mask = self.boundary // 2
        normed = elementwise(tape, "norm", [value], saves=[value])
        attended = self.row(self.attention(normed), self.hidden)
        del normed
        value = elementwise(tape, "bias dropout add", [value, attended], extra=mask)
        del attended
        normed = elementwise(tape, "norm", [value], saves=[value])
        middle = self.column(normed, inner)
        del normed
        middle = elementwise(tape, "bias gelu", [middle], saves=[middle])
        output = self.row(middle, inner)
        del middle
        return elementwise(tape, "bias dropout add", [value, output], extra=mask)

    def forward(self, chunk: int, received: Value | None) -> Value:
        """The embedding or what was received, the chunk's layers, and the head and the loss."""
        tape, peer = self.tape, self.peer
        value = self.embedding() if received is None else received
        for _ in peer.layers(chunk):
            full = peer.recompute == "full"
            value = tape.checkpoint(self.layer, value) if full else self.layer(value)
        if not peer.is_last(chunk):
            return value
        value = elementwise(tape, "norm", [value], saves=[value])
        with tape.of("logits"):
            logits = self.column(value, peer.model.vocab_size)
            wide = elementwise(tape, "cast", [logits], size=2 * logits.size)
            statistics = Message("all-reduce", 4 * self.tokens, "tensor", self.tensor)
            return tape.apply(
                [wide],
                4 * self.tokens,
                saves=[wide],
                forward=[Traffic("softmax", 3 * wide.size), *([statistics] * 3)],
                backward=[Traffic("softmax backward", 2 * wide.size)],
            )

    def embedding(self) -> Value:
        """Rows of the table, summed over ranks, positions, and dropout."""
        tape = self.tape
        whole = 2 * self.tokens * self.hidden
        reduce = Message("all-reduce", whole, "tensor", self.tensor)
        gather = Message("all-gather", whole, "tensor", self.tensor)
        if self.is_split:
            reduce = Message("reduce-scatter", whole, "tensor", self.tensor)
        value = tape.apply(
            [],
            whole,
            forward=[Traffic("embedding", 2 * whole)],
            backward=[Traffic("embedding backward", 2 * whole)],
        )
        value = tape.apply(
            [value],
            self.boundary,
            forward=[reduce],
            backward=[gather] if self.is_split else [],
        )
        return elementwise(tape, "dropout", [value], extra=self.boundary // 2)
