"""One layer of the Transformer: parameter holders in Linen around the functions of this package.

Letters: B batch, T query length, S key length, N query heads, K kv heads, H head dim, D model, F mlp.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array
from jax.ad_checkpoint import checkpoint_name

from .attention import RelativeBias
from .cache import LayerCache
from .config import TransformerConfig
from .init import output_init
from .latent import latent_qkv
from .layers import ACTIVATIONS, dropout, fold_in, layer_norm, projection_init, rms_norm, weight
from .moe import MoE, dropless
from .products import contract
from .rope import rope
from .value_mix import SharedValues, mix_values

ACTIVATION_AXES = ("batch", "residual_length", "act_embed")
NORMS_FIRST = ("pre", "both", "parallel")  # blocks whose sublayers read normalised inputs


class Place(NamedTuple):
    """Where queries and keys stand, and what a tower's layers share.

    Attributes:
        positions_BT: position of each query in its document.
        q_order_BT: what is compared to tell which keys a query sees, see `attention_mask`: the positions, mostly.
        kv_order_BS: that of each key.
        q_segment_ids_BT: document of each query, 0 for padding.
        kv_segment_ids_BS: document of each key.
        bias: of relative positions, or None.
        in_order: see `model.attention.attention`.
        cached: slots of the cache that earlier tokens have filled.
        values: what is mixed into the values of each layer.
    """

    positions_BT: Array
    q_order_BT: Array
    kv_order_BS: Array
    q_segment_ids_BT: Array
    kv_segment_ids_BS: Array
    bias: RelativeBias | None = None
    in_order: bool = False
    cached: Array | int = 0
    values: SharedValues = SharedValues()


class Memory(NamedTuple):
    """What a decoder attends to across: the encoder's output, or None where its keys and values are in the cache."""

    x_BSD: Array | None
    positions_BS: Array
    segment_ids_BS: Array


class Norm(nn.Module):
    """RMSNorm or LayerNorm over the last dim, with float32 parameters."""

    config: TransformerConfig

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Normalises (..., D)."""
        c, shape = self.config, x.shape[-1:]
        if c.norm == "layernorm":
            scale = weight(self, "scale", shape, ("norm",), nn.initializers.ones)
            bias = weight(self, "bias", shape, ("norm",), nn.initializers.zeros) if c.bias == "all" else None
            return layer_norm(x, scale, bias, eps=c.norm_eps)
        return rms_norm(x, norm_scale(self, c, "scale", shape, ("norm",)), eps=c.norm_eps)


def norm_scale(module: nn.Module, config: TransformerConfig, name: str, shape: Any, axes: Any) -> Array:
    """The scale of an RMSNorm, kept as its distance from 1 if the config says so."""
    if config.norm == "zero_centered_rmsnorm":
        return 1.0 + weight(module, name, shape, axes, nn.initializers.zeros)
    return weight(module, name, shape, axes, nn.initializers.ones)


class Dense(nn.Module):
    """A projection beside the layers, whose parameters are too few to be divided by their output."""

    config: TransformerConfig
    size: int
    bias: bool
    std: float = 0.0  # of the initial weights; 0 is 1 / sqrt(inputs)

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Maps (..., D) to (..., size)."""
        D, dtype = x.shape[-1], self.config.compute_dtype
        init = nn.initializers.normal(self.std) if self.std else projection_init(D)
        y = x @ weight(self, "w", (D, self.size), ("embed", "classes"), init).astype(dtype)
        return y + weight(self, "b", (self.size,), ("norm",), nn.initializers.zeros).astype(dtype) if self.bias else y


