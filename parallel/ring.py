"""Attention in a ring: the shards of the axis "context" pass keys and values round and attend to what comes by.

The order of the chunks (`zigzag_order`) only says which pairs of chunks may be left out; who sees whom follows from
positions and segment ids.

Letters: B batch, T query length and S key length of a chunk, N query heads, K key/value heads, G = N/K queries a group,
H head dim; a leading 2 is the early and the late chunk of a shard.
"""

import functools
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.ad_checkpoint import checkpoint_name

from .context import AXIS, BY_LENGTH, on_shards

# Finite: the difference of two of these is 0, not NaN.
MASKED = -1e30


class Form(NamedTuple):
    """What kind of attention it is; hashable, as it decides what is compiled.

    Attributes:
        causal: whether a query sees only what is not later than itself.
        window: sliding window; 0 is off.
        soft_cap: bound on the logits; 0 is off.
        scale: factor of the logits.
    """

    causal: bool
    window: int
    soft_cap: float
    scale: float


class Step(NamedTuple):
    """What the shards do with keys that have come `shift` places round the ring.

    Attributes:
        shift: shard i holds the keys of shard i - shift.
        across: whether any shard's late queries see the early keys.
        along: whether any shard's early queries see the early keys, or its late queries the late ones.
        ahead: whether queries see later keys, so that all chunks see all.
    """

    shift: int
    across: bool
    along: bool
    ahead: bool = False


def ring_steps(chunk: int, num_shards: int, window: int, causal: bool = True) -> list[Step]:
    """The steps of the ring in which any shard sees anything; without a window, all of them.

    Args:
        chunk: tokens in one of the 2 * num_shards chunks.
        num_shards: size of the mesh axis "context".
        window: sliding window; 0 is off.
        causal: whether a query sees only what is not later; if not, no step is left out.
    """
    if not causal:
        return [Step(shift, across=True, along=True, ahead=True) for shift in range(num_shards)]
    last = 2 * num_shards - 1

    def sees(query_chunk: int, key_chunk: int) -> bool:
        nearest = (query_chunk - key_chunk - 1) * chunk + 1
        return query_chunk >= key_chunk and (not window or nearest < window)

    steps = []
    for shift in range(num_shards):
        pairs = [(i, (i - shift) % num_shards) for i in range(num_shards)]
        across = any(sees(last - i, source) for i, source in pairs)
        along = any(sees(i, source) or sees(last - i, last - source) for i, source in pairs)
        if across or along:
            steps.append(Step(shift, across, along))
    return steps


def ring_attention(
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
    bias: None = None,
    in_order: bool = False,
) -> Array:
    """Attention while keys and values go round the shards (Liu et al. 2023, arXiv:2310.01889).

    At each step a shard has the keys of another, of which causal masking leaves it half, whichever shard it is. The
    backward pass goes round once more, with the gradients of keys and values travelling beside them; it keeps the
    output and one logarithm a query, no probabilities.

    Args:
        q_BTNH: queries in `zigzag_order`, as are all arrays here; N is a multiple of K.
        k_BSKH: keys of the same tokens.
        v_BSKH: values.
        q_positions_BT: position of each query in its document; along a document they grow by one a token.
        kv_positions_BS: positions of the keys.
        q_segment_ids_BT: document of each query.
        kv_segment_ids_BS: documents of the keys.
        causal: whether a query sees only what is not later than itself.
        window: sliding window; 0 is off. Steps in which no shard sees anything are left out, if causal.
        soft_cap: bound on the logits; 0 is off.
        scale: factor of the logits; 0 is 1 / sqrt(H).
        bias: must be None: a bias of relative positions is not passed round.
        in_order: not used; the order is that of `zigzag_order`.

    Returns:
        (B, T, N, head dim of v) in v's dtype, in the order of the queries; 0 for a query that sees nothing.
        Logits, softmax and sums over the ring are float32.
    """
    del in_order
    assert bias is None, "a bias of relative positions is not passed round the ring"
    where = (q_positions_BT, q_segment_ids_BT, kv_positions_BS, kv_segment_ids_BS)
    form = Form(causal, window, soft_cap, scale or q_BTNH.shape[-1] ** -0.5)
    # Keys and values go round as one array, so they have one size.
    sizes = [x.shape[-1] for x in (q_BTNH, k_BSKH, v_BSKH)]
    q_BTNH, k_BSKH, v_BSKH = (
        x if size == max(sizes) else jnp.pad(x, ((0, 0),) * 3 + ((0, max(sizes) - size),))
        for x, size in zip((q_BTNH, k_BSKH, v_BSKH), sizes, strict=True)
    )
    out_BTNH: Array = _ring(form, q_BTNH, k_BSKH, v_BSKH, where)
    return out_BTNH[..., : sizes[-1]]


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _ring(form: Form, q_BTNH: Array, k_BSKH: Array, v_BSKH: Array, where: Any) -> Array:
    return _ring_forward(form, q_BTNH, k_BSKH, v_BSKH, where)[0]


