"""The layers of a block: norms, self-attention with grouped queries, and feed-forward.

Shapes: B batch, S sequence, H hidden, N query heads, K key and value heads, D head size.
"""

from __future__ import annotations

from paddle import Tensor, nn

from llm_pretrain import ops
from llm_pretrain.config.model_config import ModelConfig
from llm_pretrain.models.key_value_cache import KeyValueCache, attend_to_cached
from llm_pretrain.models.position import alibi_slopes, rotate, scale_queries, with_larger_base
from llm_pretrain.ops.mask import Mask
from llm_pretrain.parallel.layers.attention import attention, local_heads
from llm_pretrain.parallel.layers.micro_batch import Sequences
from llm_pretrain.parallel.layers.tensor import ColumnParallelLinear, RowParallelLinear
from llm_pretrain.parallel.sharding.pieces import Constant


class RMSNorm(nn.Layer):
    """Root mean square norm over the last axis, with a learned scale that begins at one."""

    def __init__(self, size: int, epsilon: float) -> None:
        super().__init__()
        self.epsilon = epsilon
        self.weight = self.create_parameter(
            [size], default_initializer=nn.initializer.Constant(1.0)
        )
        self.weight.initializer = Constant(1.0)

    def forward(self, x: Tensor) -> Tensor:
        return ops.rms_norm(x, self.weight, self.epsilon)

    def of_sum(self, x: Tensor, branch: Tensor) -> tuple[Tensor, Tensor]:
        """x + branch, and its norm."""
        return ops.add_rms_norm(x, branch, self.weight, self.epsilon)


class LayerNorm(RMSNorm):
    """Layer norm over the last axis, with a learned scale and a learned shift from zero."""

    def __init__(self, size: int, epsilon: float) -> None:
        super().__init__(size, epsilon)
        self.bias = self.create_parameter([size], default_initializer=nn.initializer.Constant(0.0))

    def forward(self, x: Tensor) -> Tensor:
        return ops.layer_norm(x, self.weight, self.bias, self.epsilon)

    def of_sum(self, x: Tensor, branch: Tensor) -> tuple[Tensor, Tensor]:
        return ops.add_layer_norm(x, branch, self.weight, self.bias, self.epsilon)


def norm(model: ModelConfig, size: int | None = None) -> nn.Layer:
    """The model's kind of norm, over the hidden axis or one of `size`."""
    kind = LayerNorm if model.norm == "layer_norm" else RMSNorm
    return kind(size or model.hidden_size, model.norm_eps)


class Attention(nn.Layer):
    """Causal self-attention; groups of query heads share keys and values (arXiv:2305.13245)."""

    def __init__(self, model: ModelConfig, name: str) -> None:
        super().__init__()
        self.config = model
        self.name = name
        self.heads = heads = local_heads(model.num_attention_heads, model.num_key_value_heads)
        size = model.head_dim
        query, key_value = (
            count * size for count in (model.num_attention_heads, model.num_key_value_heads)
        )
        columns = (heads.first_key * size, (heads.first_key + heads.keys) * size)
        self.query_key_value = ColumnParallelLinear(
            model.hidden_size,
            {"query": query, "key": key_value, "value": key_value},
            bias=model.attention_bias,
            fused=model.fuse_attention_qkv,
            whole=None if heads.keys_are_split else {"key": columns, "value": columns},
            std=model.initializer_range,
        )
        self.output = RowParallelLinear(
            query,
            model.hidden_size,
            "output",
            bias=model.attention_output_bias,
            std=model.branch_end_range,
        )
        self.slopes = alibi_slopes(model.num_attention_heads) if model.alibi else None
        self.cache: KeyValueCache | None = None
        """Where given, a call takes the positions that follow those held there."""
        self.query_norm, self.key_norm = None, None
        if model.query_key_norm:
            self.query_norm, self.key_norm = norm(model, size), norm(model, size)
            for parameter in (*self.query_norm.parameters(), *self.key_norm.parameters()):
                # Each tensor-parallel rank normalises its own heads.
                parameter.is_partial = True

    def forward(self, x_BSH: Tensor, sequences: Sequences) -> Tensor:
        q_BSND, k_BSKD, v_BSKD = (
            y.reshape([*y.shape[:2], -1, self.config.head_dim]) for y in self.query_key_value(x_BSH)
        )
        if self.query_norm is not None and self.key_norm is not None:
            q_BSND, k_BSKD = self.query_norm(q_BSND), self.key_norm(k_BSKD)
        config, extrapolation = self.config, self.config.extrapolation
        if extrapolation is not None and not self.training:
            config = with_larger_base(config, sequences.length)
            q_BSND = scale_queries(q_BSND, sequences, extrapolation)
        if config.rope is not None:
            q_BSND, k_BSKD = rotate(config, sequences, q_BSND, k_BSKD)
        y_BSND = self.core(q_BSND, k_BSKD, v_BSKD, sequences)
        return self.output(y_BSND.reshape([*y_BSND.shape[:2], -1]))

    def core(self, q_BSND: Tensor, k_BSKD: Tensor, v_BSKD: Tensor, sequences: Sequences) -> Tensor:
        """softmax(Q Kᵀ) V: what "core_attn" recomputes in the backward pass."""
        if self.cache is not None:
            is_first = self.cache.length == 0
            k_BSKD, v_BSKD = self.cache.extend(k_BSKD, v_BSKD)
            if not is_first:
                mask = Mask(slopes=self.slopes, prefix_ends=sequences.prefix_ends)
                return attend_to_cached(q_BSND, k_BSKD, v_BSKD, mask, sequences.positions)
        return attention(
            q_BSND,
            k_BSKD,
            v_BSKD,
            sequences,
            self.heads,
            slopes=self.slopes,
            dropout=self.config.attention_dropout if self.training else 0.0,
            place=self.name,
            flash=self.config.use_flash_attention,
        )


class FeedForward(nn.Layer):
    """Down(activation(Gate(x)) · Up(x)) (arXiv:2002.05202), or Down(activation(Up(x)))."""

    def __init__(self, model: ModelConfig) -> None:
        super().__init__()
        self.activation = model.activation
        names = ("gate", "up") if model.is_gated else ("up",)
        self.gate_up = ColumnParallelLinear(
            model.hidden_size,
            dict.fromkeys(names, model.intermediate_size),
            bias=model.mlp_bias,
            fused=model.fuse_attention_ffn,
            std=model.initializer_range,
        )
        self.down = RowParallelLinear(
            model.intermediate_size,
            model.hidden_size,
            "down",
            bias=model.mlp_bias,
            std=model.branch_end_range,
        )

    def forward(self, x_BSH: Tensor) -> Tensor:
        return self.down(ops.activation(self.activation, *self.gate_up(x_BSH)))
