"""Training a part of the parameters: what is chosen, that the rest stays, and that mesh and restarts do not matter."""

import functools
import json
import shutil
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath
from flax import linen as nn
from ml_collections import ConfigDict
from safetensors.numpy import load_file

import train.convert
import train.inspect
from parallel import MeshConfig, make_mesh, shard_batch
from tests.conftest import tiny_config
from tests.helpers import command, leaf_errors, one_device, uneven_batch
from train import fit, init_state, make_train_step
from train.checkpoint import Checkpoints
from train.initial import adopt, first_state, fresh_parameters
from train.metrics import read_metrics
from train.parameters import matrix_of, parameter_name
from train.parameters_of_run import own_config, read_fixed, read_model
from train.state import abstract_state, model_params
from train.trainable import add_adapters, divide, join, trained_part

NAMES = {
    "embedding": 0,
    "final_norm": {"scale": 0},
    "layers": {"attention": {"w_q": 0, "w_k": 0, "w_v": 0, "b_q": 0}, "mlp": {"w_in": 0}},
    "classifier": {"w": 0, "b": 0},
    "distill": {"projection": 0},
}
LORA = "lora,rank=4,alpha=8,names=attention/w_[qv]|mlp/w_out,also=final_norm"


def names(tree: Any) -> set[str]:
    return {parameter_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(tree)}


def by_name(tree: Any) -> dict[str, np.ndarray]:
    return {parameter_name(path): np.asarray(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def choose(config: ConfigDict, text: str) -> ConfigDict:
    config.train.parameters = text
    return config


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("all", names(NAMES)),
        ("matching,names=classifier|norm", {"classifier/w", "classifier/b", "final_norm/scale"}),
        ("frozen,names=layers|embedding", {"classifier/w", "classifier/b", "final_norm/scale"}),
        (r"matching,names='classifier/\w{1,2}$'", {"classifier/w", "classifier/b"}),
        ("lora", set()),
        ("lora,also=/b", {"classifier/b", "layers/attention/b_q"}),
    ],
)
def test_names_decide_what_is_trained(config: ConfigDict, text: str, expected: set[str]):
    trained, base = divide(trained_part(choose(config, text)), NAMES)
    assert names(trained) == expected | {"distill/projection"}
    assert names(base) == names(NAMES) - names(trained)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("some", "config.train.parameters='some': 'some' is not known; use one of all, matching, frozen, lora"),
        ("frozen", "config.train.parameters='frozen' needs a pattern .* 'frozen,names=layers/'"),
        ("matching,names=(", r"names='\(' is no pattern"),
        ("lora,rank=0", "rank must be at least 1"),
        ("matching,names=attn", "names='attn' is in no name; there are embedding, final_norm/scale, layers/attention/"),
        ("lora,names=scale", "names='scale' is in no name; there are embedding, layers/attention/w_k"),
        ("lora,also=classifier", "also='classifier' is in no name"),
        ("frozen,names=.", "leaves nothing to train: it matches all of embedding"),
    ],
)
def test_patterns_that_find_nothing_are_errors(config: ConfigDict, text: str, message: str):
    with pytest.raises(ValueError, match=message):
        abstract_state(choose(config, text), one_device())


# Name, shape, and how a matrix of it is seen without its layers and experts: (inputs, outputs).
SHAPES = {
    "layers/attention/w_q": ((3, 4, 2, 5), (4, 10)),
    "layers/attention/w_out": ((3, 2, 5, 4), (10, 4)),
    "encoder_layers/mlp/w_in": ((3, 4, 6), (4, 6)),
    "layers/moe/w_out": ((3, 2, 6, 4), (6, 4)),
    "layers/cross_attention/w_out": ((3, 2, 5, 4), (10, 4)),
    "layers/attention/w_kv_up": ((3, 4, 2, 5), (4, 10)),
    "classifier/w": ((4, 3), (4, 3)),
    "embedding": ((7, 4), (7, 4)),
}


