"""Rotary positions, and the ways to stretch them to longer sequences.

Letters: B batch, T length, N heads, H head dim, R pairs of turning dims.
"""

import math

import jax
import jax.numpy as jnp
from jax import Array

from .choice import Choice

# As Hugging Face's `rope_parameters`; "scale" multiplies sines and cosines, 1.0 leaves them.
SCALINGS = {
    "": {},
    "linear": {"factor": float},
    "llama3": {"factor": float, "low": 1.0, "high": 4.0, "length": int},
    "yarn": {"factor": float, "length": int, "fast": 32.0, "slow": 1.0, "scale": 1.0},
    "longrope": {"length": int, "short": tuple, "long": tuple, "scale": 1.0},
}


def rope_frequencies(num_dims: int, positions_BT: Array, *, theta: float, scaling: Choice) -> Array:
    """Radians a position for each pair of dims.

    Args:
        num_dims: dims that turn, 2 R.
        positions_BT: positions; only "longrope" looks at them.
        theta: base of the wavelengths (Su et al. 2021, arXiv:2104.09864, eq. 15).
        scaling: a kind of `SCALINGS`. "linear" divides all (Chen et al. 2023, arXiv:2306.15595); "llama3" only those
            that turn less than `low` times within `length`, and those up to `high` times in part (Llama 3.1); "yarn"
            likewise between `slow` and `fast` turns (Peng et al. 2023, arXiv:2309.00071, section 3.2); "longrope"
            divides by a factor for each pair, which a row takes from `long` where it is longer than `length`, else
            from `short` (Ding et al. 2024, arXiv:2402.13753).

    Returns:
        (R,), or (B, 1, 1, R) for "longrope"; float32.
    """
    half = num_dims // 2
    frequencies_R = theta ** (-jnp.arange(half, dtype=jnp.float32) / half)
    if scaling.kind == "linear":
        return frequencies_R / scaling.factor
    if scaling.kind == "llama3":
        turns_R = scaling.length * frequencies_R / (2 * math.pi)
        kept_R = jnp.clip((turns_R - scaling.low) / (scaling.high - scaling.low), 0.0, 1.0)
        return frequencies_R * (kept_R + (1 - kept_R) / scaling.factor)
    if scaling.kind == "yarn":

        def dim_of(turns: float) -> float:
            return half * math.log(scaling.length / (turns * 2 * math.pi)) / math.log(theta)

        first, last = max(math.floor(dim_of(scaling.fast)), 0), min(math.ceil(dim_of(scaling.slow)), num_dims - 1)
        kept_R = 1 - jnp.clip((jnp.arange(half, dtype=jnp.float32) - first) / max(last - first, 1e-3), 0.0, 1.0)
        return frequencies_R * (kept_R + (1 - kept_R) / scaling.factor)
    if scaling.kind == "longrope":
        is_long_B111 = (jnp.max(positions_BT, axis=1) >= scaling.length)[:, None, None, None]
        return frequencies_R / jnp.where(is_long_B111, jnp.array(scaling.long), jnp.array(scaling.short))
    return frequencies_R


def rope(x_BTNH: Array, positions_BT: Array, *, theta: float, fraction: float = 1.0, scaling: Choice | None = None):
    """Rotates pairs (x[i], x[i + R]) by position * theta^(-i/R) (Su et al. 2021, eq. 34; GPT-NeoX pairing).

    Args:
        x_BTNH: queries or keys.
        positions_BT: integer positions.
        theta: base of the wavelengths.
        fraction: the part of the head that turns, its first dims; the others pass.
        scaling: see `rope_frequencies`; None is none.

    Returns:
        The rotated array, same shape and dtype; angles and products in float32.
    """
    scaling = scaling or Choice("", {})
    num_dims = round(x_BTNH.shape[-1] * fraction)
    frequencies = rope_frequencies(num_dims, positions_BT, theta=theta, scaling=scaling)
    angles = positions_BT[:, :, None, None].astype(jnp.float32) * frequencies
    scale = scaling.options.get("scale", 1.0)
    sin, cos = jnp.sin(angles) * scale, jnp.cos(angles) * scale
    first, second = jnp.split(x_BTNH[..., :num_dims].astype(jnp.float32), 2, axis=-1)
    rotated = jnp.concatenate((first * cos - second * sin, second * cos + first * sin), axis=-1)
    return jax.lax.concatenate((rotated.astype(x_BTNH.dtype), x_BTNH[..., num_dims:]), 3)


def sinusoids(positions_BT: Array, num_dims: int) -> Array:
    """Fixed positions (Vaswani et al. 2017, section 3.5): the sines in the first half of the dims, the cosines after.

    Args:
        positions_BT: integer positions.
        num_dims: D, even.

    Returns:
        (B, T, D), float32.
    """
    half = num_dims // 2
    frequencies = 10000.0 ** (-jnp.arange(half, dtype=jnp.float32) / half)
    angles = positions_BT[:, :, None].astype(jnp.float32) * frequencies
    return jnp.concatenate((jnp.sin(angles), jnp.cos(angles)), axis=-1)
