"""`config.model.init`: which parameters start where, and what follows from the width."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from model import Transformer
from tests.test_model_transformer import TOKENS, jit, make_config, named_leaves

OUTPUTS = {
    "dense": {"layers/attention/w_out", "layers/mlp/w_out"},
    "experts": {"layers/attention/w_out", "layers/moe/w_out", "layers/shared_mlp/w_out"},
    "encoder_decoder": {
        f"{stack}layers/{name}/w_out"
        for stack, names in {"": ("attention", "cross_attention", "mlp"), "encoder_": ("attention", "mlp")}.items()
        for name in names
    },
}
SHAPES = {
    "dense": {},
    "experts": {"num_experts": 4, "d_shared_expert": 8},
    "encoder_decoder": {"architecture": "encoder_decoder"},
}


def initial(**fields) -> dict[str, np.ndarray]:
    model = Transformer(make_config(**fields))
    params = jit(lambda key: nn.unbox(model.init(key, jnp.zeros((1, 1), jnp.int32))["params"]))(jax.random.key(0))
    return named_leaves(params)


@pytest.mark.parametrize("kind", OUTPUTS)
def test_zero_outputs_are_those_that_write_to_the_residual_stream(kind: str):
    """And nothing else changes."""
    standard, zero = initial(**SHAPES[kind]), initial(**SHAPES[kind], init="standard,zero_outputs=1")
    for name, value in zero.items():
        expected = np.zeros_like(value) if name in OUTPUTS[kind] else standard[name]
        np.testing.assert_array_equal(value, expected, err_msg=name)
    assert OUTPUTS[kind] == {name for name, value in zero.items() if not value.any()}


def test_with_zero_outputs_every_layer_begins_as_the_identity():
    logits = []
    for num_layers in (1, 3):
        model = Transformer(make_config(num_layers=num_layers, init="standard,zero_outputs=1"))
        params = nn.unbox(jit(model.init)(jax.random.key(0), TOKENS)["params"])
        logits.append(jit(lambda params, model=model: model.apply({"params": params}, TOKENS))(params))
    np.testing.assert_array_equal(*logits)
