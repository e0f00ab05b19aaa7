"""Batches and windows that grow: literal phases, the same rows whatever the sizes, and runs that resume within."""

import json
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ml_collections import ConfigDict

import train.compose
import train.loop
from data import make_batches
from data.ramp import make_ramp
from parallel import abstract_mesh, make_mesh, shard_batch
from train import fit, init_state, make_train_step
from train.compose import check_mesh, make_model, preflight, rules_of
from train.initial import adopt
from train.metrics import read_metrics
from train.stages import Growth, Stage, with_batch_size, with_stage


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


def test_windows_double_up_to_the_window_or_the_length(config: ConfigDict):
    """Each for an equal part of the steps; the last is that of the config, which evaluation and generation have."""
    config.data.seq_len = 64
    config.model.window_ramp = "doubling,start=8,steps=7"
    assert [Growth.of(config).at(step) for step in range(9)] == [
        *(Stage(8, window) for window in (8, 8, 16, 16, 32, 32, 32)),
        Stage(8, 0),
        Stage(8, 0),
    ]
    config.model.window = 16
    assert [Growth.of(config).at(step).window for step in (0, 6, 7, 10**6)] == [8, 8, 16, 16]
    config.data.batch_ramp = "doubling,start=2,steps=8"
    assert Growth.of(config).stages == {Stage(2, 8): 0, Stage(4, 8): 4, Stage(4, 16): 7, Stage(8, 16): 8}
    assert make_model(config).config.window == 16
    found = with_stage(config, Stage(4, 8), abstract_mesh()).to_dict()
    assert [found["data"]["batch_size"], found["model"]["window"], found["model"]["window_ramp"]] == [4, 8, ""]


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({}, r"window_ramp='doubling,start=5,steps=9': start=5 .* config.data.seq_len=32 by .* \[16, 8, 4, 2, 1\]"),
        ({"window": 12}, r"start=5 does not become config.model.window=12 by doubling; use one of \[6, 3\]"),
        ({"block": "lstm"}, r"does not go with config.model.block='lstm'; use config.model.window_ramp=''"),
        ({"position": "rope,local_theta=5"}, r"local_theta=5' and config.model.window=0; use .*window_ramp=''"),
    ],
)
def test_windows_that_do_not_fit_are_an_error(config: ConfigDict, changes: dict[str, Any], error: str):
    config.model.update(window_ramp="doubling,start=5,steps=9", **changes)
    config.mesh.update(data=1, allow_idle=True)
    with pytest.raises(ValueError, match=error):
        preflight(config, make_mesh(config.mesh))


def test_an_attention_that_has_no_window_is_refused_before_anything_runs(
    config: ConfigDict, monkeypatch: pytest.MonkeyPatch
):
    config.model.window_ramp = "doubling,start=16,steps=2"
    config.mesh.update(data=1, allow_idle=True)
    mesh, original = make_mesh(config.mesh), train.compose.attention_of

    def without_windows(config: Any, mesh: Any, model: Any = None) -> Any:
        if config.model.window:
            raise ValueError(f"config.model.window={config.model.window}")
        return original(config, mesh, model)

    monkeypatch.setattr("train.compose.attention_of", without_windows)
    with pytest.raises(ValueError, match=r"window_ramp='doubling,.*' has windows of 16: config.model.window=16"):
        preflight(config, mesh)


def test_a_run_grows_its_windows_as_steps_of_each_would_and_resumes_within(
    config: ConfigDict, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    """One step of 8 positions, two of 16, and one of all 32."""
    config.model.window_ramp = "doubling,start=8,steps=3"
    config.mesh.update(data=1, allow_idle=True)
    config.train.update(steps=4, checkpoint_every=1)
    whole = fit(config, tmp_path / "whole")
    assert "Window: 8 from step 0, 16 from step 1, all from step 3" in capsys.readouterr().err
    assert whole.num_traces == 3
    losses = [r["loss"] for r in read_metrics(tmp_path / "whole") if "loss" in r]
    mesh = make_mesh(config.mesh)
    state, expected = init_state(config, mesh), []
    batches = make_batches(config.data, seed=config.seed)
    for window in (8, 16, 16, 0):
        stage = with_stage(config, Stage(8, window), mesh)
        state, metrics = make_train_step(stage, mesh)(state, shard_batch(next(batches), mesh))
        expected.append(float(metrics["loss"]))
    assert losses == expected
    seen = []
    with pytest.MonkeyPatch.context() as patch:
        original = train.loop.make_batches

        def stopping(*args: Any, **kwargs: Any):
            for i, batch in enumerate(original(*args, **kwargs)):
                if i == 1 and not kwargs["start"]:
                    signal.raise_signal(signal.SIGTERM)
                seen.append(kwargs["start"])
                yield batch

        patch.setattr(train.loop, "make_batches", stopping)
        assert fit(config, tmp_path / "parts").signum == signal.SIGTERM
        again = fit(config, tmp_path / "parts")
    assert seen == [0, 0, 2, 2]
    assert again.num_traces == 2  # the windows of 16 and of all
    assert again.validation == whole.validation
    assert [r["loss"] for r in read_metrics(tmp_path / "parts") if "loss" in r] == losses


def test_a_new_run_does_not_take_over_how_windows_grew(config: ConfigDict, tmp_path: Path):
    config.model.window_ramp = "doubling,start=16,steps=1"
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "config.json").write_text(json.dumps(config.to_dict()))
    config.init_from = str(tmp_path)
    config.model.window_ramp = ""
    assert adopt(config).model.window_ramp == ""


def test_a_size_that_the_mesh_does_not_divide_is_an_error_before_anything_runs(config: ConfigDict, tmp_path: Path):
    config.data.batch_ramp = "doubling,start=4,steps=3"
    with pytest.raises(ValueError, match=r"batch_ramp='doubling,start=4,steps=3' has batches of 4: .* the 8 shards"):
        fit(config, tmp_path / "run")
