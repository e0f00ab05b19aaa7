"""A whole run and the commands that use it."""

import json
import math
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from etils import epath
from ml_collections import ConfigDict
from tensorboardX.proto.event_pb2 import Event

import train.generate
import train.inspect
import train.metrics
import train.report
from data import prepare
from parallel import MeshConfig, make_mesh
from tests.helpers import command
from train import evaluate, fit, init_state, make_model
from train.inspect import tree_sha256
from train.metrics import Recorder, read_metrics

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def finished(corpus_directory: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.conftest import tiny_config

    config = tiny_config(corpus_directory)
    config.train.update(steps=12, log_every=2, eval_every=4, checkpoint_every=3, keep_checkpoints=2, keep_every=6)
    workdir = tmp_path_factory.mktemp("finished") / "run"
    result = fit(config, workdir)
    assert result[:3] == (12, 0, 1)
    return workdir


def records(workdir: Path, name: str) -> dict[int, float]:
    return {record["step"]: record[name] for record in read_metrics(workdir) if name in record}


def test_metrics_have_every_promised_figure_at_the_promised_steps(finished: Path):
    for name in (
        "loss",
        "learning_rate",
        "grad_norm",
        "tokens_per_second",
        "step_time",
        "data_wait",
        "checkpoint_stall",
    ):
        assert sorted(records(finished, name)) == [2, 4, 6, 8, 10, 12], name
    for name in ("valid_loss", "valid_bits_per_byte", "valid_perplexity", "valid_tokens"):
        assert sorted(records(finished, name)) == [4, 8, 12], name
    loss = records(finished, "loss")
    assert loss[12] < loss[2] < math.log(300) + 0.1
    assert all(wait >= 0 for wait in records(finished, "data_wait").values())
    assert max(records(finished, "checkpoint_stall").values()) > 0


def test_tensorboard_events_hold_the_same_curve(finished: Path):
    (file,) = (finished / "tensorboard").iterdir()
    data, scalars = file.read_bytes(), {}
    while data:  # TFRecord: length, its checksum, the event, its checksum
        length = int.from_bytes(data[:8], "little")
        event = Event.FromString(data[12 : 12 + length])
        scalars |= {(value.tag, event.step): value.simple_value for value in event.summary.value}
        data = data[16 + length :]
    for step, loss in records(finished, "loss").items():
        assert scalars["loss", step] == pytest.approx(loss, rel=1e-6)
    assert scalars["valid_loss", 12] == pytest.approx(records(finished, "valid_loss")[12], rel=1e-6)


def test_newest_checkpoints_are_kept_and_those_for_good(finished: Path):
    kept = {path.name for path in (finished / "checkpoints").iterdir() if path.is_dir()}
    assert kept == {"6", "9", "12"}


def test_a_finished_run_started_again_only_evaluates(finished: Path, corpus_directory: Path):
    from data.command_line import load_config

    before = read_metrics(finished)
    result = fit(load_config(finished / "config.json"), finished)
    assert result[:3] == (12, 0, 0)
    assert read_metrics(finished) == before


def test_evaluate_command_gives_the_figures_of_the_run(finished: Path, capsys: pytest.CaptureFixture[str]):
    command("evaluate")([f"--workdir={finished}"])
    printed = json.loads(capsys.readouterr().out)
    assert printed["step"] == 12
    assert printed["bits_per_byte"] == pytest.approx(records(finished, "valid_bits_per_byte")[12], rel=1e-6)
    assert set(printed["compressed_bits_per_byte"]) == {"gzip", "xz"}


def test_a_run_of_a_version_without_a_field_that_is_read_is_one_line(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    from data.command_line import run_main

    shutil.copytree(finished, tmp_path / "run")
    fields = json.loads((finished / "config.json").read_text())
    del fields["model"]["attention"], fields["train"]["log_every"]  # nothing reads the second to evaluate
    (tmp_path / "run" / "config.json").write_text(json.dumps(fields))
    monkeypatch.setattr(sys, "argv", ["train.evaluate", f"--workdir={tmp_path / 'run'}"])
    monkeypatch.delenv("PALMETTE_TRACEBACK", raising=False)
    with pytest.raises(SystemExit) as stop:
        run_main(command("evaluate"))
    assert stop.value.code == 2
    said = "error: the config is of a run of another version: it has no field 'attention'\n"
    assert capsys.readouterr().err == said


def test_evaluation_does_not_depend_on_batch_size_or_devices(config: ConfigDict):
    """Every target once, with the same weight: to the last bits of float32 sums."""
    one, eight = make_mesh(MeshConfig(data=1), devices=jax.devices()[:1]), make_mesh(MeshConfig(data=4, tensor=2))
    params = init_state(config, one).params
    values = []
    for batch_size, mesh in ((8, one), (3, one), (1, one), (16, eight)):
        config.data.batch_size = batch_size
        placed = params if mesh is one else init_state(config, eight).params
        values.append(evaluate(config, placed, mesh))
    metadata = prepare(config.data).metadata["splits"]["valid"]
    for value in values:
        assert value["tokens"] == metadata["tokens"] - metadata["documents"]
        assert value["loss"] == pytest.approx(values[0]["loss"], rel=1e-6)
        assert value["bits_per_byte"] == pytest.approx(
            value["loss"] * value["tokens"] / math.log(2) / metadata["bytes"], rel=1e-6
        )


def test_generate_command_continues_the_prompt_and_repeats_with_the_seed(
    finished: Path, capsys: pytest.CaptureFixture[str]
):
    texts = []
    for seed in (0, 0, 1):
        arguments = [f"--workdir={finished}", "--prompt", "the tok", f"--config.seed={seed}"]
        if seed:
            arguments[-1] = "--config.sample.strategy=greedy"
        train.generate.main(arguments)
        texts.append(capsys.readouterr().out)
    assert all(text.startswith("the tok") for text in texts)
    assert texts[0] == texts[1] != texts[2]


def test_inspect_command_describes_the_checkpoint(finished: Path, capsys: pytest.CaptureFixture[str]):
    train.inspect.main([f"--workdir={finished}"])
    described = json.loads(capsys.readouterr().out)
    assert described["step"] == 12
    assert described["data_position"] == {"seed": 0, "next_example": 96}
    assert described["params"]["layers/attention/w_q"] == "float32[2,32,4,8]"
    assert sum(math.prod(map(int, text[8:-1].split(","))) for text in described["params"].values()) == 26784
    assert described["num_params"] == 26784
    assert described["config"]["train"]["steps"] == 12
    assert len(described["params_sha256"]) == 64
    assert described["params_sha256"] != described["opt_state_sha256"]


def test_tree_hash_sees_names_shapes_dtypes_and_values():
    one = np.arange(4, dtype=np.float32)
    trees = [{"a": one}, {"b": one}, {"a": one.reshape(2, 2)}, {"a": one.astype(np.int32)}, {"a": one + 1}]
    assert len({tree_sha256(jax.tree.map(jax.numpy.asarray, tree)) for tree in trees}) == 5


def test_report_command_draws_the_curve(finished: Path, tmp_path: Path):
    train.report.main([f"--workdir={finished}", f"--output={tmp_path / 'curve.svg'}"])
    picture = (tmp_path / "curve.svg").read_text()
    assert picture.startswith("<?xml")
    assert picture.count("<path") > 20
    other = f"--beside={finished}"
    train.report.main([f"--workdir={finished}", f"--output={tmp_path / 'two.svg'}", other])
    assert len((tmp_path / "two.svg").read_text()) > len(picture)
    with pytest.raises(ValueError, match=r"--metric=f1 is not recorded; there are loss, perplexity, tokens"):
        train.report.main([f"--workdir={finished}", f"--output={tmp_path / 'no.svg'}", "--metric=f1"])
    with pytest.raises(ValueError, match="--over=years is not known; use tokens or minutes"):
        train.report.main([f"--workdir={finished}", f"--output={tmp_path / 'no.svg'}", "--over=years"])


def test_curves_over_tokens_and_minutes():
    config = ConfigDict({"data": {"batch_size": 4, "batch_ramp": "", "seq_len": 250}})
    steps = [{"step": 2, "loss": 3.0, "step_time": 30.0}, {"step": 4, "loss": 2.0, "step_time": 60.0}]
    curves = train.report.Curves(config, [*steps, {"step": 4, "valid_loss": 2.5}])
    assert curves.points("loss") == ([0.002, 0.004], [3.0, 2.0])
    assert curves.points("loss", "minutes") == ([1.0, 3.0], [3.0, 2.0])
    assert curves.points("valid_loss", "minutes") == ([3.0], [2.5])


@pytest.mark.parametrize("name", ["evaluate", "generate", "inspect", "report"])
def test_commands_need_a_run(tmp_path: Path, name: str):
    extra = {"generate": ["--prompt=x"], "report": ["--output=x.svg"]}.get(name, [])
    main = command(name)
    with pytest.raises(ValueError, match="holds no run"):
        main([f"--workdir={tmp_path}", *extra])


def test_a_restored_model_of_another_shape_is_refused(finished: Path):
    with pytest.raises(ValueError, match=r"(?s)other values of.*config\.model\.d_model: 32 there, 64 now"):
        train.inspect.main([f"--workdir={finished}", "--config.model.d_model=64"])


def test_recorder_reports_mfu_where_the_peak_is_known(tmp_path: Path):
    with Recorder(epath.Path(tmp_path), start=0, num_steps=1, tokens_per_row=5, peak=1e12, writes=True) as recorder:
        recorder.count_step(rows=2, flops_per_row=5e8, data_wait=9.0)  # compiles: left out
        recorder.count_step(rows=2, flops_per_row=5e8, data_wait=0.5)
        recorder.train(1, {"loss": jax.numpy.float32(1.0)})
    (record,) = read_metrics(tmp_path)
    assert record["mfu"] == pytest.approx(1e9 / record["step_time"] / 1e12)
    assert record["data_wait"] == 0.5
    assert record["tokens_per_second"] == pytest.approx(10 / record["step_time"])


def test_metrics_of_a_step_are_fetched_only_when_the_next_are_due(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Fetched at once, they would hold up the dispatch of the steps that follow."""
    fetched = []
    monkeypatch.setattr(train.metrics, "to_host", lambda metrics: fetched.append(metrics) or metrics)
    with Recorder(epath.Path(tmp_path), start=0, num_steps=2, tokens_per_row=1, peak=None, writes=True) as recorder:
        recorder.train(1, {"loss": 1.0})
        assert fetched == []
        recorder.train(2, {"loss": 2.0})
        assert fetched == [{"loss": 1.0}]
    assert fetched == [{"loss": 1.0}, {"loss": 2.0}]


def test_half_a_line_left_by_a_kill_is_dropped(tmp_path: Path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss": 2.0}\n{"step": 2, "lo')
    assert read_metrics(tmp_path) == [{"step": 1, "loss": 2.0}]


def test_training_process_never_imports_tensorflow(config: ConfigDict, tmp_path: Path):
    """Neither to prepare the data nor to train, save and evaluate."""
    config.data.dir = str(tmp_path / "prepared")
    config.train.steps = 3
    (tmp_path / "config.json").write_text(json.dumps(config.to_dict()))
    program = (
        "import sys; from train.__main__ import main;"
        f"main(['--config={tmp_path}/config.json', '--workdir={tmp_path}/run']);"
        "sys.exit(any(name == 'tensorflow' or name.startswith('tensorflow.') for name in sys.modules))"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT)
    assert result.returncode == 0, result.stderr
    assert "bits per byte" in result.stdout


def test_workdir_may_be_relative(config: ConfigDict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    config.train.steps = 3
    assert fit(config, "runs/relative").step == 3
    assert fit(config, "runs/relative")[:3] == (3, 0, 0)


def test_model_of_a_config_uses_its_vocabulary_and_length(config: ConfigDict):
    assert make_model(config).config.vocab_size == 300
    assert make_model(config).config.padded_vocab_size == 384
    assert make_model(config).config.max_length == 32


@pytest.mark.parametrize(
    "module",
    [
        "train",
        "train.compile",
        "train.convert",
        "train.evaluate",
        "train.generate",
        "train.inspect",
        "train.report",
        "data.prepare",
    ],
)
def test_help_shows_an_example_and_nothing_else(module: str):
    command = [sys.executable, "-W", "error", "-m", module, "--help"]
    result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert f"python -m {module}" in result.stdout
    assert "--config.path.to.field=value" in result.stdout
    assert (result.returncode, result.stderr) == (0, "")
