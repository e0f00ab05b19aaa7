"""The functions on the logits of the next token: literal filters, and the distribution of 100,000 draws.

Letters: B rows, V vocab.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import chi2

from model import GREEDY, Sampling, row_keys, sample
from model.sampling import keep_min_p, keep_top_k, keep_top_p, penalize_repetition, tokens_seen

ROWS = 100_000
PROBS = np.array([0.05, 0.5, 0.15, 0.3])
# A wider vocabulary, for one test of each: Zipf's law in a shuffled order.
ZIPF = np.random.default_rng(0).permutation(1 / np.arange(1, 31)) / (1 / np.arange(1, 31)).sum()


@functools.cache
def draws(probs: tuple[float, ...], sampling: Sampling, seed: int = 0) -> np.ndarray:
    """How often each token is drawn."""
    logits = jnp.broadcast_to(jnp.log(jnp.asarray(probs, jnp.float32)) + 3.0, (ROWS, len(probs)))
    tokens = jax.jit(sample, static_argnums=2)(logits, row_keys(jax.random.key(seed), ROWS), sampling)
    assert tokens.dtype == jnp.int32
    return np.bincount(np.asarray(tokens), minlength=len(probs))


def follow(counts: np.ndarray, probs: np.ndarray) -> bool:
    """Whether the counts pass a chi-squared test at 0.1%, and tokens without probability are never drawn."""
    counts, never = counts[probs > 0], counts[probs == 0]
    expected = counts.sum() * probs[probs > 0] / probs.sum()
    return not never.any() and ((counts - expected) ** 2 / expected).sum() < chi2.ppf(0.999, max(1, len(counts) - 1))


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_samples_follow_the_softmax_at_the_temperature(temperature: float):
    counts = draws(tuple(ZIPF), Sampling(temperature=temperature))
    assert follow(counts, ZIPF ** (1 / temperature))
    assert not follow(counts, ZIPF ** (1 / temperature + 0.1))


@pytest.mark.parametrize("k", [1, 2, 7, 30, 99])
def test_samples_follow_the_probabilities_of_the_top_k(k: int):
    kept = np.where(np.argsort(np.argsort(-ZIPF)) < k, ZIPF, 0)
    assert follow(draws(tuple(ZIPF), Sampling(top_k=k)), kept)


@pytest.mark.parametrize("p", [0.2, 0.5, 0.9, 0.99])
def test_samples_follow_the_probabilities_of_the_top_p(p: float):
    order = np.argsort(-ZIPF)
    needed = int(np.searchsorted(np.cumsum(ZIPF[order]), p)) + 1
    kept = np.zeros(30)
    kept[order[:needed]] = ZIPF[order[:needed]]
    assert follow(draws(tuple(ZIPF), Sampling(top_p=p)), kept)


@pytest.mark.parametrize("p", [0.05, 0.15, 0.6])
def test_samples_follow_the_probabilities_above_min_p(p: float):
    kept = np.where(p * ZIPF.max() <= ZIPF, ZIPF, 0)
    assert 1 <= np.count_nonzero(kept) < 30
    assert follow(draws(tuple(ZIPF), Sampling(min_p=p)), kept)


def test_samples_follow_all_filters_together():
    # At temperature 0.5: squares. The 12 most likely; of them those up to 0.95; of them those above 0.03 of the first.
    probs = ZIPF**2 * (np.argsort(np.argsort(-ZIPF)) < 12)
    order = np.argsort(-probs)
    needed = int(np.searchsorted(np.cumsum(probs[order]) / probs.sum(), 0.95)) + 1
    probs = np.where(np.isin(np.arange(30), order[:needed]) & (probs >= 0.03 * probs.max()), probs, 0)
    assert 3 < np.count_nonzero(probs) < needed < 12
    assert follow(draws(tuple(ZIPF), Sampling(temperature=0.5, top_k=12, top_p=0.95, min_p=0.03)), probs)


# ---- which tokens are kept


@pytest.mark.parametrize(("k", "kept"), [(1, [1]), (2, [1, 3]), (3, [1, 2, 3]), (4, [0, 1, 2, 3]), (9, [0, 1, 2, 3])])
def test_top_k_keeps_the_most_likely_tokens(k: int, kept: list[int]):
    assert np.flatnonzero(draws(tuple(PROBS), Sampling(top_k=k))).tolist() == kept


@pytest.mark.parametrize(
    ("p", "kept"),
    [(0.01, [1]), (0.45, [1]), (0.55, [1, 3]), (0.75, [1, 3]), (0.85, [1, 2, 3]), (0.97, [0, 1, 2, 3])],
)
def test_top_p_keeps_the_smallest_set_that_reaches_it(p: float, kept: list[int]):
    assert np.flatnonzero(draws(tuple(PROBS), Sampling(top_p=p))).tolist() == kept


@pytest.mark.parametrize(("p", "kept"), [(0.09, [0, 1, 2, 3]), (0.2, [1, 2, 3]), (0.5, [1, 3]), (0.7, [1])])
def test_min_p_keeps_what_has_that_share_of_the_most_likely(p: float, kept: list[int]):
    assert np.flatnonzero(draws(tuple(PROBS), Sampling(min_p=p))).tolist() == kept


def test_top_p_counts_probabilities_at_the_temperature():
    # At temperature 0.5 the squares count: 0.685, 0.247, 0.062 and 0.007 of their sum.
    assert np.flatnonzero(draws(tuple(PROBS), Sampling(top_p=0.65, temperature=0.5))).tolist() == [1]
    assert np.flatnonzero(draws(tuple(PROBS), Sampling(top_p=0.65))).tolist() == [1, 3]


def test_top_p_counts_probabilities_among_the_top_k():
    # Of the first two, 0.5 and 0.3, the first has 0.625.
    assert np.flatnonzero(draws(tuple(PROBS), Sampling(top_k=2, top_p=0.6))).tolist() == [1]
    assert np.flatnonzero(draws(tuple(PROBS), Sampling(top_p=0.6))).tolist() == [1, 3]


def test_each_row_is_filtered_by_its_own_logits():
    logits = jnp.log(jnp.array([[0.6, 0.3, 0.1], [0.1, 0.3, 0.6]]))
    for keep in (lambda x: keep_top_k(x, 1), lambda x: keep_top_p(x, 0.5), lambda x: keep_min_p(x, 0.6)):
        np.testing.assert_array_equal(keep(logits) > -1e9, [[True, False, False], [False, False, True]])


# ---- the most likely token, repetition, keys


def test_temperature_zero_takes_the_most_likely_token():
    logits = jnp.array([[0.0, 3.0, 2.0], [5.0, 1.0, 4.9]])
    tokens = sample(logits, row_keys(jax.random.key(0), 2), GREEDY)
    np.testing.assert_array_equal(tokens, [1, 0])
    assert tokens.dtype == jnp.int32


def test_repetition_penalty_lowers_tokens_that_were_there_and_no_others():
    logits = jnp.array([[2.0, -2.0, 0.0, 1.5], [2.0, -2.0, 0.0, 1.5]])
    seen = jnp.array([[True, True, True, False], [False, False, False, True]])
    expected = [[1.0, -4.0, 0.0, 1.5], [2.0, -2.0, 0.0, 0.75]]
    np.testing.assert_array_equal(penalize_repetition(logits, seen, 2.0), expected)
    greedy = Sampling(temperature=0.0, repetition_penalty=2.0)
    np.testing.assert_array_equal(sample(logits, row_keys(jax.random.key(0), 2), greedy, seen), [3, 0])


def test_the_repetition_penalty_comes_before_the_temperature():
    # Logits 3 and 2: halved, the first is 1.5, and at temperature 0.1 hardly ever drawn.
    logits, seen = jnp.array([[3.0, 2.0]] * 200), jnp.array([[True, False]] * 200)
    how = Sampling(repetition_penalty=2.0, temperature=0.1)
    assert np.asarray(sample(logits, row_keys(jax.random.key(0), 200), how, seen)).mean() > 0.95


def test_tokens_seen_leave_out_padding():
    tokens, is_token = jnp.array([[1, 3, 3], [0, 2, 2]]), jnp.array([[True, True, True], [True, False, False]])
    expected = [[False, True, False, True], [True, False, False, False]]
    np.testing.assert_array_equal(tokens_seen(tokens, is_token, 4), expected)


def test_samples_follow_from_the_key_and_rows_draw_apart():
    logits = jnp.zeros((64, 8))
    one, same, other = (sample(logits, row_keys(jax.random.key(seed), 64), Sampling()) for seed in (0, 0, 1))
    np.testing.assert_array_equal(one, same)
    assert not np.array_equal(one, other)
    assert len(set(np.asarray(one).tolist())) == 8  # rows of equal logits
    fewer = sample(logits[:5], row_keys(jax.random.key(0), 5), Sampling())
    np.testing.assert_array_equal(fewer, one[:5])
