"""muP: the coordinate check, rates by name, and the base width at which nothing changes."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from tests.coordinates import changes, of_width
from tests.test_config_fields import initial_parameters, step_program
from tests.test_optimizer import HIDDEN, by_name, configure, random_params
from train.initial import adopt
from train.optimizer import OPTIMIZERS, make_optimizer
from train.width import width_factor

# name of an optimizer, fields of the model, and by how much the standard parametrisation's changes grow from a width of
# 32 to one of 256, at least; Muon's own rate needs no factor, so there only the logits grow.
COORDINATES = [
    ("adamw", {}, {"block 0": 4.0, "block 1": 4.0, "logits": 3.0}),
    ("muon", {"num_experts": 2}, {"logits": 2.0}),
]


@pytest.mark.parametrize(
    ("name", "fields", "growth"), COORDINATES, ids=lambda value: value if type(value) is str else ""
)
def test_activations_change_as_much_at_every_width(config: ConfigDict, name: str, fields: dict, growth: dict):
    config.optimizer.update(name=name, schedule="constant", warmup_steps=0, weight_decay=0.0)
    config.model.update(fields)

    def moved(init: str, width: int) -> dict[str, float]:
        config.model.init = init
        return changes(of_width(config, width), steps=4)

    base, wide = moved("standard", 32), moved("standard", 256)
    for where, factor in growth.items():
        assert wide[where] / base[where] > factor, f"{where} would not tell muP from the standard parametrisation"
    for width in (96, 256):
        ratios = {where: change / base[where] for where, change in moved("mup,width=32", width).items()}
        assert all(0.5 < ratio < 1.5 for ratio in ratios.values()), (width, ratios)


def test_at_the_base_width_weights_and_training_are_the_standard_ones(config: ConfigDict):
    """To the last bit: the same weights, and one program; with Muon, beside which AdamW goes."""
    config.optimizer.name = "muon"
    config.model.update(tie_embeddings=False, num_experts=2, classifier="tanh,classes=2")
    weights, program = initial_parameters(config), step_program(config)
    config.model.init = f"mup,width={config.model.d_model}"
    assert initial_parameters(config) == weights
    assert step_program(config) == program
    config.model.init = f"mup,width={config.model.d_model // 2}"
    assert initial_parameters(config) != weights
    assert step_program(config) != program


@pytest.mark.parametrize(
    ("name", "factor"),
    {
        "embedding": 1,
        "positions": 1,
        "relative_bias": 1,
        "patches/w": 1,
        "head": 1,
        "head_bias": 1,
        "final_norm/scale": 1,
        "layers/mlp/b_in": 1,
        "layers/moe/router_bias": 1,
        "layers/attention/w_q": 1 / 4,
        "encoder_layers/attention/w_out": 1 / 4,
        "layers/cross_attention/w_out": 1 / 4,
        "dense_layers/mlp/w_out": 1 / 4,
        "layers/moe/w_in": 1 / 4,
        "layers/moe/w_router": 1 / 4,
        "layers/w_h": 1 / 4,
        "head_transform/w": 1 / 4,
        "classifier/w": 1 / 4,
        "distill/projection": 1 / 4,
        "layers/attention/w_q/lora_a": 1 / 4,
        "layers/attention/w_q/lora_b": 1,
        "embedding/lora_a": 1,
    }.items(),
)
def test_each_parameter_has_the_rate_of_the_table(name: str, factor: float):
    assert width_factor(name, 4.0) == factor


def updates(config: ConfigDict, grads: dict) -> dict[str, np.ndarray]:
    optimizer, params = make_optimizer(config), random_params(0)
    return by_name(optimizer.update(grads, optimizer.init(params), params)[0])


@pytest.mark.parametrize("name", ["adamw", "adam", "rmsprop", "lion", "schedule_free", "adafactor,relative=0", "muon"])
def test_matrices_move_less_and_decay_as_much(config: ConfigDict, name: str):
    """And `layer_decay` goes on top of it."""
    decay = 0.0 if name in ("adam", "rmsprop") else 0.5
    configure(config, name=name, weight_decay=decay, layer_decay=0.5)
    config.model.d_model = 32
    no_grads = jax.tree.map(jnp.zeros_like, random_params(1))
    standard, decayed = updates(config, random_params(1)), updates(config, no_grads)
    config.model.init = "mup,width=8"
    np.testing.assert_equal(updates(config, no_grads), decayed)
    for leaf, update in updates(config, random_params(1)).items():
        factor = 1 / 4 if leaf in HIDDEN and name != "muon" else 1.0
        expected = decayed[leaf] + factor * (standard[leaf] - decayed[leaf])
        np.testing.assert_allclose(update, expected, rtol=1e-5, atol=1e-6, err_msg=leaf)


REFUSED = {
    "sgd": "other powers of the width",
    "lamb": "as large as the parameters",
    "adafactor": "unless relative=0",
    "soap": "no rule",
    "adam": "weight decay is a part of the gradient",
    "rmsprop": "weight decay is a part of the gradient",
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizers_whose_rates_would_not_hold_are_refused(config: ConfigDict, name: str):
    config.model.init = "mup,width=32"
    configure(config, name=name, weight_decay=0.1)
    if name not in REFUSED:
        make_optimizer(config)
        return
    said = f"config.model.init='mup,width=32' does not go with config.optimizer.name='{name}': .*{REFUSED[name]}"
    with pytest.raises(ValueError, match=said):
        make_optimizer(config)


@pytest.mark.parametrize(
    ("own", "theirs", "expected"),
    [
        ("standard,std=0.1", "standard", "standard,std=0.1"),
        ("standard", "mup,width=16", "mup,width=16"),
        ("mup,width=8", "mup,width=16", "mup,width=16"),
        ("mup,width=8", "standard", None),
    ],
)
def test_what_a_run_starts_from_says_whether_it_is_mup(
    config: ConfigDict, tmp_path: Path, own: str, theirs: str, expected: str | None
):
    (tmp_path / "checkpoints").mkdir()
    config.model.init = theirs
    (tmp_path / "config.json").write_text(json.dumps(config.to_dict()))
    config.model.init, config.init_from = own, str(tmp_path)
    if expected is None:
        with pytest.raises(ValueError, match="does not go with config"):
            adopt(config)
    else:
        assert adopt(config).model.init == expected
