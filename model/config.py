"""The hyperparameters of the one core; a family of models is a choice of them."""

import dataclasses
import math

from .layers import ACTIVATIONS, NORMS

POSITIONS = ("rope", "learned")
DTYPES = ("float32", "bfloat16")  # float16 would need loss scaling


@dataclasses.dataclass(frozen=True, kw_only=True)
class TransformerConfig:
    """Shape and choices of a decoder-only Transformer.

    Attributes:
        vocab_size: real vocabulary size V; ids 0 to V-1.
        num_layers: number of blocks L.
        d_model: width D of the residual stream.
        num_heads: query heads N.
        num_kv_heads: key and value heads K; N for multi-head, 1 for multi-query attention
            (Ainslie et al. 2023, arXiv:2305.13245).
        head_dim: size H of a head; 0 means d_model / num_heads.
        d_mlp: hidden width F of the MLP, or of each expert.
        max_length: longest sequence; the number of learned positions.
        activation: a key of `model.layers.ACTIVATIONS`; "swiglu" and "geglu" are gated.
        norm: "rmsnorm" or "layernorm".
        norm_eps: added to the variance (or mean square) under the root.
        position: "rope" (Su et al. 2021, arXiv:2104.09864) or "learned".
        rope_theta: base of the rotary wavelengths.
        use_bias: biases on every projection, and on LayerNorm.
        tie_embeddings: the output head is the transposed embedding table.
        qk_norm: RMS-normalise queries and keys per head (Dehghani et al. 2023, arXiv:2302.05442).
        attention_soft_cap: c * tanh(logits / c) on attention logits; 0 is off.
        logit_soft_cap: the same on the vocabulary logits; 0 is off.
        window: a query sees this many positions, itself included; 0 means all before it.
        dropout: rate on the embedding and on each block's two outputs.
        init_std: standard deviation of the embedding table; projections use 1 / sqrt(fan_in), those that
            write to the residual stream divided further by sqrt(2 * num_layers) (GPT-2).
        vocab_multiple: the vocabulary is padded up to a multiple of this; padded logits are masked.
        num_experts: experts E, each an MLP, in the MLP's place; 0 is the plain MLP.
        experts_per_token: experts k that the router chooses for a token.
        expert_capacity: an expert takes at most this factor times its even share, T * k / E tokens of a row; 0 is
            dropless.
        balance_loss: weight of the sequence-wise balance loss (DeepSeek-V3 2024, arXiv:2412.19437, eq. 17).
        router_z_loss: weight of log(Z)^2 of the router (Zoph et al. 2022, arXiv:2202.08906, eq. 5).
        balance_bias_rate: how far each update moves the bias that the choice of an expert has, towards even loads
            (Wang et al. 2024, arXiv:2408.15664); 0 is no bias.
        dtype: compute dtype of matmuls and activations; parameters, norms and softmax stay float32.

    Raises:
        ValueError: a value is out of range, or two do not fit; it names the config keys and legal values.
    """

    vocab_size: int
    num_layers: int
    d_model: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    d_mlp: int
    max_length: int
    activation: str
    norm: str
    norm_eps: float
    position: str
    rope_theta: float
    use_bias: bool
    tie_embeddings: bool
    qk_norm: bool
    attention_soft_cap: float
    logit_soft_cap: float
    window: int
    dropout: float
    init_std: float
    vocab_multiple: int
    num_experts: int
    experts_per_token: int
    expert_capacity: float
    balance_loss: float
    router_z_loss: float
    balance_bias_rate: float
    dtype: str

    def __post_init__(self):
        for field, legal in (
            ("activation", tuple(ACTIVATIONS)),
            ("norm", NORMS),
            ("position", POSITIONS),
            ("dtype", DTYPES),
        ):
            if getattr(self, field) not in legal:
                raise ValueError(
                    f"config.model.{field}={getattr(self, field)!r} is not known; use one of {', '.join(legal)}"
                )
        for field in (
            "num_layers",
            "d_model",
            "num_heads",
            "num_kv_heads",
            "d_mlp",
            "vocab_multiple",
            "experts_per_token",
        ):
            if getattr(self, field) < 1:
                raise ValueError(f"config.model.{field}={getattr(self, field)} must be at least 1")
        for field in ("norm_eps", "rope_theta", "init_std"):
            if getattr(self, field) <= 0:
                raise ValueError(f"config.model.{field}={getattr(self, field)} must be above 0")
        off_at_zero = ("head_dim", "window", "attention_soft_cap", "logit_soft_cap", "num_experts", "expert_capacity")
        for field in (*off_at_zero, "balance_loss", "router_z_loss", "balance_bias_rate"):
            if getattr(self, field) < 0:
                raise ValueError(f"config.model.{field}={getattr(self, field)} must be 0 (off) or more")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"config.model.dropout={self.dropout} must be at least 0 and below 1")
        if self.num_experts and self.experts_per_token > self.num_experts:
            raise ValueError(
                f"config.model.experts_per_token={self.experts_per_token} is more than config.model.num_experts="
                f"{self.num_experts}; use at most {self.num_experts}"
            )
        if self.num_heads % self.num_kv_heads:
            legal = [k for k in range(1, self.num_heads + 1) if self.num_heads % k == 0]
            raise ValueError(
                f"config.model.num_heads={self.num_heads} is not divisible by "
                f"config.model.num_kv_heads={self.num_kv_heads}; use one of {legal} for num_kv_heads"
            )
        if not self.head_dim and self.d_model % self.num_heads:
            multiple = self.num_heads * (2 if self.position == "rope" else 1)  # rope needs an even head_dim
            raise ValueError(
                f"config.model.d_model={self.d_model} is not divisible by config.model.num_heads="
                f"{self.num_heads}; use d_model={math.ceil(self.d_model / multiple) * multiple} "
                "or set config.model.head_dim"
            )
        if self.position == "rope" and self.size_of_head % 2:
            raise ValueError(
                f"config.model.head_dim={self.size_of_head} must be even for config.model.position='rope'; "
                f"use {self.size_of_head + 1}"
            )

    @property
    def size_of_head(self) -> int:
        """Size H of one head."""
        return self.head_dim or self.d_model // self.num_heads

    @property
    def padded_vocab_size(self) -> int:
        """Rows of the embedding table: `vocab_size` rounded up to `vocab_multiple`."""
        return math.ceil(self.vocab_size / self.vocab_multiple) * self.vocab_multiple

    @property
    def is_gated(self) -> bool:
        """Whether the MLP multiplies its activation by a second, linear projection."""
        return ACTIVATIONS[self.activation].gated
