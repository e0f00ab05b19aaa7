"""Attention in blocks of queries: exact, without the whole matrix of logits, and without blocks that nobody sees.

In plain JAX, for CPUs and for what fused kernels cannot do. The backward pass computes the probabilities again from one
logarithm a query.

Letters: B batch, T query length, S key length, N query heads, K key/value heads, G = N/K queries a group, H head dim,
R buckets of relative positions.
"""

import functools
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.ad_checkpoint import checkpoint_name

from .attention import MASKED, RelativeBias, attention_mask

# What a row that sees nothing has for its largest logit: the exponentials of all its masked logits are 0.
_LOWEST = MASKED / 2
# Queries of a block that nobody chose: its logits are an array (B, N, WIDEST, S).
WIDEST = 1024


class _Form(NamedTuple):
    """What kind of attention it is; hashable, as it decides what is compiled."""

    block: int
    causal: bool
    window: int
    soft_cap: float
    scale: float
    in_order: bool
    distance: int


class _Where(NamedTuple):
    """Positions and segment ids of queries and keys."""

    q_positions_BT: Array
    kv_positions_BS: Array
    q_segment_ids_BT: Array
    kv_segment_ids_BS: Array


def blocked_attention(
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
    block: int = 0,
) -> Array:
    """Attention as `model.attention.attention` gives it, but 0 for a query that sees nothing.

    Each block of queries has one softmax over the keys that any of them may see, so nothing is rescaled on the way
    (otherwise as Dao 2023, arXiv:2307.08691, algorithms 1 and 2). Tokens that are not in order are all compared.

    Args:
        q_BTNH: queries; N is a multiple of K.
        k_BSKH: keys.
        v_BSKH: values, whose head dim may be another.
        q_positions_BT: see `model.attention.attention`, as are all that follow.
        kv_positions_BS: positions of the keys.
        q_segment_ids_BT: documents of the queries.
        kv_segment_ids_BS: documents of the keys.
        causal: whether a query sees only what is not later than itself.
        window: sliding window; 0 is off.
        soft_cap: bound on the logits; 0 is off.
        scale: factor of the logits; 0 is 1 / sqrt(H).
        bias: added to the logits.
        in_order: whether places in the arrays may stand for positions.
        block: queries in a block; 0 is an eighth of the length, in multiples of 64, and at most 1024.

    Returns:
        (B, T, N, head dim of v) in v's dtype; logits and softmax in float32.
    """
    B, T, N, H = q_BTNH.shape
    K = k_BSKH.shape[2]
    form = _Form(
        block or block_of(T),
        causal,
        window,
        soft_cap,
        scale or H**-0.5,
        in_order,
        0 if bias is None else bias.distance,
    )
    where = _Where(q_positions_BT, kv_positions_BS, q_segment_ids_BT, kv_segment_ids_BS)
    q_BKGTH = jnp.moveaxis((q_BTNH * form.scale).reshape(B, T, K, N // K, H), 1, 3)
    k_BKSH, v_BKSH = (jnp.moveaxis(x, 1, 2) for x in (k_BSKH, v_BSKH))
    out_BKGTH: Array = _blocked(form, q_BKGTH, k_BKSH, v_BKSH, None if bias is None else bias.table_RN, where)
    return jnp.moveaxis(out_BKGTH, 3, 1).reshape(B, T, N, -1)


def block_of(length: int) -> int:
    """Queries in a block, where nothing else is asked for."""
    return min(64 * math.ceil(length / 512), WIDEST)


def _blocks(form: _Form, num_queries: int, num_keys: int) -> Iterator[tuple[slice, slice]]:
    """The blocks of queries, each with the keys that any of its queries may see."""
    for first in range(0, num_queries, form.block):
        last = min(first + form.block, num_queries)
        start, stop = 0, num_keys
        if form.in_order and form.causal:
            stop = last
        if form.in_order and form.window:
            start, stop = max(0, first - form.window + 1), min(stop, last + form.window - 1)
        yield slice(first, last), slice(start, stop)


_einsum = functools.partial(jnp.einsum, preferred_element_type=jnp.float32)


def _bias_of(form: _Form, table_RN: Array, where: _Where, num_kv_heads: int) -> Array:
    """(B, K, G, T, S) of a block."""
    bias = RelativeBias(table_RN, form.distance)(where.q_positions_BT, where.kv_positions_BS, causal=form.causal)
    return bias.reshape(bias.shape[0], num_kv_heads, -1, *bias.shape[2:])


def _logits(form: _Form, q: Array, k: Array, table_RN: Array | None, where: _Where) -> tuple[Array, Array]:
    """Soft-capped logits (B, K, G, T, S) of a block, in float32, and the same masked."""
    logits = _einsum("BKGTH,BKSH->BKGTS", q, k)
    if table_RN is not None:
        logits += _bias_of(form, table_RN, where, k.shape[1])
    if form.soft_cap:
        logits = form.soft_cap * jnp.tanh(logits / form.soft_cap)
    mask_BTS = attention_mask(**where._asdict(), causal=form.causal, window=form.window)
    return logits, jnp.where(mask_BTS[:, None, None], logits, MASKED)


def _cut(where: _Where, of_queries: slice, of_keys: slice) -> _Where:
    cuts = (of_queries, of_keys, of_queries, of_keys)
    return _Where(*(x[:, cut] for x, cut in zip(where, cuts, strict=True)))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _blocked(form: _Form, q: Array, k: Array, v: Array, table_RN: Array | None, where: _Where) -> Array:
    return _forward(form, q, k, v, table_RN, where)[0]


def _forward(form: _Form, q: Array, k: Array, v: Array, table_RN: Array | None, where: _Where) -> tuple[Array, Any]:
    outs, lses = [], []
    for of_queries, of_keys in _blocks(form, q.shape[3], k.shape[2]):
        here = _cut(where, of_queries, of_keys)
        _, logits = _logits(form, q[:, :, :, of_queries], k[:, :, of_keys], table_RN, here)
        highest = jnp.maximum(jnp.max(logits, axis=-1, keepdims=True), _LOWEST)
        weights = jnp.exp(logits - highest)
        total = jnp.sum(weights, axis=-1, keepdims=True)
        total = jnp.where(total > 0, total, 1.0)
        out = _einsum("BKGTS,BKSH->BKGTH", weights.astype(v.dtype), v[:, :, of_keys])
        outs.append((out / total).astype(v.dtype))
        lses.append((highest + jnp.log(total))[..., 0])
    # The logarithms under the name of an attention's output too (`model.remat`): neither is computed again then.
    out, lse = (checkpoint_name(jnp.concatenate(x, axis=3), "attention_out") for x in (outs, lses))
    return out, (q, k, v, table_RN, where, out, lse)


def _backward(form: _Form, kept: Any, dout: Array) -> Any:
    q, k, v, table_RN, where, out, lse = kept
    delta = jnp.sum(dout.astype(jnp.float32) * out.astype(jnp.float32), axis=-1)
    dqs, dk, dv, d_table = [], 0.0, 0.0, 0.0
    for of_queries, of_keys in _blocks(form, q.shape[3], k.shape[2]):
        here, q_block, dout_block = _cut(where, of_queries, of_keys), q[:, :, :, of_queries], dout[:, :, :, of_queries]
        k_block, v_block = k[:, :, of_keys], v[:, :, of_keys]
        capped, logits = _logits(form, q_block, k_block, table_RN, here)
        probs = jnp.exp(logits - lse[:, :, :, of_queries, None])
        dlogits = _einsum("BKGTH,BKSH->BKGTS", dout_block, v_block)
        dlogits = probs * (dlogits - delta[:, :, :, of_queries, None])
        if form.soft_cap:
            dlogits *= 1.0 - jnp.square(capped / form.soft_cap)
        if table_RN is not None:
            _, pull_back = jax.vjp(lambda table, here=here: _bias_of(form, table, here, k.shape[1]), table_RN)
            d_table += pull_back(dlogits)[0]
        dlogits, probs = dlogits.astype(k.dtype), probs.astype(v.dtype)
        dqs.append(_einsum("BKGTS,BKSH->BKGTH", dlogits, k_block).astype(q.dtype))
        # Padded and added: an indexed update of zeros would lose how the heads are divided.
        around = ((0, 0), (0, 0), (0, 0), (of_keys.start, k.shape[2] - of_keys.stop))
        # On a CPU the first operand of a sum over queries is copied, transposed: let that be the smaller one.
        dk += jnp.pad(_einsum("BKGTH,BKGTS->BKHS", q_block, dlogits), around)
        dv += jnp.pad(_einsum("BKGTH,BKGTS->BKHS", dout_block, probs), around)
    dq = jnp.concatenate(dqs, axis=3)
    dk, dv = (jnp.swapaxes(x, 2, 3).astype(k.dtype) for x in (dk, dv))
    return dq, dk, dv, None if table_RN is None else d_table, None


_blocked.defvjp(_forward, _backward)
