"""A step of MosaicML's llm-foundry with MPT models, as in its tables of 2023.

From the sources (llmfoundry/models/mpt, scripts/train/yamls, composer/trainer):

- PyTorch FSDP around every block: FULL_SHARD gathers a block's weights for the forward pass and
  again for the backward pass, SHARD_GRAD_OP once; gradients are reduced and split after every
  block, in every micro-batch. PURE mixed precision (here fp16_opt_level O2) communicates in
  bfloat16, DEFAULT (O1) gradients in float32.
- FSDP fetches one block ahead, so that communication goes on beside computation; but NCCL's kernels
  take processors and bandwidth from it. It is reckoned as if it went on beside nothing: of the
  tables' rows the speeds then err by 5.8 % in the mean, against 7.1 % if it cost nothing.
- MPT: LayerNorm in low precision, one projection for queries, keys and values, flash attention,
  GELU on its own, biases, learned positions, the head tied to the embedding.
- Activation checkpointing around every block.
- After each micro-batch two metrics, cross-entropy and perplexity, each compute the loss once more
  with PyTorch's operators, in float32 under autocast (composer/trainer/trainer.py,
  _eval_train_metrics; composer/metrics/nlp.py, LanguageCrossEntropy; August 2023).
- DecoupledAdamW of Composer, written with PyTorch's operators one after another.
"""

from __future__ import annotations

from llm_pretrain.planning.trace import (
    Axis,
    Event,
    Message,
    Product,
    Traffic,
)
from peer_traces.peer_run import PeerRun
from peer_traces.tape import Tape, Value, elementwise

UPDATE_TRAFFIC = 92
"""Bytes read and written per parameter: weight decay (8), both moments (12 and 16), root (8), its
division and epsilon (16), the step with a division (12), the gradient's norm and clipping (12),
gradients set to none and made again (8)."""


METRICS_TRAFFIC = 2 * 14
"""Bytes read and written per logit by two metrics: the cast to float32 (6) and the logarithm of
softmax (8)."""


