"""The train step: one division by the global weight, keys that never repeat, one trace, memory reused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from parallel import MeshConfig, make_mesh, shard_batch
from tests.helpers import leaf_errors, one_device, uneven_batch
from train import init_state, make_train_step
from train.checkpoint import Checkpoints
from train.compose import num_microbatches
from train.state import abstract_state, restore_state, save_state


def run(config: ConfigDict, batch: dict[str, np.ndarray], *, steps: int = 1, **axes: int):
    mesh = make_mesh(MeshConfig(**axes)) if axes else one_device()
    state, step = init_state(config, mesh), make_train_step(config, mesh)
    for _ in range(steps):
        state, metrics = step(state, shard_batch(batch, mesh))
    return jax.device_get(state), jax.device_get(metrics)


@pytest.mark.parametrize("rows", [4, 2, 1])
def test_microbatches_do_not_change_loss_or_update(config: ConfigDict, rows: int):
    """The mean of means trap: rows have very uneven numbers of targets, two of them none at all."""
    config.optimizer.update(name="adamw,eps=1e-3")  # so that the update follows the gradient, not only its sign
    batch = uneven_batch(config)
    whole_state, whole = run(config, batch)
    config.train.microbatch_rows = rows
    assert num_microbatches(config, one_device()) == 8 // rows
    state, metrics = run(config, batch)
    assert metrics["weight"] == whole["weight"] == batch["weights"].sum()
    assert metrics["loss"] == pytest.approx(whole["loss"], rel=1e-6)
    assert metrics["grad_norm"] == pytest.approx(whole["grad_norm"], rel=1e-5)
    assert max(leaf_errors(state.params, whole_state.params).values()) < 1e-5


def test_microbatches_and_devices_together_do_not_change_the_loss(config: ConfigDict):
    batch = uneven_batch(config)
    _, whole = run(config, batch)
    config.train.microbatch_rows = 1
    _, metrics = run(config, batch, data=2, fsdp=2, tensor=2)
    assert metrics["loss"] == pytest.approx(whole["loss"], rel=1e-6)
    assert metrics["grad_norm"] == pytest.approx(whole["grad_norm"], rel=1e-5)


def test_a_batch_without_any_target_changes_nothing_but_decay(config: ConfigDict):
    config.optimizer.weight_decay = 0.0
    batch = uneven_batch(config)
    batch["weights"][:] = 0
    before = jax.device_get(init_state(config, one_device()))
    state, metrics = run(config, batch)
    assert metrics["loss"] == 0
    assert metrics["grad_norm"] == 0
    assert max(leaf_errors(state.params, before.params).values()) == 0


def test_loss_of_the_first_step_is_the_log_of_the_vocabulary(config: ConfigDict):
    _, metrics = run(config, uneven_batch(config))
    assert metrics["loss"] == pytest.approx(np.log(config.data.vocab_size), rel=0.02)


def test_parameters_and_moments_stay_float32_under_bfloat16_compute(config: ConfigDict):
    config.model.dtype = "bfloat16"
    state, metrics = run(config, uneven_batch(config))
    dtypes = {leaf.dtype for leaf in jax.tree.leaves(state) if leaf.dtype.kind == "f"}
    assert dtypes == {np.dtype("float32")}
    assert metrics["loss"].dtype == np.dtype("float32")


def test_dropout_differs_by_step_and_by_microbatch_and_repeats_by_seed(config: ConfigDict):
    config.model.dropout = 0.5
    config.optimizer.learning_rate = 1e-20  # parameters stand still: only the masks change
    config.optimizer.weight_decay = 0.0
    batch = uneven_batch(config)
    first, second = run(config, batch, steps=1)[1]["loss"], run(config, batch, steps=2)[1]["loss"]
    assert first != second
    assert run(config, batch, steps=2)[1]["loss"] == second
    # Eight equal rows: were the masks of the microbatches equal, so would be their mean and that of one of them.
    equal = {name: np.repeat(array[:1], 8, axis=0) for name, array in batch.items()}
    config.train.microbatch_rows = 1
    eight = run(config, equal)[1]["loss"]
    config.data.batch_size = 1
    one = run(config, {name: array[:1] for name, array in equal.items()})[1]["loss"]
    assert abs(eight - one) > 1e-3
    config.seed = 1
    assert run(config, equal, steps=1)[1]["loss"] != one


def pointers(tree) -> set[int]:
    return {shard.data.unsafe_buffer_pointer() for leaf in jax.tree.leaves(tree) for shard in leaf.addressable_shards}


def test_step_is_traced_once_and_reuses_the_memory_of_its_state_fresh_and_restored(config: ConfigDict, tmp_path):
    mesh = make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
    traces = []
    step = make_train_step(config, mesh, on_trace=lambda: traces.append(1))
    batch = shard_batch(uneven_batch(config), mesh)
    state = init_state(config, mesh)
    assert_donated(step, state, batch)

    checkpoints = Checkpoints(tmp_path)
    saved = init_state(config, mesh)
    save_state(checkpoints, 1, saved)
    checkpoints.wait()
    restored = restore_state(checkpoints, 1, abstract_state(config, mesh))
    checkpoints.close()
    assert_donated(step, restored, batch)
    assert len(traces) == 1
    assert step.__wrapped__._cache_size() == 1  # pyright: ignore[reportFunctionMemberAccess]


def assert_donated(step, state, batch) -> None:
    """After a first step, whose inputs others may still hold, each buffer of the state serves the next state."""
    state, _ = step(state, batch)
    before, leaves = pointers(state), jax.tree.leaves(state)
    state, _ = step(state, batch)
    assert all(leaf.is_deleted() for leaf in leaves)
    reused = len(before & pointers(state)) / len(before)
    assert reused > 0.9, f"only {reused:.0%} of the buffers were reused"


def test_step_captures_no_constants(config: ConfigDict):
    """All state is an argument: what is captured would be compiled in, once more for each value."""
    mesh = one_device()
    step = make_train_step(config, mesh).__wrapped__  # pyright: ignore[reportFunctionMemberAccess]
    with jax.set_mesh(mesh):
        traced = step.trace(abstract_state(config, mesh), uneven_batch(config))
    assert sum(np.asarray(const).nbytes for const in traced.jaxpr.consts) < 100


def test_learning_rate_in_the_metrics_is_that_of_the_update(config: ConfigDict):
    config.optimizer.update(learning_rate=1.0, warmup_steps=4, schedule="constant")
    mesh = one_device()
    state, step = init_state(config, mesh), make_train_step(config, mesh)
    rates = []
    for _ in range(5):
        state, metrics = step(state, shard_batch(uneven_batch(config), mesh))
        rates.append(float(metrics["learning_rate"]))
    assert rates == pytest.approx([0.25, 0.5, 0.75, 1.0, 1.0])


def test_schedule_counts_updates_not_microbatches(config: ConfigDict):
    config.optimizer.update(learning_rate=1.0, warmup_steps=4, schedule="constant")
    config.train.microbatch_rows = 1
    _, metrics = run(config, uneven_batch(config), steps=2)
    assert metrics["learning_rate"] == pytest.approx(0.5)


def test_padding_the_vocabulary_does_not_change_loss_or_gradients(config: ConfigDict):
    config.model.vocab_multiple = 1
    exact_state, exact = run(config, uneven_batch(config))
    config.model.vocab_multiple = 128
    mesh = one_device()
    state = init_state(config, mesh)
    assert state.params["embedding"].shape[0] == 384
    exact_table = init_state_table(config)
    padded = jnp.zeros_like(state.params["embedding"]).at[: exact_table.shape[0]].set(exact_table)
    state = state.replace(params=state.params | {"embedding": padded})
    state, metrics = make_train_step(config, mesh)(state, shard_batch(uneven_batch(config), mesh))
    assert float(metrics["loss"]) == pytest.approx(float(exact["loss"]), rel=1e-6)
    assert float(metrics["grad_norm"]) == pytest.approx(float(exact["grad_norm"]), rel=1e-5)
    assert not np.any(np.asarray(state.params["embedding"])[300:])
    np.testing.assert_allclose(state.params["embedding"][:300], exact_state.params["embedding"], atol=1e-6)


def init_state_table(config: ConfigDict) -> jax.Array:
    exact = config.copy_and_resolve_references()
    exact.model.vocab_multiple = 1
    return init_state(exact, one_device()).params["embedding"]
