"""Work on whole matrices, divided over all devices of a mesh."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from parallel import MeshConfig, make_mesh, spread

SHAPES: list[int] = []


def invert(x_MNN: jax.Array) -> jax.Array:
    SHAPES.append(x_MNN.shape[0])
    return jnp.linalg.inv(x_MNN + 3 * jnp.eye(x_MNN.shape[-1]))


@pytest.mark.parametrize("num_matrices", [1, 3, 8, 11])
def test_each_device_takes_its_share(num_matrices: int):
    """Also where their number is no multiple of the devices', and where rows and columns are divided before."""
    x = np.random.default_rng(0).standard_normal((num_matrices, 4, 4)).astype(np.float32)
    expected = np.linalg.inv(x + 3 * np.eye(4, dtype=np.float32))
    mesh = make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
    placed = jax.device_put(x, NamedSharding(mesh, PartitionSpec(None, "fsdp", "tensor")))
    SHAPES.clear()
    with jax.set_mesh(mesh):
        found = jax.jit(lambda x: spread(invert, x))(placed)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    assert set(SHAPES) == {-(-num_matrices // 8)}


def test_without_a_mesh_it_is_a_plain_call():
    x = jnp.stack([jnp.eye(2), 2 * jnp.eye(2)])
    np.testing.assert_allclose(spread(invert, x), [np.eye(2) / 4, np.eye(2) / 5], rtol=1e-6)
