"""The grouped matmul's gradient for TPUs, run here in Python, is that of `lax.ragged_dot`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from model.grouped_matmul import gradient_of_matrices, grouped_matmul

# Rows of each group: empty ones first, within and last, groups that end within a block of 512 rows and at its edge,
# and rows beyond all groups.
SIZES = [(0, 3, 0, 5), (512, 100, 0, 200), (700, 0, 0, 0), (0, 0, 0, 0)]


@pytest.mark.parametrize("sizes", SIZES)
def test_the_kernels_gradient(sizes: tuple[int, ...]):
    rng, num_rows = np.random.default_rng(0), sum(sizes) + 7
    x_MI, dy_MO = (jnp.asarray(rng.standard_normal((num_rows, size)), jnp.float32) for size in (40, 24))
    found_EIO = gradient_of_matrices(x_MI, dy_MO, jnp.asarray(sizes, jnp.int32), interpret=True)
    ends = np.cumsum(sizes)
    for found_IO, start, end in zip(found_EIO, ends - sizes, ends, strict=True):
        expected_IO = np.asarray(x_MI[start:end], np.float64).T @ np.asarray(dy_MO[start:end], np.float64)
        np.testing.assert_allclose(found_IO, expected_IO, atol=1e-4)


def test_gradients_are_those_of_ragged_dot():
    rng, sizes_E = np.random.default_rng(0), jnp.asarray((3, 0, 6), jnp.int32)
    x_MI, w_EIO = jnp.asarray(rng.standard_normal((9, 8))), jnp.asarray(rng.standard_normal((3, 8, 5)))

    def gradients(matmul):
        return jax.grad(lambda x_MI, w_EIO: jnp.sum(jnp.sin(matmul(x_MI, w_EIO, sizes_E))), (0, 1))(x_MI, w_EIO)

    for found, expected in zip(gradients(grouped_matmul), gradients(jax.lax.ragged_dot), strict=True):
        np.testing.assert_array_equal(found, expected)
