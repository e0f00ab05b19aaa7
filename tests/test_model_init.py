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


# Of a model of width 32 at a base of 8, so that m = 4: literal standard deviations.
MUP = {
    "embedding": 0.02,
    "head": 8**-0.5,
    "classifier/w": 0.02 / 4,
    "pooler/w": 32**-0.5,
    "layers/attention/w_q": 32**-0.5,
    "layers/moe/w_router": 8**-0.5 / 4,
    "layers/moe/w_out": (48 * 4) ** -0.5,
}


def test_standard_deviations_of_mup():
    fields = {"num_experts": 64, "classifier": "tanh,classes=64", "tie_embeddings": False, "vocab_size": 512}
    params = initial(**fields, init="mup,width=8")
    for name, expected in MUP.items():
        assert np.std(params[name]) == pytest.approx(expected, rel=0.05), name


@pytest.mark.parametrize("tied", [True, False])
def test_mup_divides_the_logits_by_the_ratio_of_the_widths(tied: bool):
    fields = {"tie_embeddings": tied, "logit_scale": 3.0}
    standard, wide = (Transformer(make_config(**fields, init=init)) for init in ("standard", "mup,width=8"))
    params = nn.unbox(jit(standard.init)(jax.random.key(0), TOKENS)["params"])
    expected, found = (jit(lambda p, m=m: m.apply({"params": p}, TOKENS))(params) for m in (standard, wide))
    np.testing.assert_allclose(4 * found, expected, rtol=1e-6)
    assert wide.config.as_standard() == make_config(tie_embeddings=tied, logit_scale=0.75)
    assert standard.config.as_standard() is standard.config


@pytest.mark.parametrize(
    ("given", "base", "scale"),
    # Heads of 8: at sqrt(h) / H, and of a scale of the config's own what is h / H of it.
    [(0.0, 0, 0.0), (0.0, 8, 0.0), (0.0, 2, 2**0.5 / 8), (0.5, 2, 0.5 / 4), (0.5, 0, 0.5)],
)
def test_mup_scales_attention_by_the_size_of_a_head(given: float, base: int, scale: float):
    config = make_config(attention_scale=given, init=f"mup,width=8,head_dim={base}")
    assert config.as_standard().attention_scale == pytest.approx(scale)
    model, same = Transformer(config), Transformer(config.as_standard())
    params = nn.unbox(jit(model.init)(jax.random.key(0), TOKENS)["params"])
    found, expected = (jit(lambda p, m=m: m.apply({"params": p}, TOKENS))(params) for m in (model, same))
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"init": "mup"}, "needs width=..."),
        ({"init": "mup,width=0"}, "width must be at least 1"),
        ({"init": "mup,width=8", "latent_attention": "latent,kv=8,rope=4,value=8"}, "whose own widths need not grow"),
    ],
)
def test_what_mup_needs_is_named(fields: dict, said: str):
    with pytest.raises(ValueError, match=said):
        make_config(**fields)
