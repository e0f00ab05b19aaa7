"""The decoder-only Transformer: parameter holders in Linen around the functions of this package.

Letters: B batch, T query length, S cache slots, N heads, K kv heads, H head dim, D model, F mlp, V vocab, L layers.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.core import meta
from jax import Array
from jax.ad_checkpoint import checkpoint_name

from .attention import MASKED, attention
from .cache import KVCache, LayerCache
from .config import TransformerConfig
from .layers import ACTIVATIONS, dropout, fold_in, layer_norm, projection_init, rms_norm, rope, soft_cap, weight
from .moe import MoE, dropless
from .stack import scan_layers

ACTIVATION_AXES = ("batch", "residual_length", "act_embed")


class Norm(nn.Module):
    """RMSNorm or LayerNorm over the last dim, with float32 parameters."""

    config: TransformerConfig

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Normalises (..., D)."""
        c, shape = self.config, x.shape[-1:]
        scale = weight(self, "scale", shape, ("norm",), nn.initializers.ones)
        if c.norm == "rmsnorm":
            return rms_norm(x, scale, eps=c.norm_eps)
        bias = weight(self, "bias", shape, ("norm",), nn.initializers.zeros) if c.use_bias else None
        return layer_norm(x, scale, bias, eps=c.norm_eps)


class Attention(nn.Module):
    """Self-attention with grouped heads."""

    config: TransformerConfig
    attention_fn: Callable[..., Array]

    @nn.compact
    def __call__(
        self, x_BTD: Array, where: dict[str, Array], cache: LayerCache | None
    ) -> tuple[Array, LayerCache | None]:
        """Attends over the sequence itself, or over the cache once the new keys and values are in it.

        Args:
            x_BTD: normalised activations.
            where: positions and segments of queries and keys, as `attention` takes them.
            cache: what earlier tokens left, or None.

        Returns:
            (B, T, D), and the layer's new cache or None.
        """
        c = self.config
        D, N, K, H = c.d_model, c.num_heads, c.num_kv_heads, c.size_of_head

        def project(name: str, heads: int, axis: str) -> Array:
            w_DNH = weight(self, f"w_{name}", (D, heads, H), ("embed", axis, "head_dim"), projection_init(D))
            y_BTNH = jnp.einsum("BTD,DNH->BTNH", x_BTD, w_DNH.astype(c.dtype))
            if c.use_bias:
                bias = weight(self, f"b_{name}", (heads, H), (axis, "head_dim"), nn.initializers.zeros)
                y_BTNH = y_BTNH + bias.astype(c.dtype)
            return nn.with_logical_constraint(y_BTNH, ("batch", "length", axis, "head_dim"))

        q_BTNH, k_BTKH, v_BTKH = (
            project("q", N, "heads"),
            project("k", K, "kv_heads"),
            project("v", K, "kv_heads"),
        )
        if c.qk_norm:
            q_BTNH = rms_norm(q_BTNH, weight(self, "q_norm", (H,), ("norm",), nn.initializers.ones), eps=c.norm_eps)
            k_BTKH = rms_norm(k_BTKH, weight(self, "k_norm", (H,), ("norm",), nn.initializers.ones), eps=c.norm_eps)
        if c.position == "rope":
            q_BTNH = rope(q_BTNH, where["q_positions_BT"], theta=c.rope_theta)
            k_BTKH = rope(k_BTKH, where["q_positions_BT"], theta=c.rope_theta)
        q_BTNH, k_BTKH, v_BTKH = (checkpoint_name(y, "qkv") for y in (q_BTNH, k_BTKH, v_BTKH))
        if cache is not None:
            k_BTKH = jax.lax.dynamic_update_slice_in_dim(cache.k_BSKH, k_BTKH, cache.length, axis=1)
            v_BTKH = jax.lax.dynamic_update_slice_in_dim(cache.v_BSKH, v_BTKH, cache.length, axis=1)
            cache = LayerCache(k_BTKH, v_BTKH, cache.length)
        y_BTNH = self.attention_fn(q_BTNH, k_BTKH, v_BTKH, window=c.window, soft_cap=c.attention_soft_cap, **where)
        # Also for the way back: the residual's length may be divided over more axes than the attention's.
        y_BTNH = nn.with_logical_constraint(y_BTNH, ("batch", "length", "heads", "head_dim"))
        y_BTNH = checkpoint_name(y_BTNH, "attention_out")
        init = projection_init(N, H, num_residual_writes=2 * c.num_layers)
        w_NHD = weight(self, "w_out", (N, H, D), ("heads", "head_dim", "embed"), init)
        y_BTD = jnp.einsum("BTNH,NHD->BTD", y_BTNH, w_NHD.astype(c.dtype))
        if c.use_bias:
            y_BTD = y_BTD + weight(self, "b_out", (D,), ("norm",), nn.initializers.zeros).astype(c.dtype)
        return y_BTD, cache


