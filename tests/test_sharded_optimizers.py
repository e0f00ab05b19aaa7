"""Every optimizer on divided parameters: the updates of one device, its state in shards, and saved and read bit by bit.

Gradients are given, so that what differs is the optimizer's doing.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from etils import epath
from jax.sharding import Mesh, PartitionSpec
from ml_collections import ConfigDict

from configs import base
from parallel import make_mesh, on_mesh, shard_batch
from tests.helpers import one_device, uneven_batch
from train import TrainState, init_state, make_train_step
from train.checkpoint import Checkpoints
from train.compose import rules_of
from train.optimizer import make_optimizer, parameter_name
from train.state import abstract_state, model_params, moment_specs, param_shardings, restore_state, save_state

# Options that keep updates smooth: rounding changes the sign of a gradient near zero, which Lion makes much of.
NAMES = {
    "sgd": "sgd",
    "rmsprop": "rmsprop,eps=1e-2,momentum=0.5",
    "adam": "adam,eps=1e-2",
    "adamw": "adamw,eps=1e-2,cautious=true",
    "lamb": "lamb,eps=1e-2",
    "adafactor": "adafactor",
    "lion": "lion",
    "muon": "muon,eps=1e-2",
    "soap": "soap,eps=1e-2,every=2",
    "schedule_free": "schedule_free,eps=1e-2",
}
MESHES: dict[str, dict[str, Any]] = {
    "stage fsdp tensor": {"stage": 2, "fsdp": 2, "tensor": 2},
    "zero1": {"data": 2, "fsdp": 4, "rules": "zero1"},
    "expert context fsdp": {"expert": 2, "context": 2, "fsdp": 2},
}
# Muon and SOAP go through many products of matrices, schedule-free finds x from y and z; others 1e-5.
BOUNDS = {"muon": 1e-4, "soap": 1e-3, "schedule_free": 1e-4}
NUM_STEPS = 4


def small(name: str, mesh: dict[str, Any] | None = None, **optimizer: Any) -> ConfigDict:
    """Square matrices, of which SOAP knows all directions from the first update on; experts where they are divided."""
    config: Any = base.get_config()
    config.model.update(num_layers=2, d_model=32, num_heads=4, num_kv_heads=4, d_mlp=32, bias="all", vocab_multiple=64)
    config.model.tie_embeddings = False
    config.data.update(vocab_size=300, seq_len=32, batch_size=16)
    config.optimizer.update(name=NAMES[name], learning_rate=0.01, warmup_steps=2, layer_decay=0.9)
    config.optimizer.update(optimizer)
    if mesh:
        config.mesh.update({"data": 1, "allow_idle": True} | mesh)
        if "expert" in mesh:
            config.model.num_experts = 2
    return config


def mesh_of(config: ConfigDict) -> Mesh:
    return make_mesh(config.mesh, devices=jax.devices()[:8])


def random_tree(like: Any, seed: int) -> Any:
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: rng.standard_normal(leaf.shape).astype(np.float32), like)


def updated(config: ConfigDict, mesh: Mesh, num_steps: int = NUM_STEPS) -> TrainState:
    """The state after some updates by random gradients, the same on every mesh."""
    abstract = abstract_state(config, mesh)
    shardings = jax.tree.map(lambda leaf: leaf.sharding, abstract)
    optimizer = make_optimizer(config)
    params = jax.device_put(random_tree(abstract.params, 0), shardings.params)
    opt_state = on_mesh(jax.jit(optimizer.init, out_shardings=shardings.opt_state), mesh, rules_of(config))(params)

    @functools.partial(jax.jit, out_shardings=(shardings.params, shardings.opt_state))
    def update(params: Any, opt_state: Any, grads: Any) -> tuple[Any, Any]:
        updates, opt_state = optimizer.update(grads, opt_state, params, specs=moment_specs(config, mesh))
        return optax.apply_updates(params, updates), opt_state

    of_gradients = param_shardings(config, mesh, of="gradient")
    for i in range(num_steps):
        grads = jax.device_put(random_tree(abstract.params, 1 + i), of_gradients)
        params, opt_state = on_mesh(update, mesh, rules_of(config))(params, opt_state, grads)
    return TrainState(jnp.asarray(num_steps, jnp.int32), params, opt_state, {})


@functools.cache
def alone(name: str, has_experts: bool) -> dict[str, np.ndarray]:
    config = small(name)
    config.model.num_experts = 2 * has_experts
    return by_name(updated(config, one_device()).params)


def by_name(tree: Any) -> dict[str, np.ndarray]:
    return {parameter_name(path): np.asarray(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def error_of(ours: dict[str, np.ndarray], expected: dict[str, np.ndarray], start: dict[str, np.ndarray]) -> float:
    """The largest norm of a difference over the norm of what was learned."""
    norm = np.linalg.norm
    return max(float(norm(ours[name] - expected[name]) / norm(expected[name] - start[name])) for name in expected)


@pytest.mark.parametrize("mesh", MESHES)
@pytest.mark.parametrize("name", NAMES)
def test_updates_are_those_of_one_device(name: str, mesh: str):
    config = small(name, MESHES[mesh])
    expected = alone(name, "expert" in MESHES[mesh])
    start = by_name(random_tree(abstract_state(config, mesh_of(config)).params, 0))
    error = error_of(by_name(updated(config, mesh_of(config)).params), expected, start)
    assert error < BOUNDS.get(name, 1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_no_device_has_more_than_its_share_of_the_state(name: str):
    """Of what belongs to matrices; vectors are few. Squares are divided on both sides."""
    config = small(name, MESHES["stage fsdp tensor"])
    config.model.bias = "none"
    state = abstract_state(config, mesh_of(config)).opt_state
    for path, leaf in jax.tree_util.tree_leaves_with_path(state):
        shard = leaf.sharding.shard_shape(leaf.shape)
        if leaf.ndim >= 2 and "norm" not in parameter_name(path):
            # Adafactor's means of a side are divided as that side is, and over stages.
            least = 2 if ".inputs" in str(path) or ".outputs" in str(path) else 4
            assert np.prod(shard) * least <= leaf.size, parameter_name(path)


def test_parts_of_moments_are_divided_as_their_parameter():
    config = small("soap", MESHES["stage fsdp tensor"])
    found = {name: leaf.sharding.spec for name, leaf in named(abstract_state(config, mesh_of(config)).opt_state)}
    of_q = {name.split("/")[-4]: spec for name, spec in found.items() if name.endswith("layers/attention/w_q")}
    assert of_q["left"] == of_q["left_basis"] == PartitionSpec("stage", ("fsdp",), ("tensor",))
    assert of_q["right"] == of_q["right_basis"] == PartitionSpec("stage", ("tensor",), ("fsdp",))
    # As many inputs as outputs: its squares have the shape of w_in itself.
    of_in = {name.split("/")[-4]: spec for name, spec in found.items() if name.endswith("layers/mlp/w_in")}
    assert of_in["mu"] == PartitionSpec("stage", "fsdp", "tensor")
    assert of_in["left"] == of_in["left_basis"] == PartitionSpec("stage", ("fsdp",), ("tensor",))
    assert of_in["right"] == of_in["right_basis"] == PartitionSpec("stage", ("tensor",), ("fsdp",))
    config = small("adafactor", MESHES["stage fsdp tensor"])
    found = {name: leaf.sharding.spec for name, leaf in named(abstract_state(config, mesh_of(config)).opt_state)}
    of_q = {name.split("/")[-4]: spec for name, spec in found.items() if name.endswith("layers/attention/w_q")}
    assert of_q == {"inputs": PartitionSpec("stage", "fsdp"), "outputs": PartitionSpec("stage", "tensor", None)}


def named(tree: Any) -> list[tuple[str, Any]]:
    return [(parameter_name(path), leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)]


@pytest.mark.parametrize(("name", "ema"), [*((name, 0.0) for name in NAMES), ("adamw", 0.9)])
def test_a_checkpoint_has_every_bit_of_the_state(tmp_path: epath.Path, name: str, ema: float):
    """Saved on eight devices, read on one, where the next update is the same as without."""
    config = small(name, MESHES["stage fsdp tensor"], ema=ema)
    state = updated(config, mesh_of(config), 2)
    checkpoints = Checkpoints(epath.Path(tmp_path), keep=1)
    save_state(checkpoints, 2, state)
    checkpoints.wait()
    read = restore_state(checkpoints, 2, abstract_state(config, one_device()))
    used = checkpoints.restore(2, params=abstract_state(config, one_device()).params)["params"]
    checkpoints.close()
    assert {k: leaf.tobytes() for k, leaf in by_name(read).items()} == {
        k: leaf.tobytes() for k, leaf in by_name(state).items()
    }
    expected = by_name(model_params(config, state))
    assert all(np.array_equal(leaf, expected[key]) for key, leaf in by_name(used).items())
    differs = any(not np.array_equal(leaf, expected[key]) for key, leaf in by_name(state.params).items())
    assert differs == (bool(ema) or name == "schedule_free")


@pytest.mark.parametrize("name", ["muon", "soap"])
def test_steps_with_stages_and_microbatches_are_those_of_one_device(name: str):
    """The whole step, gradients and all. SOAP makes more of rounding: real gradients have few directions."""
    config = small(name, MESHES["stage fsdp tensor"], clip_norm=0.1)
    config.train.microbatch_rows = 4
    losses = []
    for mesh in (one_device(), mesh_of(config)):
        state, step = init_state(config, mesh), make_train_step(config, mesh)
        losses.append([])
        for i in range(NUM_STEPS):
            state, metrics = step(state, shard_batch(uneven_batch(config, i), mesh))
            losses[-1].append(float(metrics["loss"]))
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-5 if name == "muon" else 1e-3)
    assert losses[0][-1] != losses[0][0]
