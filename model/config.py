"""The hyperparameters of the one core; a family of models is a choice of them."""

import dataclasses
import functools
import math

from .choice import Choice, parse_choice
from .choices import CHOICES, NAMES
from .layers import ACTIVATIONS
from .products import PRODUCTS


@dataclasses.dataclass(frozen=True, kw_only=True)
class TransformerConfig:
    """Shape and choices of a Transformer.

    Attributes:
        architecture: "decoder" (causal), "encoder" (all see all) or "encoder_decoder", whose `encoder_layers` are
            as many as the decoder's if not given.
        vocab_size: real vocabulary size V; ids 0 to V-1.
        num_layers: number of blocks L; of an encoder-decoder, of its decoder.
        d_model: width D of the residual stream.
        num_heads: query heads N.
        num_kv_heads: key and value heads K; N for multi-head, 1 for multi-query attention
            (Ainslie et al. 2023, arXiv:2305.13245).
        head_dim: size H of a head; 0 means d_model / num_heads.
        d_mlp: hidden width F of the MLP, or of each expert.
        max_length: longest sequence; the number of learned positions.
        activation: a key of `model.layers.ACTIVATIONS`; "swiglu" and "geglu" are gated.
        block: where a sublayer f has its norm n: "pre" x + f(n(x)); "post" n(x + f(x)), without a last norm
            (Vaswani et al. 2017); "output" x + n(f(x)) (OLMo 2); "both" x + n'(f(n(x))) (Gemma 2); "parallel"
            x + attention(n(x)) + mlp(n'(x)) (GPT-NeoX). "lstm" is a layer of an LSTM instead (`model.lstm`), without
            norms.
        norm: "rmsnorm", "layernorm" or "zero_centered_rmsnorm", whose scale is 1 + w (Gemma).
        norm_eps: added to the variance (or mean square) under the root.
        position: "rope" (Su et al. 2021, arXiv:2104.09864), of which `fraction` of a head turns, with another base
            `local_theta` where a window applies; "learned", after `offset` rows that no token has; "sinusoidal";
            "relative", a bias for each of `buckets` distances (Raffel et al. 2020, arXiv:1910.10683); or "none".
        rope_theta: base of the rotary wavelengths.
        rope_scaling: a choice of `model.rope.SCALINGS`; it does not apply where `local_theta` does.
        bias: "none", "qkv" (queries, keys and values), or "all" (every projection, and LayerNorm).
        tie_embeddings: the output head is the transposed embedding table.
        embedding_norm: "norm" of the embeddings; "first" takes it for that of the first layer's attention too.
        embedding_scale: factor of the token embeddings.
        token_types: rows of the table of token types (BERT's segments); 0 is none.
        head: "linear", "bias" (of the vocabulary) or "transform": a projection, the activation and a norm before it,
            and the bias.
        logit_scale: factor of the vocabulary logits.
        classifier: "" or a projection to `classes`: of the "first" token, of "tanh" of a projection of it (BERT's
            pooler), of the "mean" of a row's tokens, of the "last" of them, or of each of the "tokens".
        image: "" or "patches": the input is images of `size` squared with `channels`, cut in squares of `patch`
            (Dosovitskiy et al. 2020, arXiv:2010.11929).
        qk_norm: "head": RMS-normalise queries and keys per head (Dehghani et al. 2023, arXiv:2302.05442); "all": over
            all heads together (OLMo 2); or "none".
        attention_scale: factor of the attention logits; 0 is 1 / sqrt(H).
        attention_soft_cap: c * tanh(logits / c) on attention logits; 0 is off.
        logit_soft_cap: the same on the vocabulary logits; 0 is off.
        window: a query sees this many positions, itself included; 0 means all before it.
        layer_pattern: which layers have the window, L, and which see all, G, repeated: "LLLLLG"; "" is all L.
        latent_attention: "" or "latent": keys and values from `kv` numbers a token, queries from `query` (0: from the
            residual stream), with `rope` turning dims beside `head_dim`, and `value` dims a head (DeepSeek-V2 2024,
            arXiv:2405.04434, section 2.1).
        value_mix: what is mixed into each layer's values (`model.value_mix`): "" nothing; "first_layer" the values of
            the first layer (Zhou et al. 2024, arXiv:2410.17897); "embedding" the token's row in one of `tables`, layer
            i having number i % `tables`; or "first_layer+embedding".
        dropout: rate on the embedding and on each block's outputs.
        init: "standard": tables have the standard deviation `std`; projections use 1 / sqrt(fan_in), those that
            write to the residual stream divided further by sqrt(2 * num_layers) (GPT-2), or 0 if `zero_outputs`, so
            that at first every layer is the identity (Zhang et al. 2019, Fixup, arXiv:1901.09321, section 3; so does
            modded-nanogpt, https://github.com/KellerJordan/modded-nanogpt). "mup": the same at d_model = `width`,
            and at other widths such that learning rates found there hold (`model/init.py`); `head_dim` is that of the
            heads there, 0 the same as here.
        vocab_multiple: the vocabulary is padded up to a multiple of this; padded logits are masked.
        num_experts: experts E, each an MLP, in the MLP's place; 0 is the plain MLP.
        experts_per_token: experts k that the router chooses for a token.
        d_expert: hidden width of an expert; 0 means d_mlp.
        d_shared_expert: hidden width of an MLP that every token passes beside its experts; 0 is none.
        num_dense_layers: first layers that have the plain MLP.
        router: "softmax" or "sigmoid" of the scores (DeepSeek-V3 2024, arXiv:2412.19437, eq. 12-16), a token's weights
            divided by their sum if `normalize`, times `scale`; only the `top_groups` best of `groups` of experts are
            chosen from.
        expert_capacity: an expert takes at most this factor times its even share, T * k / E tokens of a row; 0 is
            dropless.
        balance_loss: weight of the sequence-wise balance loss (DeepSeek-V3, eq. 17).
        router_z_loss: weight of log(Z)^2 of the router (Zoph et al. 2022, arXiv:2202.08906, eq. 5).
        balance_bias_rate: how far each update moves the bias that the choice of an expert has, towards even loads
            (Wang et al. 2024, arXiv:2408.15664); 0 is no bias.
        dtype: compute dtype of matmuls and activations, "float32" or "bfloat16"; parameters, norms and softmax stay
            float32. `products`, a key of `model.products.PRODUCTS`, is the type of the operands of the layers'
            projections, forward and backward; embedding, attention's own products, classifiers and head are without.

    Raises:
        ValueError: a value is out of range, or two do not fit; it names the config keys and legal values.
    """

    architecture: str
    vocab_size: int
    num_layers: int
    d_model: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    d_mlp: int
    max_length: int
    activation: str
    block: str
    norm: str
    norm_eps: float
    position: str
    rope_theta: float
    rope_scaling: str
    bias: str
    tie_embeddings: bool
    embedding_norm: str
    embedding_scale: float
    token_types: int
    head: str
    logit_scale: float
    classifier: str
    image: str
    qk_norm: str
    attention_scale: float
    attention_soft_cap: float
    logit_soft_cap: float
    window: int
    layer_pattern: str
    latent_attention: str
    value_mix: str
    dropout: float
    init: str
    vocab_multiple: int
    num_experts: int
    experts_per_token: int
    d_expert: int
    d_shared_expert: int
    num_dense_layers: int
    router: str
    expert_capacity: float
    balance_loss: float
    router_z_loss: float
    balance_bias_rate: float
    dtype: str

    def __post_init__(self):
        self._check_values()
        self._check_heads()
        self._check_layers()
        self._check_value_mix()

    def _check_values(self) -> None:
        for field, legal in NAMES.items():
            if getattr(self, field) not in legal:
                raise ValueError(
                    f"config.model.{field}={getattr(self, field)!r} is not known; use one of {', '.join(legal)}"
                )
        for field in CHOICES:
            self.choice(field)
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
        for field in ("norm_eps", "rope_theta", "embedding_scale", "logit_scale"):
            if getattr(self, field) <= 0:
                raise ValueError(f"config.model.{field}={getattr(self, field)} must be above 0")
        off_at_zero = ("head_dim", "window", "attention_scale", "attention_soft_cap", "logit_soft_cap", "token_types")
        of_experts = ("num_experts", "expert_capacity", "balance_loss", "router_z_loss", "balance_bias_rate")
        for field in (*off_at_zero, *of_experts, "d_expert", "d_shared_expert", "num_dense_layers"):
            if getattr(self, field) < 0:
                raise ValueError(f"config.model.{field}={getattr(self, field)} must be 0 (off) or more")
        self._check_init()
        if not 0 <= self.dropout < 1:
            raise ValueError(f"config.model.dropout={self.dropout} must be at least 0 and below 1")

    def _check_init(self) -> None:
        key, init = f"config.model.init={self.init!r}", self.choice("init")
        if init.std <= 0 or init.zero_outputs not in (0, 1):
            raise ValueError(f"{key}: std must be above 0, and zero_outputs 0 or 1")
        if init.kind == "mup" and (init.width < 1 or init.head_dim < 0 or self.latent_attention):
            raise ValueError(
                f"{key}: width must be at least 1, head_dim 0 or more, and config.model.latent_attention='', not "
                f"{self.latent_attention!r}, whose own widths need not grow with config.model.d_model"
            )
        if init.zero_outputs and self.block in ("output", "both", "lstm"):
            raise ValueError(
                f"{key}: zero_outputs=1 does not go with config.model.block={self.block!r}, which has no such outputs, "
                "or a norm on them, whose gradient at 0 is 1 / sqrt(config.model.norm_eps); use 'pre' or zero_outputs=0"
            )

    def _check_heads(self) -> None:
        if self.num_heads % self.num_kv_heads:
            legal = [k for k in range(1, self.num_heads + 1) if self.num_heads % k == 0]
            raise ValueError(
                f"config.model.num_heads={self.num_heads} is not divisible by "
                f"config.model.num_kv_heads={self.num_kv_heads}; use one of {legal} for num_kv_heads"
            )
        if not self.head_dim and self.d_model % self.num_heads:
            multiple = self.num_heads * (2 if self.choice("position").kind == "rope" else 1)
            raise ValueError(
                f"config.model.d_model={self.d_model} is not divisible by config.model.num_heads="
                f"{self.num_heads}; use d_model={math.ceil(self.d_model / multiple) * multiple} "
                "or set config.model.head_dim"
            )
        position, latent = self.choice("position"), self.choice("latent_attention")
        if position.kind == "rope":
            size, key = (latent.rope, "latent_attention's rope") if latent.kind else (self.size_of_head, "head_dim")
            if round(size * position.fraction) % 2 or not 0 < position.fraction <= 1:
                raise ValueError(
                    f"config.model.{key}={size} must be even for config.model.position={self.position!r}, as must be "
                    f"the part that turns; use {size + size % 2} and a fraction above 0 and at most 1"
                )
        if latent.kind and (position.kind != "rope" or self.num_kv_heads != self.num_heads or self.encoder):
            raise ValueError(
                f"config.model.latent_attention={self.latent_attention!r} needs config.model.position='rope', not "
                f"{self.position!r}, config.model.num_kv_heads={self.num_heads}, not {self.num_kv_heads}, and one "
                f"stack of layers, not config.model.architecture={self.architecture!r}"
            )

    def _check_layers(self) -> None:
        if self.block == "lstm" and (self.architecture != "decoder" or self.num_experts):
            raise ValueError(
                f"config.model.block='lstm' goes with config.model.architecture='decoder', not {self.architecture!r}, "
                f"and config.model.num_experts=0, not {self.num_experts}"
            )
        if set(self.layer_pattern) - {"L", "G"} or (self.layer_pattern and not self.window):
            raise ValueError(
                f"config.model.layer_pattern={self.layer_pattern!r} with config.model.window={self.window}: use "
                "letters L (with the window) and G, such as 'LLLLLG', and a window of at least 1; or '' and 0"
            )
        if self.num_experts and self.experts_per_token > self.num_experts:
            raise ValueError(
                f"config.model.experts_per_token={self.experts_per_token} is more than config.model.num_experts="
                f"{self.num_experts}; use at most {self.num_experts}"
            )
        router = self.choice("router")
        if self.num_experts % router.groups or not 1 <= router.top_groups <= router.groups:
            raise ValueError(
                f"config.model.router={self.router!r}: groups must divide config.model.num_experts={self.num_experts}, "
                "and top_groups be from 1 to groups"
            )
        if self.num_dense_layers >= self.num_layers or (self.num_dense_layers and not self.num_experts):
            raise ValueError(
                f"config.model.num_dense_layers={self.num_dense_layers} must be below config.model.num_layers="
                f"{self.num_layers}, and 0 without config.model.num_experts"
            )
        self._check_products()
        image = self.choice("image")
        if image.kind and (image.size % image.patch or not self.classifier):
            raise ValueError(
                f"config.model.image={self.image!r}: patch={image.patch} must divide size={image.size}, and images "
                f"need a config.model.classifier, such as 'first,classes=10', not {self.classifier!r}"
            )

    def _check_products(self) -> None:
        said = f"config.model.dtype={self.dtype!r}"
        if self.products and self.products not in PRODUCTS:
            raise ValueError(f"{said}: products={self.products!r} is not known; use one of {', '.join(PRODUCTS)}")
        for field, has_others in (("num_experts", self.num_experts > 0), ("block", self.block == "lstm")):
            if self.products and has_others:
                raise ValueError(
                    f"{said}: with config.model.{field}={getattr(self, field)!r} most products are not projections of "
                    f"all tokens, which products=... is for; use config.model.dtype={self.compute_dtype!r}"
                )

    def _check_value_mix(self) -> None:
        mix = self.choice("value_mix")
        if not mix.kind:
            return
        for field, has_none in (
            ("block", self.block == "lstm"),
            ("latent_attention", bool(self.latent_attention)),
            ("architecture", self.encoder is not None),
            ("image", bool(self.image) and self.value_tables > 0),
        ):
            if has_none:
                legal = "'first_layer' or ''" if field == "image" else "''"
                raise ValueError(
                    f"config.model.value_mix={self.value_mix!r} does not go with config.model.{field}="
                    f"{getattr(self, field)!r}; use config.model.value_mix={legal}"
                )
        if "embedding" in mix.kind and not 1 <= self.value_tables <= self.num_layers:
            raise ValueError(
                f"config.model.value_mix={self.value_mix!r} has tables={self.value_tables}; use 1 to "
                f"config.model.num_layers={self.num_layers}"
            )

    def choice(self, field: str) -> Choice:
        """The kind and options that a field such as "position" says."""
        return parse_choice(f"config.model.{field}", getattr(self, field), CHOICES[field])

    @functools.cached_property
    def compute_dtype(self) -> str:
        """Of matmuls and activations: `dtype` without its options."""
        return self.choice("dtype").kind

    @functools.cached_property
    def products(self) -> str:
        """The type of the operands of projections, a key of `model.products.PRODUCTS`; "" is the compute dtype."""
        return self.choice("dtype").products

    @functools.cached_property
    def is_causal(self) -> bool:
        """Whether a token sees only what is before it."""
        return self.choice("architecture").kind != "encoder"

    @functools.cached_property
    def encoder(self) -> "TransformerConfig | None":
        """The encoder of an encoder-decoder."""
        architecture = self.choice("architecture")
        if architecture.kind != "encoder_decoder":
            return None
        num_layers = architecture.encoder_layers or self.num_layers
        return dataclasses.replace(self, architecture="encoder", num_layers=num_layers)

    @functools.cached_property
    def window_of_layers(self) -> tuple[int, ...]:
        """The window of each layer, 0 for one that sees all; it repeats with the pattern."""
        pattern = self.layer_pattern or "L"
        return tuple(self.window if pattern[i % len(pattern)] == "L" else 0 for i in range(self.num_layers))

    @property
    def value_tables(self) -> int:
        """Tables of value embeddings; 0 is none."""
        return self.choice("value_mix").options.get("tables", 0)

    @property
    def num_values(self) -> int:
        """How many values each layer mixes, its own included; 1 is no mix."""
        kind = self.choice("value_mix").kind
        return 1 + len(kind.split("+")) if kind else 1

    @property
    def size_of_head(self) -> int:
        """Size H of one head."""
        return self.head_dim or self.d_model // self.num_heads

    @functools.cached_property
    def width_ratio(self) -> float:
        """Width over the one that learning rates were found at (`model.init`); 1 in the standard parametrisation."""
        init = self.choice("init")
        return self.d_model / init.width if init.kind == "mup" else 1.0

    def as_standard(self) -> "TransformerConfig":
        """The same function of the same parameters, with the width's factors as `logit_scale` and `attention_scale`.

        The attention logits have sqrt(h) / H for heads of H, and h in the base model (Yang et al. 2022,
        arXiv:2203.03466, definition 4.1).
        """
        init, scale = self.choice("init"), self.attention_scale
        if init.kind != "mup":
            return self
        base, H = init.head_dim or self.size_of_head, self.size_of_head
        if base != H:
            scale = (scale or base**-0.5) * base / H
        logit_scale = self.logit_scale / self.width_ratio
        return dataclasses.replace(self, init="standard", logit_scale=logit_scale, attention_scale=scale)

    @property
    def padded_vocab_size(self) -> int:
        """Rows of the embedding table: `vocab_size` rounded up to `vocab_multiple`."""
        return math.ceil(self.vocab_size / self.vocab_multiple) * self.vocab_multiple

    @property
    def is_gated(self) -> bool:
        """Whether the MLP multiplies its activation by a second, linear projection."""
        return ACTIVATIONS[self.activation].gated

    @property
    def size_of_expert(self) -> int:
        """Hidden width of an expert."""
        return self.d_expert or self.d_mlp
