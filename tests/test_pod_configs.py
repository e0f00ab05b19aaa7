"""The configs for pods: published sizes, short scale files, and headers that name their command."""

import dataclasses
import importlib
import inspect
import re
from pathlib import Path

import pytest

from data.command_line import flatten
from model import count_params
from train.compose import make_model

CONFIGS = Path(__file__).parents[1] / "configs"
# What the published weights have, as Hugging Face counts their files.
PARAMETERS = {
    "gpt2_124m": 124_439_808,
    "gpt2_1b5": 1_557_611_200,
    "llama3_8b": 8_030_261_248,
    "llama3_70b": 70_553_706_496,
    "llama3_405b": 405_853_388_800,
    "mixtral_8x7b": 46_702_792_704,
    "qwen3_235b_a22b": 235_093_634_560,
    "bert_large": 336_226_108,
    "t5_11b": 11_307_321_344,
}
SCALE_FILES = sorted(
    path.stem for path in CONFIGS.glob("*.py") for base in PARAMETERS if path.stem.startswith(f"{base}_")
)


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameters_are_the_published_ones(name: str):
    config = importlib.import_module(f"configs.{name}").get_config()
    unpadded = dataclasses.replace(make_model(config).config, vocab_multiple=1)
    assert count_params(unpadded)["total"] == PARAMETERS[name]


@pytest.mark.parametrize("name", SCALE_FILES)
def test_scale_files_are_short_and_keep_the_loss(name: str):
    """Only what gives the same loss may differ from the base run, in at most 15 lines of code."""
    module = importlib.import_module(f"configs.{name}")
    base = max((base for base in PARAMETERS if name.startswith(f"{base}_")), key=len)
    theirs = flatten(importlib.import_module(f"configs.{base}").get_config())
    changed = {key for key, value in flatten(module.get_config()).items() if value != theirs[key]}
    allowed = r"name|mesh\..*|train\.(microbatch_rows|objective)|model\.(remat|attention|scan_unroll)"
    allowed += r"|data\.(prefetch|read_threads)"
    assert {key for key in changed if not re.fullmatch(allowed, key)} == set()
    code = inspect.getsource(module).split('"""\n', 1)[1]
    assert len([line for line in code.splitlines() if line.strip()]) <= 15


@pytest.mark.parametrize("name", SCALE_FILES)
def test_headers_have_the_plan(name: str):
    header = importlib.import_module(f"configs.{name}").__doc__ or ""
    assert f"python -m train.plan --config configs/{name}.py --topology " in header
    assert "estimate" in header.lower()
