"""Optimizers: which parameters decay, dtypes and sizes of moments, and updates against published equations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from tests.optimizer_references import REFERENCES, error_of
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
    moved = {path for path, update in by_name(updates).items() if np.any(np.abs(update) > 1e-5)}
    assert moved == (HIDDEN if name == "muon" else HIDDEN | {"head"})


# Numbers that an optimizer keeps for the tree of SHAPES, which has 272, 192 of them in hidden matrices.
KEPT = {
    "sgd": 272,
    "rmsprop": 2 * 272,
    "adam": 2 * 272,
    "adamw": 2 * 272,
    "lamb": 2 * 272,
    # Of two layers, 4 and 4 of w_q and w_out, 4 and 8 of w_in and w_out; 4 and 6 of embedding and head; vectors.
    "adafactor": 2 * (8 + 8 + 12 + 12) + 2 * 10 + (4 + 8 + 4 + 8 + 8),
    "lion": 272,
    "muon": 2 * 272 - 192,
    # Two squares of each side of a hidden matrix: 4 x 4 and 4 x 4, or 4 x 4 and 8 x 8, twice of each in two layers.
    "soap": 2 * 272 + 2 * 2 * (2 * (16 + 16) + 2 * (16 + 64)),
    "schedule_free": 2 * 272 + 3,  # and b1, the sum of the weights, the largest learning rate
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_moments_are_float32_and_as_many_as_the_paper_says(config: ConfigDict, name: str):
    optimizer = make_optimizer(configure(config, name=name))
    floats = [leaf for leaf in jax.tree.leaves(optimizer.init(random_params(0))) if leaf.dtype.kind == "f"]
    assert {leaf.dtype for leaf in floats} == {np.dtype("float32")}
    assert sum(leaf.size for leaf in floats) == KEPT[name]


# Float32 beside float64: SOAP's rotations and Muon's iterations add up more of it.
BOUNDS = {"muon": 1e-4, "soap": 1e-4}


@pytest.mark.parametrize("name", REFERENCES)
def test_six_updates_equal_the_equations(config: ConfigDict, name: str):
    """Stacked layers and experts each as one matrix or vector of its own; weight decay; two learning rates."""
    assert error_of(make_optimizer, config, name) < BOUNDS.get(name.partition(",")[0], 2e-5)


def test_soap_keeps_no_squares_of_a_side_that_is_too_large(config: ConfigDict):
    """The inputs of w_in and the outputs of w_out have 4 x 4; what has 8 stays as it is."""
    optimizer = make_optimizer(configure(config, name="soap,largest=4"))
    floats = [leaf for leaf in jax.tree.leaves(optimizer.init(random_params(0))) if leaf.dtype.kind == "f"]
    assert sum(leaf.size for leaf in floats) == 2 * 272 + 2 * 2 * (2 * (16 + 16) + 2 * 16)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_tree_without_matrices_is_updated(config: ConfigDict, name: str):
    """Of adapters alone, or of an LSTM, Muon and SOAP have nothing to do for themselves."""
    optimizer = make_optimizer(configure(config, name=name))
    params = {"final_norm": {"scale": jnp.ones(4)}}
    state = optimizer.init(params)
    updates, again = optimizer.update({"final_norm": {"scale": jnp.ones(4)}}, state, params)
    assert np.all(np.abs(updates["final_norm"]["scale"]) > 1e-3)
    assert jax.tree.structure(again) == jax.tree.structure(state)


def test_every_optimizer_has_a_reference():
    assert {name.partition(",")[0] for name in REFERENCES} == OPTIMIZERS.keys()


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
    config = configure(config, name="adamw,b1=0,b2=0,eps=1e-3", clip_norm=2.0, weight_decay=0.0)
    clipped = make_optimizer(config)
    params = {"head": jnp.zeros((2,))}
    updates, _ = clipped.update({"head": jnp.array([30.0, 40.0])}, clipped.init(params), params)
    # Clipped to norm 2 the gradient is (1.2, 1.6); Adam without memory divides it by its size plus eps.
    np.testing.assert_allclose(updates["head"], [-0.1 * 1.2 / 1.201, -0.1 * 1.6 / 1.601], rtol=1e-5)


@pytest.mark.parametrize(
    ("optimizer", "message"),
    [
        ({"name": "adan"}, "config.optimizer.name='adan': 'adan' is not known; use one of sgd, rmsprop, adam, adamw"),
        ({"learning_rate": 0.0}, "config.optimizer.learning_rate=0.0 must be above 0"),
        ({"name": "adamw,b2=1"}, "config.optimizer.name='adamw,b2=1': b2=1.0 must be at least 0 and below 1"),
        ({"name": "soap,largest=0"}, "config.optimizer.name='soap,largest=0': largest=0 must be above 0"),
        ({"name": "soap,every=0"}, "config.optimizer.name='soap,every=0': every=0 must be above 0"),
        ({"name": "sgd,b1=0"}, "'b1' is no option of 'sgd'; it has momentum=..., nesterov=..."),
        ({"weight_decay": -0.1}, "config.optimizer.weight_decay=-0.1 must be 0 or more"),
        ({"ema": 1.0}, "config.optimizer.ema=1.0 must be 0, for none, or between 0 and 1, such as 0.999"),
        ({"name": "schedule_free", "ema": 0.9}, "averages weights itself; use config.optimizer.ema=0"),
        ({"clip_norm": -1.0}, "config.optimizer.clip_norm=-1.0 must be 0 or more"),
    ],
)
def test_values_out_of_range_are_errors(config: ConfigDict, optimizer: dict, message: str):
    with pytest.raises(ValueError, match=message):
        make_optimizer(configure(config, **optimizer))
