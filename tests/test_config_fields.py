"""Each field of the config is documented, and changing it changes something: an unused one fails here."""

import contextlib
import inspect
import io
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grain
import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from configs import base
from data import DataConfig, make_batches, prepare
from data.command_line import flatten
from data.preparation import open_job
from parallel import DistributedConfig, make_mesh
from parallel.place import find_place
from tests.helpers import uneven_batch
from train import fit, init_state, make_train_step, with_depth
from train.metrics import read_metrics
from train.planning import with_plan
from train.samples import continue_prompts
from train.stages import Growth
from train.state import abstract_state


def step_program(config: ConfigDict) -> str:
    """The train step as JAX lowers it."""
    mesh = make_mesh(config.mesh)
    step = make_train_step(config, mesh)
    batch = {name: jax.ShapeDtypeStruct(array.shape, array.dtype) for name, array in uneven_batch(config).items()}
    with jax.set_mesh(mesh):
        return step.__wrapped__.lower(abstract_state(config, mesh), batch).as_text()  # pyright: ignore


def device_order(config: ConfigDict) -> str:
    return str([device.id for device in make_mesh(config.mesh).devices.flat])


def initial_parameters(config: ConfigDict) -> str:
    state = init_state(config, make_mesh(config.mesh))
    return str([np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(state.params)])


def parameter_names(config: ConfigDict) -> str:
    return str(jax.tree.map(lambda leaf: leaf.shape, abstract_state(config, make_mesh(config.mesh)).params))


def first_batch(config: ConfigDict) -> str:
    batch = next(make_batches(config.data, seed=config.seed))
    return str([(name, array.shape, array.tobytes()) for name, array in batch.items()])


def corpus(config: ConfigDict) -> str:
    """What the prepared corpus is known by."""
    return open_job(DataConfig.of(config.data)).fingerprint


def corpus_place(config: ConfigDict) -> str:
    return str(prepare(config.data, log=lambda line: None).directory)


def reading(config: ConfigDict) -> str:
    """How Grain is asked to read ahead."""
    with pytest.MonkeyPatch.context() as patch:
        asked = []
        original = grain.ReadOptions
        patch.setattr(grain, "ReadOptions", lambda **kwargs: asked.append(kwargs) or original(**kwargs))
        make_batches(config.data)
    return str(asked)


def error(config: ConfigDict) -> str:
    """What `fit` says to a config that cannot run here."""
    try:
        fit(config, "/proc/nowhere/run")
    except (ValueError, OSError) as raised:
        return str(raised)
    raise AssertionError("no error")


def run(config: ConfigDict) -> str:
    """What a run leaves behind and says, but for clocks."""
    with tempfile.TemporaryDirectory() as workdir, contextlib.redirect_stderr(io.StringIO()) as said:
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            fit(config, workdir)
        steps = [(record["step"], record.get("valid_tokens")) for record in read_metrics(workdir)]
        kept = sorted(path.name for path in Path(workdir, "checkpoints").iterdir())
    described = [line for line in said.getvalue().splitlines() if "parameters" in line]
    return str([steps, kept, described, printed.getvalue().count("---")])


def samples(config: ConfigDict) -> str:
    mesh = make_mesh(config.mesh)
    tokenizer = prepare(config.data).tokenizer
    params = init_state(config, mesh).params
    return str(continue_prompts(config, params, mesh, tokenizer, ["the "]))


def windows(config: ConfigDict) -> str:
    """Of each step."""
    return str([Growth.of(config).at(step).window for step in range(config.train.steps)])