class MLP(nn.Module):
    """Two projections around a non-linearity, or three where it is gated."""

    config: TransformerConfig

    @nn.compact
    def __call__(self, x_BTD: Array) -> Array:
        """Maps (B, T, D) to (B, T, D)."""
        c = self.config
        D, F = c.d_model, c.d_mlp

        def project(name: str) -> Array:
            y_BTF = x_BTD @ weight(self, f"w_{name}", (D, F), ("embed", "mlp"), projection_init(D)).astype(c.dtype)
            if c.use_bias:
                y_BTF = y_BTF + weight(self, f"b_{name}", (F,), ("mlp",), nn.initializers.zeros).astype(c.dtype)
            return nn.with_logical_constraint(y_BTF, ("batch", "length", "mlp"))

        y_BTF = ACTIVATIONS[c.activation].fn(project("gate" if c.is_gated else "in"))
        if c.is_gated:
            y_BTF = y_BTF * project("in")
        y_BTF = checkpoint_name(y_BTF, "mlp_hidden")
        init = projection_init(F, num_residual_writes=2 * c.num_layers)
        y_BTD = y_BTF @ weight(self, "w_out", (F, D), ("mlp", "embed"), init).astype(c.dtype)
        if c.use_bias:
            y_BTD = y_BTD + weight(self, "b_out", (D,), ("norm",), nn.initializers.zeros).astype(c.dtype)
        return y_BTD


class Block(nn.Module):
    """One pre-norm layer: x + attention(norm(x)), then x + mlp(norm(x)), where experts may take the MLP's place."""

    config: TransformerConfig
    attention_fn: Callable[..., Array]
    experts_fn: Callable[..., Array] = dropless

    @nn.compact
    def __call__(
        self,
        x_BTD: Array,
        where: dict[str, Array],
        cache: LayerCache | None = None,
        dropout_keys_BT: Array | None = None,
    ) -> tuple[Array, LayerCache | None, dict[str, Array]]:
        """Maps (B, T, D) to (B, T, D); also returns the layer's new cache or None, and the sums of `MoE` or {}."""
        c = self.config
        keys = (None, None) if dropout_keys_BT is None else [fold_in(dropout_keys_BT, i) for i in range(2)]
        attend = Attention(c, self.attention_fn, name="attention")
        y_BTD, cache = attend(Norm(c, name="attention_norm")(x_BTD), where, cache)
        x_BTD = nn.with_logical_constraint(x_BTD + dropout(y_BTD, c.dropout, keys[0]), ACTIVATION_AXES)
        y_BTD, sums = Norm(c, name="mlp_norm")(x_BTD), {}
        if c.num_experts:
            y_BTD, sums = MoE(c, self.experts_fn, name="moe")(y_BTD, where["q_segment_ids_BT"])
        else:
            y_BTD = MLP(c, name="mlp")(y_BTD)
        return nn.with_logical_constraint(x_BTD + dropout(y_BTD, c.dropout, keys[1]), ACTIVATION_AXES), cache, sums


