"""Parameter-free mathematics of the layers, and the one way a parameter is declared.

Letters: B batch, T length, N heads, H head dim, D model. A `...` stands for any leading dims.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

NORMS = ("rmsnorm", "layernorm", "zero_centered_rmsnorm")


class Activation(NamedTuple):
    """An MLP non-linearity; a gated one multiplies its output by a second projection."""

    fn: Callable[[Array], Array]
    gated: bool


def _gelu(x: Array) -> Array:
    return jax.nn.gelu(x, approximate=True)


def _gelu_exact(x: Array) -> Array:
    return jax.nn.gelu(x, approximate=False)


ACTIVATIONS = {
    "relu": Activation(jax.nn.relu, gated=False),
    "gelu": Activation(_gelu, gated=False),
    "squared_relu": Activation(lambda x: jnp.square(jax.nn.relu(x)), gated=False),  # So et al. 2021
    "swiglu": Activation(jax.nn.silu, gated=True),  # Shazeer 2020, arXiv:2002.05202
    "geglu": Activation(_gelu, gated=True),
    "reglu": Activation(jax.nn.relu, gated=True),
    "silu": Activation(jax.nn.silu, gated=False),
    "gelu_exact": Activation(_gelu_exact, gated=False),
    "geglu_exact": Activation(_gelu_exact, gated=True),
}


def weight(
    module: nn.Module,
    name: str,
    shape: tuple[int, ...],
    axes: tuple[str, ...],
    init: nn.initializers.Initializer,
) -> Array:
    """Declares a float32 parameter with the logical axes of its dims.

    Args:
        module: the Linen module that holds it.
        name: its name in the tree.
        shape: its shape.
        axes: a logical axis name for each dim, which `parallel` maps to mesh axes.
        init: maps (key, shape, dtype) to values.

    Returns:
        The parameter, float32.
    """
    assert len(shape) == len(axes), f"{name}: shape {shape} and axes {axes} differ in length"
    value: Any = module.param(name, nn.with_logical_partitioning(init, axes), shape, jnp.float32)
    return value  # Linen unboxes it


def look_up(table_VD: Array, tokens_BT: Array, dtype: Any) -> Array:
    """The rows (B, T, D) of a table with the logical axes (vocab, embed).

    Each shard of the vocabulary looks up its own rows; from a table sharded both ways XLA would rematerialize the whole
    output.
    """
    return nn.with_logical_constraint(table_VD.astype(dtype), ("vocab", None))[tokens_BT]


def projection_init(*fan_in_dims: int, num_residual_writes: int = 1) -> nn.initializers.Initializer:
    """Normal with standard deviation 1 / sqrt(fan_in * num_residual_writes)."""
    return nn.initializers.normal((math.prod(fan_in_dims) * num_residual_writes) ** -0.5)


def rms_norm(x: Array, scale: Array | None = None, *, eps: float, num_dims: int = 1) -> Array:
    """RMSNorm: x / sqrt(mean(x^2) + eps) * scale over the last dims, in float32 (Zhang and Sennrich 2019, eq. 4).

    Args:
        x: (..., D), any float dtype.
        scale: (D,) or None.
        eps: added to the mean square.
        num_dims: how many of the last dims are one vector.

    Returns:
        (..., D) in x's dtype.
    """
    y = x.astype(jnp.float32)
    y = y * jax.lax.rsqrt(jnp.mean(jnp.square(y), axis=tuple(range(-num_dims, 0)), keepdims=True) + eps)
    return (y if scale is None else y * scale).astype(x.dtype)


def layer_norm(x: Array, scale: Array, bias: Array | None = None, *, eps: float) -> Array:
    """LayerNorm: (x - mean) / sqrt(var + eps) * scale + bias over the last dim, in float32 (Ba et al. 2016).

    The variance is the mean of the centred squares, not E[x^2] - E[x]^2, which cancels.

    Args:
        x: (..., D), any float dtype.
        scale: (D,).
        bias: (D,) or None.
        eps: added to the variance.

    Returns:
        (..., D) in x's dtype.
    """
    y = x.astype(jnp.float32)
    y = y - jnp.mean(y, axis=-1, keepdims=True)
    y = y * jax.lax.rsqrt(jnp.mean(jnp.square(y), axis=-1, keepdims=True) + eps) * scale
    return (y if bias is None else y + bias).astype(x.dtype)


def soft_cap(x: Array, cap: float) -> Array:
    """Bounds x smoothly to (-cap, cap) by cap * tanh(x / cap); 0 leaves it as it is (Gemma 2, arXiv:2408.00118)."""
    return cap * jnp.tanh(x / cap) if cap else x


def dropout(x_BTD: Array, rate: float, keys_BT: Array | None) -> Array:
    """Zeroes each element with probability `rate` and scales the rest by 1 / (1 - rate).

    Args:
        x_BTD: activations.
        rate: in [0, 1).
        keys_BT: a random key for each token, so that its mask does not depend on where in the array it stands;
            None is off.

    Returns:
        The same shape and dtype.
    """
    if keys_BT is None or rate == 0.0:
        return x_BTD
    keep = jax.vmap(jax.vmap(lambda key: jax.random.bernoulli(key, 1.0 - rate, x_BTD.shape[-1:])))
    return jnp.where(keep(keys_BT), x_BTD / (1.0 - rate), jnp.zeros((), x_BTD.dtype))


def fold_in(keys_BT: Array, number: Array | int) -> Array:
    """`jax.random.fold_in` for a key of each token; `number` is one for all, or (B, T)."""
    return jax.vmap(jax.vmap(jax.random.fold_in))(keys_BT, jnp.broadcast_to(number, keys_BT.shape))