class Attention(nn.Module):
    """Attention with grouped or latent heads, of a sequence to itself or to a memory."""

    config: TransformerConfig
    attention_fn: Callable[..., Array]
    window: int = 0

    @nn.compact
    def __call__(
        self,
        x_BTD: Array,
        place: Place,
        cache: LayerCache | None,
        memory: Memory | None = None,
        *,
        number: Array | int,
    ) -> tuple[Array, LayerCache | None]:
        """Attends over the sequence itself, over the cache once the new keys and values are in it, or over a memory.

        Args:
            x_BTD: normalised activations.
            place: positions and segments of queries and keys.
            cache: what earlier tokens left, of all layers, or None.
            memory: what to attend to instead; its keys and values fill the cache, or come from it.
            number: of the layer, from 0.

        Returns:
            (B, T, D), and the cache with the layer's keys and values, or None.
        """
        c = self.config
        causal = c.is_causal and memory is None
        if memory is not None:
            place = place._replace(kv_order_BS=memory.positions_BS, kv_segment_ids_BS=memory.segment_ids_BS, bias=None)
            place = place._replace(in_order=False)
        if c.latent_attention:
            q_BTNH, k_BSKH, v_BSKH = latent_qkv(self, c, x_BTD, place.positions_BT)
        else:
            q_BTNH, k_BSKH, v_BSKH = self._qkv(x_BTD, place, memory)
        if c.value_mix:  # a token's own, so the cache holds them mixed
            v_BSKH = mix_values(self, c, v_BSKH, place.values, number)
        if cache is not None:
            if memory is None or memory.x_BSD is not None:
                cache = cache.write(number, k_BSKH, v_BSKH, place.cached if memory is None else 0)
            k_BSKH, v_BSKH = cache.read(number)
        y_BTNH = self.attention_fn(
            q_BTNH,
            k_BSKH,
            v_BSKH,
            causal=causal,
            window=0 if memory is not None else self.window,
            soft_cap=c.attention_soft_cap,
            scale=c.as_standard().attention_scale,
            q_positions_BT=place.q_order_BT,
            kv_positions_BS=place.kv_order_BS,
            q_segment_ids_BT=place.q_segment_ids_BT,
            kv_segment_ids_BS=place.kv_segment_ids_BS,
            bias=place.bias,
            in_order=place.in_order,
        )
        # Also for the way back: the residual's length may be divided over more axes than the attention's.
        y_BTNH = nn.with_logical_constraint(y_BTNH, ("batch", "length", "heads", "head_dim"))
        N, H, D = *y_BTNH.shape[2:], c.d_model
        w_NHD = weight(self, "w_out", (N, H, D), ("heads", "head_dim", "embed"), output_init(c, N, H))
        y_BTD = contract(y_BTNH, w_NHD.astype(c.compute_dtype), num_dims=2, products=c.products)
        if c.bias == "all":
            y_BTD = y_BTD + weight(self, "b_out", (D,), ("norm",), nn.initializers.zeros).astype(c.compute_dtype)
        return y_BTD, cache

    def _qkv(self, x_BTD: Array, place: Place, memory: Memory | None) -> tuple[Array, Any, Any]:
        """Queries of the sequence; keys and values of it or of the memory, None if that has no activations."""
        c = self.config
        D, N, K, H = c.d_model, c.num_heads, c.num_kv_heads, c.size_of_head

        def project(name: str, heads: int, axis: str, x_BTD: Array) -> Array:
            w_DNH = weight(self, f"w_{name}", (D, heads, H), ("embed", axis, "head_dim"), projection_init(D))
            y_BTNH = contract(x_BTD, w_DNH.astype(c.compute_dtype), products=c.products)
            if c.bias != "none":
                bias = weight(self, f"b_{name}", (heads, H), (axis, "head_dim"), nn.initializers.zeros)
                y_BTNH = y_BTNH + bias.astype(c.compute_dtype)
            return nn.with_logical_constraint(y_BTNH, ("batch", "length", axis, "head_dim"))

        def finish(name: str, axis: str, y_BTNH: Array) -> Array:
            """Norm and positions of queries or keys."""
            if c.qk_norm == "head":
                y_BTNH = rms_norm(y_BTNH, norm_scale(self, c, f"{name}_norm", (H,), ("norm",)), eps=c.norm_eps)
            elif c.qk_norm == "all":
                scale = norm_scale(self, c, f"{name}_norm", y_BTNH.shape[2:], (axis, "head_dim"))
                y_BTNH = rms_norm(y_BTNH, scale, eps=c.norm_eps, num_dims=2)
            position = c.choice("position")
            if position.kind == "rope" and memory is None:
                is_local = bool(self.window and position.local_theta)
                y_BTNH = rope(
                    y_BTNH,
                    place.positions_BT,
                    theta=position.local_theta if is_local else c.rope_theta,
                    fraction=position.fraction,
                    scaling=None if is_local else c.choice("rope_scaling"),
                )
            return checkpoint_name(y_BTNH, "qkv")

        q_BTNH = finish("q", "heads", project("q", N, "heads", x_BTD))
        source = x_BTD if memory is None else memory.x_BSD
        if source is None:
            return q_BTNH, None, None
        k_BSKH = finish("k", "kv_heads", project("k", K, "kv_heads", source))
        return q_BTNH, k_BSKH, checkpoint_name(project("v", K, "kv_heads", source), "qkv")


