"""Generation with a cache against the naive loop without one.

Letters: B batch, P prompt length, T length, G generated length, V vocab.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from model import GREEDY, Sampling, Transformer, advance, begin, generate, init_cache, row_keys
from tests.helpers import random_model

VARIANTS: dict[str, dict[str, Any]] = {
    "rope": {"num_kv_heads": 4},
    "window": {"num_kv_heads": 2, "window": 6, "activation": "swiglu"},
    "learned": {"num_kv_heads": 1, "position": "learned", "activation": "geglu", "vocab_multiple": 32},
}
# What a tiny test waits for is the compiler.
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
each_variant = pytest.mark.parametrize("variant", VARIANTS)
NUM_TOKENS = 24
PROMPTS = np.array([[3, 1, 4, 1, 5, 9, 2], [6, 5, 3, 0, 0, 0, 0], [8, 0, 0, 0, 0, 0, 0]], np.int32)
LENGTHS = np.array([7, 3, 1], np.int32)


def build(variant: str) -> tuple[Transformer, Any]:
    return random_model(**VARIANTS[variant])


def run(variant: str, seed: int = 0, *, sampling: Sampling = GREEDY, **options) -> np.ndarray:
    """Continues `PROMPTS`."""
    tokens = generate(
        *build(variant),
        jnp.asarray(PROMPTS),
        jnp.asarray(LENGTHS),
        jax.random.key(seed),
        max_tokens=NUM_TOKENS,
        sampling=sampling,
        **options,
    )
    assert tokens.dtype == jnp.int32
    return np.asarray(tokens)


@functools.cache
def naive(variant: str, penalty: float = 1.0) -> np.ndarray:
    """The most likely continuations, one prompt at a time, each token from a pass over all before it."""
    model, params = build(variant)
    apply = jit(model.apply)
    continuations = []
    for prompt, length in zip(PROMPTS, LENGTHS, strict=True):
        tokens = list(prompt[:length])
        for _ in range(NUM_TOKENS):
            row = np.zeros((1, 32), np.int32)
            row[0, : len(tokens)] = tokens
            logits = np.array(apply({"params": params}, row)[0, len(tokens) - 1])
            for token in {int(token) for token in tokens}:
                logits[token] *= penalty if logits[token] < 0 else 1 / penalty
            tokens.append(np.argmax(logits))
        continuations.append(tokens[length:])
    return np.array(continuations)


@each_variant
def test_greedy_generation_with_a_cache_equals_the_naive_loop_without(variant):
    expected = naive(variant)
    assert min(len(set(row)) for row in expected.tolist()) > 4  # not a model that repeats itself
    np.testing.assert_array_equal(run(variant), expected)


@each_variant
def test_a_sequence_fed_to_the_cache_in_pieces_has_the_logits_of_the_whole(variant):
    model, params = build(variant)
    tokens = np.random.default_rng(1).integers(0, 40, size=(2, 12)).astype(np.int32)
    segment_ids = np.array([[1] * 12, [1] * 7 + [2] * 5], np.int32)
    positions = np.array([range(12), [*range(7), *range(5)]], np.int32)
    apply = jit(model.apply)
    whole = apply({"params": params}, tokens, positions_BT=positions, segment_ids_BT=segment_ids)
    cache, logits = init_cache(model.config, 2, 14), []
    for piece in (slice(0, 6), slice(6, 12)):
        some, cache = apply(
            {"params": params},
            tokens[:, piece],
            positions_BT=positions[:, piece],
            segment_ids_BT=segment_ids[:, piece],
            cache=cache,
        )
        logits.append(some)
    np.testing.assert_allclose(np.concatenate(logits, axis=1), whole, rtol=1e-4, atol=1e-4)
    assert int(cache.length) == 12


def test_the_cache_is_empty_and_in_the_compute_dtype():
    config = dataclasses.replace(build("window")[0].config, dtype="bfloat16")
    cache = init_cache(config, 3, 10)
    assert [x.shape for x in cache.layers] == [(2, 3, 2, 10, 4)] * 2
    assert [x.dtype for x in cache.layers] == [jnp.bfloat16] * 2
    np.testing.assert_array_equal(cache.segment_ids_BS, np.zeros((3, 10)))


def test_eos_ends_a_row_and_fills_the_rest_of_it():
    free = naive("rope")
    eos = next(int(token) for token in free[0, 3:] if token not in free[1:])
    expected = free.copy()
    for row in expected:
        if eos in row:
            row[list(row).index(eos) :] = eos
    assert [eos in row for row in free.tolist()] == [True, False, False]
    np.testing.assert_array_equal(run("rope", eos_id=eos), expected)


def test_generation_stops_when_all_rows_have_ended():
    model, params = build("rope")
    head = np.zeros_like(params["head"])  # all logits are 0, so the first token is 0
    tokens = generate(
        model, params | {"head": head}, PROMPTS, LENGTHS, jax.random.key(0), max_tokens=5, sampling=GREEDY, eos_id=0
    )
    np.testing.assert_array_equal(tokens, np.zeros((3, 5)))


def test_padding_of_a_prompt_does_not_matter():
    model, params = build("window")
    other = np.where(np.arange(7) < LENGTHS[:, None], PROMPTS, 39).astype(np.int32)
    tokens = generate(model, params, other, LENGTHS, jax.random.key(0), max_tokens=NUM_TOKENS, sampling=GREEDY)
    np.testing.assert_array_equal(tokens, naive("window"))


def test_generation_follows_from_the_key():
    first = run("rope", seed=1, sampling=Sampling())
    np.testing.assert_array_equal(run("rope", seed=1, sampling=Sampling()), first)
    assert (run("rope", seed=2, sampling=Sampling()) != first).any(axis=1).all()
    assert first.min() >= 0


def test_padded_vocabulary_is_never_sampled():
    tokens = run("learned", sampling=Sampling(temperature=100.0))  # nearly uniform over 40 of the 64 rows
    assert 30 <= tokens.max() < 40


@pytest.mark.parametrize("sampling", [GREEDY, Sampling(temperature=0.9, repetition_penalty=1.3)])
def test_in_how_many_calls_the_tokens_are_written_makes_no_difference(sampling: Sampling):
    model, params = build("rope")
    expected = run("rope", sampling=sampling)
    for steps in ((24,), (1, 2, 9, 24), tuple(range(2, 25))):
        how: dict[str, Any] = {"sampling": sampling, "eos_id": -1}
        state = begin(model, params, PROMPTS, LENGTHS, row_keys(jax.random.key(0), 3), room=32, **how)
        for limit in steps:
            state = advance(model, params, state, limit, **how)
            assert int(state.count) == max(limit, 1)
        np.testing.assert_array_equal(state.tokens_BG[:, :24], expected)


def test_rows_without_a_prompt_fill_up_the_batch_and_change_nothing():
    model, params = build("learned")
    prompts, lengths = np.zeros((5, 16), np.int32), np.array([7, 0, 3, 1, 0], np.int32)
    prompts[[0, 2, 3], :7] = PROMPTS
    how: dict[str, Any] = {"sampling": Sampling(repetition_penalty=1.2, temperature=0.0), "eos_id": -1}
    expected = run("learned", sampling=how["sampling"])
    state = begin(model, params, prompts, lengths, row_keys(jax.random.key(0), 5), room=32, **how)
    np.testing.assert_array_equal(state.ended_B, [False, True, False, False, True])
    tokens = advance(model, params, state, 24, **how).tokens_BG
    np.testing.assert_array_equal(tokens[np.array([0, 2, 3]), :24], expected)


def test_what_a_row_draws_does_not_depend_on_the_others():
    model, params = build("rope")
    whole = run("rope", seed=5, sampling=Sampling())
    for rows in (1, 2):
        tokens = generate(
            model, params, PROMPTS[:rows], LENGTHS[:rows], jax.random.key(5), max_tokens=NUM_TOKENS, sampling=Sampling()
        )
        np.testing.assert_array_equal(tokens, whole[:rows])
    same = np.repeat(PROMPTS[:1], 3, axis=0)
    tokens = np.asarray(
        generate(model, params, same, np.full(3, 7, np.int32), jax.random.key(5), max_tokens=NUM_TOKENS)
    )
    np.testing.assert_array_equal(tokens[0], whole[0])
    assert len({tuple(row) for row in tokens.tolist()}) == 3  # equal prompts, other keys


def test_repetition_penalty_counts_the_prompt_and_what_was_written():
    assert (naive("rope", penalty=1.5) != naive("rope")).any(axis=1).all()
    tokens = run("rope", sampling=Sampling(temperature=0.0, repetition_penalty=1.5))
    np.testing.assert_array_equal(tokens, naive("rope", penalty=1.5))
