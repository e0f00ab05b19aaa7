"""The notebooks run, and are committed without outputs."""

import json
from pathlib import Path
from typing import Any

import pytest
from ml_collections import ConfigDict

import configs.tiny

NOTEBOOKS = sorted(Path(__file__).parents[1].glob("notebooks/*.ipynb"))


def code_cells(notebook: Path) -> list[dict[str, Any]]:
    return [cell for cell in json.loads(notebook.read_text())["cells"] if cell["cell_type"] == "code"]


def test_there_is_a_tour():
    assert [path.name for path in NOTEBOOKS] == ["tour.ipynb"]


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.name)
def test_outputs_are_stripped(notebook: Path):
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code_cells(notebook))


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.name)
def test_notebook_runs_and_learns(
    notebook: Path, config: ConfigDict, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """On the tests' small model and corpus instead of the tiny run's."""
    monkeypatch.setattr(configs.tiny, "get_config", lambda: config)
    names: dict[str, Any] = {}
    for cell in code_cells(notebook):
        exec("".join(cell["source"]), names)
    first, *_, last = (float(loss) for loss in names["losses"])
    assert last < first
    assert f"loss {first:.2f} -> {last:.2f}" in capsys.readouterr().out
