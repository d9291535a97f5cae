"""A step of PaddleNLP's run_pretrain.py as it was in November 2023, when its table was measured.

From the sources, of which the installed versions (Paddle 3.3, PaddleNLP 3.0.0b4) still have what
matters:

- `paddlenlp/transformers/llama/modeling.py`, `qwen/modeling.py`: the forward pass, one projection
  each for query, key, value, gate and up (Qwen: one for the first three), SwiGLU from two operators,
  the core of attention without flash attention where there is ALiBi.
- `paddle/distributed/fleet/layers/mpu/mp_ops.py`: with tensor parallelism every column-parallel
  layer copies its input (`_c_identity`) and keeps that copy; going back it reduces its gradient, so
  that a layer of LLaMA has five all-reduces going back for two going forth. The gradient of a
  row-parallel layer's output is copied, too.
- `paddle/distributed/fleet/meta_parallel/sharding/group_sharded_*stage2.py`: whole tensors go to the
  rank that has the least; gradients are reduced to it one by one in every micro-batch, and freed;
  the parameters lie in one buffer for each rank, which is sent to all after the step.
- `paddlenlp/trainer/trainer.py`: no gradients in float32 unless `amp_master_grad`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from benchmarks.peer_traces.peer_run import PeerRun
from benchmarks.peer_traces.tape import Tape, Value, Weight, elementwise, linear
from llm_pretrain.planning.trace import AttentionProduct, Event, Message, Product, Traffic

GRADIENT_BUFFER = 2**23
"""Elements of small parameters' gradients for one owner; `buffer_max_size` of
`group_sharded_parallel`."""

MASTER_AND_MOMENTS = 12
"""Bytes per parameter."""


@dataclass
class Step:
    """What lives from step to step on a rank, and the forward pass."""

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
            if model.is_gated:
                yield Weight(f"{layer}.gate", hidden * inner // tensor)
            yield Weight(f"{layer}.down", hidden * inner // tensor)
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
        self.buffers = [self.tape.value(2 * size, "gradients") for size in filled]

    def update(self) -> None:
        """Gradients of stage 1 and of data parallelism, clipping, AdamW, parameters to all."""
        tape, peer = self.tape, self.peer
        tape.mark("update")
        sharding = peer.degrees.sharding
        total = sum(weight.elements for weight in self.weights.values())
        owned = [weight for weight in self.weights.values() if self.is_own(weight)]
        count = sum(weight.elements for weight in owned)
        if peer.stage == 1 and sharding > 1:
            tape.events.append(Message("all-reduce", 2 * total, "sharding", sharding))
        if peer.degrees.data > 1:
            tape.events.append(Message("all-reduce", 2 * total, "data", peer.degrees.data))
        tape.events += [Traffic("norm of gradients", 2 * count), Traffic("clip", 4 * count)]
        for weight in owned:
            if len(self.moments) < 2 * len(owned):
                self.moments += [tape.value(4 * weight.elements, "optimizer") for _ in range(2)]
            tape.events.append(Traffic("AdamW", (2 * MASTER_AND_MOMENTS + 4) * weight.elements))
        if sharding > 1 and peer.stage:
            for rank in range(sharding):
                names = [name for name in self.weights if self.owner[name] == rank]
                size = sum(self.weights[name].elements for name in names)
                tape.events.append(Message("broadcast", 2 * size, "sharding", sharding))
        # clear_grad sets gradients to zero and keeps their memory.
        tape.events.append(Traffic("zero gradients", 2 * count))

    def _receive_gradient(self, weight: Weight, gradient: Value) -> None:
        """Reduced to its owner and freed there where it isn't; else added up."""
        tape, peer = self.tape, self.peer
        if peer.stage >= 2 and peer.degrees.sharding > 1:
            if weight.name in self.in_buffer:
                tape.events.append(Traffic("add gradient", 6 * weight.elements))
                return
            size = 2 * weight.elements
            tape.events.append(Message("broadcast", size, "sharding", peer.degrees.sharding))
            self.read_elsewhere.add(gradient.number)
            if self.owner[weight.name] != 0:
                return
        if weight.name in self.own:
            tape.events.append(Traffic("add gradient", 6 * weight.elements))
        else:
            self.own[weight.name] = gradient

    # Forward

    def copied(self, value: Value) -> Value:
        """The input of a column-parallel layer, by `_c_identity`."""
        tensor = self.peer.degrees.tensor
        if tensor == 1:
            return value
        copy = Traffic("copy", 2 * value.size)
        reduce = Message("all-reduce", value.size, "tensor", tensor)
        return self.tape.apply([value], value.size, forward=[copy], backward=[reduce])

    def reduced(self, value: Value) -> Value:
        """The output of a row-parallel layer; its gradient is a copy."""
        tensor = self.peer.degrees.tensor
        if tensor == 1:
            return value
        reduce = Message("all-reduce", value.size, "tensor", tensor)
        copy = Traffic("copy", 2 * value.size)
        return self.tape.apply([value], value.size, forward=[reduce], backward=[copy])

    def column(self, value: Value, name: str, columns: int) -> Value:
        """A column-parallel layer of the whole model's `columns`."""
        peer = self.peer
        share = columns // peer.degrees.tensor
        return linear(
            self.tape,
            self.copied(value),
            peer.tokens,
            self.weights[name],
            peer.model.hidden_size,
            share,
        )

    def row(self, value: Value, name: str, inner: int) -> Value:
        """A row-parallel layer of the whole model's `inner`."""
        peer = self.peer
        share = inner // peer.degrees.tensor
        weight = self.weights[name]
        return self.reduced(
            linear(self.tape, value, peer.tokens, weight, share, peer.model.hidden_size)
        )

    def norm(self, value: Value, name: str) -> Value:
        """RMS norm, fused, which keeps its input and a number for each token."""
        statistics = 4 * self.peer.tokens
        weight = self.weights[name]
        if self.peer.run.model.use_fused_rms_norm or self.peer.model.norm == "layer_norm":
            return elementwise(
                self.tape, "norm", [value], saves=[value], extra=statistics, weight=weight
            )
        # In float32: a cast, its square, and the product with the inverse root, which is cast back.
        wide = elementwise(self.tape, "cast", [value], size=2 * value.size)
        square = elementwise(self.tape, "square", [wide], saves=[wide])
        del square
        scaled = elementwise(
            self.tape, "scale", [value, wide], size=2 * value.size, saves=[value, wide]
        )
        del wide
        narrow = elementwise(self.tape, "cast", [scaled], size=value.size)
        del scaled
        return elementwise(self.tape, "multiply", [narrow], saves=[narrow], weight=weight)

    def attention(self, value: Value, layer: int) -> Value:
        """All of a layer's attention, from the normalised input."""
        tape, peer, model = self.tape, self.peer, self.peer.model
        heads = model.num_attention_heads * model.head_dim
        pairs = model.num_key_value_heads * model.head_dim
        if self.fuses_qkv:
            mixed = self.column(value, f"{layer}.qkv", heads + 2 * pairs)
            part = mixed.size // 3
            split = tape.apply(
                [mixed],
                mixed.size,
                forward=[Traffic("split", 2 * mixed.size)],
                backward=[Traffic("concat", 2 * mixed.size)],
            )
            del mixed, part
            query, key_value = self.rotated_fused(split)
            output = self.core(query, query, key_value)
        else:
            query = self.column(value, f"{layer}.q", heads)
            key = self.column(value, f"{layer}.k", pairs)
            content = self.column(value, f"{layer}.v", pairs)
            if model.rope is not None:
                query, key = self.rotated(query), self.rotated(key)
            output = self.core(query, key, content)
        return self.row(output, f"{layer}.o", heads)

    def rotated(self, value: Value) -> Value:
        """Rotary embedding of queries or keys, fused, which keeps nothing but tables."""
        return elementwise(self.tape, "rope", [value])

    def rotated_fused(self, split: Value) -> tuple[Value, Value]:
        """Queries and keys after rotation, as one value, and what they came from."""
        size = split.size * 2 // 3
        together = self.tape.apply(
            [split],
            size,
            forward=[Traffic("rope", 2 * size)],
            backward=[Traffic("rope backward", 2 * size)],
        )
        return together, split

    def core(self, query: Value, key: Value, content: Value) -> Value:
        """softmax(QKᵀ)V."""
        peer, model = self.peer, self.peer.model
        tensor = peer.degrees.tensor
        heads = model.num_attention_heads // tensor
        size = peer.tokens * heads * model.head_dim * 2
        held = list(dict.fromkeys((query, key, content)))
        uses_flash = peer.run.model.use_flash_attention and not model.alibi

        def compute(_: Value) -> Value:
            if not uses_flash:
                return self.core_with_scores(held, size, heads)

            def product(*, is_backward: bool) -> Event:
                return AttentionProduct(
                    batch=peer.micro_batch,
                    heads=heads,
                    key_value_heads=max(model.num_key_value_heads // tensor, 1),
                    queries=peer.sequence,
                    keys=peer.sequence,
                    head_size=model.head_dim,
                    dtype=peer.dtype,
                    is_causal=True,
                    is_backward=is_backward,
                )

            return self.tape.apply(
                held,
                size,
                saves=held,
                saves_output=True,
                extra=4 * heads * peer.tokens,
                forward=[product(is_backward=False)],
                backward=[product(is_backward=True)],
            )

        if peer.recompute == "core_attn":
            return self.tape.checkpoint(compute, query)
        return compute(query)

    def core_with_scores(self, held: list[Value], size: int, heads: int) -> Value:
        """The scores are there: product, bias and mask added, softmax in float32, cast, product."""
        tape, peer, model = self.tape, self.peer, self.peer.model
        count = peer.micro_batch * heads
        scores = count * peer.sequence**2 * 2
        shape = (peer.sequence, model.head_dim, peer.sequence, peer.dtype, count)
        first = Product(*shape)
        second = Product(peer.sequence, peer.sequence, model.head_dim, peer.dtype, count)
        transposed = [elementwise(tape, "transpose", [value]) for value in held]
        weights = tape.apply(
            transposed, scores, saves=transposed, forward=[first], backward=[second, second]
        )
        if model.alibi:
            weights = elementwise(tape, "add bias", [weights])
        weights = elementwise(tape, "add mask", [weights])
        weights = elementwise(tape, "cast", [weights], size=2 * scores)
        weights = elementwise(tape, "softmax", [weights], saves_output=True)
        weights = elementwise(tape, "cast", [weights], size=scores)
        output = tape.apply(
            [weights, transposed[-1]],
            size,
            saves=[weights, transposed[-1]],
            forward=[second],
            backward=[first, second],
        )
        return elementwise(tape, "transpose", [output])

    def feed_forward(self, value: Value, layer: int) -> Value:
        """SwiGLU from two operators, or GELU."""
        model = self.peer.model
        inner = model.intermediate_size
        if model.is_gated:
            gate = self.column(value, f"{layer}.gate", inner)
            gate = elementwise(self.tape, "silu", [gate], saves=[gate])
            up = self.column(value, f"{layer}.up", inner)
            middle = elementwise(self.tape, "multiply", [gate, up], saves=[gate, up])
            del gate, up
        else:
            up = self.column(value, f"{layer}.up", inner)
            middle = elementwise(self.tape, "gelu", [up], saves=[up])
            del up
        return self.row(middle, f"{layer}.down", inner)

    def layer(self, value: Value, layer: int) -> Value:
        """One decoder layer."""
        tape = self.tape
        residual = value
        normed = self.norm(value, f"{layer}.norm")
        if self.peer.recompute == "full_attn":
            attended = tape.checkpoint(lambda each: self.attention(each, layer), normed)
        else:
            attended = self.attention(normed, layer)
        value = elementwise(tape, "add", [residual, attended])
        del attended, normed
        residual = value
        value = self.feed_forward(self.norm(value, f"{layer}.second norm"), layer)
        return elementwise(tape, "add", [residual, value])

    def forward(self, chunk: int, received: Value | None) -> Value:
        """The embedding or what was received, this stage's layers, and the head and the loss."""
        tape, peer, model = self.tape, self.peer, self.peer.model
        tensor = peer.degrees.tensor
        size = 2 * peer.tokens * model.hidden_size
        if received is None:
            lookup = tape.apply(
                [],
                size,
                weight=self.weights["embedding"],
                forward=[Traffic("embedding", 2 * size)],
                backward=[Traffic("embedding backward", 2 * size)],
            )
            value = self.reduced(lookup)
            del lookup
        else:
            value = received
        for index in peer.layers(chunk):
            if peer.recompute == "full":

                def run(each: Value, index: int = index) -> Value:
                    return self.layer(each, index)

                value = tape.checkpoint(run, value)
            else:
                value = self.layer(value, index)
        if not peer.is_last(chunk):
            return value
        value = self.norm(value, "norm")
        with tape.of("logits"):
            return self.loss(value, tensor)

    def loss(self, value: Value, tensor: int) -> Value:
        """Logits, their cast to float32, and the loss, which keeps the softmax."""
        tape, peer, model = self.tape, self.peer, self.peer.model
        columns = model.vocab_size // tensor if model.vocab_size % tensor == 0 else model.vocab_size
        table = self.weights.get("head", self.weights.get("embedding"))
        assert table is not None
        copy = self.copied(value)
        logits = linear(tape, copy, peer.tokens, table, model.hidden_size, columns)
        wide = elementwise(tape, "cast", [logits], size=2 * logits.size)
        statistics = Message("all-reduce", 4 * peer.tokens, "tensor", tensor)
        softmax = wide.size
        return tape.apply(
            [wide],
            4 * peer.tokens,
            extra=softmax,
            forward=[Traffic("softmax", 3 * softmax), *([statistics] * 3 if tensor > 1 else [])],
            backward=[Traffic("softmax backward", 2 * softmax)],
        )
