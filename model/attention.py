"""Attention as a parameter-free function: the plain form, to which every other backend is held.

Letters: B batch, T query length, S key length, N query heads, K key/value heads, G = N/K queries a group, H head dim,
R buckets of relative positions.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.ad_checkpoint import checkpoint_name

from .layers import soft_cap as apply_soft_cap

# Finite, so that a row with nothing to see gives a uniform softmax and finite gradients instead of NaN.
MASKED = -1e30


def attention_mask(
    *,
    q_positions_BT: Array,
    kv_positions_BS: Array,
    q_segment_ids_BT: Array,
    kv_segment_ids_BS: Array,
    causal: bool = True,
    window: int = 0,
) -> Array:
    """Who may see whom: the same segment, not later if causal, and within the window.

    Positions rather than indices decide the order, so the mask is right for packed, cached and reordered sequences.

    Args:
        q_positions_BT: position of each query in its document.
        kv_positions_BS: position of each key in its document.
        q_segment_ids_BT: document number of each query; 0 is padding.
        kv_segment_ids_BS: document number of each key; 0 is padding or an empty cache slot.
        causal: whether a query sees only what is not later than itself.
        window: positions a query sees, itself included, and as many later ones if not causal; 0 means all.

    Returns:
        Booleans (B, T, S).
    """
    distance_BTS = q_positions_BT[:, :, None] - kv_positions_BS[:, None, :]
    mask_BTS = q_segment_ids_BT[:, :, None] == kv_segment_ids_BS[:, None, :]
    if causal:
        mask_BTS = mask_BTS & (distance_BTS >= 0)
    return mask_BTS & (abs(distance_BTS) < window) if window else mask_BTS


def check_in_order(name: str, in_order: bool, causal: bool, window: int) -> None:
    """Refuses rows of which a kernel that reads no positions cannot tell what is later.

    Raises:
        ValueError: it would have to; it says what to use instead.
    """
    if not in_order and (causal or window):
        raise ValueError(
            f"{name} tells by their places which tokens are later, and these stand in another order, or in a cache; "
            "use config.model.attention='blocked' or 'plain'"
        )


def pad_to(x: Array, dim: int, multiple: int, value: int = 0) -> Array:
    """Appends a value along a dim, up to a multiple."""
    short = -x.shape[dim] % multiple
    return jnp.pad(x, [(0, short if i == dim else 0) for i in range(x.ndim)], constant_values=value) if short else x


class RelativeBias(NamedTuple):
    """What T5 adds to the logits by how far a key is from the query.

    Attributes:
        table_RN: a number for each bucket of distances and each head.
        distance: all that are further share the last bucket.
    """

    table_RN: Array
    distance: int

    def __call__(self, q_positions_BT: Array, kv_positions_BS: Array, *, causal: bool) -> Array:
        """The bias (B, N, T, S), float32."""
        buckets_BTS = relative_buckets(
            kv_positions_BS[:, None, :] - q_positions_BT[:, :, None],
            num_buckets=self.table_RN.shape[0],
            distance=self.distance,
            causal=causal,
        )
        return self.table_RN[buckets_BTS].transpose(0, 3, 1, 2)


def relative_buckets(offset: Array, *, num_buckets: int, distance: int, causal: bool) -> Array:
    """T5's buckets: one for each small distance, then logarithmically wider ones (Raffel et al. 2020, section 2.1).

    Args:
        offset: position of the key less that of the query.
        num_buckets: how many; not causal, half of them are for later keys.
        distance: where the last bucket begins.
        causal: whether later keys are never seen.

    Returns:
        Integers in [0, num_buckets).
    """
    first = jnp.zeros_like(offset)
    if not causal:
        num_buckets //= 2
        first = jnp.where(offset > 0, num_buckets, 0)
    away = jnp.maximum(-offset, 0) if causal else jnp.abs(offset)
    exact = num_buckets // 2
    wider = jnp.log(jnp.maximum(away, 1).astype(jnp.float32) / exact) / math.log(distance / exact)
    wider = jnp.minimum(exact + (wider * (num_buckets - exact)).astype(offset.dtype), num_buckets - 1)
    return first + jnp.where(away < exact, away, wider)


def attention(
    q_BTNH: Array,
    k_BSKH: Array,
    v_BSKH: Array,
    *,
    q_positions_BT: Array,
    kv_positions_BS: Array,
    q_segment_ids_BT: Array,
    kv_segment_ids_BS: Array,
    causal: bool = True,
    window: int = 0,
    soft_cap: float = 0.0,
    scale: float = 0.0,
    bias: RelativeBias | None = None,
    in_order: bool = False,
) -> Array:
    """Softmax attention with grouped heads (Vaswani et al. 2017, eq. 1; Ainslie et al. 2023).

    Args:
        q_BTNH: queries; N is a multiple of K.
        k_BSKH: keys.
        v_BSKH: values, whose head dim may be another.
        q_positions_BT: see `attention_mask`, as are the next three.
        kv_positions_BS: positions of the keys.
        q_segment_ids_BT: documents of the queries.
        kv_segment_ids_BS: documents of the keys.
        causal: see `attention_mask`.
        window: sliding window; 0 is off.
        soft_cap: bound on the logits; 0 is off.
        scale: factor of the logits; 0 is 1 / sqrt(H).
        bias: added to the logits.
        in_order: whether queries and keys are the same tokens, and along each document the positions grow by one from
            one place in the arrays to the next. Other backends find by place what nobody sees; this one needs no order.

    Returns:
        (B, T, N, head dim of v) in v's dtype; logits and softmax in float32.
    """
    del in_order
    B, T, N, H = q_BTNH.shape
    K = k_BSKH.shape[2]
    q_BTKGH = (q_BTNH * (scale or H**-0.5)).reshape(B, T, K, N // K, H)
    logits_BKGTS = jnp.einsum("BTKGH,BSKH->BKGTS", q_BTKGH, k_BSKH, preferred_element_type=jnp.float32)
    if bias is not None:
        logits_BKGTS += bias(q_positions_BT, kv_positions_BS, causal=causal).reshape(logits_BKGTS.shape)
    mask_BTS = attention_mask(
        q_positions_BT=q_positions_BT,
        kv_positions_BS=kv_positions_BS,
        q_segment_ids_BT=q_segment_ids_BT,
        kv_segment_ids_BS=kv_segment_ids_BS,
        causal=causal,
        window=window,
    )
    logits_BKGTS = jnp.where(mask_BTS[:, None, None], apply_soft_cap(logits_BKGTS, soft_cap), MASKED)
    probs_BKGTS = jax.nn.softmax(logits_BKGTS, axis=-1).astype(v_BSKH.dtype)
    out_BTNH = jnp.einsum("BKGTS,BSKH->BTKGH", probs_BKGTS, v_BSKH).reshape(B, T, N, v_BSKH.shape[-1])
    return checkpoint_name(out_BTNH, "attention_out")
