"""Attention as a parameter-free function: the plain form, to which every other backend is held.

Letters: B batch, T query length, S key length, N query heads, K key/value heads, G = N/K queries a group, H head dim.
"""

import jax
import jax.numpy as jnp
from jax import Array

from .layers import soft_cap as apply_soft_cap

# Finite, so that a row with nothing to see gives a uniform softmax and finite gradients instead of NaN.
MASKED = -1e30


def attention_mask(
    *,
    q_positions_BT: Array,
    kv_positions_BS: Array,
    q_segment_ids_BT: Array,
    kv_segment_ids_BS: Array,
    window: int = 0,
) -> Array:
    """Who may see whom: the same segment, not later, and within the window.

    Positions rather than indices decide the order, so the mask is right for packed, cached and reordered sequences.

    Args:
        q_positions_BT: position of each query in its document.
        kv_positions_BS: position of each key in its document.
        q_segment_ids_BT: document number of each query; 0 is padding.
        kv_segment_ids_BS: document number of each key; 0 is padding or an empty cache slot.
        window: positions a query sees, itself included; 0 means all before it.

    Returns:
        Booleans (B, T, S).
    """
    distance_BTS = q_positions_BT[:, :, None] - kv_positions_BS[:, None, :]
    mask_BTS = (distance_BTS >= 0) & (q_segment_ids_BT[:, :, None] == kv_segment_ids_BS[:, None, :])
    return mask_BTS & (distance_BTS < window) if window else mask_BTS


def attention(
    q_BTNH: Array,
    k_BSKH: Array,
    v_BSKH: Array,
    *,
    q_positions_BT: Array,
    kv_positions_BS: Array,
    q_segment_ids_BT: Array,
    kv_segment_ids_BS: Array,
    window: int = 0,
    soft_cap: float = 0.0,
) -> Array:
    """Causal softmax attention with grouped heads (Vaswani et al. 2017, eq. 1; Ainslie et al. 2023).

    Args:
        q_BTNH: queries; N is a multiple of K.
        k_BSKH: keys.
        v_BSKH: values.
        q_positions_BT: see `attention_mask`, as are the next three.
        kv_positions_BS: positions of the keys.
        q_segment_ids_BT: documents of the queries.
        kv_segment_ids_BS: documents of the keys.
        window: sliding window; 0 is off.
        soft_cap: bound on the logits; 0 is off.

    Returns:
        (B, T, N, H) in v's dtype; logits and softmax in float32.
    """
    B, T, N, H = q_BTNH.shape
    K = k_BSKH.shape[2]
    q_BTKGH = (q_BTNH * H**-0.5).reshape(B, T, K, N // K, H)
    logits_BKGTS = jnp.einsum("BTKGH,BSKH->BKGTS", q_BTKGH, k_BSKH, preferred_element_type=jnp.float32)
    mask_BTS = attention_mask(
        q_positions_BT=q_positions_BT,
        kv_positions_BS=kv_positions_BS,
        q_segment_ids_BT=q_segment_ids_BT,
        kv_segment_ids_BS=kv_segment_ids_BS,
        window=window,
    )
    logits_BKGTS = jnp.where(mask_BTS[:, None, None], apply_soft_cap(logits_BKGTS, soft_cap), MASKED)
    probs_BKGTS = jax.nn.softmax(logits_BKGTS, axis=-1).astype(v_BSKH.dtype)
    return jnp.einsum("BKGTS,BSKH->BTKGH", probs_BKGTS, v_BSKH).reshape(B, T, N, H)
