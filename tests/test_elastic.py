"""A run that moves from mesh to mesh is the run that stayed on one device, to rounding."""

import hashlib
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from etils import epath
from ml_collections import ConfigDict

from data import make_batches
from parallel import AXES, local_rows, make_mesh, shard_batch
from tests.helpers import one_device
from train import fit, init_state, make_train_step
from train.checkpoint import Checkpoints
from train.inspect import tree_sha256
from train.state import abstract_state, restore_state, save_state

# From 8 devices to 4, 1, 6 and 8, over every axis that divides parameters.
JOURNEY: list[dict[str, Any]] = [
    {"data": 8},
    {"fsdp": 4, "rules": "zero2"},
    {},
    {"tensor": 2, "fsdp": 3},
    {"stage": 2, "context": 2, "tensor": 2},
]
STEPS_EACH = 4


def elastic(config: Any) -> Any:
    """Sizes that 8 and 6 devices divide, and enough to be changed by a wrong seed or position."""
    config.model.update(num_layers=2, d_model=48, num_heads=6, num_kv_heads=6, d_mlp=48, dropout=0.1, vocab_multiple=96)
    config.data.update(batch_size=24, seq_len=32)
    config.optimizer.update(name="adamw,eps=1e-4", learning_rate=0.003)
    config.train.steps = STEPS_EACH * len(JOURNEY)
    return config


def row_hashes(batch: dict[str, np.ndarray]) -> list[str]:
    rows = range(len(batch["inputs"]))
    return [hashlib.sha256(b"".join(batch[name][i].tobytes() for name in sorted(batch))).hexdigest() for i in rows]


def run(
    config: ConfigDict, mesh: jax.sharding.Mesh, state: Any, start: int, count: int
) -> tuple[Any, list[float], list[str]]:
    """Some steps; the losses, and a hash of every row that was seen."""
    step, losses, seen = make_train_step(config, mesh), [], []
    rows = local_rows(mesh, config.data.batch_size)
    batches = make_batches(config.data, seed=config.seed, start=start, rows=rows)
    for batch, _ in zip(batches, range(count), strict=False):
        seen += row_hashes(batch)
        state, metrics = step(state, shard_batch(batch, mesh))
        losses.append(metrics["loss"])
    return state, [float(loss) for loss in losses], seen


@pytest.mark.xdist_group("elastic")
def test_a_run_over_five_meshes_goes_on_as_if_nothing_happened(config: Any, tmp_path: Path):
    config = elastic(config)
    mesh = one_device()
    _, expected, expected_rows = run(config, mesh, init_state(config, mesh), 0, config.train.steps)

    checkpoints = Checkpoints(epath.Path(tmp_path), keep=10)
    losses, rows, saved_hash = [], [], ""
    for i, axes in enumerate(JOURNEY):
        config.mesh.update(dict.fromkeys(AXES, 1) | {"rules": "zero3"} | axes)
        config.train.microbatch_rows = 6 if "stage" in axes else 0
        num_devices = int(np.prod([config.mesh[axis] for axis in AXES]))
        mesh = make_mesh(config.mesh, devices=jax.devices()[:num_devices])
        if i == 0:
            state = init_state(config, mesh)
        else:
            state = restore_state(checkpoints, i * STEPS_EACH, abstract_state(config, mesh))
            assert tree_sha256(state) == saved_hash, axes  # parameters, moments and position, bit by bit
            assert int(state.step) == i * STEPS_EACH
        state, new_losses, new_rows = run(config, mesh, state, int(state.step), STEPS_EACH)
        losses, rows = losses + new_losses, rows + new_rows
        save_state(checkpoints, int(state.step), state)
        checkpoints.wait()
        saved_hash = tree_sha256(state)
    checkpoints.close()
    assert losses == pytest.approx(expected, rel=1e-5)
    assert losses[-1] < losses[0] - 0.1
    assert rows == expected_rows  # no example twice, none missed, and in the same order


def test_a_whole_run_over_a_mixed_mesh_ends_with_the_figures_of_one_device(config: Any, tmp_path: Path, capsys: Any):
    """Training, evaluation, a checkpoint and samples, with experts, a pipeline and a divided length."""
    config.model.update(num_experts=4, num_kv_heads=4)
    config.train.update(steps=3, microbatch_rows=2)
    config.mesh.update(data=1, allow_idle=True)
    alone = fit(config, tmp_path / "alone").validation
    samples = capsys.readouterr().out.partition("---")[2]
    config.mesh.update(stage=2, expert=2, context=2, allow_idle=False)
    mixed = fit(config, tmp_path / "mixed").validation
    assert mixed == pytest.approx(alone, rel=1e-5)
    assert capsys.readouterr().out.partition("---")[2] == samples
