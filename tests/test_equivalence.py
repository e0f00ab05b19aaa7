"""Every split of the work gives the training of one device: the same parameters at the start, the same steps after.

The table of measured errors is in docs/equivalence.md, which `make bench` writes.
"""

import jax
import pytest
from ml_collections import ConfigDict

from parallel import AXES, MeshConfig, make_mesh
from tests.matrix import CHOICES, SINGLE, TRIPLES, Errors, kind_of, make_config, measure, name_of
from train import init_state
from train.inspect import tree_sha256

INIT_MESHES = [{"data": 1}, {"data": 2}, {"data": 1, "fsdp": 2}, {"data": 1, "tensor": 2}, {"data": 1, "fsdp": 4}]
INIT_MESHES += [{"data": 2, "tensor": 2}, {"data": 1, "fsdp": 8}, {"data": 2, "fsdp": 2, "tensor": 2}]
INIT_MESHES += [{"data": 1, "stage": 2, "expert": 2, "context": 2}]

# Float32, so rounding: sums over devices and chunks are added up in another order. Parameters may differ by more than
# gradients: Adam divides by the root of their squares, which makes more of an error where gradients are small, and a
# bias, which starts at 0, is nothing but such updates.
BOUNDS = Errors(loss=1e-6, gradient=1e-5, parameter=1e-4, worst="")


def mesh_of(**axes: int) -> jax.sharding.Mesh:
    num_devices = 1
    for size in axes.values():
        num_devices *= size
    return make_mesh(MeshConfig(**axes), devices=jax.devices()[:num_devices])


def varied(config: ConfigDict) -> ConfigDict:
    """Everything that could depend on the mesh: odd sizes, biases, qk norm, untied head, experts."""
    config.model.update(bias="all", norm="layernorm", dropout=0.1, qk_norm="head", activation="swiglu", d_mlp=72)
    config.model.update(tie_embeddings=False, position="learned", num_experts=4)
    return config


def test_initial_parameters_are_bit_identical_on_any_mesh(config: ConfigDict):
    hashes = {str(axes): tree_sha256(init_state(varied(config), mesh_of(**axes)).params) for axes in INIT_MESHES}
    assert len(set(hashes.values())) == 1, hashes


def test_seeds_give_different_parameters(config: ConfigDict):
    mesh = mesh_of(data=1)
    assert tree_sha256(init_state(config, mesh, seed=0).params) != tree_sha256(init_state(config, mesh, seed=1).params)


def test_the_matrix_has_every_axis_at_2_4_and_8_and_every_triple():
    names = [name_of(case) for case in SINGLE + TRIPLES]
    assert len(set(names)) == 18 + 20
    assert {f"{axis}={size}" for axis in AXES for size in (2, 4, 8)} < set(names)


# Cases of one kind share their reference, so they go to one worker.
CASES = [
    pytest.param(case, marks=pytest.mark.xdist_group(str(kind_of(make_config(case)))), id=name_of(case))
    for case in SINGLE + CHOICES + TRIPLES
]


@pytest.mark.parametrize("case", CASES)
def test_three_steps_agree_with_one_device(case: dict):
    errors = measure(case)
    assert errors.loss <= BOUNDS.loss
    assert errors.gradient <= BOUNDS.gradient, errors.worst
    assert errors.parameter <= BOUNDS.parameter