def first_values(c: TransformerConfig, params: Any, x_BTD: Array) -> Array:
    """Values (B, T, K, H) of the first layer, which all layers mix into theirs.

    The layer itself projects them once more: a loop over layers has one body for all of them, and what it handed from
    layer to layer it would keep for each.

    Args:
        c: the hyperparameters.
        params: of the stack that has the first layer, each leaf with a leading layer dim.
        x_BTD: what enters it.
    """
    own = jax.tree.map(lambda leaf: leaf[0], params)
    if c.block in NORMS_FIRST and c.embedding_norm != "first":
        x_BTD = Norm(c, parent=None).apply({"params": own["attention_norm"]}, x_BTD)  # pyright: ignore
    p = own["attention"]
    v_BTKH = contract(x_BTD, p["w_v"].astype(c.compute_dtype), products=c.products)
    v_BTKH = v_BTKH + p["b_v"].astype(c.compute_dtype) if "b_v" in p else v_BTKH
    return nn.with_logical_constraint(v_BTKH, ("batch", "length", "kv_heads", "head_dim"))


class MLP(nn.Module):
    """Two projections around a non-linearity, or three where it is gated."""

    config: TransformerConfig
    d_hidden: int

    @nn.compact
    def __call__(self, x_BTD: Array) -> Array:
        """Maps (B, T, D) to (B, T, D)."""
        c, D, F = self.config, self.config.d_model, self.d_hidden

        def project(name: str) -> Array:
            w_DF = weight(self, f"w_{name}", (D, F), ("embed", "mlp"), projection_init(D))
            y_BTF = contract(x_BTD, w_DF.astype(c.compute_dtype), products=c.products)
            if c.bias == "all":
                y_BTF = y_BTF + weight(self, f"b_{name}", (F,), ("mlp",), nn.initializers.zeros).astype(c.compute_dtype)
            y_BTF = nn.with_logical_constraint(y_BTF, ("batch", "length", "mlp"))
            return checkpoint_name(y_BTF, f"mlp_{name}")

        y_BTF = ACTIVATIONS[c.activation].fn(project("gate" if c.is_gated else "in"))
        if c.is_gated:
            y_BTF = y_BTF * project("in")
        y_BTF = checkpoint_name(y_BTF, "mlp_hidden")
        w_FD = weight(self, "w_out", (F, D), ("mlp", "embed"), output_init(c, F))
        y_BTD = contract(y_BTF, w_FD.astype(c.compute_dtype), products=c.products)
        if c.bias == "all":
            y_BTD = y_BTD + weight(self, "b_out", (D,), ("norm",), nn.initializers.zeros).astype(c.compute_dtype)
        return y_BTD


