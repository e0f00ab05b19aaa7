"""Distillation: the loss against NumPy, sums that meshes do not change, and a student that outlives its teacher."""

import functools
import json
import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from etils import epath
from ml_collections import ConfigDict

import train.convert
import train.inspect
from model import count_params, forward_flops
from parallel import AXES, MeshConfig, make_mesh, parse_machine, shard_batch
from tests.conftest import tiny_config
from tests.helpers import command, leaf_errors, one_device, uneven_batch
from tests.task_cases import TRAINED
from train import evaluate, fit, make_model, make_train_step
from train.distill import check_same_meaning, soft_cross_entropy
from train.initial import first_state
from train.layout import Layout
from train.memory import logits_bytes
from train.metrics import read_metrics
from train.parameters_of_run import own_config, read_model
from train.state import model_params
from train.step_time import estimate_time
from train.workdir import write_tokenizer
from train.workload import workload_of


def tiny_run(directory: Path) -> ConfigDict:
    config = tiny_config(directory)
    config.model.update(activation="swiglu", num_kv_heads=4)  # as a Llama
    config.optimizer.update(warmup_steps=0, name="adamw,eps=1e-2", clip_norm=0.0, weight_decay=0.0)
    config.train.update(steps=4, checkpoint_every=2)
    config.mesh.update(data=1, allow_idle=True)
    config.sample.prompts = ()
    return config


