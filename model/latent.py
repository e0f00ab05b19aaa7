"""Multi-head latent attention: keys and values of all heads from a few numbers a token.

Letters: B batch, T length, N heads, H head dim without the turning part, R turning dims, V value dims, C numbers that
keys and values come from, Q numbers that queries come from, D model.
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax import Array
from jax.ad_checkpoint import checkpoint_name

from .config import TransformerConfig
from .layers import projection_init, rms_norm, weight
from .products import contract
from .rope import rope


def latent_qkv(module: nn.Module, c: TransformerConfig, x_BTD: Array, positions_BT: Array) -> tuple[Array, ...]:
    """Queries, keys and values (DeepSeek-V2 2024, arXiv:2405.04434, eq. 9-19).

    Args:
        module: holds the parameters.
        c: the hyperparameters.
        x_BTD: normalised activations.
        positions_BT: of the tokens.

    Returns:
        Queries and keys (B, T, N, H + R), of which the last R dims turn and are one for all heads of the keys; and
        values (B, T, N, V).
    """
    latent = c.choice("latent_attention")
    D, N, H, C, R = c.d_model, c.num_heads, c.size_of_head, latent.kv, latent.rope

    def project(name: str, x: Array, shape: tuple[int, ...], axes: tuple[str, ...]) -> Array:
        w = weight(module, f"w_{name}", shape, axes, projection_init(shape[0]))
        return contract(x, w.astype(c.compute_dtype), products=c.products)

    def norm(name: str, x: Array) -> Array:
        return rms_norm(x, weight(module, name, x.shape[-1:], ("norm",), nn.initializers.ones), eps=c.norm_eps)

    def turn(x_BTNR: Array) -> Array:
        return rope(x_BTNR, positions_BT, theta=c.rope_theta, scaling=c.choice("rope_scaling"))

    up = ("latent", "heads", "head_dim")
    if latent.query:
        down_BTQ = norm("q_down_norm", project("q_down", x_BTD, (D, latent.query), ("embed", "latent")))
        q_BTNH = project("q_up", down_BTQ, (latent.query, N, H + R), up)
    else:
        q_BTNH = project("q", x_BTD, (D, N, H + R), ("embed", "heads", "head_dim"))
    down_BTC = project("kv_down", x_BTD, (D, C + R), ("embed", "latent"))
    kv_BTNH = project("kv_up", norm("kv_norm", down_BTC[..., :C]), (C, N, H + latent.value), up)
    turned_BT1R = turn(down_BTC[:, :, None, C:])
    k_BTNH = jnp.concatenate((kv_BTNH[..., :H], jnp.broadcast_to(turned_BT1R, (*kv_BTNH.shape[:3], R))), axis=-1)
    q_BTNH = jnp.concatenate((q_BTNH[..., :H], turn(q_BTNH[..., H:])), axis=-1)
    split: Any = (q_BTNH, k_BTNH, kv_BTNH[..., H:])
    split = (nn.with_logical_constraint(y, ("batch", "length", "heads", "head_dim")) for y in split)
    return tuple(checkpoint_name(y, "qkv") for y in split)
