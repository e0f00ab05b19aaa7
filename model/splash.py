"""Attention by the TPU kernel that ships with JAX, `jax.experimental.pallas.ops.tpu.splash_attention`.

It reads positions nowhere: what a causal mask or a window leaves out follows from the places of tokens in the arrays,
and documents from their segment ids. So it is right for rows in order (`model.attention.attention`), and only for them.

Letters: B batch, T query length, S key length, N query heads, K key/value heads, H head dim.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from .attention import RelativeBias, check_in_order, pad_to

LANES = 128  # lengths and blocks are multiples of this
# Wider ones save reads of keys; those of 2,048 take minutes to compile, and on v5e do not fit (`compiler_options`).
BLOCK = 512


def splash_attention(
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
    block: int = BLOCK,
    fused_backward: bool = False,
    interpret: bool = False,
) -> Array:
    """Attention as `model.attention.attention` gives it, on one TPU core and its heads.

    A length that is no multiple of 128 is padded.

    Args:
        q_BTNH: queries; N is a multiple of K.
        k_BSKH: keys; they are not repeated for the queries of a group.
        v_BSKH: values, whose head dim may be another.
        q_positions_BT: not used, see `in_order`.
        kv_positions_BS: not used.
        q_segment_ids_BT: documents of the queries, 0 or more.
        kv_segment_ids_BS: documents of the keys, 0 or more.
        causal: whether a query sees only what is not later than itself.
        window: sliding window; 0 is off.
        soft_cap: bound on the logits; 0 is off.
        scale: factor of the logits; 0 is 1 / sqrt(H).
        bias: must be None.
        in_order: must be true for a causal mask or a window.
        block: the most queries, and the most keys, that the kernel takes at a time.
        fused_backward: compute all three gradients in one kernel, which writes a part of the queries' for each block
            of keys.
        interpret: run the kernel in Python, where there is no TPU.

    Returns:
        (B, T, N, head dim of v) in q's dtype; 0 for a query that sees nothing.

    Raises:
        ValueError: it cannot do what is asked.
    """
    del q_positions_BT, kv_positions_BS
    if bias is not None:
        raise ValueError("splash attention has no bias of relative positions; use config.model.attention='blocked'")
    check_in_order("splash attention", in_order, causal, window)
    T, H = q_BTNH.shape[1], q_BTNH.shape[-1]
    # Padding has segments of its own, one for queries and one for keys, so it sees and is seen by nothing.
    q_BTNH, k_BSKH, v_BSKH = (pad_to(x, 1, LANES) for x in (q_BTNH * (scale or H**-0.5), k_BSKH, v_BSKH))
    segment_ids = pad_to(q_segment_ids_BT, 1, LANES, -1), pad_to(kv_segment_ids_BS, 1, LANES, -2)
    kernel = _kernel(
        q_BTNH.shape[2], (q_BTNH.shape[1], k_BSKH.shape[1]), causal, window, soft_cap, block, fused_backward, interpret
    )
    heads_first = (x.swapaxes(1, 2) for x in (q_BTNH, k_BSKH, v_BSKH))
    out_BTNH = jax.vmap(kernel)(*heads_first, segment_ids).swapaxes(1, 2)[:, :T]
    if in_order:
        return out_BTNH
    # Of a query that sees nothing the kernel takes the mean of what it looked at, and would give that its gradients.
    sees_BT = jnp.any(q_segment_ids_BT[:, :, None] == kv_segment_ids_BS[:, None, :], axis=-1)
    return jnp.where(sees_BT[..., None, None], out_BTNH, 0)


def _kernel(
    num_heads: int,
    lengths: tuple[int, int],
    causal: bool,
    window: int,
    soft_cap: float,
    block: int,
    fused_backward: bool,
    interpret: bool,
) -> Any:
    """The function (q, k, v, segment ids) of one row."""
    # Here, as it loads Pallas, which runs of other backends need not.
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as splash

    of_queries, of_keys = (_widest(length, block) for length in lengths)
    of_gradient: dict[str, Any] = {"block_q_dkv": of_queries, "block_kv_dkv": of_keys, "block_kv_dkv_compute": of_keys}
    if not fused_backward:
        of_gradient |= {"block_q_dq": of_queries, "block_kv_dq": of_keys}
    sizes = splash.BlockSizes(
        block_q=of_queries,
        block_kv=of_keys,
        block_kv_compute=of_keys,
        use_fused_bwd_kernel=fused_backward,
        **of_gradient,
    )
    kernel = splash.make_splash_mha(
        _mask(num_heads, lengths, causal, window),
        block_sizes=sizes,
        head_shards=1,
        q_seq_shards=1,
        attn_logits_soft_cap=soft_cap or None,
        # Output and log-sum-exp under the name of an attention's output: see `model.remat`.
        residual_checkpoint_name="attention_out",
        interpret=interpret,
    )
    return lambda q, k, v, segment_ids: kernel(q, k, v, segment_ids=splash.SegmentIds(*segment_ids))


@functools.lru_cache
def _mask(num_heads: int, lengths: tuple[int, int], causal: bool, window: int) -> Any:
    """The mask of places, the same for all heads; what the kernel derives from it, it keeps for equal masks."""
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks

    if window:
        one: Any = masks.LocalMask(lengths, (window - 1, 0 if causal else window - 1), 0)
    else:
        one = masks.CausalMask(lengths) if causal else masks.FullMask(lengths)
    return masks.MultiHeadMask([one] * num_heads)


def _widest(length: int, block: int) -> int:
    """The widest block, of at most the asked size, that divides a length."""
    return max(size for size in range(LANES, max(block, LANES) + 1, LANES) if length % size == 0)
