"""Attention by cuDNN's fused kernel on GPUs, through `jax.nn.dot_product_attention`.

Like the TPU's kernel (splash.py) it reads no positions. It knows a causal mask, a window before the query and how long
each row is; several documents in a row it knows only as numbers that are added to the logits.

Letters: B batch, T query length, S key length, N query heads, K key/value heads, H head dim.
"""

import jax
import jax.numpy as jnp
from jax import Array

from .attention import RelativeBias, attention_mask, check_in_order, pad_to

# Lengths are padded to multiples of these. Training takes no odd ones (jax 0.11.2); and beside an array that is added,
# cuDNN has been known to make NaN of the queries' gradients where half of the last 128 are there.
EVEN, TILE = 2, 128


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
    """Attention as `model.attention.attention` gives it, in bfloat16.

    Args:
        q_BTNH: queries; N is a multiple of K.
        k_BSKH: keys; they are not repeated for the queries of a group.
        v_BSKH: values; of their head dim and that of the keys, the smaller is padded.
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
            adds. Else a row is one document, number 1 or more, and padding after it, of which the kernel gets the
            lengths.

    Returns:
        (B, T, N, head dim of v) in v's dtype; 0 for a query that sees nothing, and of padding anything finite.

    Raises:
        ValueError: it cannot do what is asked.
    """
    if bias is not None or soft_cap:
        raise ValueError(
            "cuDNN's attention has no soft cap and no bias of relative positions; use config.model.attention='blocked'"
        )
    check_in_order("cuDNN's attention", in_order, causal, window)
    T, size, size_of_values = q_BTNH.shape[1], q_BTNH.shape[-1], v_BSKH.shape[-1]
    # The kernel has one head dim for all three.
    q_BTNH, k_BSKH, v_BSKH = (pad_to(x, 3, max(size, size_of_values)) for x in (q_BTNH, k_BSKH, v_BSKH))
    # It takes a window only beside a causal mask and no array; otherwise it goes into the array.
    fused_window = window if causal and not packed else 0
    has_array = packed or window != fused_window
    multiple = TILE if has_array else EVEN
    q_BTNH, k_BSKH, v_BSKH = (pad_to(x, 1, multiple) for x in (q_BTNH, k_BSKH, v_BSKH))
    mask_B1TS = lengths_B = kv_lengths_B = None
    if has_array:
        mask_B1TS = attention_mask(
            q_positions_BT=q_positions_BT,
            kv_positions_BS=kv_positions_BS,
            q_segment_ids_BT=q_segment_ids_BT,
            kv_segment_ids_BS=kv_segment_ids_BS,
            causal=causal,
            window=window,
        )[:, None]
        # In order, a token sees itself at least.
        sees_BT = None if in_order else jnp.any(mask_B1TS[:, 0], axis=-1)
        mask_B1TS = pad_to(pad_to(mask_B1TS, 2, multiple), 3, multiple)
    else:
        # No length of 0, of which a softmax would be 0 / 0: a row of nothing but padding is taken for one token.
        lengths_B, kv_lengths_B = (
            jnp.maximum(jnp.sum(ids > 0, axis=1, dtype=jnp.int32), 1) for ids in (q_segment_ids_BT, kv_segment_ids_BS)
        )
        sees_BT = (q_segment_ids_BT > 0) & jnp.any(kv_segment_ids_BS > 0, axis=1, keepdims=True)
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
    )[:, :T, :, :size_of_values]
    # Chosen and not multiplied, so that what the kernel leaves there comes neither out nor back as a gradient.
    return out_BTNH if sees_BT is None else jnp.where(sees_BT[..., None, None], out_BTNH, 0)
