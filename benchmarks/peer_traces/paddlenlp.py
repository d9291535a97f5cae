"""A step of PaddleNLP's run_pretrain.py as it was in November 2023, when its table was measured.

From the sources, of which the installed versions (Paddle 3.3, PaddleNLP 3.0.0b4) still have what
matters:

- `paddlenlp/transformers/llama/modeling.py`, `qwen/modeling.py`: the forward pass, one projection
  each for query, key, value, gate and up (Qwen: one for the first three, and rotary embedding in
  float32 from single operators, as an earlier version of its file has it), SwiGLU from two,
  ALiBi and the mask as one tensor of the scores' size that flash attention reads. Before every
  forward pass the host looks whether the mask is causal, and so waits for the device
  (`is_casual_mask`, PaddleNLP pull request 7057 of October 2023).
- `paddle/distributed/fleet/layers/mpu/mp_ops.py`: with tensor parallelism every column-parallel
  layer copies its input (`_c_identity`) and keeps that copy; going back it reduces its gradient, so
  that a layer of LLaMA has five all-reduces going back for two going forth. The gradient of a
  row-parallel layer's output is copied, too.

What lives from step to step is in `paddlenlp_states.py`.
"""

from __future__ import annotations

from llm_pretrain.planning.trace import Message, Product, Traffic
from peer_traces.paddlenlp_states import States
from peer_traces.tape import Value, elementwise, linear


