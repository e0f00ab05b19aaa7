"""Attention over a sequence that the mesh axis "context" divides: how it is divided, and the all-to-all form.

Both this and the ring (ring.py) are called as `model.attention.attention` is, and give what it gives. Each shard holds
two chunks of the length, an early and a late one (`zigzag_order`), so that under a causal mask all shards have the same
work. Who sees whom still follows from positions and segment ids alone.

Letters: B batch, T query length, S key length, N query heads, K key/value heads, H head dim.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import PartitionSpec

AXIS = "context"
BY_LENGTH = PartitionSpec(None, AXIS)


def zigzag_order(length: int, num_shards: int) -> np.ndarray:
    """The order in which a sequence is divided over the shards: shard i gets chunks i and 2 * num_shards - 1 - i.

    Of causal attention each shard then has the same part to do (Llama 3, arXiv:2407.21783, section 3.3.2).

    Args:
        length: tokens; a multiple of 2 * num_shards.
        num_shards: size of the mesh axis "context".

    Returns:
        Indices (length,): the token that stands at each place.

    Example:
        zigzag_order(8, 2)  # 0 1 6 7, then 2 3 4 5
    """
    chunks = np.arange(length).reshape(2 * num_shards, -1)
    return np.stack([chunks[:num_shards], chunks[: num_shards - 1 : -1]], axis=1).reshape(-1)


# ---- ring


def on_shards(fn: Callable[..., Any], in_specs: Any, out_specs: Any, *more_axes: str) -> Callable[..., Any]:
    """Maps `fn` over the shards of the length and of `more_axes`; all other axes stay with the compiler.

    "stage" is taken along where there are stages and nobody has taken it: `jax.vmap(..., spmd_axis_name="stage")` wants
    to divide its dim over it, which `jax.shard_map` does only with axes that are its own.
    """
    mesh = jax.sharding.get_abstract_mesh()
    axes = {AXIS, *more_axes} | ({"stage"} - set(mesh.manual_axes) if mesh.shape["stage"] > 1 else set())
    return jax.shard_map(fn, in_specs=in_specs, out_specs=out_specs, axis_names=axes, check_vma=False)


def kv_repeats(num_heads: int, num_kv_heads: int, parts: int) -> int:
    """How often the all-to-all repeats each kv head: as little as makes them divisible by `parts`, as N is."""
    assert num_heads % parts == 0, f"{num_heads} heads on {parts} parts"
    group = num_heads // num_kv_heads
    return next(r for r in range(1, group + 1) if group % r == 0 and num_kv_heads * r % parts == 0)


def all_to_all_attention(
    q_BTNH: Array,
    k_BSKH: Array,
    v_BSKH: Array,
    *,
    q_positions_BT: Array,
    kv_positions_BS: Array,
    q_segment_ids_BT: Array,
    kv_segment_ids_BS: Array,
    attention_fn: Callable[..., Array],
    in_order: bool = False,
    by_place: bool = False,
    **choices: Any,
) -> Array:
    """Attention with a part of the heads on each shard, over the whole length (Jacobs et al. 2023, arXiv:2309.14509).

    Args:
        q_BTNH: queries; N is a multiple of the shards of length and heads together.
        k_BSKH: keys; kv heads that do not divide so are repeated (`kv_repeats`).
        v_BSKH: values.
        q_positions_BT: position of each query in its document.
        kv_positions_BS: positions of the keys.
        q_segment_ids_BT: document of each query.
        kv_segment_ids_BS: documents of the keys.
        attention_fn: the attention on a device, called as `model.attention.attention` is.
        in_order: whether the tokens, once they are put back from `zigzag_order`, stand in the order of their positions.
        by_place: whether `attention_fn` wants them so.
        choices: further arguments of it, such as `window`; a `bias` must be None, as its heads would be divided too.

    Returns:
        (B, T, N, H), as `attention_fn` gives it.
    """
    assert choices.get("bias") is None, "a bias of relative positions has heads, which the all-to-all would divide"
    shape = jax.sharding.get_abstract_mesh().shape
    # Heads are split as the mesh axis "tensor" divides them, and it is mapped over as well: left to the compiler, it
    # would gather them for the exchange.
    outer = shape["tensor"]
    repeats = kv_repeats(q_BTNH.shape[2], k_BSKH.shape[2], outer * shape[AXIS])

    order = zigzag_order(2 * shape[AXIS], shape[AXIS])  # of the chunks

    def reordered(x: Array, order: np.ndarray) -> Array:
        return x.reshape(x.shape[0], len(order), -1, *x.shape[2:])[:, order].reshape(x.shape) if by_place else x

    def grouped(x: Array, outer: int) -> Array:
        return x.reshape(*x.shape[:2], outer, x.shape[2] // outer, x.shape[3])

    def on_shard(q: Array, k: Array, v: Array, where: dict[str, Array]) -> Array:
        q, k, v = (jax.lax.all_to_all(x, AXIS, split_axis=3, concat_axis=1, tiled=True) for x in (q, k, v))
        back = np.argsort(order)
        q, k, v = (reordered(x.reshape(*x.shape[:2], -1, x.shape[-1]), back) for x in (q, k, v))
        where = {name: reordered(jax.lax.all_gather(x, AXIS, axis=1, tiled=True), back) for name, x in where.items()}
        out = attention_fn(q, k, v, in_order=in_order and by_place, **choices, **where)
        out = grouped(reordered(out, order), 1)
        return jax.lax.all_to_all(out, AXIS, split_axis=1, concat_axis=3, tiled=True)

    where = {
        "q_positions_BT": q_positions_BT,
        "kv_positions_BS": kv_positions_BS,
        "q_segment_ids_BT": q_segment_ids_BT,
        "kv_segment_ids_BS": kv_segment_ids_BS,
    }
    k_BSKH, v_BSKH = (jnp.repeat(x, repeats, axis=2) for x in (k_BSKH, v_BSKH))
    args = (*(grouped(x, outer) for x in (q_BTNH, k_BSKH, v_BSKH)), where)
    heads = PartitionSpec(None, AXIS, "tensor")
    out_BTNH = on_shards(on_shard, (heads, heads, heads, BY_LENGTH), heads, "tensor")(*args)
    # Named once more, as it is exchanged: a policy that keeps it need not send it again.
    return checkpoint_name(out_BTNH.reshape(*q_BTNH.shape[:3], -1), "attention_out")
