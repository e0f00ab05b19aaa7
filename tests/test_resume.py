"""A run that was stopped and continued is the run that was not."""

import hashlib
import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from etils import epath
from ml_collections import ConfigDict

import train.loop
from train import fit
from train.inspect import describe
from train.metrics import read_metrics

ROOT = Path(__file__).parents[1]
TIMING = {"step_time", "tokens_per_second", "data_wait", "checkpoint_stall", "mfu"}


def curves(workdir: Path) -> list[dict[str, float]]:
    """What a run recorded, without what clocks decide."""
    return [{k: v for k, v in record.items() if k not in TIMING} for record in read_metrics(workdir)]


def facts(workdir: Path, config: ConfigDict) -> dict[str, str]:
    described = describe(config, epath.Path(workdir))
    return {key: described[key] for key in ("step", "data_position", "params_sha256", "opt_state_sha256")}


def test_ten_steps_equal_five_and_five_bitwise(config: ConfigDict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Batches, learning rate, dropout keys, parameters and moments; and no second compilation of the step."""
    config.model.dropout = 0.1
    config.train.update(checkpoint_every=5, eval_every=5)
    hashes: list[str] = []
    stop_at = 0
    make_batches = train.loop.make_batches

    def recording(*args, **kwargs) -> Iterator[dict[str, np.ndarray]]:
        for batch in make_batches(*args, **kwargs):
            if len(hashes) == stop_at:
                signal.raise_signal(signal.SIGTERM)  # as if it came during this step
            hashes.append(hashlib.sha256(b"".join(batch[name].tobytes() for name in sorted(batch))).hexdigest())
            yield batch

    monkeypatch.setattr(train.loop, "make_batches", recording)
    stop_at = -1
    assert fit(config, tmp_path / "whole")[:3] == (10, 0, 1)
    whole = hashes.copy()
    hashes.clear()
    stop_at = 4
    assert fit(config, tmp_path / "halves")[:3] == (5, signal.SIGTERM, 1)
    stop_at = -1
    assert fit(config, tmp_path / "halves")[:3] == (10, 0, 1)
    assert hashes == whole
    assert len(set(whole)) == 10
    assert curves(tmp_path / "whole") == curves(tmp_path / "halves")
    assert facts(tmp_path / "whole", config) == facts(tmp_path / "halves", config)


def command(config_file: Path, workdir: Path) -> list[str]:
    return [sys.executable, "-m", "train", "--config", str(config_file), "--workdir", str(workdir)]


def write_config(config: ConfigDict, path: Path) -> Path:
    path.write_text(json.dumps(config.to_dict()))
    return path


@pytest.fixture(scope="session")
def undisturbed(corpus_directory: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, float]:
    """A run of 40 steps in one go, as a process of its own: config file, workdir and seconds."""
    from tests.conftest import tiny_config

    config = tiny_config(corpus_directory)
    config.model.dropout = 0.1
    config.train.update(steps=40, checkpoint_every=7, eval_every=20, keep_checkpoints=2)
    directory = tmp_path_factory.mktemp("undisturbed")
    file = write_config(config, directory / "config.json")
    began = time.monotonic()
    subprocess.run(command(file, directory / "run"), check=True, capture_output=True, cwd=ROOT)
    return file, directory / "run", time.monotonic() - began


@pytest.mark.parametrize("moment", range(6))
def test_kill_at_a_random_moment_and_restart_changes_no_bit(undisturbed, tmp_path: Path, moment: int):
    file, reference, seconds = undisturbed
    # From a fifth of the run on: before that Python imports.
    delay = random.Random(moment).uniform(0.2, 1.0) * seconds
    process = subprocess.Popen(command(file, tmp_path), cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    time.sleep(delay)
    process.kill()
    process.wait()
    subprocess.run(command(file, tmp_path), check=True, capture_output=True, cwd=ROOT)
    config = ConfigDict(json.loads((reference / "config.json").read_text()))
    assert curves(tmp_path) == curves(reference)
    assert facts(tmp_path, config) == facts(reference, config)


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_signal_saves_and_leaves_and_the_same_command_continues(undisturbed, tmp_path: Path, signum: int):
    file, reference, _ = undisturbed
    process = subprocess.Popen(command(file, tmp_path), cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    wait_for(lambda: (tmp_path / "metrics.jsonl").exists() and len(read_metrics(tmp_path)) >= 3)
    process.send_signal(signum)
    _, errors = process.communicate(timeout=60)
    assert process.returncode in (128 + signum, 0), errors.decode()
    assert b"Traceback" not in errors
    if process.returncode:
        assert b"the same command continues" in errors
    subprocess.run(command(file, tmp_path), check=True, capture_output=True, cwd=ROOT)
    config = ConfigDict(json.loads((reference / "config.json").read_text()))
    assert curves(tmp_path) == curves(reference)
    assert facts(tmp_path, config) == facts(reference, config)


def wait_for(condition, seconds: float = 120.0) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "the run did not get that far"
        time.sleep(0.05)