def _ring_forward(form: Form, q_BTNH: Array, k_BSKH: Array, v_BSKH: Array, where: Any) -> Any:
    fn = functools.partial(_forward, form)
    specs = (BY_LENGTH, BY_LENGTH, BY_LENGTH, BY_LENGTH)
    out_BTNH, lse_BTKG = on_shards(fn, specs, (BY_LENGTH, BY_LENGTH))(q_BTNH, k_BSKH, v_BSKH, where)
    # Both under the name of an attention's output (`model.remat`), so that it need not go round again.
    out_BTNH, lse_BTKG = (checkpoint_name(x, "attention_out") for x in (out_BTNH, lse_BTKG))
    return out_BTNH, (q_BTNH, k_BSKH, v_BSKH, where, out_BTNH, lse_BTKG)


def _ring_backward(form: Form, kept: Any, dout_BTNH: Array) -> Any:
    fn = functools.partial(_backward, form)
    grads = on_shards(fn, (BY_LENGTH,) * 7, (BY_LENGTH,) * 3)(*kept, dout_BTNH)
    return *grads, None


_ring.defvjp(_ring_forward, _ring_backward)


class Queries(NamedTuple):
    """What the ring needs of the queries of one chunk, or with a leading 2 of a shard."""

    q_BTKGH: Array
    positions_BT: Array
    segment_ids_BT: Array


class Softmax(NamedTuple):
    """A softmax under way (Milakov and Gimelshein 2018, arXiv:1805.02867, algorithm 3), in float32."""

    max_BKGT: Array
    total_BKGT: Array
    out_BKGTH: Array


# Chunks are chosen and put back by selection: it keeps the heads divided over "tensor" as they are, where an
# indexed update of zeros, which are divided over nothing, would have the compiler gather them (on TPU it did).


def _at(tree: Any, i: Any) -> Any:
    """The early chunk (0) or the late one (1)."""
    return jax.tree.map(lambda x: x[i] if isinstance(i, int) else jnp.where(i == 0, x[0], x[1]), tree)


def _choose(pair: list[Any], i: Any) -> Any:
    return pair[i] if isinstance(i, int) else jax.tree.map(lambda early, late: jnp.where(i == 0, early, late), *pair)


def _put(pair: list[Any], i: Any, new: Any) -> list[Any]:
    """The pair of chunks with another early (0) or late one (1)."""
    if isinstance(i, int):
        return [new if i == j else old for j, old in enumerate(pair)]
    return [jax.tree.map(lambda old, new, j=j: jnp.where(i == j, new, old), old, new) for j, old in enumerate(pair)]


def _add(pair: list[Any], i: Any, new: Array) -> list[Any]:
    """The pair of chunks with `new` added to one of them; None is nothing yet."""
    if isinstance(i, int):
        parts = [new if i == j else None for j in (0, 1)]
    else:
        parts = [jnp.where(i == j, new, 0.0) for j in (0, 1)]
    return [x if part is None else part if x is None else x + part for x, part in zip(pair, parts, strict=True)]


def _chunks(x: Any) -> Any:
    """Arrays (B, 2 * T, ...) of a shard as (2, B, T, ...)."""
    return jax.tree.map(lambda x: jnp.stack(jnp.split(x, 2, axis=1)), x)


def _joined(x_2BT: Array) -> Array:
    """The inverse of `_chunks`."""
    return jnp.concatenate([x_2BT[0], x_2BT[1]], axis=1)


