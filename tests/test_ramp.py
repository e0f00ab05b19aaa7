"""Batches that grow: literal phases, the same rows whatever the sizes, and a run that resumes within them."""

import signal
from pathlib import Path

import numpy as np
import pytest
from ml_collections import ConfigDict

import train.loop
from data import make_batches
from data.ramp import make_ramp
from parallel import abstract_mesh
from train import fit
from train.compose import check_mesh, make_model, rules_of, with_batch_size
from train.metrics import read_metrics


def test_phases_are_equal_parts_and_rows_follow_one_another():
    ramp = make_ramp("doubling,start=2,steps=7", 16)
    sizes = [2, 2, 4, 4, 8, 8, 8, 16, 16, 16]
    assert [ramp.size(step) for step in range(10)] == sizes
    assert [ramp.rows_before(step) for step in range(11)] == [0, 2, 4, 8, 12, 20, 28, 36, 52, 68, 84]
    assert ramp.sizes == (2, 4, 8, 16)


def test_without_one_all_batches_are_alike():
    ramp = make_ramp("", 5)
    assert [ramp.size(10**6), ramp.rows_before(10**6)] == [5, 5 * 10**6]


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("doubling,start=3,steps=9", r"start=3 does not become config.data.batch_size=40 by .* one of \[20, 10, 5\]"),
        ("doubling,start=40,steps=9", "start=40 does not become config.data.batch_size=40 by doubling"),
        ("doubling,start=10,steps=1", "steps=1 are too few for 2 sizes before .*batch_size=40; use at least 2"),
        ("doubling,start=5", "needs steps="),
        ("linear", "'linear' is not known; use one of doubling"),
    ],
)
def test_what_does_not_fit_is_an_error(text: str, error: str):
    with pytest.raises(ValueError, match=error):
        make_ramp(text, 40)


def test_an_odd_batch_size_has_no_ramp():
    with pytest.raises(ValueError, match=r"; use an even config.data.batch_size, or config.data.batch_ramp=''"):
        make_ramp("doubling,start=3,steps=3", 7)


def test_passes_take_no_more_rows_than_there_are(config: ConfigDict):
    """8 rows of each of two devices, in passes of 4; before, 1, 2 and 4."""
    mesh = abstract_mesh({"data": 2})
    config.data.update(batch_size=16, batch_ramp="doubling,start=2,steps=3")
    config.train.microbatch_rows = 4
    found = [with_batch_size(config, size, mesh).train.microbatch_rows for size in (2, 4, 8, 16)]
    assert found == [1, 2, 4, 4]
    assert config.train.microbatch_rows == 4
    check_mesh(config, mesh, make_model(config).config, rules_of(config))
    config.train.microbatch_rows = 3
    with pytest.raises(ValueError, match=r"^config.train.microbatch_rows=3 does not divide the 8 rows"):
        check_mesh(config, mesh, make_model(config).config, rules_of(config))
    config.data.update(batch_size=24, batch_ramp="doubling,start=6,steps=2")
    assert with_batch_size(config, 12, mesh).train.microbatch_rows == 3
    config.train.microbatch_rows = 0
    assert with_batch_size(config, 12, mesh).train.microbatch_rows == 0


def test_a_planner_may_check_many_meshes(config: ConfigDict, monkeypatch: pytest.MonkeyPatch):
    """Without a ramp nothing is copied, and no file is looked for."""
    monkeypatch.setattr("train.compose.with_batch_size", None)
    monkeypatch.setattr("train.compose.DataConfig", None)
    check_mesh(config, abstract_mesh({"data": 4}), make_model(config).config, rules_of(config))


def test_the_rows_are_those_of_batches_of_one_size(config: ConfigDict):
    """Read from any step, and by two hosts of half the rows each."""
    alike = make_batches(config.data, seed=3)
    rows = np.concatenate([next(alike)["inputs"] for _ in range(5)])
    config.data.batch_ramp = "doubling,start=2,steps=4"
    batches = make_batches(config.data, seed=3)
    grown = [next(batches)["inputs"] for _ in range(6)]
    assert [len(batch) for batch in grown] == [2, 2, 4, 4, 8, 8]
    np.testing.assert_array_equal(np.concatenate(grown), rows[:28])
    np.testing.assert_array_equal(next(make_batches(config.data, seed=3, start=3))["inputs"], grown[3])
    halves = [make_batches(config.data, seed=3, rows=lambda size, i=i: range(size)[i::2]) for i in (0, 1)]
    for batch in grown:
        for i in (0, 1):
            np.testing.assert_array_equal(next(halves[i])["inputs"], batch[i::2])


def test_a_run_grows_its_batches_and_resumes_within(
    config: ConfigDict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    config.data.batch_ramp = "doubling,start=4,steps=3"
    config.mesh.update(data=4, allow_idle=True)
    config.train.update(steps=5, microbatch_rows=2)  # of 2, or of 1
    whole = fit(config, tmp_path / "whole")
    assert whole.num_traces == 2
    original, seen = train.loop.make_batches, []

    def stopping(*args, **kwargs):
        for i, batch in enumerate(original(*args, **kwargs)):
            seen.append(len(batch["inputs"]))
            if i == 1 and not kwargs["start"]:
                signal.raise_signal(signal.SIGTERM)
            yield batch

    monkeypatch.setattr(train.loop, "make_batches", stopping)
    assert fit(config, tmp_path / "parts").signum == signal.SIGTERM
    assert fit(config, tmp_path / "parts").validation == whole.validation
    assert seen[:2] == [4, 4]
    losses = [[r["loss"] for r in read_metrics(tmp_path / name) if "loss" in r] for name in ("whole", "parts")]
    assert losses[0] == losses[1]


def test_a_size_that_the_mesh_does_not_divide_is_an_error_before_anything_runs(config: ConfigDict, tmp_path: Path):
    config.data.batch_ramp = "doubling,start=4,steps=3"
    with pytest.raises(ValueError, match=r"batch_ramp='doubling,start=4,steps=3' has batches of 4: .* the 8 shards"):
        fit(config, tmp_path / "run")
