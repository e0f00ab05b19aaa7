"""What is read off the last activations, and prefixes whose tokens see one another."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from model import GREEDY, Transformer, generate
from model.transformer import pool
from tests.test_model_transformer import POSITIONS, SEGMENT_IDS, TOKENS, build, jit

X = jnp.asarray([[[1.0, 2.0], [3.0, 4.0], [5.0, 9.0], [70.0, 70.0]], [[1.0, 1.0], [7.0, 7.0], [7.0, 7.0], [7.0, 7.0]]])
IDS = jnp.asarray([[1, 1, 2, 0], [1, 0, 0, 0]], jnp.int32)  # the first row has three tokens, the second one


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("first", [[1, 2], [1, 1]]),
        ("tanh", [[1, 2], [1, 1]]),
        ("mean", [[3, 5], [1, 1]]),
        ("last", [[5, 9], [1, 1]]),
        ("tokens", X),
    ],
)
def test_pool_reads_tokens_and_no_padding(kind: str, expected):
    np.testing.assert_allclose(pool(X, IDS, kind), expected)


def test_a_row_of_padding_pools_to_something_finite():
    assert np.isfinite(pool(X, jnp.zeros_like(IDS), "mean")).all()
    assert np.isfinite(pool(X, jnp.zeros_like(IDS), "last")).all()


@pytest.mark.parametrize(("kind", "shape"), [("mean", (2, 3)), ("last", (2, 3)), ("tokens", (2, 12, 3))])
def test_classes_are_the_projected_pool(kind: str, shape: tuple[int, ...]):
    config, params, _ = build(classifier=f"{kind},classes=3")
    where = {"segment_ids_BT": jnp.asarray(SEGMENT_IDS), "positions_BT": jnp.asarray(POSITIONS)}
    outputs = jit(lambda params: Transformer(config).apply({"params": params}, TOKENS, **where, want="all"))(params)
    pooled = np.asarray(pool(outputs["hidden"], jnp.asarray(SEGMENT_IDS), kind))
    np.testing.assert_allclose(outputs["pooled"], pooled, rtol=1e-6)
    expected = pooled @ params["classifier"]["w"] + params["classifier"]["b"]
    np.testing.assert_allclose(outputs["classes"], expected, rtol=1e-4, atol=1e-5)
    assert outputs["classes"].shape == shape


def seen_by(order: np.ndarray) -> np.ndarray:
    """Booleans (query, key): whose logits move with whose token, in one row of two documents."""
    _, params, apply = build("llama")
    where = {"segment_ids_BT": SEGMENT_IDS[1:], "positions_BT": POSITIONS[1:], "order_BT": order[None]}
    alone = np.asarray(apply(params, TOKENS[1:], **where))[0]
    moved = []
    for key in range(12):
        changed = TOKENS[1:].copy()
        changed[0, key] = (changed[0, key] + 1) % 40
        moved.append(np.any(np.asarray(apply(params, changed, **where))[0] != alone, axis=-1))
    return np.stack(moved, axis=1)


def test_the_tokens_of_a_prefix_see_one_another():
    """A document of 7 with a prefix of 3, and one of 5 without."""
    order = np.array([0, 0, 0, 3, 4, 5, 6, 0, 1, 2, 3, 4], np.int32)
    expected = np.zeros((12, 12), bool)
    expected[:7, :7] = np.tril(np.ones((7, 7), bool))
    expected[:3, :3] = True
    expected[7:, 7:] = np.tril(np.ones((5, 5), bool))
    np.testing.assert_array_equal(seen_by(order), expected)


def test_order_by_position_is_the_causal_mask():
    _, params, apply = build("llama")
    where = {"segment_ids_BT": SEGMENT_IDS, "positions_BT": POSITIONS}
    np.testing.assert_array_equal(apply(params, TOKENS, **where), apply(params, TOKENS, **where, order_BT=POSITIONS))


@pytest.mark.parametrize("both_ways", [True, False])
def test_a_prompt_is_read_as_the_prefix_that_training_has(both_ways: bool):
    """Written with the cache and without: with the prompt's tokens all of order 0, or each after the ones before it."""
    config, params, apply = build("llama")
    prompts, lengths = TOKENS[:, :5], np.array([5, 3], np.int32)
    how = {"max_tokens": 4, "sampling": GREEDY, "both_ways": both_ways}
    written = generate(Transformer(config), params, prompts, lengths, jax.random.key(0), **how)
    for prompt, length, row in zip(prompts, lengths, np.asarray(written), strict=True):
        ids = prompt[:length].tolist()
        for token in row.tolist():
            padded = np.array([ids + [0] * (12 - len(ids))], np.int32)
            places = np.arange(12, dtype=np.int32)[None]
            order = np.where(places < length, 0, places) if both_ways else places
            segments = (places < len(ids)).astype(np.int32)
            logits = apply(params, padded, segment_ids_BT=segments, positions_BT=places, order_BT=order)
            assert int(np.argmax(logits[0, len(ids) - 1])) == token
            ids.append(token)