def place(config: ConfigDict) -> str:
    """Where the process is to stand among others, or why it cannot."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("JAX_COORDINATOR_PORT", raising=False)
        try:
            return str(find_place(DistributedConfig(**config.distributed)))
        except ValueError as raised:
            return str(raised)


def planned(config: ConfigDict) -> str:
    """What a start says of its plan."""
    lines: list[str] = []
    with_plan(config, lines.append)
    return str(lines)


def derived(config: ConfigDict) -> str:
    """What a start says of its depth."""
    lines: list[str] = []
    with_depth(config, lines.append)
    return str(lines)


# field -> (another value, what must change with it)
FIELDS: dict[str, tuple[Any, Callable[..., str]]] = {
    "name": ("another", run),
    "seed": (1, first_batch),
    "init_from": ("/nowhere", error),
    "platform": ("gpu", error),
    "model.depth": (2, derived),
    "model.num_layers": (1, step_program),
    "model.d_model": (64, step_program),
    "model.num_heads": (2, step_program),
    "model.num_kv_heads": (4, step_program),
    "model.head_dim": (16, step_program),
    "model.d_mlp": (128, step_program),
    "model.activation": ("relu", step_program),
    "model.norm": ("layernorm", step_program),
    "model.norm_eps": (1e-3, step_program),
    "model.position": ("learned", step_program),
    "model.rope_theta": (100.0, step_program),
    "model.architecture": ("encoder", step_program),
    "model.max_length": (64, step_program),
    "model.block": ("post", step_program),
    "model.rope_scaling": ("linear,factor=8", step_program),
    "model.bias": ("qkv", step_program),
    "model.embedding_norm": ("norm", step_program),
    "model.embedding_scale": (2.0, step_program),
    "model.token_types": (2, step_program),
    "model.head": ("bias", step_program),
    "model.logit_scale": (0.5, step_program),
    "model.classifier": ("tanh,classes=2", step_program),
    "model.image": ("patches,size=8,patch=4", parameter_names),
    "model.attention": ("blocked,block=8", step_program),
    "model.attention_scale": (0.5, step_program),
    "model.layer_pattern": ("LG", step_program),
    "model.latent_attention": ("latent,kv=8,rope=4,value=8", step_program),
    "model.value_mix": ("first_layer", step_program),
    "model.d_expert": (8, step_program),
    "model.d_shared_expert": (8, step_program),
    "model.num_dense_layers": (1, step_program),
    "model.router": ("sigmoid", step_program),
    "model.tie_embeddings": (False, step_program),
    "model.qk_norm": ("head", step_program),
    "model.attention_soft_cap": (5.0, step_program),
    "model.logit_soft_cap": (5.0, step_program),
    "model.window": (4, step_program),
    "model.window_ramp": ("doubling,start=8,steps=4", windows),
    "model.dropout": (0.5, step_program),
    "model.init": ("standard,zero_outputs=1", initial_parameters),
    "model.vocab_multiple": (256, step_program),
    "model.num_experts": (4, step_program),
    "model.experts_per_token": (1, step_program),
    "model.expert_capacity": (1.5, step_program),
    "model.balance_loss": (0.1, step_program),
    "model.router_z_loss": (0.1, step_program),
    "model.balance_bias_rate": (0.1, step_program),
    "model.dtype": ("bfloat16", step_program),
    "model.remat": ("full", step_program),
    "model.scan_unroll": (2, step_program),
    "data.source": ("stdlib", corpus),
    "data.valid_source": ("stdlib", corpus),
    "data.dir": (tempfile.mkdtemp(), corpus_place),
    "data.valid_fraction": (0.5, corpus),
    "data.filters": (("length,min=200",), corpus),
    "data.chunk_bytes": (100, corpus),
    "data.max_bad_records": (0.5, corpus),
    "data.task": ("causal_lm,x=1", error),
    "data.tokenizer": ("unigram", corpus),
    "data.vocab_size": (310, step_program),
    "data.tokenizer_bytes": (1000, corpus),
    "data.seq_len": (16, step_program),
    "data.batch_size": (16, step_program),
    "data.batch_ramp": ("doubling,start=4,steps=9", first_batch),
    "data.packing": (False, first_batch),
    "data.augment": (("swap",), error),
    "data.read_threads": (3, reading),
    "data.prefetch": (5, reading),
    "optimizer.name": ("muon", step_program),
    "optimizer.learning_rate": (0.5, step_program),
    "optimizer.ema": (0.9, step_program),
    "optimizer.weight_decay": (0.5, step_program),
    "optimizer.no_decay": ("", step_program),
    "optimizer.layer_decay": (0.5, step_program),
    "optimizer.clip_norm": (0.0, step_program),
    "optimizer.schedule": ("linear", step_program),
    "optimizer.warmup_steps": (3, step_program),
    "mesh.auto": (True, planned),
    "mesh.stage": (2, step_program),
    "mesh.data": (4, error),
    "mesh.fsdp": (2, step_program),
    "mesh.expert": (2, step_program),
    "mesh.context": (2, step_program),
    "mesh.context_attention": ("all_to_all", step_program),
    "mesh.tensor": (2, step_program),
    "mesh.schedule": ("gpipe", step_program),
    "mesh.num_slices": (2, device_order),
    "mesh.slice_axes": ("tensor", device_order),
    "mesh.allow_idle": (True, error),
    "mesh.rules": ("none such", error),
    "mesh.replaced_rules": ("mlp=", step_program),
    "distributed.coordinator": ("another", place),
    "distributed.port": (9000, place),
    "distributed.num_processes": (3, place),
    "distributed.process_id": (0, place),
    "distributed.num_devices": (3, error),
    "distributed.timeout_s": (0, place),
    "train.objective": ("none such", error),
    "train.parameters": ("frozen,names=embedding", step_program),
    "train.steps": (12, run),
    "train.microbatch_rows": (1, step_program),
    "train.z_loss": (0.1, step_program),
    "train.log_every": (5, run),
    "train.eval_every": (4, run),
    "train.eval_batches": (1, run),
    "train.best": ("loss", run),
    "train.checkpoint_every": (4, run),
    "train.keep_checkpoints": (1, run),
    "train.keep_every": (2, run),
    "sample.prompts": ((), run),
    "sample.max_tokens": (9, samples),
    "sample.strategy": ("greedy", samples),
    "sample.stop": (tuple("\ufffdabcdefghijklmnopqrstuvwxyz "), samples),
}
_BY_HAND = {"distributed.coordinator": "host", "distributed.num_processes": 2, "distributed.process_id": 1}
# Where the field acts only beside another.
BESIDE: dict[str, dict[str, Any]] = {
    "mesh.replaced_rules": {"mesh.tensor": 2},
    "mesh.schedule": {"mesh.stage": 2},
    "model.depth": {"model.num_kv_heads": 4},
    "model.max_length": {"model.position": "learned"},
    "model.layer_pattern": {"model.window": 4},
    "model.image": {"model.classifier": "first,classes=3"},
    "model.latent_attention": {"model.num_kv_heads": 4},
    "model.d_expert": {"model.num_experts": 4},
    "model.d_shared_expert": {"model.num_experts": 4},
    "model.num_dense_layers": {"model.num_experts": 4},
    "model.router": {"model.num_experts": 4},
    "model.experts_per_token": {"model.num_experts": 4},
    "model.expert_capacity": {"model.num_experts": 4},
    "model.balance_loss": {"model.num_experts": 4},
    "model.router_z_loss": {"model.num_experts": 4},
    "model.balance_bias_rate": {"model.num_experts": 4},
    "mesh.num_slices": {"mesh.tensor": 2, "mesh.slice_axes": "tensor"},
    "mesh.slice_axes": {"mesh.tensor": 2, "mesh.num_slices": 2},
    "mesh.allow_idle": {"mesh.data": 4},
    "mesh.context_attention": {"mesh.context": 2},
    "distributed.coordinator": _BY_HAND,
    "distributed.port": _BY_HAND,
    "distributed.num_processes": _BY_HAND,
    "distributed.process_id": _BY_HAND,
    "train.microbatch_rows": {"data.batch_size": 16},
    "train.eval_batches": {"train.eval_every": 4, "data.batch_size": 8},
    "train.best": {"train.eval_every": 4},
    "train.keep_checkpoints": {"train.checkpoint_every": 2},
    "train.keep_every": {"train.checkpoint_every": 2, "train.keep_checkpoints": 1},
}


@pytest.fixture(scope="module")
def seen() -> dict[str, str]:
    """Observations of configs that several fields are held to."""
    return {}


def test_the_table_has_every_field():
    assert sorted([*FIELDS, "compile_cache"]) == sorted(flatten(base.get_config()))


def test_there_are_fewer_than_120_fields():
    assert len(flatten(base.get_config())) < 120


@pytest.mark.parametrize("field", FIELDS)
def test_changing_a_field_changes_what_it_says(config: ConfigDict, seen: dict[str, str], field: str):
    value, observe = FIELDS[field]
    config.update_from_flattened_dict(BESIDE.get(field, {}))
    assert flatten(config)[field] != value
    key = observe.__name__ + str(config.to_dict())
    if key not in seen:
        seen[key] = observe(config)
    config.update_from_flattened_dict({field: value})
    assert observe(config) != seen[key]


def test_compile_cache_is_where_programs_are_kept(config: ConfigDict, tmp_path: Path):
    """In a process of its own: JAX sets its cache up once."""
    path = tmp_path / "config.json"
    config.compile_cache = str(tmp_path / "xla")
    path.write_text(json.dumps(config.to_dict()))
    environment = {name: value for name, value in os.environ.items() if name != "JAX_COMPILATION_CACHE_DIR"}
    command = [sys.executable, "-m", "train", f"--config={path}", f"--workdir={tmp_path / 'run'}"]
    subprocess.run(command, check=True, capture_output=True, cwd=Path(__file__).parents[1], env=environment)
    assert any("train_step" in file.name for file in (tmp_path / "xla").iterdir())


def test_every_field_has_a_comment():
    lines = [line for line in inspect.getsource(base.get_config).splitlines() if re.match(r"\s+\w+\.\w+ = ", line)]
    assert len([line for line in lines if "ConfigDict()" not in line]) == len(flatten(base.get_config()))
    assert [line for line in lines if "ConfigDict()" not in line and "  # " not in line] == []