@pytest.fixture(scope="module")
def teacher(corpus_directory: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a wider model, whose vocabulary is padded otherwise."""
    config = tiny_run(corpus_directory)
    config.model.update(d_model=48, d_mlp=32, vocab_multiple=64)
    directory = tmp_path_factory.mktemp("teacher")
    fit(config, directory)
    return directory


def student(directory: Path, teacher: Path, options: str = "") -> ConfigDict:
    config = tiny_run(directory)
    config.train.objective = f"distill,teacher={teacher}{options}"
    return config


HIDDEN = ",temperature=3,weight=0.7,hidden=0.5"


def test_soft_cross_entropy_is_t_squared_times_the_divergence():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 5, 7)), 3 * rng.normal(size=(2, 5, 7))
    x[0, 0, :3] = y[0, 0, :3] = -1e30  # padding of a vocabulary
    q, p = (np.exp(z / 2.5) / np.exp(z / 2.5).sum(-1, keepdims=True) for z in (x, y))
    expected = 2.5**2 * np.where(p > 0, p * np.log(np.maximum(p, 1e-300) / np.maximum(q, 1e-300)), 0).sum(-1)
    np.testing.assert_allclose(soft_cross_entropy(x, y, temperature=2.5), expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(soft_cross_entropy(y, y, temperature=2.5), 0, atol=1e-6)


@functools.cache
def steps(directory: Path, teacher: Path, options: str, num: int = 1, axes: Any = (), rows: int = 0) -> Any:
    """Config, first state, last state and metrics, and how often the step was traced."""
    config = student(directory, teacher, options)
    config.mesh.update(dict(axes))
    config.train.microbatch_rows = rows
    mesh = make_mesh(MeshConfig(**dict(axes))) if axes else one_device()
    traces: list[int] = []
    step = make_train_step(config, mesh, on_trace=lambda: traces.append(1))
    state, metrics = first_state(config, mesh), {}
    first = jax.device_get(state)
    for _ in range(num):
        leaves = jax.tree.leaves(state)
        state, metrics = step(state, shard_batch(uneven_batch(config), mesh))
    assert num == 1 or all(leaf.is_deleted() for leaf in leaves)
    return config, first, jax.device_get(state), jax.device_get(metrics), len(traces)


def softmax(logits: np.ndarray) -> np.ndarray:
    exp = np.exp(logits - logits.max(-1, keepdims=True))
    return exp / exp.sum(-1, keepdims=True)


def test_the_loss_is_the_weighted_sum_of_its_parts(corpus_directory: Path, teacher: Path):
    """Computed again in NumPy from what both models say, over the real vocabulary and the tokens that count."""
    config, first, _, metrics, _ = steps(corpus_directory, teacher, HIDDEN, 2)
    first_metrics = steps(corpus_directory, teacher, HIDDEN)[3]
    batch = uneven_batch(config)
    mesh = one_device()
    theirs = own_config(epath.Path(teacher), config)
    said = []
    for c, params in (
        (config, model_params(config, first)),
        (theirs, read_model(theirs, epath.Path(teacher), mesh)[0]),
    ):
        where = {"positions_BT": batch["positions"], "segment_ids_BT": batch["segment_ids"]}
        outputs: Any = make_model(c).apply({"params": params}, batch["inputs"], **where, want="all")
        said.append({name: np.asarray(outputs[name], np.float64) for name in ("logits", "hidden")})
    (ours, theirs), weights = said, batch["weights"]
    q, p = (softmax(output["logits"][..., :300] / 3) for output in said)
    soft = 9 * (p * np.log(p / q)).sum(-1)
    hard = -np.log(np.take_along_axis(softmax(ours["logits"]), batch["targets"][..., None], -1)[..., 0])
    projection = np.asarray(first.params["distill"]["projection"], np.float64)
    assert projection.shape == (32, 48)
    error = np.square(ours["hidden"] @ projection - theirs["hidden"]).mean(-1)
    mean = functools.partial(np.average, weights=weights)
    assert first_metrics["soft"] == pytest.approx(mean(soft), rel=1e-4)
    assert first_metrics["hidden"] == pytest.approx(mean(error), rel=1e-4)
    assert first_metrics["nll"] == pytest.approx(mean(hard), rel=1e-5)
    assert first_metrics["loss"] == pytest.approx(mean(0.7 * soft + 0.3 * hard + 0.5 * error), rel=1e-5)
    assert metrics["loss"] < first_metrics["loss"]


def test_the_teacher_keeps_its_bits_and_the_projection_learns(corpus_directory: Path, teacher: Path):
    _, first, last, *_ = steps(corpus_directory, teacher, HIDDEN, 2)
    before, after = jax.tree.leaves(first.fixed["teacher"]), jax.tree.leaves(last.fixed["teacher"])
    assert all(a.tobytes() == b.tobytes() for a, b in zip(before, after, strict=True))
    assert np.any(first.params["distill"]["projection"] != last.params["distill"]["projection"])


@pytest.mark.parametrize(
    ("axes", "rows"),
    [
        ((("data", 2), ("fsdp", 2), ("tensor", 2)), 1),
        ((("data", 1), ("stage", 2), ("fsdp", 2), ("tensor", 2)), 2),
        ((("data", 2), ("context", 4)), 0),
    ],
    ids=["data fsdp tensor", "stage fsdp tensor", "context"],
)
def test_microbatches_and_devices_do_not_change_it(corpus_directory: Path, teacher: Path, axes: Any, rows: int):
    *_, one, metrics, _ = steps(corpus_directory, teacher, HIDDEN, 2)
    *_, eight, eight_metrics, traces = steps(corpus_directory, teacher, HIDDEN, 2, axes, rows)
    for name in ("loss", "soft", "hidden", "nll", "grad_norm"):
        assert eight_metrics[name] == pytest.approx(metrics[name], rel=1e-4), name
    assert max(leaf_errors(eight.params, one.params).values()) < 1e-3
    assert traces == 1


def test_without_weight_it_is_the_objective_itself(config: ConfigDict, corpus_directory: Path, teacher: Path):
    metrics = steps(corpus_directory, teacher, ",weight=0")[3]
    assert metrics["loss"] == metrics["nll"]
    assert metrics["soft"] > 0


@pytest.fixture
def distilled(corpus_directory: Path, teacher: Path, tmp_path: Path) -> tuple[ConfigDict, Path]:
    """A student with adapters, and what remains of it without its teacher."""
    shutil.copytree(teacher, tmp_path / "teacher")
    config = student(corpus_directory, tmp_path / "teacher", HIDDEN)
    config.train.parameters = "frozen,names=embedding"
    fit(config, tmp_path / "student")
    return config, tmp_path / "student"


def test_a_student_outlives_its_teacher(
    distilled: tuple[ConfigDict, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    config, workdir = distilled
    capsys.readouterr()
    train.inspect.main([f"--workdir={workdir}"])
    expected = json.loads(capsys.readouterr().out)
    assert expected["trained_params"].keys() - expected["params"].keys() == {"distill/projection"}
    shutil.copytree(workdir, tmp_path / "again")
    shutil.rmtree(tmp_path / "again/checkpoints/4")
    assert fit(config, tmp_path / "again")[:3] == (4, 0, 1)
    capsys.readouterr()
    train.inspect.main([f"--workdir={tmp_path / 'again'}"])
    again = json.loads(capsys.readouterr().out)
    assert all(again[key] == expected[key] for key in ("params_sha256", "opt_state_sha256"))

    shutil.rmtree(tmp_path / "teacher")
    command("evaluate")([f"--workdir={workdir}"])
    figures = json.loads(capsys.readouterr().out)
    last = [record for record in read_metrics(workdir) if "valid_loss" in record][-1]
    assert figures["loss"] == pytest.approx(last["valid_loss"], rel=1e-6)
    train.convert.main(["export", str(tmp_path / "out"), f"--workdir={workdir}"])
    with pytest.raises(ValueError, match="teacher holds no run and no imported model with checkpoints"):
        fit(config, tmp_path / "again")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("distill", "needs the workdir of a run or of an imported model, as in 'distill,teacher=runs/large'"),
        ("distill,teacher=/nowhere", "/nowhere holds no run and no imported model with checkpoints"),
        ("distill,teacher={},weight=2", "weight from 0 to 1"),
        ("distill,teacher={},softness=2", "'softness' is no option of 'distill'"),
        ("distill,teacher={},base=none", "config.train.objective='none': 'none' is not known"),
    ],
)
def test_wrong_options_are_errors(config: ConfigDict, teacher: Path, tmp_path: Path, options: str, message: str):
    config.train.objective = options.format(teacher)
    with pytest.raises(ValueError, match=message):
        fit(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_teacher_of_classes_in_another_order_is_an_error(config: ConfigDict, tmp_path: Path):
    write_tokenizer(epath.Path(tmp_path), TRAINED)
    (tmp_path / "corpus.json").write_text(json.dumps({"labels": ["positive", "negative"]}))
    config.data.task = "classification"
    config.train.objective = f"distill,teacher={tmp_path}"
    check_same_meaning(config, TRAINED.sha256, ["positive", "negative"])
    message = r"classes are positive, negative, those of the data negative, positive; .*labels=positive/negative'"
    with pytest.raises(ValueError, match=message):
        check_same_meaning(config, TRAINED.sha256, ["negative", "positive"])


def test_a_teacher_of_other_tokens_is_an_error(config: ConfigDict, teacher: Path, tmp_path: Path):
    config.train.objective = f"distill,teacher={teacher}"
    config.data.tokenizer = "unigram"
    with pytest.raises(ValueError, match=r"another tokenizer than the data; use config.data.tokenizer="):
        fit(config, tmp_path / "run")
    config.data.vocab_size = 301
    with pytest.raises(ValueError, match=r"the teacher has config.data.vocab_size=300, not 301"):
        fit(config, tmp_path / "run")


def test_evaluation_needs_no_teacher(corpus_directory: Path, teacher: Path):
    config, first, *_ = steps(corpus_directory, teacher, HIDDEN, 2)
    plain = tiny_run(corpus_directory)
    params = model_params(config, first)
    assert evaluate(config, params, one_device()) == evaluate(plain, params, one_device())


def test_a_plan_knows_of_the_teacher(corpus_directory: Path, teacher: Path):
    """Its logits are beside the student's, its parameters are divided as such, and it is run forward."""
    alone, taught = (workload_of(config) for config in (tiny_run(corpus_directory), student(corpus_directory, teacher)))
    theirs = taught.teacher
    assert theirs is not None
    assert theirs.d_model == 48
    one, four = ({**dict.fromkeys(AXES, 1), "fsdp": size} for size in (1, 4))
    whole, divided = (taught.shard_bytes("teacher_params", sizes) for sizes in (one, four))
    assert whole == 4 * count_params(theirs)["total"]
    assert divided < whole / 2
    layout = Layout(**one, microbatch_rows=2, remat="none", attention="plain")
    logits = [logits_bytes(workload, layout) for workload in (alone, taught)]
    wide = (alone.model.padded_vocab_size, theirs.padded_vocab_size)
    assert logits == [4 * 2 * alone.length * wide[0], 4 * 2 * alone.length * sum(wide)]
    machine = parse_machine("v5e:1x1")
    ours, both = (estimate_time(workload, layout, machine, {}).compute for workload in (alone, taught))
    assert both - ours == pytest.approx(taught.rows * forward_flops(theirs, taught.length) / 197e12)
