"""The depth dial: literal tables, rules that hold at every depth, and runs that are plain afterwards."""

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
from ml_collections import ConfigDict

from configs import base
from data.command_line import flatten
from model import count_params
from tests.helpers import command
from train import fit, make_model, with_depth
from train.compose import model_config
from train.depth import DEFAULTS, best_batch_and_rate
from train.initial import adopt
from train.metrics import read_metrics

# depth -> layers, width, query heads, key and value heads, MLP, rows, steps, warmup, learning rate, of configs/base.py.
TABLE = {
    4: (4, 256, 4, 4, 1024, 128, 2562, 128, 0.00379),
    8: (8, 512, 8, 8, 2048, 512, 4162, 208, 0.00237),
    12: (12, 768, 12, 12, 3072, 1024, 6722, 336, 0.00177),
}


def of_depth(depth: int, **fields: Any) -> tuple[ConfigDict, list[str]]:
    config, lines = base.get_config(), []
    config.update_from_flattened_dict({key.replace("__", "."): value for key, value in fields.items()})
    config.model.depth = depth
    return with_depth(config, lines.append), lines


def derived(config: ConfigDict) -> dict[str, Any]:
    return {key: flatten(config)[key] for key in DEFAULTS}


def test_the_defaults_are_those_of_the_base_config():
    assert derived(base.get_config()) == DEFAULTS
    config = base.get_config()
    assert with_depth(config) is config


@pytest.mark.parametrize("depth", TABLE)
def test_each_depth_is_that_of_the_table(depth: int):
    config, _ = of_depth(depth)
    assert tuple(derived(config).values()) == TABLE[depth]
    changed = {key for key, value in flatten(config).items() if flatten(base.get_config())[key] != value}
    assert changed <= DEFAULTS.keys()  # not model.depth: what is saved is a plain config


def test_a_start_says_parameters_tokens_and_operations():
    """Depth 4: 4096 x 256 embeddings, 4 layers of 4 x 256^2 + 2 x 256 x 1024, and 9 norms of 256."""
    _, lines = of_depth(4, data__batch_size=64)
    assert (
        lines[0]
        == "config.model.depth=4: 4,196,608 parameters, 83,935,232 tokens, 20.0 a parameter, 2.1e+15 operations"
    )
    assert lines[1].startswith("derived: model.num_layers=4, model.d_model=256, ")
    assert lines[1].endswith("optimizer.learning_rate=0.00379; kept: data.batch_size=64")


def test_tokens_are_twenty_a_parameter_and_all_grows_with_the_depth():
    before: dict[str, Any] = {}
    for depth in range(1, 33):
        config, _ = of_depth(depth)
        now, rows = derived(config), config.data.batch_size * config.data.seq_len
        params = count_params(make_model(config).config)["total"]
        assert 0 <= config.train.steps * rows - 20 * params < rows
        assert abs(config.optimizer.warmup_steps * rows - params) <= rows / 2
        assert all(now[key] > before[key] for key in ("model.num_layers", "model.d_model") if before)
        assert all(now[key] >= before[key] for key in ("data.batch_size",) if before)
        assert not before or now["optimizer.learning_rate"] < before["optimizer.learning_rate"]
        before = now


@pytest.mark.parametrize(
    ("operations", "tokens", "rate"),
    # What DeepSeek LLM was trained with: 2e12 tokens at 72 L D^2 + 12 L D T operations each, of 30 layers of 4096 and
    # 95 of 8192, in batches of 2304 and 4608 sequences of 4096 (arXiv:2401.02954, table 2 and section 3).
    [(8.46e22, 2304 * 4096, 4.2e-4), (9.95e23, 4608 * 4096, 3.2e-4)],
)
def test_batch_and_rate_are_those_of_deepseeks_models(operations: float, tokens: int, rate: float):
    assert best_batch_and_rate(operations) == (pytest.approx(tokens, rel=0.1), pytest.approx(rate, rel=0.03))


def test_what_is_set_stays_and_the_rest_follows_from_it():
    config, lines = of_depth(8, model__d_model=384, model__activation="swiglu", model__head_dim=32, train__steps=50)
    m = config.model
    assert (m.num_layers, m.d_model, m.num_heads, m.num_kv_heads, m.d_mlp) == (8, 384, 12, 12, 1024)
    assert (config.train.steps, config.optimizer.warmup_steps) == (50, 49)  # below the steps
    assert lines[1].endswith("; kept: model.d_model=384, train.steps=50")


@pytest.mark.parametrize(
    ("fields", "rate"),
    [
        ({"optimizer__name": "muon,iterations=3"}, 0.00237),
        ({"optimizer__name": "lion"}, 1e-3),
        ({"model__init": "mup,width=256"}, 1e-3),
        ({"optimizer__learning_rate": 0.01}, 0.01),
    ],
)
def test_the_rate_is_derived_for_optimizers_like_adam_in_the_standard_parametrisation(fields: dict, rate: float):
    assert of_depth(8, **fields)[0].optimizer.learning_rate == rate


@pytest.mark.parametrize(
    ("depth", "fields", "said"),
    [
        (-1, {}, "config.model.depth=-1 must be 0"),
        (4, {"model__num_experts": 8}, "not for config.model.num_experts=8; use config.model.num_experts=0 or depth=0"),
        (4, {"data__batch_ramp": "doubling,start=4,steps=9"}, "batches of one size"),
        (4, {"model__num_kv_heads": 3}, "config.model.num_kv_heads=3"),
    ],
)
def test_what_the_rules_are_not_for_is_an_error(depth: int, fields: dict, said: str):
    with pytest.raises(ValueError, match=said):
        of_depth(depth, **fields)


def test_a_depth_that_was_not_derived_is_an_error(tmp_path: Path):
    config = base.get_config()
    config.model.depth = 4
    with pytest.raises(ValueError, match=r"call train\.with_depth"):
        model_config(config)
    config.init_from = str(tmp_path)
    with pytest.raises(ValueError, match=r"config.model.depth=4 does not go with config.init_from="):
        adopt(config)


def test_a_run_resumes_and_is_evaluated_as_a_plain_one(
    config: ConfigDict, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    config.model.update(depth=1, num_layers=DEFAULTS["model.num_layers"], num_kv_heads=4)
    config.optimizer.learning_rate = DEFAULTS["optimizer.learning_rate"]
    config.train.steps = 3
    fit(config, tmp_path)
    assert "config.model.depth=1: " in capsys.readouterr().err
    saved = json.loads((tmp_path / "config.json").read_text())
    assert (saved["model"]["depth"], saved["model"]["num_layers"], saved["model"]["d_model"]) == (0, 1, 32)
    rate = saved["optimizer"]["learning_rate"]
    assert rate not in (DEFAULTS["optimizer.learning_rate"], 0.01)
    config.train.steps = 5
    assert fit(config, tmp_path).step == 5
    said = capsys.readouterr().err
    assert "continuing at step 3 of 5" in said
    assert "optimizer.learning_rate:" not in said
    steps = [record["step"] for record in read_metrics(tmp_path) if "loss" in record]
    assert all(a < b for a, b in itertools.pairwise(steps))
    command("evaluate")([f"--workdir={tmp_path}"])
    assert json.loads(capsys.readouterr().out)["step"] == 5