class Step(States):
    """A rank of a run: its states, and the forward pass."""

    def copied(self, value: Value) -> Value:
        """The input of a column-parallel layer: by `_c_identity`, or with sequence parallelism
        gathered."""
        tensor = self.peer.degrees.tensor
        if tensor == 1:
            return value
        if self.is_split:
            whole = value.size * tensor
            gather = Message("all-gather", whole, "tensor", tensor)
            scatter = Message("reduce-scatter", whole, "tensor", tensor)
            return self.tape.apply([value], whole, forward=[gather], backward=[scatter])
        if self.skips_copies:
            return value
        copy = Traffic("copy", 2 * value.size)
        reduce = Message("all-reduce", value.size, "tensor", tensor)
        return self.tape.apply([value], value.size, forward=[copy], backward=[reduce])

    def reduced(self, value: Value) -> Value:
        """The output of a row-parallel layer; its gradient is a copy."""
        tensor = self.peer.degrees.tensor
        if tensor == 1:
            return value
        if self.is_split:
            scatter = Message("reduce-scatter", value.size, "tensor", tensor)
            gather = Message("all-gather", value.size, "tensor", tensor)
            part = value.size // tensor
            return self.tape.apply([value], part, forward=[scatter], backward=[gather])
        reduce = Message("all-reduce", value.size, "tensor", tensor)
        if self.skips_copies:
            return self.tape.in_place(value, forward=[reduce])
        copy = Traffic("copy", 2 * value.size)
        return self.tape.apply([value], value.size, forward=[reduce], backward=[copy])

    def column(self, value: Value, name: str, columns: int) -> Value:
        """A column-parallel layer of the whole model's `columns`."""
        peer = self.peer
        share = columns // peer.degrees.tensor
        copy = self.copied(value)
        hidden = peer.model.hidden_size
        result = linear(self.tape, copy, peer.tokens, self.weights[name], hidden, share)
        if copy is value and peer.degrees.tensor > 1:
            # The gradient of each layer's input is reduced though nothing was copied.
            whole = 2 * peer.tokens * hidden
            reduce = Message("all-reduce", whole, "tensor", peer.degrees.tensor)
            return self.tape.in_place(result, backward=[reduce])
        return result

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
        statistics = 2 * value.size // self.peer.model.hidden_size
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
        model = self.peer.model
        heads = model.num_attention_heads * model.head_dim
        pairs = model.num_key_value_heads * model.head_dim
        if self.fuses_qkv:
            mixed = self.column(value, f"{layer}.qkv", heads + 2 * pairs)
            turned = mixed.size * (heads + pairs) // (heads + 2 * pairs)
            both = self.split_off(mixed, turned)
            content = self.split_off(mixed, mixed.size - turned)
            del mixed
            both = self.rotated(both)
            output = self.core(both, both, content)
        else:
            query = self.column(value, f"{layer}.q", heads)
            key = self.column(value, f"{layer}.k", pairs)
            content = self.column(value, f"{layer}.v", pairs)
            if model.rope is not None:
                query, key = self.rotated(query), self.rotated(key)
            output = self.core(query, key, content)
        return self.row(output, f"{layer}.o", heads)

    def rotated(self, value: Value) -> Value:
        """Rotary embedding of queries or keys; fused, it keeps nothing but tables."""
        tape = self.tape
        is_qwen = self.peer.model.family == "qwen"
        if self.peer.run.model.use_fused_rope and not is_qwen:
            return elementwise(tape, "rope", [value])
        # Qwen's, which isn't fused, is in float32.
        narrow = value.size
        if is_qwen:
            value = elementwise(tape, "cast", [value], size=2 * narrow)
        halves = Traffic("slice, negate, concat", 5 * value.size)
        turned = tape.apply([value], value.size, forward=[halves], backward=[halves])
        cosine = elementwise(tape, "multiply", [value], saves=[value])
        sine = elementwise(tape, "multiply", [turned], saves=[turned])
        del value, turned
        total = elementwise(tape, "add", [cosine, sine])
        del cosine, sine
        return elementwise(tape, "cast", [total], size=narrow) if is_qwen else total

    def split_off(self, mixed: Value, size: int) -> Value:
        """A part of `size` bytes; gradients of all parts are put together again."""
        return self.tape.apply(
            [mixed],
            size,
            forward=[Traffic("split", 2 * size)],
            backward=[Traffic("concat", 2 * size)],
        )

    def core(self, query: Value, key: Value, content: Value) -> Value:
        """softmax(QKᵀ)V."""
        peer, model = self.peer, self.peer.model
        tensor = peer.degrees.tensor
        heads = model.num_attention_heads // tensor
        size = peer.tokens * heads * model.head_dim * 2
        held = list(dict.fromkeys((query, key, content)))
        uses_flash = peer.run.model.use_flash_attention

        def compute(_: Value) -> Value:
            if not uses_flash:
                return self.core_with_scores(held, size, heads)
            biases = [self.bias(heads)] if model.alibi else []

            read = [Traffic("read bias", bias.size) for bias in biases]
            return self.tape.apply(
                held,
                size,
                saves=[*held, *biases],
                saves_output=True,
                extra=4 * heads * peer.tokens,
                # The gradient of the queries adds up in float32.
                workspace=2 * size,
                forward=[peer.attention(is_causal=not model.alibi, is_backward=False), *read],
                backward=[peer.attention(is_causal=not model.alibi, is_backward=True), *read],
            )

        if peer.recompute == "core_attn":
            return self.tape.checkpoint(compute, query)
        return compute(query)

    def bias(self, heads: int) -> Value:
        """The mask and ALiBi as one tensor of all scores' size, which flash attention reads."""
        size = self.peer.micro_batch * heads * self.peer.sequence**2 * 2
        value = self.tape.value(size)
        self.tape.events += [Traffic("cast mask", size // heads), Traffic("add ALiBi", size)]
        return value

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
        if model.is_gated and self.fuses_ffn:
            both = self.column(value, f"{layer}.gate and up", 2 * inner)
            gate, up = self.split_off(both, both.size // 2), self.split_off(both, both.size // 2)
            del both
            gate = elementwise(self.tape, "silu", [gate], saves=[gate])
            middle = elementwise(self.tape, "multiply", [gate, up], saves=[gate, up])
            del gate, up
        elif model.is_gated:
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
        attended = self.dropped(attended)
        value = elementwise(tape, "add", [residual, attended])
        del attended, normed
        residual = value
        value = self.feed_forward(self.norm(value, f"{layer}.second norm"), layer)
        return elementwise(tape, "add", [residual, self.dropped(value)])

    def dropped(self, value: Value) -> Value:
        """Dropout, which keeps a byte for each element; GPT has it."""
        if not self.peer.model.hidden_dropout:
            return value
        return elementwise(self.tape, "dropout", [value], extra=value.size // 2)

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