@pytest.mark.parametrize("name", SHAPES)
def test_an_adapted_matrix_is_w_plus_alpha_over_rank_a_b(config: ConfigDict, name: str):
    """In NumPy, layer by layer and expert by expert."""
    shape, (inputs, outputs) = SHAPES[name]
    choice = trained_part(choose(config, f"lora,rank=2,alpha=6,names={name}"))
    base: Any = nn.LogicallyPartitioned(jnp.ones(shape), tuple(map(str, range(len(shape)))))
    for part in reversed(name.split("/")):
        base = {part: base}
    made: Any = nn.unbox(add_adapters(choice, {}, base, jax.random.key(0)))
    a, b = by_name(made).values()
    assert not b.any()
    assert np.std(a) == pytest.approx(inputs**-0.5, rel=0.6)
    b = np.random.default_rng(0).normal(size=b.shape).astype(np.float32)
    trained: Any = {"lora_a": a, "lora_b": b}
    for part in reversed(name.split("/")):
        trained = {part: trained}
    whole = by_name(join(choice, trained, nn.unbox(base)))[name]
    pairs = zip(a.reshape(-1, inputs, 2), b.reshape(-1, 2, outputs), strict=True)
    expected = np.stack([1 + 3 * x @ y for x, y in pairs])
    np.testing.assert_allclose(whole, expected.reshape(shape), rtol=1e-5, atol=1e-6)


def test_the_head_maps_from_its_second_dim():
    assert matrix_of("head") == ((1,), (0,), False)
    assert matrix_of("final_norm/scale") is None


# ---- steps


@functools.cache
def steps(directory: Path, text: str, num: int, axes: tuple[tuple[str, int], ...] = (), **changes: Any) -> Any:
    """First and last state and metrics, on the host; how often the step was traced; the share of buffers reused."""
    config = configure(tiny_config(directory), text)
    mesh = make_mesh(MeshConfig(**dict(axes))) if axes else one_device()
    config.mesh.update(dict(axes))
    config.update_from_flattened_dict(changes)
    traces: list[int] = []
    step = make_train_step(config, mesh, on_trace=lambda: traces.append(1))
    state, batch = init_state(config, mesh), shard_batch(uneven_batch(config), mesh)
    first, metrics, reused = jax.device_get(state), {}, 0.0
    for i in range(num):
        before = pointers(state)
        leaves = jax.tree.leaves(state)
        state, metrics = step(state, batch)
        assert i == 0 or all(leaf.is_deleted() for leaf in leaves)
        reused = len(before & pointers(state)) / len(before)
    return config, first, jax.device_get(state), jax.device_get(metrics), len(traces), reused


def configure(config: ConfigDict, text: str) -> ConfigDict:
    config.model.update(num_kv_heads=4, d_mlp=64)
    config.optimizer.update(name="adamw,eps=1e-2", clip_norm=0.0, warmup_steps=0, weight_decay=0.0)
    return choose(config, text)


def pointers(tree: Any) -> set[int]:
    return {shard.data.unsafe_buffer_pointer() for leaf in jax.tree.leaves(tree) for shard in leaf.addressable_shards}


MESH = (("data", 1), ("fsdp", 2), ("stage", 2), ("tensor", 2))


@pytest.mark.parametrize("text", ["frozen,names=embedding|layers/mlp", LORA])
def test_what_is_not_trained_keeps_its_bits_and_has_no_moments(corpus_directory: Path, text: str):
    config, first, last, _, traces, reused = steps(corpus_directory, text, 3)
    frozen, kept = by_name(first.fixed["base"]), by_name(last.fixed["base"])
    assert {name for name in frozen if frozen[name].tobytes() != kept[name].tobytes()} == set()
    moved = by_name(first.params), by_name(last.params)
    assert all(np.any(moved[0][name] != moved[1][name]) for name in moved[0])
    num_trained = sum(leaf.size for leaf in jax.tree.leaves(last.params))
    assert sum(leaf.size for leaf in jax.tree.leaves(last.opt_state) if leaf.ndim) == 2 * num_trained
    assert traces == 1
    assert reused > 0.9
    assert config.train.parameters == text


