"""The best checkpoint is kept and used, and training ends when no better one comes; restarts change nothing."""

import json
import math
import shutil
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import pytest
from etils import epath
from ml_collections import ConfigDict

import train.inspect
from tests.conftest import tiny_config
from tests.helpers import command
from train import fit
from train.best import Best
from train.checkpoint import Checkpoints
from train.metrics import read_metrics


def seen(config: ConfigDict, text: str, values: list[float]) -> Best:
    config.train.update(best=text, eval_every=1)
    best = Best.of(config)
    for step, value in enumerate(values, 1):
        best.see(step, {best.metric: value})
    return best


@pytest.mark.parametrize(
    ("text", "values", "expected"),
    [
        ("loss", [3.0, 2.0, 2.0, 2.5], (2, 2.0, 2, False)),
        ("accuracy", [0.5, 0.7, 0.6], (2, 0.7, 1, False)),
        ("loss,mode=max", [3.0, 2.0, 4.0], (3, 4.0, 0, False)),
        ("loss,patience=2", [3.0, 2.0, 2.0], (2, 2.0, 1, False)),
        ("loss,patience=2", [3.0, 2.0, 2.0, 2.5], (2, 2.0, 2, True)),
        ("loss,patience=1", [math.nan, 3.0, math.nan], (2, 3.0, 1, True)),
    ],
)
def test_the_first_of_the_best_counts(config: ConfigDict, text: str, values: list[float], expected: Any):
    best = seen(config, text, values)
    assert (best.step, best.value, best.worse, best.has_ended) == expected


def test_an_evaluation_without_the_figure_is_no_better_one(config: ConfigDict):
    """A few batches may have none of a kind of entities, and so no F1 of it."""
    config.train.update(best="f1_PER,patience=2", eval_every=1)
    best = Best.of(config)
    for step, values in enumerate([{"loss": 1.0}, {"loss": 1.0, "f1_PER": 0.5}, {"loss": 0.9}], 1):
        best.see(step, values)
    assert (best.step, best.value, best.worse) == (2, 0.5, 1)


def test_nothing_is_chosen_without_a_metric(config: ConfigDict):
    best = Best.of(config)
    best.see(1, {"loss": 1.0})
    assert (best.step, best.facts, best.has_ended) == (None, {}, False)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("loss,mode=most", "config.train.best='loss,mode=most': mode must be one of min, max"),
        ("loss,steps=3", "'steps' is no option of 'loss'; it has mode=..., patience=..."),
        ("loss", "chooses among evaluations: config.train.eval_every=0 must be above 0"),
    ],
)
def test_wrong_values_are_errors(config: ConfigDict, tmp_path: Path, text: str, message: str):
    config.train.update(best=text)
    with pytest.raises(ValueError, match=message):
        fit(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


# What is chosen by at each step: the second evaluation is the best, and the fourth no better.
LOSSES = {2: 3.0, 4: 2.0, 6: 2.5, 8: 2.0, 9: 1.0, 10: 0.5, 12: 0.1}


def choosing(directory: Path, monkeypatch: pytest.MonkeyPatch, **fields: Any) -> ConfigDict:
    """A config whose run takes its evaluations to be `LOSSES`."""
    config = tiny_config(directory)
    config.train.update(steps=12, eval_every=2, checkpoint_every=100, keep_checkpoints=1, eval_batches=2)
    config.train.update(fields)
    config.mesh.update(data=1, allow_idle=True)
    config.sample.prompts = ()
    see = Best.see
    monkeypatch.setattr(Best, "see", lambda self, step, values: see(self, step, values | {"loss": LOSSES[step]}))
    return config


@pytest.fixture
def ended(corpus_directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[ConfigDict, Path]:
    config = choosing(corpus_directory, monkeypatch, best="loss,patience=2")
    assert fit(config, tmp_path / "run")[:3] == (8, 0, 1)
    return config, tmp_path / "run"


def kept(workdir: Path) -> set[str]:
    return {path.name for path in (workdir / "checkpoints").iterdir() if path.is_dir()}


TIMING = {"step_time", "tokens_per_second", "data_wait", "checkpoint_stall"}


def curves(workdir: Path) -> list[dict[str, float]]:
    return [{k: v for k, v in record.items() if k not in TIMING} for record in read_metrics(workdir)]


def test_training_ends_early_and_the_best_checkpoint_is_used(
    ended: tuple[ConfigDict, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    _, workdir = ended
    assert kept(workdir) == {"4", "8"}
    last = read_metrics(workdir)[-1]
    assert (last["step"], last["best_step"]) == (8, 4)
    assert [r["step"] for r in read_metrics(workdir) if "valid_loss" in r] == [2, 4, 6, 8]
    capsys.readouterr()
    command("evaluate")([f"--workdir={workdir}"])
    printed = json.loads(capsys.readouterr().out)
    assert printed["step"] == 4
    assert printed["loss"] == pytest.approx(last["best_loss"], rel=1e-6)
    train.inspect.main([f"--workdir={workdir}"])
    described = json.loads(capsys.readouterr().out)
    assert (described["step"], described["best_step"]) == (8, 4)
    command("generate")([f"--workdir={workdir}", "--prompt=the"])
    assert "step 4" in capsys.readouterr().err


def test_a_restart_goes_on_as_if_it_had_not_stopped(ended: tuple[ConfigDict, Path], tmp_path: Path):
    """After each evaluation: what is best, and when to end, is known again."""
    config, workdir = ended
    expected = curves(workdir)
    assert fit(config, workdir)[:3] == (8, 0, 0)
    assert curves(workdir) == expected
    shutil.copytree(workdir, tmp_path / "again")
    shutil.rmtree(tmp_path / "again/checkpoints/8")
    assert fit(config, tmp_path / "again")[:3] == (8, 0, 1)
    assert curves(tmp_path / "again") == expected
    assert kept(tmp_path / "again") == {"4", "8"}


def test_the_last_step_is_chosen_from_too(corpus_directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    config = choosing(corpus_directory, monkeypatch, best="loss", steps=10, eval_every=9)
    for num_traces in (1, 0):  # and a finished run started again leaves its record as it was
        assert fit(config, tmp_path)[:3] == (10, 0, num_traces)
        records = [record for record in read_metrics(tmp_path) if {"valid_loss", "best_loss"} & record.keys()]
        evaluated = [(record["step"], record.get("best_step")) for record in records]
        assert evaluated == [(9, None), (10, None), (10, 10)]
    assert kept(tmp_path) == {"10"}


def test_an_unknown_metric_is_an_error_before_the_first_step(config: ConfigDict, tmp_path: Path):
    config.train.update(best="accuracy", eval_every=2)
    with pytest.raises(ValueError, match=r"config.train.best='accuracy' is no metric here; use one of loss, p"):
        fit(config, tmp_path)
    assert kept(tmp_path) == set()


def test_facts_of_a_checkpoint_are_those_that_were_saved(tmp_path: Path):
    checkpoints = Checkpoints(epath.Path(tmp_path), keep=1)
    best = {"metric": "loss", "step": 1, "value": 0.1, "worse": 0}
    checkpoints.best = 1
    checkpoints.save(1, facts={"best": best}, params={"w": jnp.zeros(3)})
    checkpoints.save(2, params={"w": jnp.zeros(3)})
    checkpoints.save(3, params={"w": jnp.zeros(3)})
    checkpoints.wait()
    assert (checkpoints.has(1), checkpoints.has(2), checkpoints.has(3)) == (True, False, True)
    assert checkpoints.facts(1) == {"best": best}
    assert checkpoints.facts(3) == {}
    checkpoints.close()
