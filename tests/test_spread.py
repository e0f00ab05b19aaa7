"""Work on whole matrices, divided over all devices of a mesh."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from parallel import MeshConfig, make_mesh, spread

SHAPES: list[tuple[int, ...]] = []


def invert(x: jax.Array) -> jax.Array:
    """The inverse of matrices (4, 2 * 2), which are stored as (m, 4, 2, 2)."""
    SHAPES.append(x.shape)
    return jnp.linalg.inv(x.reshape(-1, 4, 4) + 3 * jnp.eye(4)).reshape(x.shape)


# (axes of the mesh, shape, spec, matrices of a device)
CASES: dict[str, tuple[Any, tuple[int, ...], Any, int]] = {
    "rows and columns": ({"data": 2, "fsdp": 2, "tensor": 2}, (8,), (None, "fsdp", "tensor"), 1),
    "fewer than devices": ({"data": 2, "fsdp": 2, "tensor": 2}, (3,), (None, "fsdp", "tensor"), 1),
    "no multiple": ({"data": 2, "fsdp": 2, "tensor": 2}, (11,), (None, "fsdp", "tensor"), 2),
    "stages": ({"stage": 2, "fsdp": 2, "tensor": 2}, (6,), ("stage", ("fsdp",), "tensor"), 1),
    "two axes on one dim": ({"data": 2, "fsdp": 2, "tensor": 2}, (9,), (None, ("fsdp", "tensor")), 2),
    "layers and experts": ({"stage": 2, "expert": 2, "fsdp": 2}, (4, 6), ("stage", "expert", "fsdp"), 3),
    "replicas": ({"data": 8}, (5,), (), 1),
}


@pytest.mark.parametrize("case", CASES)
def test_each_device_takes_its_share(case: str):
    axes, stacked, spec, share = CASES[case]
    spec = PartitionSpec(*spec)
    x = np.random.default_rng(0).standard_normal((*stacked, 4, 2, 2)).astype(np.float32)
    expected = np.linalg.inv(x.reshape(*stacked, 4, 4) + 3 * np.eye(4, dtype=np.float32)).reshape(x.shape)
    mesh = make_mesh(MeshConfig(**{"data": 1} | axes))
    placed = jax.device_put(x, NamedSharding(mesh, spec))
    SHAPES.clear()
    with jax.set_mesh(mesh):
        found = jax.jit(lambda x: spread(invert, x, num_stacked=len(stacked), spec=spec))(placed)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    assert set(SHAPES) == {(share, 4, 2, 2)}


def test_on_one_device_it_is_a_plain_call():
    x = jnp.stack([jnp.eye(4), 2 * jnp.eye(4)]).reshape(2, 4, 2, 2)
    found = spread(invert, x, num_stacked=1).reshape(2, 4, 4)
    np.testing.assert_allclose(found, [np.eye(4) / 4, np.eye(4) / 5], rtol=1e-6)
