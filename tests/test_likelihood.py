"""Log-likelihoods of continuations beside those of each pair alone, on one device and on meshes."""

import functools

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from parallel import MeshConfig, make_mesh
from tests.helpers import one_device
from train import init_state, make_model
from train.likelihood import batches_of, make_scorer

SEEN = 32  # what the model of the tiny config sees at once
LENGTHS = [(1, 1), (9, 8), (1, 32), (28, 5), (40, 5), (2, 31), (12, 5), (1, 17), (16, 1)]


def pairs_of(vocab_size: int) -> list[tuple[list[int], list[int]]]:
    rng = np.random.default_rng(0)
    return [(rng.integers(4, vocab_size, a).tolist(), rng.integers(4, vocab_size, b).tolist()) for a, b in LENGTHS]


def alone(apply, pair: tuple[list[int], list[int]]) -> tuple[float, bool]:
    """The plain model on one pair, without padding, summed in float64."""
    context, continuation = pair
    tokens = np.array([*context, *continuation][-SEEN - 1 :])
    logits_TV = np.asarray(apply(tokens[None, :-1]), np.float64)[0]
    logits_TV = logits_TV[-len(continuation) :]
    picked = logits_TV[np.arange(len(continuation)), continuation]
    greedy = bool((logits_TV.argmax(1) == continuation).all())
    return float((picked - np.log(np.exp(logits_TV).sum(1))).sum()), greedy


def test_the_figures_are_those_of_each_pair_alone(config: ConfigDict):
    config.model.update(position="learned", dtype="float32", num_layers=1)
    mesh = one_device()
    params = init_state(config, mesh).params
    params = jax.tree.map(lambda leaf: 3 * leaf, params)  # further from uniform
    pairs = pairs_of(config.data.vocab_size)
    apply = jax.jit(functools.partial(make_model(config).apply, {"params": params}))
    likeliest = int(apply(np.array([[7]]))[0, -1].argmax())
    pairs += [([7], [likeliest]), ([7], [9])]
    expected = [alone(apply, pair) for pair in pairs]
    assert [greedy for _, greedy in expected][-2:] == [True, False]
    for batch_size in (1, 4):
        config.data.batch_size = batch_size
        found = make_scorer(config, params, mesh)(pairs)
        assert [greedy for _, greedy in found] == [greedy for _, greedy in expected]
        np.testing.assert_allclose([x for x, _ in found], [x for x, _ in expected], rtol=2e-6)


@pytest.mark.parametrize("axes", [{"data": 4, "tensor": 2}, {"data": 2, "fsdp": 2, "context": 2}])
def test_the_figures_do_not_depend_on_the_mesh(config: ConfigDict, axes: dict[str, int]):
    config.model.update(dtype="float32", num_layers=1)
    pairs, one = pairs_of(config.data.vocab_size), one_device()
    expected = make_scorer(config, init_state(config, one).params, one)(pairs)
    mesh = make_mesh(MeshConfig(**axes))
    found = make_scorer(config, init_state(config, mesh).params, mesh)(pairs)
    np.testing.assert_allclose([x for x, _ in found], [x for x, _ in expected], rtol=2e-6)
    assert [greedy for _, greedy in found] == [greedy for _, greedy in expected]


def test_a_context_is_read_as_the_prefix_that_the_model_was_trained_with(config: ConfigDict):
    """Three tokens of it, 5, 6 and 7, which see one another; 8 and 9 go on from there."""
    config.model.update(dtype="float32", num_layers=2)  # in one, no token sees what others have seen
    config.data.task = "prefix_lm"
    mesh = one_device()
    params = jax.tree.map(lambda leaf: 3 * leaf, init_state(config, mesh).params)
    tokens = np.array([[5, 6, 7, 8]])
    logits_TV = make_model(config).apply({"params": params}, tokens, order_BT=np.array([[0, 0, 0, 1]]))[0]
    log_p_TV = jax.nn.log_softmax(logits_TV)
    expected = float(log_p_TV[2, 8] + log_p_TV[3, 9])
    causal_TV = jax.nn.log_softmax(make_model(config).apply({"params": params}, tokens)[0])
    assert abs(causal_TV[2, 8] + causal_TV[3, 9] - expected) > 1e-3
    ((found, _),) = make_scorer(config, params, mesh)([([5, 6, 7], [8, 9])])
    assert found == pytest.approx(expected, rel=2e-6)


def test_rows_of_similar_length_are_batched_longest_first(config: ConfigDict):
    config.data.batch_size = 2
    lengths = [3, 17, 16, 33, 1, 0]
    assert list(batches_of(lengths, config, one_device())) == [([3], 64), ([1], 32), ([0, 2], 16), ([4, 5], 16)]
    divided = make_mesh(MeshConfig(data=1, context=8))
    assert [length for _, length in batches_of([5, 40], config, divided)] == [64, 16]


def test_no_pairs_and_too_long_ones(config: ConfigDict):
    mesh = one_device()
    score = make_scorer(config, init_state(config, mesh).params, mesh)
    assert score([]) == []
    with pytest.raises(ValueError, match="continuation of 33 tokens is longer than the 32 that the model sees"):
        score([([1], [5] * 33)])
