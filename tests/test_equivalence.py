"""Item 3 of the promise: the mesh changes neither the parameters at the start nor the losses that follow."""

import jax
import pytest
from ml_collections import ConfigDict

from data import make_batches
from parallel import MeshConfig, make_mesh, shard_batch
from train import init_state, make_train_step
from train.inspect import tree_sha256

MESHES = {
    "data=8": {"data": 8},
    "fsdp=8": {"data": 1, "fsdp": 8},
    "tensor=2": {"data": 1, "tensor": 2},
    "data=2,fsdp=2,tensor=2": {"data": 2, "fsdp": 2, "tensor": 2},
}
INIT_MESHES = [{"data": 1}, {"data": 2}, {"data": 1, "fsdp": 2}, {"data": 1, "tensor": 2}, {"data": 1, "fsdp": 4}]
INIT_MESHES += [{"data": 2, "tensor": 2}, {"data": 1, "fsdp": 8}, {"data": 2, "fsdp": 2, "tensor": 2}]


def mesh_of(**axes: int) -> jax.sharding.Mesh:
    num_devices = 1
    for size in axes.values():
        num_devices *= size
    return make_mesh(MeshConfig(**axes), devices=jax.devices()[:num_devices])


def varied(config: ConfigDict) -> ConfigDict:
    """Everything that could depend on the mesh: odd sizes, biases, dropout, packed documents."""
    config.model.update(use_bias=True, norm="layernorm", dropout=0.1, qk_norm=True, activation="swiglu", d_mlp=72)
    config.model.update(tie_embeddings=False, position="learned")
    return config


def test_initial_parameters_are_bit_identical_on_any_mesh(config: ConfigDict):
    hashes = {str(axes): tree_sha256(init_state(varied(config), mesh_of(**axes)).params) for axes in INIT_MESHES}
    assert len(set(hashes.values())) == 1, hashes


def test_seeds_give_different_parameters(config: ConfigDict):
    mesh = mesh_of(data=1)
    assert tree_sha256(init_state(config, mesh, seed=0).params) != tree_sha256(init_state(config, mesh, seed=1).params)


def losses(config: ConfigDict, **axes: int) -> list[float]:
    mesh = mesh_of(**axes)
    state, step = init_state(config, mesh), make_train_step(config, mesh)
    recorded = []
    for batch, _ in zip(make_batches(config.data, seed=config.seed), range(10), strict=False):
        state, metrics = step(state, shard_batch(batch, mesh))
        recorded.append(metrics["loss"])
    return [float(loss) for loss in recorded]


@pytest.fixture(scope="module")
def reference() -> dict[str, list[float]]:
    return {}


@pytest.mark.xdist_group("equivalence")
@pytest.mark.parametrize("name", MESHES)
def test_ten_losses_agree_with_one_device_to_1e_minus_5(config: ConfigDict, reference: dict, name: str):
    config = varied(config)
    if not reference:
        reference["losses"] = losses(config, data=1)
    sharded = losses(config, **MESHES[name])
    assert sharded == pytest.approx(reference["losses"], rel=1e-5)
    assert reference["losses"][-1] < reference["losses"][0]  # it learned: the losses do follow the updates