def _queries(form: Form, q_BTNH: Array, num_kv_heads: int, where: Any) -> Queries:
    B, T, N, H = q_BTNH.shape
    q_BTKGH = (q_BTNH * form.scale).reshape(B, T, num_kv_heads, N // num_kv_heads, H)
    return _chunks(Queries(q_BTKGH, *where[:2]))


def _send(x: Array, shift: int) -> Array:
    """Passes x on by `shift` places round the ring."""
    num_shards = jax.lax.axis_size(AXIS)
    return jax.lax.ppermute(x, AXIS, [(i, (i + shift) % num_shards) for i in range(num_shards)])


def _round(form: Form, k_BSKH: Array, v_BSKH: Array, where: Any) -> Iterator[tuple[Step, Array, Array]]:
    """Goes round the ring.

    Yields:
        The step; the keys and values (chunk, k or v, ...) that are here then; their positions and segment ids.
    """
    num_shards, me = jax.lax.axis_size(AXIS), jax.lax.axis_index(AXIS)
    kv_22BSKH = jnp.stack(_chunks((k_BSKH, v_BSKH)), axis=1)  # as one array: one message a step
    # Positions and segment ids are small: all shards get all of them at once.
    where_C22BS = jax.lax.all_gather(jnp.stack(_chunks(tuple(where[2:])), axis=1), AXIS)
    steps = ring_steps(k_BSKH.shape[1] // 2, num_shards, form.window, form.causal)
    # Put in the order of the steps once, for all of them.
    where_22BS_of_step = where_C22BS[(me - np.array([step.shift for step in steps])) % num_shards]
    place = 0
    for number, step in enumerate(steps):
        if step.shift:
            kv_22BSKH = _send(kv_22BSKH, step.shift - place)
            place = step.shift
        yield step, kv_22BSKH, where_22BS_of_step[number]


def _pairs(step: Step) -> list[tuple[Any, Any]]:
    """The pairs (chunk of queries, chunk of keys) to attend in a step; 0 is the early chunk, 1 the late one.

    The late queries see the early keys of every shard. Besides, they see the late keys of the shards that come after
    their own, and the early queries see the early keys of those before. Which of these two it is differs from shard to
    shard, but not that it is one: so it is an index, and no branch.
    """
    if step.ahead:
        return [(0, 0), (1, 1), (1, 0), (0, 1)]
    if step.shift == 0:
        return [(0, 0), (1, 1)] + [(1, 0)] * step.across
    from_after = (jax.lax.axis_index(AXIS) < step.shift).astype(jnp.int32)
    return [(from_after, from_after)] * step.along + [(1, 0)] * step.across


def _logits(form: Form, queries: Queries, k_BSKH: Array, where_2BS: Array) -> tuple[Array, Array]:
    """Soft-capped logits (B, K, G, T, S) in float32, and the mask that broadcasts to them."""
    distance_BTS = queries.positions_BT[:, :, None] - where_2BS[0][:, None, :]
    mask_BTS = queries.segment_ids_BT[:, :, None] == where_2BS[1][:, None, :]
    if form.causal:
        mask_BTS &= distance_BTS >= 0
    if form.window:
        mask_BTS &= abs(distance_BTS) < form.window
    logits_BKGTS = _einsum("BTKGH,BSKH->BKGTS", queries.q_BTKGH, k_BSKH)
    if form.soft_cap:
        logits_BKGTS = form.soft_cap * jnp.tanh(logits_BKGTS / form.soft_cap)
    return logits_BKGTS, mask_BTS[:, None, None]


_einsum = functools.partial(jnp.einsum, preferred_element_type=jnp.float32)


def _forward(form: Form, q_BTNH: Array, k_BSKH: Array, v_BSKH: Array, where: Any) -> Any:
    """The shard's part of the output, and log-sum-exp (B, T, K, G) of its logits."""
    queries = _queries(form, q_BTNH, k_BSKH.shape[2], where)
    sums: list[Any] = [None, None]

    for step, kv_22BSKH, where_22BS in _round(form, k_BSKH, v_BSKH, where):
        for i, j in _pairs(step):
            (k, v), chunk = _at(kv_22BSKH, j), _at(queries, i)
            logits_BKGTS, mask = _logits(form, chunk, k, _at(where_22BS, j))
            before = None if None in sums else _choose(sums, i)  # the first two pairs are the first of each chunk
            sums = _put(sums, i, _attend(before, logits_BKGTS, mask, v))

    out_BTNH, lse_BTKG = (jnp.concatenate(x, axis=1) for x in zip(*map(_finished, sums), strict=True))
    return out_BTNH.reshape(q_BTNH.shape).astype(v_BSKH.dtype), lse_BTKG


def _finished(sums: Softmax) -> tuple[Array, Array]:
    """Output (B, T, K, G, H) and log-sum-exp (B, T, K, G) of a chunk."""
    total = jnp.where(sums.total_BKGT > 0, sums.total_BKGT, 1.0)
    out_BKGTH, lse_BKGT = sums.out_BKGTH / total[..., None], sums.max_BKGT + jnp.log(total)
    return jnp.moveaxis(out_BKGTH, 3, 1), jnp.moveaxis(lse_BKGT, 3, 1)


def _attend(sums: Softmax | None, logits_BKGTS: Array, mask: Array, v_BSKH: Array) -> Softmax:
    """Takes a chunk of keys into the softmax; None is one of no keys yet."""
    logits_BKGTS = jnp.where(mask, logits_BKGTS, MASKED)
    max_BKGT = jnp.max(logits_BKGTS, axis=-1)
    if sums is not None:
        max_BKGT = jnp.maximum(sums.max_BKGT, max_BKGT)
    # Masked again: in a row that has seen nothing yet the logits equal their maximum.
    probs_BKGTS = jnp.where(mask, jnp.exp(logits_BKGTS - max_BKGT[..., None]), 0.0)
    total_BKGT = jnp.sum(probs_BKGTS, axis=-1)
    out_BKGTH = _einsum("BKGTS,BSKH->BKGTH", probs_BKGTS.astype(v_BSKH.dtype), v_BSKH)
    if sums is not None:
        shrink_BKGT = jnp.exp(sums.max_BKGT - max_BKGT)
        total_BKGT += sums.total_BKGT * shrink_BKGT
        out_BKGTH += sums.out_BKGTH * shrink_BKGT[..., None]
    return Softmax(max_BKGT, total_BKGT, out_BKGTH)


def _backward(
    form: Form,
    q_BTNH: Array,
    k_BSKH: Array,
    v_BSKH: Array,
    where: Any,
    out_BTNH: Array,
    lse_BTKG: Array,
    dout_BTNH: Array,
) -> tuple[Array, Array, Array]:
    """The gradients of the shard's queries, keys and values."""
    (B, T, N, H), K = q_BTNH.shape, k_BSKH.shape[2]
    delta_BTN = jnp.sum(dout_BTNH.astype(jnp.float32) * out_BTNH.astype(jnp.float32), axis=-1)
    later = (dout_BTNH.reshape(B, T, K, N // K, H), lse_BTKG, delta_BTN.reshape(lse_BTKG.shape))
    queries, later = _queries(form, q_BTNH, K, where), _chunks(later)
    dq: list[Any] = [None, None]
    own = away = None  # gradients of the shard's keys and values, and of those that are here from elsewhere
    place = 0

    for step, kv_22BSKH, where_22BS in _round(form, k_BSKH, v_BSKH, where):
        dkv: list[Any] = [None, None] if away is None else list(_send(away, step.shift - place))
        for i, j in _pairs(step):
            kv, kv_where = _at(kv_22BSKH, j), _at(where_22BS, j)
            dq_BTKGH, dkv_2BSKH = _block_gradients(form, _at(queries, i), _at(later, i), kv, kv_where)
            dq, dkv = _add(dq, i, dq_BTKGH), _add(dkv, j, dkv_2BSKH)
        summed_22BSKH = jnp.stack([jnp.zeros_like(dkv[0]) if x is None else x for x in dkv])
        if step.shift == 0:
            own = summed_22BSKH
        else:
            away, place = summed_22BSKH, step.shift

    assert own is not None
    if away is not None:
        own += _send(away, jax.lax.axis_size(AXIS) - place)
    dq_BTNH = jnp.concatenate(dq, axis=1).reshape(q_BTNH.shape) * form.scale
    dk_BSKH, dv_BSKH = _joined(own[:, 0]), _joined(own[:, 1])
    return dq_BTNH.astype(q_BTNH.dtype), dk_BSKH.astype(k_BSKH.dtype), dv_BSKH.astype(v_BSKH.dtype)


def _block_gradients(
    form: Form, queries: Queries, later: Any, kv_2BSKH: Array, where_2BS: Array
) -> tuple[Array, Array]:
    """What a chunk of keys adds to the gradients, from probabilities that are computed again.

    Args:
        form: what kind of attention it is.
        queries: a chunk of them.
        later: the gradient of the output, the log-sum-exp of all logits, and the sum of gradient times output.
        kv_2BSKH: keys and values.
        where_2BS: their positions and segment ids.

    Returns:
        Gradients of the scaled queries, and of keys and values, in float32.
    """
    (k_BSKH, v_BSKH), (dout_BTKGH, lse_BTKG, delta_BTKG) = kv_2BSKH, later
    lse, delta = (jnp.moveaxis(x, 1, 3)[..., None] for x in (lse_BTKG, delta_BTKG))
    logits_BKGTS, mask = _logits(form, queries, k_BSKH, where_2BS)
    probs_BKGTS = jnp.where(mask, jnp.exp(logits_BKGTS - lse), 0.0)
    dprobs_BKGTS = _einsum("BTKGH,BSKH->BKGTS", dout_BTKGH, v_BSKH)
    dlogits_BKGTS = probs_BKGTS * (dprobs_BKGTS - delta)
    if form.soft_cap:
        dlogits_BKGTS *= 1.0 - jnp.square(logits_BKGTS / form.soft_cap)
    dlogits_BKGTS, probs_BKGTS = dlogits_BKGTS.astype(k_BSKH.dtype), probs_BKGTS.astype(v_BSKH.dtype)
    dk_BSKH = _einsum("BKGTS,BTKGH->BSKH", dlogits_BKGTS, queries.q_BTKGH)
    dv_BSKH = _einsum("BKGTS,BTKGH->BSKH", probs_BKGTS, dout_BTKGH)
    return _einsum("BKGTS,BSKH->BTKGH", dlogits_BKGTS, k_BSKH), jnp.stack([dk_BSKH, dv_BSKH])


# ---- all-to-all
