"""SOAP: Adam in the eigenbasis of Shampoo's preconditioners (Vyas et al. 2024, arXiv:2409.11321, algorithms 3 and 4).

Letters: M matrices, I inputs (also i), O outputs (also o).
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from parallel import spread

from .matrices import from_matrices, hidden_matrix, map_matrices, to_matrices
from .parameters import Matrix

_EXACT = jax.lax.Precision.HIGHEST  # or a rotation and its inverse would not cancel on TPUs


class SoapState(NamedTuple):
    """The state of `scale_by_soap`.

    Attributes:
        count: updates made.
        mu: the mean of the gradients.
        nu: the mean of their squares in the eigenbasis, in the shape of the parameters.
        left: the mean of G G^T (stacked dims, I, I).
        right: the mean of G^T G (stacked dims, O, O).
        left_basis: eigenvectors of `left`, as columns, those of large eigenvalues first.
        right_basis: of `right`.
    """

    count: Array
    mu: Any
    nu: Any
    left: Any
    right: Any
    left_basis: Any
    right_basis: Any


def scale_by_soap(*, b1: float, b2: float, eps: float, every: int) -> optax.GradientTransformation:
    """Adam on rotated gradients; the first update, which only finds the rotation, moves nothing.

    Args:
        b1: decay of the mean of the gradients.
        b2: decay of the mean of their squares, and of the preconditioners.
        eps: added to the divisor.
        every: updates from one refinement of the eigenvectors to the next.

    Returns:
        A transformation of trees of hidden matrices.
    """

    def init(params: Any) -> SoapState:
        zeros = lambda: jax.tree.map(jnp.zeros_like, params)  # noqa: E731
        left, right = (lambda dim=dim: map_matrices(lambda *leaf: _square(*leaf, dim), params) for dim in (1, 2))
        return SoapState(jnp.zeros((), jnp.int32), zeros(), zeros(), left(), right(), left(), right())

    def update(grads: Any, state: SoapState, params: Any = None) -> tuple[Any, SoapState]:
        moves = state.count > 0
        # 0: keep the eigenvectors, 1: refine them, 2: find them
        action = jnp.where(moves, (state.count % every == 0).astype(jnp.int32), 2)

        def one(matrix: Matrix, g: Array, mu: Array, nu: Array, *squares: Array) -> tuple[Array, ...]:
            g_MIO = to_matrices(g, matrix)
            left, right, left_basis, right_basis = (square.reshape(-1, *square.shape[-2:]) for square in squares)
            bases = left_basis, right_basis
            mu = jnp.where(moves, b1 * mu + (1 - b1) * g, mu)
            rotated = from_matrices(_rotate(g_MIO, *bases), matrix, g)
            nu = jnp.where(moves, b2 * nu + (1 - b2) * rotated**2, nu)
            mean = from_matrices(_rotate(to_matrices(mu, matrix), *bases), matrix, g) / _correction(b1, state.count)
            scaled = mean / (jnp.sqrt(nu / _correction(b2, state.count)) + eps)
            back = _rotate(to_matrices(scaled, matrix), *(basis.mT for basis in bases))
            direction = jnp.where(moves, from_matrices(back, matrix, g), 0.0)
            left = b2 * left + (1 - b2) * jnp.einsum("mio,mjo->mij", g_MIO, g_MIO, precision=_EXACT)
            right = b2 * right + (1 - b2) * jnp.einsum("mio,mip->mop", g_MIO, g_MIO, precision=_EXACT)
            new = left, right, _eigenvectors(action, left, left_basis), _eigenvectors(action, right, right_basis)
            shaped = (array.reshape(old.shape) for array, old in zip(new, squares, strict=True))
            return direction, mu, nu, *shaped

        flat, tree = jax.tree_util.tree_flatten_with_path(grads)
        others = (jax.tree.leaves(other) for other in state[1:])
        results = [one(hidden_matrix(path), g, *more) for (path, g), *more in zip(flat, *others, strict=True)]
        direction, *rest = (jax.tree.unflatten(tree, column) for column in zip(*results, strict=True))
        return direction, SoapState(state.count + 1, *rest)

    return optax.GradientTransformation(init, update)  # pyright: ignore[reportArgumentType]


def _square(matrix: Matrix, param: Array, dim: int) -> Array:
    size = to_matrices(param, matrix).shape[dim]
    stacked = [param.shape[i] for i in range(param.ndim) if i not in matrix.inputs + matrix.outputs]
    return jnp.zeros((*stacked, size, size), param.dtype)


def _correction(decay: float, count: Array) -> Array:
    return 1 - decay ** jnp.maximum(count, 1).astype(jnp.float32)


def _rotate(x_MIO: Array, left_MIi: Array, right_MOo: Array) -> Array:
    """Left^T X Right."""
    return jnp.einsum("mio,mij,mop->mjp", x_MIO, left_MIi, right_MOo, precision=_EXACT)


def _eigenvectors(action: Array, square_MII: Array, basis_MII: Array) -> Array:
    """Finds the eigenvectors, or refines them by one power iteration and QR, each matrix on one device."""

    def find(square: Array, basis: Array) -> Array:
        return jnp.linalg.eigh(square)[1][..., ::-1]

    def refine(square: Array, basis: Array) -> Array:
        return jnp.linalg.qr(jnp.matmul(square, basis, precision=_EXACT))[0]

    branches = [lambda square, basis: basis, *(lambda *args, fn=fn: spread(fn, *args) for fn in (refine, find))]
    return jax.lax.switch(action, branches, square_MII, basis_MII)
