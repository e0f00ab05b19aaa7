"""The README says what is true: its code blocks run, and are as short as they claim to be."""

import re
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ml_collections import ConfigDict

import configs.tiny
import data.augment
import data.sources
import train.objective
import train.optimizer
from data import TASKS
from train import fit

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
BLOCKS = {
    name: block
    for block in re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    for name in ("get_config()\nmesh", "def get_config", "def _belief", "def focal_lm", "def paragraphs", "def shout")
    if name in block
}


def extend(monkeypatch: pytest.MonkeyPatch, module: Any, block: str, table: str) -> None:
    """Runs a block as if it stood at the end of the module, and takes its row out of the table afterwards."""
    monkeypatch.setattr(module, table, dict(getattr(module, table)))
    exec(block, vars(module))


def code_lines(block: str) -> int:
    return len([line for line in block.splitlines() if line.strip()])


def test_each_addition_is_under_15_lines():
    additions = [block for block in BLOCKS.values() if "for batch in" not in block]
    assert len(additions) == 5
    assert max(map(code_lines, additions)) < 15


def test_notebook_snippet_runs(config: ConfigDict, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(configs.tiny, "get_config", lambda: config)
    names: dict[str, Any] = {}
    exec(BLOCKS["get_config()\nmesh"], names)
    assert int(names["state"].step) == 1


def test_a_config_is_a_delta(tmp_path: Path):
    from data.command_line import load_config

    (tmp_path / "wide.py").write_text(BLOCKS["def get_config"])
    assert load_config(tmp_path / "wide.py").model.d_model == 512


def test_an_optimizer_is_a_function_and_a_row(config: ConfigDict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    extend(monkeypatch, train.optimizer, BLOCKS["def _belief"], "OPTIMIZERS")
    config.optimizer.name = "belief,b2=0.99"
    assert fit(config, tmp_path / "run").validation["loss"] < 5.7


def test_an_objective_is_a_function_and_a_row(config: ConfigDict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    extend(monkeypatch, train.objective, BLOCKS["def focal_lm"], "OBJECTIVES")
    config.train.objective = "focal_lm"
    assert fit(config, tmp_path / "run").validation["loss"] < 5.7


def test_a_source_is_a_function_and_a_row(config: ConfigDict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    extend(monkeypatch, data.sources, BLOCKS["def paragraphs"], "SOURCES")
    config.data.update(source=config.data.source.replace("text", "paragraphs", 1), dir=str(tmp_path / "prepared"))
    assert fit(config, tmp_path / "run").step == 10


def test_an_augmentation_is_a_function_and_a_row(monkeypatch: pytest.MonkeyPatch):
    extend(monkeypatch, data.augment, BLOCKS["def shout"], "AUGMENTATIONS")
    change = data.augment.make_augmentation(("shout,rate=1.0",), ("text",), task="classification")
    example = change({"text": "hush", "label": "calm"}, np.random.default_rng(0))
    assert example == {"text": "HUSH", "label": "calm"}


def test_every_task_is_in_the_table():
    table = README.split("## Tasks")[1].split("##")[0]
    assert all(f"`{task}" in table for task in TASKS)


def test_every_command_of_the_table_exists():
    for module in re.findall(r"^\| `python -m ([\w.]+) ", README, re.MULTILINE):
        source = ROOT / (module.replace(".", "/") + ".py")
        package = ROOT / module / "__main__.py"
        text = (source if source.exists() else package).read_text()
        assert re.search(r'if __name__ == "__main__":\n    .*\bmain\b', text), module


def test_at_most_14_direct_dependencies_each_pinned_for_both_pythons():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    names = [re.split(r"[\[<>=]", dependency)[0] for dependency in project["dependencies"]]
    assert len(names) <= 14
    for version in ("311", "312"):
        lines = (ROOT / f"constraints/py{version}.txt").read_text().lower().replace("_", "-").splitlines()
        assert all(re.fullmatch(r"[\w.-]+==[\w.+]+", line) for line in lines)
        pinned = {line.split("==")[0] for line in lines}
        assert {name.lower().replace("_", "-") for name in names} <= pinned


def test_every_pinned_jax_is_the_one_its_python_can_have():
    assert "jax==0.10.2" in (ROOT / "constraints/py311.txt").read_text().splitlines()
    assert "jax==0.11.2" in (ROOT / "constraints/py312.txt").read_text().splitlines()