class Block(nn.Module):
    """One layer: attention, attention to the memory if there is one, and the MLP or experts in its place.

    Attributes:
        config: the hyperparameters.
        attention_fn: called as `model.attention.attention` is; it names its output for the remat policies, as only it
            knows what else its backward pass needs.
        experts_fn: called as `model.moe.dropless` is.
        window: of the self-attention.
        has_experts: whether the layer has experts.
        has_memory: whether it attends to a memory.
    """

    config: TransformerConfig
    attention_fn: Callable[..., Array]
    experts_fn: Callable[..., Array] = dropless
    window: int = 0
    has_experts: bool = False
    has_memory: bool = False

    @nn.compact
    def __call__(
        self,
        x_BTD: Array,
        place: Place,
        *,
        number: Array | int,
        caches: tuple[LayerCache | None, LayerCache | None] = (None, None),
        memory: Memory | None = None,
        dropout_keys_BT: Array | None = None,
    ) -> tuple[Array, tuple[LayerCache | None, LayerCache | None], dict[str, Array]]:
        """Maps (B, T, D) to (B, T, D).

        Args:
            x_BTD: the residual stream.
            place: positions and segments.
            number: of the layer, from 0.
            caches: of the attention, and of that to the memory.
            memory: the encoder's output, or None.
            dropout_keys_BT: a key for each token, or None.

        Returns:
            (B, T, D), the new caches, and the sums of `MoE` or {}.
        """
        c = self.config
        sums: dict[str, Array] = {}

        def add(x_BTD: Array, name: str, fn: Callable[[Array], tuple[Array, Any]], key: int, onto: Array | None = None):
            """X + fn(x) with its norms, and what else fn returns; `onto` stands for x in the sum."""
            y_BTD = x_BTD
            if c.block in NORMS_FIRST:
                y_BTD = Norm(c, name=f"{name}_norm")(x_BTD)
                if c.embedding_norm == "first" and name == "attention":
                    y_BTD = jnp.where(number == 0, x_BTD, y_BTD)
            y_BTD, more = fn(y_BTD)
            if c.block in ("output", "both"):
                y_BTD = Norm(c, name=f"{name}_output_norm" if c.block == "both" else f"{name}_norm")(y_BTD)
            keys_BT = None if dropout_keys_BT is None else fold_in(dropout_keys_BT, key)
            x_BTD = (x_BTD if onto is None else onto) + dropout(y_BTD, c.dropout, keys_BT)
            if c.block == "post":
                x_BTD = Norm(c, name=f"{name}_norm")(x_BTD)
            x_BTD = nn.with_logical_constraint(x_BTD, ACTIVATION_AXES)
            return checkpoint_name(x_BTD, f"{name}_sum"), more

        def mlp(y_BTD: Array) -> tuple[Array, dict[str, Array]]:
            if not self.has_experts:
                return MLP(c, c.d_mlp, name="mlp")(y_BTD), {}
            out_BTD, sums = MoE(c, self.experts_fn, name="moe")(y_BTD, place.q_segment_ids_BT)
            if c.d_shared_expert:
                out_BTD = out_BTD + MLP(c, c.d_shared_expert, name="shared_mlp")(y_BTD)
            return out_BTD, sums

        attend = Attention(c, self.attention_fn, self.window, name="attention")
        into_BTD = x_BTD
        x_BTD, cache = add(x_BTD, "attention", lambda y: attend(y, place, caches[0], number=number), 0)
        cross_cache = None
        if self.has_memory:
            cross = Attention(c, self.attention_fn, name="cross_attention")
            x_BTD, cross_cache = add(
                x_BTD, "cross_attention", lambda y: cross(y, place, caches[1], memory, number=number), 2
            )
        if c.block == "parallel":
            x_BTD, sums = add(into_BTD, "mlp", mlp, 1, onto=x_BTD)
        else:
            x_BTD, sums = add(x_BTD, "mlp", mlp, 1)
        return x_BTD, (cache, cross_cache), sums
