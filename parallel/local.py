"""Attention of each device to its own rows and heads, for kernels that the compiler cannot divide.

Letters: B batch, T query length, S key length, N query heads, K key/value heads, H head dim.
"""

import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import PartitionSpec

from .context import kv_repeats


def on_each_device(attention_fn: Callable[..., Array]) -> Callable[..., Array]:
    """Maps an attention over the mesh: rows by the rules' "batch", heads by "heads"; each device has the whole length.

    All axes of the mesh are mapped, those that divide nothing here too: a kernel allows no others. Within another map,
    such as that of the all-to-all over "context" and "tensor", it takes the axes that are left.

    Args:
        attention_fn: called as `model.attention.attention` is, without a bias of relative positions.

    Returns:
        A function called in the same way; without a mesh it is `attention_fn`.
    """

    def mapped(
        q_BTNH: Array,
        k_BSKH: Array,
        v_BSKH: Array,
        *,
        q_positions_BT: Array,
        kv_positions_BS: Array,
        q_segment_ids_BT: Array,
        kv_segment_ids_BS: Array,
        **choices: Any,
    ) -> Array:
        assert choices.get("bias") is None, "a bias of relative positions has heads, which would be divided too"
        where = {
            "q_positions_BT": q_positions_BT,
            "kv_positions_BS": kv_positions_BS,
            "q_segment_ids_BT": q_segment_ids_BT,
            "kv_segment_ids_BS": kv_segment_ids_BS,
        }

        def local(q: Array, k: Array, v: Array, where: dict[str, Array]) -> Array:
            return attention_fn(q, k, v, **where, **choices)

        mesh = jax.sharding.get_abstract_mesh()
        free = [axis for axis in mesh.axis_names if axis not in mesh.manual_axes]
        if not free:
            return local(q_BTNH, k_BSKH, v_BSKH, where)
        rows, heads = (_axes(logical, free) for logical in ("batch", "heads"))
        repeats = kv_repeats(q_BTNH.shape[2], k_BSKH.shape[2], math.prod(mesh.shape[axis] for axis in heads))
        if repeats > 1:
            k_BSKH, v_BSKH = (jnp.repeat(x, repeats, axis=2) for x in (k_BSKH, v_BSKH))
        by_heads, by_rows = PartitionSpec(rows, None, heads), PartitionSpec(rows)
        return jax.shard_map(
            local,
            in_specs=(by_heads, by_heads, by_heads, by_rows),
            out_specs=by_heads,
            axis_names=set(free),
            check_vma=False,
        )(q_BTNH, k_BSKH, v_BSKH, where)

    return mapped


def _axes(logical: str, free: list[str]) -> tuple[str, ...]:
    """The mesh axes, of those that are free, that the rules in force divide a logical axis over."""
    spec: Any = nn.logical_to_mesh_axes((logical,))
    axes = () if spec is None or spec[0] is None else spec[0]
    return tuple(axis for axis in ((axes,) if isinstance(axes, str) else axes) if axis in free)