def test_lora_starts_as_the_model_itself(corpus_directory: Path):
    config, first, *_ = steps(corpus_directory, LORA, 3)
    whole, expected = by_name(model_params(config, first)), by_name(steps(corpus_directory, "all", 1)[1].params)
    assert whole.keys() == expected.keys()
    assert all(whole[name].tobytes() == expected[name].tobytes() for name in whole)


def test_gradient_of_b_is_that_of_the_matrix_seen_through_a(corpus_directory: Path):
    """With B = 0, d loss / d B = alpha / rank A^T d loss / d W; Adam's first moment is (1 - b1) times the gradient."""
    _, _, full, metrics, *_ = steps(corpus_directory, "all", 1)
    _, first, lora, lora_metrics, *_ = steps(corpus_directory, LORA, 1)
    assert float(lora_metrics["loss"]) == float(metrics["loss"])
    moments = {name: leaf for name, leaf in by_name(full.opt_state).items() if "/mu/" in name}
    ours = {name: leaf for name, leaf in by_name(lora.opt_state).items() if "/mu/" in name}
    a = by_name(first.params)["layers/mlp/w_out/lora_a"]
    (d_w,) = (leaf for name, leaf in moments.items() if name.endswith("layers/mlp/w_out"))
    (d_b,) = (leaf for name, leaf in ours.items() if name.endswith("layers/mlp/w_out/lora_b"))
    expected = 2.0 * np.einsum("lfr,lfd->lrd", a, d_w)
    np.testing.assert_allclose(d_b, expected, atol=1e-6 * np.abs(expected).max(), rtol=1e-4)
    assert not any(leaf.any() for name, leaf in ours.items() if name.endswith("lora_a"))


@pytest.mark.parametrize("text", [LORA, "frozen,names=embedding|layers/mlp"])
@pytest.mark.parametrize("axes", [MESH, (("data", 2), ("fsdp", 2), ("tensor", 2))])
def test_eight_devices_train_as_one(corpus_directory: Path, text: str, axes: Any):
    """With stages, and with microbatches that each replica sums by itself."""
    *_, one, metrics, _, _ = steps(corpus_directory, text, 3)
    changes = {"train.microbatch_rows": 2 if ("stage", 2) in axes else 1}
    *_, eight, eight_metrics, traces, reused = steps(corpus_directory, text, 3, axes, **changes)
    assert float(eight_metrics["loss"]) == pytest.approx(float(metrics["loss"]), rel=1e-5)
    assert max(leaf_errors(eight.params, one.params).values()) < 1e-4
    assert traces == 1
    assert reused > 0.9


@pytest.mark.parametrize("name", ["muon", "soap", "adafactor", "schedule_free"])
@pytest.mark.parametrize("text", ["matching,names=norm", LORA])
def test_optimizers_of_matrices_and_layer_decay_take_any_part(config: ConfigDict, text: str, name: str):
    config = configure(config, text)
    config.optimizer.update(name=name, layer_decay=0.5)
    mesh = one_device()
    step: Any = make_train_step(config, mesh)
    with jax.set_mesh(mesh):  # traced, not compiled
        state, _ = jax.eval_shape(step.__wrapped__, abstract_state(config, mesh), uneven_batch(config))
    assert jax.tree.structure(state) == jax.tree.structure(abstract_state(config, mesh))


# ---- runs


def tiny_run(directory: Path, text: str = "all", **train_fields: Any) -> ConfigDict:
    config = tiny_config(directory)
    config.model.update(activation="swiglu", tie_embeddings=False, num_kv_heads=4)  # as a Llama
    config.optimizer.update(warmup_steps=0)
    config.train.update(steps=4, checkpoint_every=2, parameters=text, **train_fields)
    config.mesh.update(data=1, allow_idle=True)
    config.sample.prompts = ()
    return config