class Step:
    """What lives from step to step on a rank, and the forward pass."""

    def __init__(self, peer: PeerRun) -> None:
        self.peer = peer
        self.read_elsewhere: set[int] = set()
        self.tape = Tape(lambda weight, gradient: None, peer.dtype)
        self.tape.has_gradient_tensors = False
        self.hidden = peer.model.hidden_size
        self.inner = peer.model.intermediate_size
        self.tokens = peer.tokens
        self.ranks = peer.degrees.dataset
        self.axis: Axis = "sharding" if peer.degrees.sharding > 1 else "data"
        self.gradient_width = 2 if peer.run.training.fp16_opt_level == "O2" else 4
        hidden, inner = self.hidden, self.inner
        self.block = 4 * hidden * hidden + 2 * hidden * inner + inner + 9 * hidden
        rows = peer.model.vocab_size + peer.model.max_position_embeddings
        self.root = rows * hidden + 2 * hidden
        self.count = peer.model.num_hidden_layers * self.block + self.root

    def start(self) -> None:
        """Shards in float32."""
        tape = self.tape
        tape.mark("start")
        share = self.count / self.ranks
        layers = self.peer.model.num_hidden_layers
        self.states = [
            tape.value(4 * share, "weights"),
            tape.value(4 * share, "gradients"),
            tape.value(8 * share, "optimizer"),
            # The root's weights are there for the whole step, of the blocks' all or two at a time.
            tape.value(2 * self.root, "weights"),
            tape.value(2 * self.block * (2 if self.peer.stage == 3 else layers), "weights"),
        ]

    def update(self) -> None:
        """The norm of all gradients, AdamW on this rank's shard."""
        self.tape.mark("update")
        self.tape.events.append(Message("all-reduce", 4, self.axis, self.ranks))
        self.tape.events.append(Traffic("update", UPDATE_TRAFFIC * self.count // self.ranks))

    # FSDP

    def gather(self, elements: int) -> list[Event]:
        """Cast a shard and send it to all."""
        return [
            Traffic("cast", 6 * elements // self.ranks),
            Message("all-gather", 2 * elements, self.axis, self.ranks),
        ]

    def reduce(self, elements: int) -> list[Event]:
        """Sum gradients, to each rank its shard, and add that up."""
        size = self.gradient_width * elements
        cast = [Traffic("cast", 6 * elements)] if self.gradient_width == 4 else []
        return [
            # Parameters are views of one tensor, so their gradients are put together.
            Traffic("concat gradients", 4 * elements),
            *cast,
            Traffic("divide", 2 * size),
            Message("reduce-scatter", size, self.axis, self.ranks),
            Traffic("add gradient", 12 * elements // self.ranks),
        ]

    # Forward

    def linear(self, value: Value, inner: int, columns: int) -> Value:
        """A linear layer; the bias is added by the product, its gradient is a sum."""
        tape, tokens = self.tape, self.tokens
        size = 2 * tokens * columns
        return tape.apply(
            [value],
            size,
            saves=[value],
            forward=[Product(tokens, inner, columns, tape.dtype)],
            backward=[
                Product(tokens, columns, inner, tape.dtype),
                Product(inner, tokens, columns, tape.dtype),
                Traffic("bias gradient", size),
            ],
        )

    def attention(self, mixed: Value) -> Value:
        """Flash attention of one tensor with queries, keys and values."""
        peer, model = self.peer, self.peer.model

        return self.tape.apply(
            [mixed],
            2 * self.tokens * self.hidden,
            saves=[mixed],
            saves_output=True,
            extra=4 * self.tokens * model.num_attention_heads,
            forward=[peer.attention(is_backward=False)],
            backward=[peer.attention(is_backward=True)],
        )

    def layer(self, value: Value) -> Value:
        """One block."""
        tape, hidden, inner = self.tape, self.hidden, self.inner
        normed = elementwise(tape, "norm", [value], saves=[value])
        mixed = self.linear(normed, hidden, 3 * hidden)
        apart = Traffic("concat backward", 2 * mixed.size)
        output = self.linear(self.attention(tape.in_place(mixed, backward=[apart])), hidden, hidden)
        del normed, mixed
        value = elementwise(tape, "add", [value, output])
        del output
        middle = self.linear(elementwise(tape, "norm", [value], saves=[value]), hidden, inner)
        middle = elementwise(tape, "gelu", [middle], saves=[middle])
        output = self.linear(middle, inner, hidden)
        del middle
        return elementwise(tape, "add", [value, output])

    def forward(self, chunk: int, received: Value | None) -> Value:
        """The whole model, and the loss."""
        tape, peer = self.tape, self.peer
        size = 2 * self.tokens * self.hidden
        tape.events += self.gather(self.root)
        value = tape.apply(
            [],
            size,
            forward=[Traffic("embedding", 3 * size)],
            backward=[Traffic("embedding backward", 3 * size), *self.reduce(self.root)],
        )
        again = self.gather(self.block) if peer.stage == 3 else []
        for _ in range(peer.model.num_hidden_layers):
            value = tape.in_place(
                value, forward=self.gather(self.block), backward=self.reduce(self.block)
            )
            full = peer.recompute == "full"
            value = tape.checkpoint(self.layer, value) if full else self.layer(value)
            value = tape.in_place(value, backward=again)
        value = elementwise(tape, "norm", [value], saves=[value])
        with tape.of("logits"):
            return self.loss(value)

    def loss(self, value: Value) -> Value:
        """Logits, and cross-entropy in one operator, whose gradient takes their place."""
        tape, vocabulary = self.tape, self.peer.model.vocab_size
        logits = self.linear(value, self.hidden, vocabulary)
        return tape.apply(
            [logits],
            4 * self.tokens,
            saves=[logits],
            forward=[
                Traffic("loss", 2 * logits.size),
                Traffic("metrics", METRICS_TRAFFIC * self.tokens * vocabulary),
            ],
            backward=[Traffic("loss backward", 2 * logits.size)],
        )