class Transformer(nn.Module):
    """Tokens to logits.

    Attributes:
        config: the hyperparameters.
        attention_fn: called as `model.attention.attention` is.
        stack_fn: the way through the layers; see `model.stack`.
        experts_fn: called as `model.moe.dropless` is.

    Example:
        logits_BTV = model.apply({"params": params}, tokens_BT)
    """

    config: TransformerConfig
    attention_fn: Callable[..., Array] = attention
    stack_fn: Callable[..., tuple[Array, Any]] = scan_layers
    experts_fn: Callable[..., Array] = dropless

    @nn.compact
    def __call__(
        self,
        tokens_BT: Array,
        *,
        positions_BT: Array | None = None,
        segment_ids_BT: Array | None = None,
        cache: KVCache | None = None,
        dropout_keys_B: Array | None = None,
    ):
        """Computes the logits of the next token at each position.

        Applied with mutable=["aux"], a mixture of experts also returns the sums of `model.moe.MoE` over its layers.

        Args:
            tokens_BT: ids in [0, vocab_size).
            positions_BT: position of each token in its document; None counts from 0 along the row.
            segment_ids_BT: document of each token, 0 for padding; None makes each row one document.
            cache: earlier tokens to attend to as well; the new ones are appended.
            dropout_keys_B: turns dropout on; a random key for each row. A token's mask follows from its row's key, its
                segment and its position, so it is the same however rows and lengths are split or reordered.

        Returns:
            Logits (B, T, padded vocabulary) in float32, the padded ones masked to a large negative number;
            with a cache, the pair (logits, new cache).
        """
        c = self.config
        if positions_BT is None:
            positions_BT = jnp.broadcast_to(jnp.arange(tokens_BT.shape[1]), tokens_BT.shape)
        if segment_ids_BT is None:
            segment_ids_BT = jnp.ones_like(tokens_BT)
        keys_BT = None
        if dropout_keys_B is not None:
            keys_BT = jnp.broadcast_to(dropout_keys_B[:, None], tokens_BT.shape)
            keys_BT = fold_in(fold_in(keys_BT, segment_ids_BT), positions_BT)

        table_VD = weight(
            self,
            "embedding",
            (c.padded_vocab_size, c.d_model),
            ("vocab", "embed"),
            nn.initializers.normal(c.init_std),
        )
        # Each shard of the vocabulary looks up its own rows; from a table sharded both ways XLA would rematerialize
        # the whole output.
        x_BTD = nn.with_logical_constraint(table_VD.astype(c.dtype), ("vocab", None))[tokens_BT]
        x_BTD = nn.with_logical_constraint(x_BTD, ("batch", "length", "act_embed"))
        if c.position == "learned":
            init = nn.initializers.normal(c.init_std)
            table_TD = weight(self, "positions", (c.max_length, c.d_model), ("length_table", "embed"), init)
            x_BTD = x_BTD + nn.with_logical_constraint(table_TD, (None, None)).astype(c.dtype)[positions_BT]
        x_BTD = nn.with_logical_constraint(x_BTD, ACTIVATION_AXES)
        x_BTD = dropout(x_BTD, c.dropout, None if keys_BT is None else fold_in(keys_BT, 0))

        x_BTD, cache = self._layers(x_BTD, positions_BT, segment_ids_BT, cache, keys_BT)

        x_BTD = Norm(c, name="final_norm")(x_BTD)
        if not c.tie_embeddings:
            shape = (c.padded_vocab_size, c.d_model)
            table_VD = weight(self, "head", shape, ("vocab", "embed"), projection_init(c.d_model))
        logits_BTV = jnp.einsum("BTD,VD->BTV", x_BTD, table_VD.astype(c.dtype), preferred_element_type=jnp.float32)
        logits_BTV = soft_cap(logits_BTV, c.logit_soft_cap)
        if c.padded_vocab_size != c.vocab_size:
            logits_BTV = jnp.where(jnp.arange(c.padded_vocab_size) < c.vocab_size, logits_BTV, MASKED)
        logits_BTV = nn.with_logical_constraint(logits_BTV, ("batch", "length", "vocab"))
        return logits_BTV if cache is None else (logits_BTV, cache)

    def _layers(
        self,
        x_BTD: Array,
        positions_BT: Array,
        segment_ids_BT: Array,
        cache: KVCache | None,
        keys_BT: Array | None,
    ) -> tuple[Array, KVCache | None]:
        """Runs the stack; its parameters are those of one Block, each with a leading layer dim."""
        where = {
            "q_positions_BT": positions_BT,
            "q_segment_ids_BT": segment_ids_BT,
            "kv_positions_BS": positions_BT,
            "kv_segment_ids_BS": segment_ids_BT,
        }
        if cache is not None:
            for name, filled, new in (
                ("kv_positions_BS", cache.positions_BS, positions_BT),
                ("kv_segment_ids_BS", cache.segment_ids_BS, segment_ids_BT),
            ):
                where[name] = jax.lax.dynamic_update_slice_in_dim(filled, new, cache.length, axis=1)
        block = Block(self.config, self.attention_fn, self.experts_fn, parent=None)

        def init_layers(key: Array) -> Any:
            # The shape of the activations does not matter to the parameters: one token is enough, and the plain
            # attention takes it, where one that divides the length could not.
            x = jnp.zeros((1, 1, self.config.d_model), self.config.dtype)
            one = {name: jnp.zeros((1, 1), jnp.int32) for name in where}
            keys = jax.random.split(key, self.config.num_layers)
            params = jax.vmap(lambda key: Block(self.config, attention, parent=None).init(key, x, one)["params"])(keys)
            return jax.tree.map(
                lambda box: box.add_axis(0, {nn.PARTITION_NAME: "layers"}),
                params,
                is_leaf=lambda leaf: isinstance(leaf, meta.AxisMetadata),
            )

        def layer(params: Any, x_BTD: Array, per_layer: Any) -> tuple[Array, Any]:
            layer_cache, number = per_layer
            keys = None if keys_BT is None else fold_in(keys_BT, 1 + number)  # 0 is the embedding
            outputs: Any = block.apply({"params": params}, x_BTD, where, layer_cache, keys)
            return outputs[0], outputs[1:]

        layers = self.param("layers", init_layers)
        numbers = jnp.arange(self.config.num_layers)
        caches = None
        if cache is not None:
            lengths = jnp.broadcast_to(cache.length, (self.config.num_layers,))
            caches = LayerCache(cache.k_LBSKH, cache.v_LBSKH, lengths)
        x_BTD, (caches, sums) = self.stack_fn(layer, layers, x_BTD, (caches, numbers))
        if not self.is_initializing():
            for name, sums_L in sums.items():
                self.sow("aux", name, jnp.sum(sums_L), init_fn=lambda: jnp.zeros(()), reduce_fn=jnp.add)
        if cache is None:
            return x_BTD, None
        return x_BTD, KVCache(
            k_LBSKH=caches.k_BSKH,
            v_LBSKH=caches.v_BSKH,
            positions_BS=where["kv_positions_BS"],
            segment_ids_BS=where["kv_segment_ids_BS"],
            length=cache.length + positions_BT.shape[1],
        )