@pytest.fixture(scope="module")
def runs(corpus_directory: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run, and one of adapters that starts from it."""
    directory = tmp_path_factory.mktemp("runs")
    fit(tiny_run(corpus_directory), directory / "base")
    config = tiny_run(corpus_directory, LORA)
    config.init_from = str(directory / "base")
    fit(config, directory / "lora")
    return directory


def inspected(workdir: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    train.inspect.main([f"--workdir={workdir}"])
    return json.loads(capsys.readouterr().out)


def size_of(directory: Path) -> int:
    return sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())


def test_checkpoints_hold_the_adapters_alone(runs: Path, capsys: pytest.CaptureFixture[str]):
    described, base = inspected(runs / "lora", capsys), inspected(runs / "base", capsys)
    adapted = [f"layers/attention/w_{letter}" for letter in "qv"] + ["layers/mlp/w_out"]
    expected = {f"{name}/lora_{letter}" for name in adapted for letter in "ab"} | {"final_norm/scale"}
    assert set(described["trained_params"]) == expected
    assert described["params"] == base["params"]
    assert described["params_sha256"] != base["params_sha256"]
    assert size_of(runs / "lora/checkpoints/4") < 0.4 * size_of(runs / "base/checkpoints/4")


def test_commands_see_the_model_whole(
    runs: Path, corpus_directory: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    """A run of all parameters that starts from the exported, imported model has the figures of the adapters' run."""
    command("evaluate")([f"--workdir={runs / 'lora'}"])
    figures = json.loads(capsys.readouterr().out)
    last = [record for record in read_metrics(runs / "lora") if "valid_loss" in record][-1]
    assert figures["loss"] == pytest.approx(last["valid_loss"], rel=1e-6)
    command("generate")([f"--workdir={runs / 'lora'}", "--prompt=the", "--config.seed=7"])
    assert capsys.readouterr().out.startswith("the")
    for name in ("lora", "base"):
        train.convert.main(["export", str(tmp_path / name), f"--workdir={runs / name}"])
    lora, base = (load_file(tmp_path / name / "model.safetensors") for name in ("lora", "base"))
    different = {name.split(".")[-2] for name in base if lora[name].tobytes() != base[name].tobytes()}
    assert different == {"q_proj", "v_proj", "down_proj", "norm"}
    train.convert.main(["import", str(tmp_path / "lora"), f"--workdir={tmp_path / 'imported'}"])
    data: Any = tiny_run(corpus_directory).data
    names = ("source", "dir", "valid_fraction", "seq_len", "batch_size")
    like = [f"--config.data.{name}={data[name]}" for name in names]
    capsys.readouterr()
    command("evaluate")([f"--workdir={tmp_path / 'imported'}", *like])
    assert json.loads(capsys.readouterr().out)["loss"] == pytest.approx(figures["loss"], rel=1e-6)


def test_a_restart_reads_the_base_again_and_changes_no_bit(
    runs: Path, corpus_directory: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    expected = inspected(runs / "lora", capsys)
    shutil.copytree(runs / "lora", tmp_path / "lora")
    shutil.rmtree(tmp_path / "lora/checkpoints/4")
    config = tiny_run(corpus_directory, LORA)
    config.init_from = str(runs / "base")
    assert fit(config, tmp_path / "lora")[:3] == (4, 0, 1)
    capsys.readouterr()
    again = inspected(tmp_path / "lora", capsys)
    assert all(again[key] == expected[key] for key in ("params_sha256", "opt_state_sha256", "step"))
    config.train.parameters = "lora"
    with pytest.raises(ValueError, match=r"other values of\n  config.train.parameters: 'lora,rank=4"):
        fit(config, tmp_path / "lora")


def test_a_base_that_is_no_longer_what_it_was_is_an_error(runs: Path, tmp_path: Path):
    for name in ("base", "lora"):
        shutil.copytree(runs / name, tmp_path / name)
    evaluate_it = [f"--workdir={tmp_path / 'lora'}", f"--config.init_from={tmp_path / 'base'}"]
    noted = json.loads((tmp_path / "lora/fixed.json").read_text())
    assert noted["base"]["step"] == 4
    (tmp_path / "lora/fixed.json").write_text(json.dumps({"base": {"step": 2, "checksum": noted["base"]["checksum"]}}))
    with pytest.raises(ValueError, match="has other parameters than when the run began"):
        command("evaluate")(evaluate_it)
    (tmp_path / "lora/fixed.json").write_text(json.dumps({"base": {"step": 3, "checksum": 0}}))
    with pytest.raises(ValueError, match="no longer has its checkpoint of step 3"):
        command("evaluate")(evaluate_it)
    shutil.rmtree(tmp_path / "base")
    with pytest.raises(ValueError, match=r"config.init_from=.* is not there"):
        command("evaluate")(evaluate_it)


def test_a_base_of_no_source_follows_from_the_seed_of_the_run(
    corpus_directory: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    config = tiny_run(corpus_directory, "matching,names=norm")
    config.train.steps = 2
    fit(config, tmp_path)
    capsys.readouterr()
    expected = [record for record in read_metrics(tmp_path) if "valid_loss" in record][-1]["valid_loss"]
    command("evaluate")([f"--workdir={tmp_path}", "--config.seed=5"])
    assert json.loads(capsys.readouterr().out)["loss"] == pytest.approx(expected, rel=1e-6)


# ---- what a run starts from


def with_classifier(runs: Path, directory: Path, text: str) -> ConfigDict:
    config = tiny_run(directory, text)
    config.init_from = str(runs / "lora")
    config.model.update(classifier="tanh,classes=3", dropout=0.1)
    return adopt(config)


def test_a_new_head_stays_fresh_and_is_named(runs: Path, corpus_directory: Path):
    config, said = with_classifier(runs, corpus_directory, "lora,also=classifier|pooler"), []
    assert (config.model.classifier, config.model.dropout) == ("tanh,classes=3", 0.1)
    mesh = one_device()
    state = first_state(config, mesh, log=said.append)
    assert said == [
        f"Fresh parameters, which config.init_from={config.init_from!r} does not have: classifier/b, classifier/w, "
        "pooler/b, pooler/w"
    ]
    whole, fresh = by_name(model_params(config, state)), by_name(init_state(config, mesh).params)
    source = own_config(runs / "lora", config)
    expected = by_name(read_model(source, epath.Path(runs / "lora"), mesh)[0])
    assert whole["classifier/w"].tobytes() == fresh["classifier/w"].tobytes()
    assert all(whole[name].tobytes() == expected[name].tobytes() for name in expected)
    assert whole.keys() - expected.keys() == {"classifier/b", "classifier/w", "pooler/b", "pooler/w"}


def test_a_restart_after_a_head_was_replaced_finds_the_base_as_it_was(corpus_directory: Path, tmp_path: Path):
    """BERT's pooler is in the source and not in the run; its checksum was, so that no restart was possible."""
    source, mesh = tiny_run(corpus_directory), one_device()
    source.model.classifier = "tanh,classes=2"
    checkpoints = Checkpoints(epath.Path(tmp_path / "source"))
    checkpoints.save(0, params=init_state(source, mesh).params)
    checkpoints.close()
    (tmp_path / "source/config.json").write_text(json.dumps(source.to_dict()))
    config = tiny_run(corpus_directory, "lora,also=classifier")
    config.init_from = str(tmp_path / "source")
    config.model.classifier = "mean,classes=3"
    config, workdir = adopt(config), epath.Path(tmp_path / "run")
    workdir.mkdir()
    began = by_name(first_state(config, mesh, workdir=workdir).fixed)
    again = by_name(read_fixed(config, workdir, mesh))
    assert again.keys() == began.keys()
    assert not any("pooler" in name for name in again)
    assert all(again[name].tobytes() == began[name].tobytes() for name in began)


def test_a_fresh_head_that_nobody_trains_is_an_error(runs: Path, corpus_directory: Path):
    config = with_classifier(runs, corpus_directory, "lora,also=classifier")
    with pytest.raises(ValueError, match=r"would leave pooler/b, pooler/w as random .* 'lora,also=pooler'"):
        fresh_parameters(config)


def test_another_architecture_is_an_error_that_names_the_parameters(runs: Path, corpus_directory: Path):
    config = tiny_run(corpus_directory)
    config.init_from = str(runs / "base")
    config.model.update(num_layers=3, tie_embeddings=True, bias="qkv")
    with pytest.raises(
        ValueError, match=r"(?s)  head is too many there.*layers/attention/b_k \(3, 4, 8\) is missing there"
    ):
        fresh_parameters(config)
