"""Attention by cuDNN's fused kernel on GPUs, through `jax.nn.dot_product_attention`.

Like the TPU's kernel (splash.py) it reads no positions. It knows a causal mask, a window before the query and how long
each row is; several documents in a row it knows only as numbers that are added to the logits.

Letters: B batch, T query length, S key length, N query heads, K key/value heads, H head dim.
"""

import jax
import jax.numpy as jnp
from jax import Array
from jax.ad_checkpoint import checkpoint_name

from .attention import RelativeBias, attention_mask


def cudnn_attention(
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
    packed: bool = True,
) -> Array:
    """Attention as `model.attention.attention` gives it, in float16 or bfloat16.

    Args:
        q_BTNH: queries; N is a multiple of K.
        k_BSKH: keys; they are not repeated for the queries of a group.
        v_BSKH: values; a smaller head dim is padded.
        q_positions_BT: position of each query in its document.
        kv_positions_BS: positions of the keys.
        q_segment_ids_BT: documents of the queries.
        kv_segment_ids_BS: documents of the keys.
        causal: whether a query sees only what is not later than itself.
        window: sliding window; 0 is off.
        soft_cap: must be 0.
        scale: factor of the logits; 0 is 1 / sqrt(H).
        bias: must be None.
        in_order: must be true for a causal mask or a window.
        packed: whether a row may hold several documents: then their mask is an array (B, 1, T, S) that the kernel
            adds. Else a row is one document and padding after it, of which the kernel gets the lengths.

    Returns:
        (B, T, N, head dim of v) in v's dtype; of a query that sees nothing, anything finite.

    Raises:
        ValueError: it cannot do what is asked.
    """
    if bias is not None or soft_cap:
        raise ValueError(
            "cuDNN's attention has no soft cap and no bias of relative positions; use config.model.attention='blocked'"
        )
    if (causal or window) and not in_order:
        raise ValueError(
            "cuDNN's attention tells by their places which tokens are later, and these stand in another order, or in a "
            "cache; use config.model.attention='blocked' or 'plain'"
        )
    size, size_of_values = q_BTNH.shape[-1], v_BSKH.shape[-1]
    if size_of_values < size:
        v_BSKH = jnp.pad(v_BSKH, ((0, 0),) * 3 + ((0, size - size_of_values),))
    # The kernel takes a window only beside a causal mask and no array; otherwise it goes into the array.
    fused_window = window if causal and not packed else 0
    mask_B1TS = lengths_B = kv_lengths_B = None
    if packed or window != fused_window:
        mask_B1TS = attention_mask(
            q_positions_BT=q_positions_BT,
            kv_positions_BS=kv_positions_BS,
            q_segment_ids_BT=q_segment_ids_BT,
            kv_segment_ids_BS=kv_segment_ids_BS,
            causal=causal,
            window=window,
        )[:, None]
    else:
        lengths_B, kv_lengths_B = (
            jnp.sum(ids > 0, axis=1, dtype=jnp.int32) for ids in (q_segment_ids_BT, kv_segment_ids_BS)
        )
    out_BTNH = jax.nn.dot_product_attention(
        q_BTNH,
        k_BSKH,
        v_BSKH,
        mask=mask_B1TS,
        scale=scale or size**-0.5,
        is_causal=causal,
        query_seq_lengths=lengths_B,
        key_value_seq_lengths=kv_lengths_B,
        local_window_size=(fused_window - 1, 0) if fused_window else None,
        implementation="cudnn",
    )
    return checkpoint_name(out_BTNH[..., :size_of_values], "attention_kernel")
