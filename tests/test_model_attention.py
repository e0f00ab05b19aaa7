"""Attention: masks as literal matrices, values against loops in float64, gradients against finite differences.

Letters: B batch, T query length, S key length, N query heads, K key/value heads, H head dim.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from model.attention import RelativeBias, attention, attention_mask


def mask_of(positions: list[int], segment_ids: list[int], window: int = 0) -> np.ndarray:
    at, segment = jnp.array([positions]), jnp.array([segment_ids])
    mask = attention_mask(
        q_positions_BT=at, kv_positions_BS=at, q_segment_ids_BT=segment, kv_segment_ids_BS=segment, window=window
    )
    assert mask.dtype == bool
    return np.asarray(mask[0]).astype(int)


def test_causal_mask():
    expected = [[1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0], [1, 1, 1, 1]]
    np.testing.assert_array_equal(mask_of([0, 1, 2, 3], [1, 1, 1, 1]), expected)


def test_packed_documents_do_not_see_one_another():
    expected = [
        [1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [0, 0, 1, 0, 0],
        [0, 0, 1, 1, 0],
        [0, 0, 1, 1, 1],
    ]
    np.testing.assert_array_equal(mask_of([0, 1, 0, 1, 2], [1, 1, 2, 2, 2]), expected)


def test_documents_do_not_see_padding():
    # Padding, segment 0, may see itself: its rows are weighted by zero.
    expected = [[1, 0, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 1, 1]]
    np.testing.assert_array_equal(mask_of([0, 1, 2, 3], [1, 1, 0, 0]), expected)


@pytest.mark.parametrize(
    ("window", "expected"),
    [
        (1, [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]),
        (2, [[1, 0, 0, 0], [1, 1, 0, 0], [0, 1, 1, 0], [0, 0, 1, 1]]),
        (9, [[1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0], [1, 1, 1, 1]]),
    ],
)
def test_window_counts_the_query_itself(window, expected):
    np.testing.assert_array_equal(mask_of([0, 1, 2, 3], [1, 1, 1, 1], window), expected)


def test_window_and_segments_both_hold():
    expected = [
        [1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [0, 1, 1, 0, 0],
        [0, 0, 0, 1, 0],
        [0, 0, 0, 1, 1],
    ]
    np.testing.assert_array_equal(mask_of([0, 1, 2, 0, 1], [1, 1, 1, 2, 2], window=2), expected)


def test_positions_and_not_indices_decide_the_order():
    expected = [[1, 1, 0, 1], [0, 1, 0, 0], [1, 1, 1, 1], [0, 1, 0, 1]]
    np.testing.assert_array_equal(mask_of([2, 0, 3, 1], [1, 1, 1, 1]), expected)


def test_mask_of_one_query_against_a_cache():
    # Slots: a document with a hole where its prompt was padded, then two empty slots.
    mask = attention_mask(
        q_positions_BT=jnp.array([[2]]),
        kv_positions_BS=jnp.array([[0, 1, 2, 2, 0, 0]]),
        q_segment_ids_BT=jnp.array([[1]]),
        kv_segment_ids_BS=jnp.array([[1, 1, 0, 1, 0, 0]]),
    )
    np.testing.assert_array_equal(mask[0], [[True, True, False, True, False, False]])


class Case(NamedTuple):
    """What an attention test varies; two documents and padding a row where packed."""

    N: int = 4
    K: int = 4
    window: int = 0
    soft_cap: float = 0.0
    packed: bool = False
    causal: bool = True
    scale: float = 0.0
    bias: bool = False


# Of 8 buckets that end at distance 7: by how far a key is before the query, if keys after it are never seen or are.
BUCKETS = {
    True: {0: 0, 1: 1, 2: 2, 3: 3, 4: 4, 5: 5},
    False: {0: 0, 1: 1, 2: 2, 3: 2, 4: 3, 5: 3, -1: 5, -2: 6, -3: 6, -4: 7, -5: 7},
}
BIAS = np.random.default_rng(3).standard_normal((8, 6))

CASES = {
    "mha": Case(),
    "gqa": Case(K=2),
    "mqa": Case(K=1),
    "window": Case(K=2, window=3),
    "soft_cap": Case(K=2, soft_cap=1.5),
    "packed": Case(K=2, packed=True),
    "all": Case(N=6, K=2, window=2, soft_cap=0.7, packed=True),
    "both ways": Case(K=2, causal=False, packed=True),
    "both ways, window": Case(causal=False, window=2, soft_cap=0.7),
    "scale": Case(scale=1.5),
    "relative": Case(N=4, K=2, bias=True, packed=True),
    "relative, both ways": Case(bias=True, causal=False, scale=1.0),
}
B, T, H = 2, 6, 4
each_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


def inputs(case: Case) -> tuple[tuple[np.ndarray, ...], np.ndarray, np.ndarray]:
    """(q, k, v) in float32, positions and segments."""
    rng = np.random.default_rng(0)
    heads = (case.N, case.K, case.K)
    qkv = tuple(1.5 * rng.standard_normal((B, T, n, H)).astype(np.float32) for n in heads)
    if case.packed:
        return (
            qkv,
            np.array([[0, 1, 2, 0, 1, 2], [0, 1, 0, 1, 2, 3]]),
            np.array([[1, 1, 1, 2, 2, 2], [1, 1, 2, 2, 2, 0]]),
        )
    return qkv, np.tile(np.arange(T), (B, 1)), np.ones((B, T), int)


def reference(qkv, positions, segments, case: Case) -> np.ndarray:
    """One query of one head at a time, in float64."""
    q, k, v = qkv
    y = np.zeros(q.shape)
    for b, t, n in np.ndindex(q.shape[:3]):
        group = n // (case.N // case.K)
        distance = positions[b, t] - positions[b]
        seen = np.flatnonzero(
            (segments[b] == segments[b, t])
            & ((distance >= 0) | (not case.causal))
            & (abs(distance) < (case.window or len(positions[b])))
        )
        logits = k[b, seen, group].astype(np.float64) @ q[b, t, n] * (case.scale or q.shape[-1] ** -0.5)
        if case.bias:
            buckets = [BUCKETS[case.causal][d] for d in distance[seen].tolist()]
            logits = logits + BIAS[buckets, n]
        if case.soft_cap:
            logits = case.soft_cap * np.tanh(logits / case.soft_cap)
        probs = np.exp(logits - logits.max())
        y[b, t, n] = probs @ v[b, seen, group] / probs.sum()
    return y


@functools.partial(jax.jit, static_argnames="case")
def call(qkv, positions, segments, case: Case) -> jax.Array:
    at, segment = jnp.asarray(positions), jnp.asarray(segments)
    return attention(
        *(jnp.asarray(x) for x in qkv),
        q_positions_BT=at,
        kv_positions_BS=at,
        q_segment_ids_BT=segment,
        kv_segment_ids_BS=segment,
        causal=case.causal,
        window=case.window,
        soft_cap=case.soft_cap,
        scale=case.scale,
        bias=RelativeBias(jnp.asarray(BIAS[:, : case.N], jnp.float32), 7) if case.bias else None,
    )


@each_case
def test_attention_is_that_of_the_loops(case):
    qkv, positions, segments = inputs(case)
    expected = reference(qkv, positions, segments, case)
    np.testing.assert_allclose(call(qkv, positions, segments, case), expected, atol=1e-5)


@each_case
def test_gradients_are_the_finite_differences_of_the_loops(case):
    qkv, positions, segments = inputs(case)
    weight = np.random.default_rng(1).standard_normal((B, T, case.N, H))
    weight32 = jnp.asarray(weight, jnp.float32)
    grads = jax.jit(jax.grad(lambda qkv: jnp.sum(call(qkv, positions, segments, case) * weight32)))(qkv)
    rng, step = np.random.default_rng(2), 1e-5
    for which, grad in enumerate(grads):
        # Along random directions: each touches every entry, at the cost of two evaluations.
        for _ in range(10):
            direction = rng.standard_normal(qkv[which].shape)
            ends = []
            for sign in (1, -1):
                moved = [x.astype(np.float64) for x in qkv]
                moved[which] = moved[which] + sign * step * direction
                ends.append((reference(moved, positions, segments, case) * weight).sum())
            np.testing.assert_allclose((grad * direction).sum(), (ends[0] - ends[1]) / (2 * step), rtol=1e-4, atol=1e-4)


def test_values_may_have_another_head_dim():
    (q, k, v), positions, segments = inputs(CASES["packed"])
    wide = np.concatenate((v, 2 * v), axis=-1)
    y = call((q, k, wide), positions, segments, CASES["packed"])
    once = call((q, k, v), positions, segments, CASES["packed"])
    np.testing.assert_allclose(y, np.concatenate((once, 2 * once), axis=-1), rtol=1e-6)


def test_query_heads_of_a_group_share_keys_and_values_in_order():
    # Heads 0 and 1 read the first key/value head, 2 and 3 the second.
    v = jnp.broadcast_to(jnp.array([10.0, 20.0])[:, None], (1, 3, 2, 4))
    qkv = jnp.ones((1, 3, 4, 4)), jnp.ones((1, 3, 2, 4)), v
    y = call(qkv, np.arange(3)[None], np.ones((1, 3), int), Case())
    np.testing.assert_allclose(y[0, :, :, 0], [[10, 10, 20, 20]] * 3, rtol=1e-6)


def test_a_row_that_sees_nothing_has_finite_output_and_gradients():
    qkv = inputs(Case())[0]
    nobody = {"q_segment_ids_BT": jnp.ones((B, T), jnp.int32), "kv_segment_ids_BS": jnp.full((B, T), 2)}
    at = jnp.tile(jnp.arange(T), (B, 1))

    def loss(qkv):
        y = attention(*qkv, q_positions_BT=at, kv_positions_BS=at, soft_cap=2.0, **nobody)
        return jnp.sum(jnp.square(y)), y

    grads, y = jax.jit(jax.grad(loss, has_aux=True))(tuple(jnp.asarray(x) for x in qkv))
    for array in (y, *grads):
        assert np.isfinite(array).all()
    np.testing.assert_array_equal(grads[0], 0.0)  # nothing to see, nothing to learn from


@pytest.mark.parametrize("case", [CASES["packed"], CASES["both ways"], CASES["relative"]])
def test_a_changed_document_leaves_its_neighbour_bit_identical(case: Case):
    qkv, positions, segments = inputs(case)
    first = segments == 1
    changed = [np.where(first[:, :, None, None], 1e3 * x, x) for x in qkv]
    before, after = (np.asarray(call(x, positions, segments, case)) for x in (qkv, changed))
    np.testing.assert_array_equal(before[~first], after[~first])
    assert not np.array_equal(before[first], after[first])


def test_a_packed_document_attends_as_if_alone():
    case = CASES["packed"]
    qkv, positions, segments = inputs(case)
    packed = call(qkv, positions, segments, case)[0, 3:]  # the second document of the first row
    alone = call([x[:1, 3:] for x in qkv], np.arange(3)[None], np.ones((1, 3), int), case)[0]
    np.testing.assert_allclose(packed, alone, atol=1e-6)


def test_bfloat16_inputs_give_bfloat16_with_softmax_in_float32():
    case = CASES["gqa"]
    qkv, positions, segments = inputs(case)
    rounded = [jnp.asarray(x, jnp.bfloat16) for x in qkv]
    y = call(rounded, positions, segments, case)
    assert y.dtype == jnp.bfloat16
    expected = reference([np.asarray(x, np.float32) for x in rounded], positions, segments, case)
    np.testing.assert_allclose(y.astype(jnp.float32), expected, atol=0.03)
