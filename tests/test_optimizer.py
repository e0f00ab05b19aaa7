"""Optimizers: which parameters decay, dtypes of moments, and updates against NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from train.optimizer import OPTIMIZERS, make_optimizer, parameter_name

SHAPES = {
    "embedding": (6, 4),
    "final_norm": {"scale": (4,)},
    "layers": {
        "attention": {"b_q": (2, 2, 2), "q_norm": (2, 2), "w_out": (2, 2, 2, 4), "w_q": (2, 4, 2, 2)},
        "attention_norm": {"scale": (2, 4)},
        "mlp": {"b_out": (2, 4), "w_in": (2, 4, 8), "w_out": (2, 8, 4)},
    },
    "head": (6, 4),
}
HIDDEN = {"layers/attention/w_q", "layers/attention/w_out", "layers/mlp/w_in", "layers/mlp/w_out"}


def random_params(seed: int) -> dict:
    keys = iter(jax.random.split(jax.random.key(seed), 20))
    return jax.tree.map(
        lambda shape: jax.random.normal(next(keys), shape), SHAPES, is_leaf=lambda x: isinstance(x, tuple)
    )


def configure(config: ConfigDict, **optimizer) -> ConfigDict:
    config.optimizer.update(schedule="constant", warmup_steps=0, learning_rate=0.1, clip_norm=0.0)
    config.optimizer.update(optimizer)
    return config


def by_name(tree: dict) -> dict[str, np.ndarray]:
    return {parameter_name(path): np.asarray(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_decay_spares_norms_biases_and_embeddings(config: ConfigDict, name: str):
    """With zero gradients only weight decay moves a parameter: names decide, whatever the rank of a stacked one."""
    optimizer = make_optimizer(configure(config, name=name, weight_decay=0.5))
    params = random_params(0)
    updates, _ = optimizer.update(jax.tree.map(jnp.zeros_like, params), optimizer.init(params), params)
    moved = {path for path, update in by_name(updates).items() if np.any(update != 0)}
    assert moved == (HIDDEN | {"head"} if name == "adamw" else HIDDEN)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_moments_are_float32_and_shaped_like_their_parameter(config: ConfigDict, name: str):
    optimizer = make_optimizer(configure(config, name=name))
    params = random_params(0)
    state = by_name(optimizer.init(params))
    floats = [leaf for path, leaf in state.items() if leaf.dtype.kind == "f" and "ns_coeffs" not in path]
    assert {leaf.dtype for leaf in floats} == {np.dtype("float32")}
    num_params = sum(leaf.size for leaf in jax.tree.leaves(params))
    num_hidden = sum(leaf.size for path, leaf in by_name(params).items() if path in HIDDEN)
    assert sum(leaf.size for leaf in floats) == (2 * num_params if name == "adamw" else 2 * num_params - num_hidden)


def test_adamw_equals_its_equations(config: ConfigDict):
    """Loshchilov and Hutter 2019, algorithm 2, in float64, over three updates."""
    optimizer = make_optimizer(configure(config, b1=0.8, b2=0.9, eps=1e-3, weight_decay=0.2))
    params = {"layers": {"mlp": {"w_in": jnp.array([[1.0, -2.0], [0.5, 3.0]])}}}
    state = optimizer.init(params)
    expected, m, v = np.array([[1.0, -2.0], [0.5, 3.0]]), 0.0, 0.0
    for t in range(1, 4):
        grad = np.array([[0.3, -0.1], [0.02, t]])
        grads = {"layers": {"mlp": {"w_in": jnp.asarray(grad, jnp.float32)}}}
        updates, state = optimizer.update(grads, state, params)
        params = jax.tree.map(jnp.add, params, updates)
        m, v = 0.8 * m + 0.2 * grad, 0.9 * v + 0.1 * grad**2
        step = m / (1 - 0.8**t) / (np.sqrt(v / (1 - 0.9**t)) + 1e-3)
        expected = expected - 0.1 * (step + 0.2 * expected)
    np.testing.assert_allclose(params["layers"]["mlp"]["w_in"], expected, rtol=1e-5)


def test_muon_makes_each_layers_update_nearly_orthogonal(config: ConfigDict):
    """Newton-Schulz drives the singular values of each hidden matrix's update to about 1, layer by layer."""
    optimizer = make_optimizer(configure(config, name="muon,learning_rate=1.0", weight_decay=0.0))
    params, grads = random_params(0), random_params(1)
    updates = by_name(optimizer.update(grads, optimizer.init(params), params)[0])
    for name, rows in (("w_q", 4), ("w_out", 4)):
        for layer in updates[f"layers/attention/{name}"]:
            singular = np.linalg.svd(layer.reshape(rows, -1), compute_uv=False)
            assert singular.min() > 0.6
            assert singular.max() < 1.3


def test_clipping_scales_the_gradients_to_the_given_norm(config: ConfigDict):
    config = configure(config, clip_norm=2.0, b1=0.0, b2=0.0, eps=1e-3, weight_decay=0.0)
    clipped = make_optimizer(config)
    params = {"head": jnp.zeros((2,))}
    updates, _ = clipped.update({"head": jnp.array([30.0, 40.0])}, clipped.init(params), params)
    # Clipped to norm 2 the gradient is (1.2, 1.6); Adam without memory divides it by its size plus eps.
    np.testing.assert_allclose(updates["head"], [-0.1 * 1.2 / 1.201, -0.1 * 1.6 / 1.601], rtol=1e-5)


@pytest.mark.parametrize(
    ("optimizer", "message"),
    [
        ({"name": "adam"}, "config.optimizer.name='adam': 'adam' is not known; use one of adamw, muon"),
        ({"learning_rate": 0.0}, "config.optimizer.learning_rate=0.0 must be above 0"),
        ({"b2": 1.0}, "config.optimizer.b2=1.0 must be at least 0 and below 1"),
        ({"clip_norm": -1.0}, "config.optimizer.clip_norm=-1.0 must be 0 or more"),
    ],
)
def test_values_out_of_range_are_errors(config: ConfigDict, optimizer: dict, message: str):
    with pytest.raises(ValueError, match=message):
        make_optimizer(configure(config, **optimizer))
