"""The configs of the worked tasks name data that there is, and models that can learn it."""

from pathlib import Path
from typing import Any

import pytest

from data import DataConfig, make_task
from data.command_line import load_config
from data.demos import DEMOS, SPLITS
from data.sources import choose_sources
from parallel import MeshConfig, make_mesh
from train.compose import make_model
from train.optimizer import make_optimizer
from train.suitability import check_suits

FILES = sorted(Path(__file__).parents[1].glob("configs/demos/*.py"))
NAMES = [file.stem for file in FILES if file.stem not in ("__init__", "minilm")]


def config_of(name: str) -> Any:
    config: Any = load_config(f"configs/demos/{name}.py")
    if config.data.tokenizer.startswith("runs/"):
        config.data.tokenizer = "bpe"  # of a run that is not here
    return config


def test_every_demo_has_a_config():
    sources = {choose_sources("x", config_of(name).data.source)[0].options["name"] for name in NAMES}
    assert sources == set(DEMOS) - {"sentences"}


@pytest.mark.parametrize("name", NAMES)
def test_a_config_fits_its_task(name: str):
    config = config_of(name)
    check_suits(config)
    make_model(config, make_mesh(MeshConfig(data=1, allow_idle=True)))
    make_optimizer(config)
    task = make_task(DataConfig.of(config.data))
    for key, split in (("source", "train"), ("valid_source", "valid")):
        (chosen,) = choose_sources(key, config.data[key])
        assert chosen.kind == "demo"
        assert chosen.options["name"] == name.partition("_")[0]  # as the Makefile has it for the test split
        assert chosen.options.get("split", "train") == split
        assert split in SPLITS
    assert task.scores or getattr(task, "metrics", "")
