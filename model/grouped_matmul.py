"""A matmul of groups of rows, each with a matrix of its own: what the experts of a mixture compute.

`lax.ragged_dot` is a kernel in XLA for TPUs, and so is its gradient to the rows, but not that to the matrices: there
each of E matrices would be multiplied with all rows, all but its own masked, E times the operations. That one is taken
from `jax.experimental.pallas.ops.tpu.megablox` (Gale et al. 2022, arXiv:2211.15841, which ships with JAX).

Letters: M rows, E matrices, I their inputs, O their outputs.
"""

import jax
from jax import Array
from jax.custom_batching import sequential_vmap

from .attention import pad_to

# Rows, inputs and outputs of a block of the kernel: 3 MiB of a chip's memory for what comes in, 4 for the sum.
BLOCK = (512, 1024, 1024)


@jax.custom_vjp
def grouped_matmul(x_MI: Array, w_EIO: Array, sizes_E: Array) -> Array:
    """The first sizes_E[0] rows times w_EIO[0], the next sizes_E[1] rows times w_EIO[1], and so on.

    Where it is mapped over, as by the stages of a pipeline, it takes one after the other: XLA for TPUs has no batched
    form.

    Returns:
        (M, O); in the rows beyond the groups anything, as in those of the gradient to `x_MI`.
    """
    return _grouped_matmul(x_MI, w_EIO, sizes_E)


@sequential_vmap
def _grouped_matmul(x_MI: Array, w_EIO: Array, sizes_E: Array) -> Array:
    return jax.lax.ragged_dot(x_MI, w_EIO, sizes_E)


@sequential_vmap
def _pull_back(x_MI: Array, w_EIO: Array, sizes_E: Array, dy_MO: Array) -> tuple[Array, Array]:
    dx_MI = jax.vjp(lambda x_MI: jax.lax.ragged_dot(x_MI, w_EIO, sizes_E), x_MI)[1](dy_MO)[0]

    def by_mask(x_MI: Array, dy_MO: Array) -> Array:
        return jax.vjp(lambda w_EIO: jax.lax.ragged_dot(x_MI, w_EIO, sizes_E), w_EIO)[1](dy_MO)[0]

    def by_kernel(x_MI: Array, dy_MO: Array) -> Array:
        return gradient_of_matrices(x_MI, dy_MO, sizes_E).astype(w_EIO.dtype)

    return dx_MI, jax.lax.platform_dependent(x_MI, dy_MO, tpu=by_kernel, default=by_mask)


def gradient_of_matrices(x_MI: Array, dy_MO: Array, sizes_E: Array, *, interpret: bool = False) -> Array:
    """The sum over the rows of each group of x_MI[m].T times dy_MO[m], by the kernel for TPUs.

    Args:
        x_MI: rows.
        dy_MO: gradients of the outputs.
        sizes_E: rows of each group; what is beyond all of them counts for none.
        interpret: run the kernel in Python, where there is no TPU.

    Returns:
        (E, I, O) in x_MI's dtype, summed in float32.
    """
    from jax.experimental.pallas.ops.tpu.megablox.gmm import tgmm  # slow to import

    block = BLOCK[0], min(BLOCK[1], x_MI.shape[1]), min(BLOCK[2], dy_MO.shape[1])
    x_MI, dy_MO = pad_to(x_MI, 0, block[0]), pad_to(dy_MO, 0, block[0])
    with jax.numpy_dtype_promotion("standard"):  # it mixes whole numbers and booleans
        return tgmm(x_MI.T, dy_MO, sizes_E, x_MI.dtype, block, interpret=interpret)


grouped_matmul.defvjp(
    lambda x_MI, w_EIO, sizes_E: (_grouped_matmul(x_MI, w_EIO, sizes_E), (x_MI, w_EIO, sizes_E)),
    lambda kept, dy_MO: (*_pull_back(*kept, dy_MO), None),
)
