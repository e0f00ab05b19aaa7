"""Layer-wise learning rates: a literal table, and updates that follow it whatever the optimizer."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from tests.test_optimizer import by_name, configure, random_params
from train.layer_decay import layer_factor, stack_sizes
from train.optimizer import OPTIMIZERS, make_optimizer

# Of a decoder with three layers, of which the first has no experts, at a decay of 1/2.
DECODER = {
    "embedding": 1 / 16,
    "positions": 1 / 16,
    "embedding_norm/scale": 1 / 16,
    "dense_layers/mlp/w_in": [1 / 8],
    "layers/attention/w_q": [1 / 4, 1 / 2],
    "layers/attention/w_q/lora_a": [1 / 4, 1 / 2],
    "final_norm/scale": 1,
    "head": 1,
    "classifier/w": 1,
    "distill/projection": 1,
}
# Of two encoder layers and one decoder layer.
ENCODER_DECODER = {
    "embedding": 1 / 16,
    "encoder_positions": 1 / 16,
    "encoder_layers/mlp/w_in": [1 / 8, 1 / 4],
    "encoder_final_norm/scale": 1 / 4,
    "relative_bias": 1 / 16,
    "layers/mlp/w_in": [1 / 2],
    "final_norm/scale": 1,
}


def test_each_layer_has_the_rate_of_the_table(config: ConfigDict):
    config.model.update(num_layers=3, num_experts=2, num_dense_layers=1)
    stacks = stack_sizes(config)
    assert stacks == {"dense_layers": 1, "layers": 2}
    for name, expected in DECODER.items():
        np.testing.assert_array_equal(layer_factor(name, 0.5, stacks), np.float32(expected))
    config.model.update(num_layers=1, num_experts=0, num_dense_layers=0)
    config.model.architecture = "encoder_decoder,encoder_layers=2"
    stacks = stack_sizes(config)
    assert stacks == {"encoder_layers": 2, "layers": 1}
    for name, expected in ENCODER_DECODER.items():
        np.testing.assert_array_equal(layer_factor(name, 0.5, stacks), np.float32(expected))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_updates_are_multiplied_and_the_state_is_not(config: ConfigDict, name: str):
    """Decay included: what an optimizer would do with a smaller learning rate."""
    params, grads = random_params(0), random_params(1)
    results = []
    for decay in (1.0, 0.5):
        optimizer = make_optimizer(configure(config, name=name, layer_decay=decay))
        updates, state = optimizer.update(grads, optimizer.init(params), params)
        results.append((by_name(updates), state))
    (plain, state), (scaled, scaled_state) = results
    if name != "schedule_free":  # which keeps parameters
        pairs = zip(jax.tree.leaves(state), jax.tree.leaves(scaled_state), strict=True)
        assert all(np.array_equal(a, b) for a, b in pairs)
    for leaf, update in plain.items():
        factor = {"layers": jnp.array([1 / 4, 1 / 2]), "embedding": 1 / 8}.get(leaf.split("/")[0], 1.0)
        factor = np.reshape(factor, np.shape(factor) + (1,) * (update.ndim - np.ndim(factor)))
        np.testing.assert_allclose(scaled[leaf], update * factor, rtol=1e-6, atol=1e-6, err_msg=leaf)


@pytest.mark.parametrize("decay", [0.0, 1.5])
def test_a_decay_out_of_range_is_an_error(config: ConfigDict, decay: float):
    with pytest.raises(ValueError, match=f"config.optimizer.layer_decay={decay} must be above 0 and at most 1"):
        make_optimizer(configure(config, layer_decay=decay))
