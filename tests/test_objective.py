"""Losses against NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from configs import base
from train.objective import cross_entropy, make_objective, tokens

RNG = np.random.default_rng(0)
LOGITS = RNG.normal(size=(2, 3, 5)) * 4
TARGETS = np.array([[0, 4, 2], [1, 1, 3]])
WEIGHTS = np.array([[1, 0, 1], [1, 1, 0]])


def reference_nll() -> tuple[np.ndarray, np.ndarray]:
    log_z = np.log(np.exp(LOGITS).sum(-1))
    return log_z - np.take_along_axis(LOGITS, TARGETS[..., None], -1)[..., 0], log_z


def batch() -> dict[str, jax.Array]:
    ints = {"inputs": TARGETS, "targets": TARGETS, "positions": TARGETS, "segment_ids": TARGETS}
    return {name: jnp.asarray(array, jnp.int32) for name, array in ints.items()} | {
        "weights": jnp.asarray(WEIGHTS, jnp.float32)
    }


def apply_fn(variables, tokens, **kwargs) -> jax.Array:
    return jnp.asarray(LOGITS, jnp.float32) + variables["params"]


def test_cross_entropy_and_log_z_equal_numpy():
    nll, log_z = cross_entropy(jnp.asarray(LOGITS, jnp.float32), jnp.asarray(TARGETS, jnp.int32))
    expected_nll, expected_log_z = reference_nll()
    np.testing.assert_allclose(nll, expected_nll, rtol=1e-5)
    np.testing.assert_allclose(log_z, expected_log_z, rtol=1e-5)


def test_cross_entropy_computes_in_float32_and_survives_large_logits():
    nll, _ = cross_entropy(jnp.array([[[300.0, 0.0]]], jnp.bfloat16), jnp.array([[1]], jnp.int32))
    assert nll.dtype == jnp.float32
    assert float(nll[0, 0]) == 300.0


def test_gradient_is_softmax_minus_one_hot():
    grad = jax.grad(lambda x: cross_entropy(x, jnp.asarray(TARGETS, jnp.int32))[0].sum())(
        jnp.asarray(LOGITS, jnp.float32)
    )
    softmax = np.exp(LOGITS) / np.exp(LOGITS).sum(-1, keepdims=True)
    np.testing.assert_allclose(grad, softmax - np.eye(5)[TARGETS], atol=1e-6)


def test_tokens_sums_over_weighted_targets():
    loss, weight, sums = tokens(apply_fn, jnp.zeros(()), batch(), None, z_loss=0.0)
    expected = (reference_nll()[0] * WEIGHTS).sum()
    assert float(weight) == 4.0
    assert float(loss) == pytest.approx(expected, rel=1e-5)
    assert float(sums["nll"]) == pytest.approx(expected, rel=1e-5)


def test_z_loss_adds_the_squared_log_z_to_the_loss_alone():
    loss, _, sums = tokens(apply_fn, jnp.zeros(()), batch(), None, z_loss=0.5)
    nll, log_z = reference_nll()
    assert float(loss) == pytest.approx(((nll + 0.5 * log_z**2) * WEIGHTS).sum(), rel=1e-5)
    assert float(sums["nll"]) == pytest.approx((nll * WEIGHTS).sum(), rel=1e-5)


def test_unknown_objective_names_the_known(config: ConfigDict):
    config.train.objective = "token"
    with pytest.raises(
        ValueError, match=r"config\.train\.objective='token': 'token' is not known; use one of auto, tokens"
    ):
        make_objective(config)


def outputs_fn(**outputs: np.ndarray):
    """A model that gives these, whatever it is fed."""

    def apply_fn(variables, tokens, *, want, **kwargs):
        arrays = {name: jnp.asarray(array, jnp.float32) + variables["params"] for name, array in outputs.items()}
        return arrays if want == "all" else arrays[want]

    return apply_fn


def sums(name: str, batch: dict[str, np.ndarray], **outputs: np.ndarray) -> tuple[float, float]:
    config = base.get_config()
    config.train.objective = name
    arrays = {key: jnp.asarray(array, jnp.int32 if array.dtype == int else jnp.float32) for key, array in batch.items()}
    loss, weight, _ = make_objective(config)(outputs_fn(**outputs), jnp.zeros(()), arrays, None)
    return float(loss), float(weight)


CLASSES = np.array([[2.0, 0.0, -1.0], [0.5, 0.5, 3.0]])  # of two rows
LOG_Z = np.log(np.exp(CLASSES).sum(-1))
BATCH = {"inputs": TARGETS, "targets": TARGETS, "weights": WEIGHTS.astype(float)}


def test_classes_is_the_cross_entropy_of_rows():
    batch = {"inputs": TARGETS, "labels": np.array([1, 2]), "weights": np.array([2.0, 1.0])}
    loss, weight = sums("classes", batch, classes=CLASSES)
    assert loss == pytest.approx(2 * (LOG_Z[0] - 0.0) + (LOG_Z[1] - 3.0), rel=1e-5)
    assert weight == 3.0


def test_classes_of_several_labels_is_the_mean_of_binary_cross_entropies():
    labels = np.array([[1.0, 0.0, 1.0], [0.0, 0.0, 1.0]])
    probs = 1 / (1 + np.exp(-CLASSES))
    expected = -(labels * np.log(probs) + (1 - labels) * np.log(1 - probs)).mean(-1)
    batch = {"inputs": TARGETS, "labels": labels, "weights": np.array([1.0, 0.0])}
    assert sums("classes", batch, classes=CLASSES) == (pytest.approx(expected[0], rel=1e-5), 1.0)


def test_classes_of_numbers_is_the_squared_error():
    batch = {"inputs": TARGETS, "labels": np.array([5.0, -1.0]), "weights": np.array([1.0, 1.0])}
    loss, _ = sums("classes", batch, classes=CLASSES[:, :1])
    assert loss == pytest.approx((2.0 - 5.0) ** 2 + (0.5 + 1.0) ** 2, rel=1e-6)


def test_tags_is_the_cross_entropy_of_weighted_tokens():
    loss, weight = sums("tags", BATCH, classes=LOGITS)
    assert loss == pytest.approx((reference_nll()[0] * WEIGHTS).sum(), rel=1e-5)
    assert weight == 4.0


def test_tokens_and_pairs_adds_the_second_loss_as_its_weights_say():
    batch = BATCH | {"labels": np.array([1, 2]), "pair_weights": np.array([0.5, 0.0])}
    loss, weight = sums("tokens_and_pairs", batch, logits=LOGITS, classes=CLASSES)
    assert loss == pytest.approx((reference_nll()[0] * WEIGHTS).sum() + 0.5 * LOG_Z[0], rel=1e-5)
    assert weight == 4.0


def test_spans_is_the_mean_of_start_and_end_among_the_candidates():
    logits = np.array([[[1.0, 0.0], [2.0, 5.0], [9.0, 9.0]], [[0.0, 0.0], [0.0, 0.0], [0.0, 0.0]]])
    batch = {"inputs": TARGETS, "starts": np.array([0, 1]), "ends": np.array([1, 1]), "weights": np.array([1.0, 0.0])}
    batch["candidates"] = np.array([[1, 1, 0], [1, 1, 1]])
    starts = np.log(np.exp([1.0, 2.0]).sum()) - 1.0
    ends = np.log(np.exp([0.0, 5.0]).sum()) - 5.0
    assert sums("spans", batch, classes=logits) == (pytest.approx((starts + ends) / 2, rel=1e-5), 1.0)
