"""SOAP: Adam in the eigenbasis of Shampoo's preconditioners (Vyas et al. 2024, arXiv:2409.11321, algorithms 3 and 4).

The paper finds the first eigenvectors by a decomposition, which compilers for TPUs take minutes for; here it is rounds
of the power iteration that refines them later.

Letters: I inputs (also i), O outputs (also o).
"""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jax.sharding import PartitionSpec

from parallel import spread

from .matrices import Specs, hidden_matrix, num_stacked, to_matrices
from .moments import spec_of_part
from .parameters import parameter_name

_FIRST_ROUNDS = 10  # of power iteration that find the first eigenvectors
_EXACT = jax.lax.Precision.HIGHEST  # or a rotation and its inverse would not cancel on TPUs


class SoapState(NamedTuple):
    """The state of `scale_by_soap`.

    Attributes:
        count: updates made.
        mu: the mean of the gradients.
        nu: the mean of their squares in the eigenbasis, in the shape of the parameters.
        left: the mean of G G^T (stacked dims, I, I); None where there are too many inputs.
        right: the mean of G^T G (stacked dims, O, O); None where there are too many outputs.
        left_basis: eigenvectors of `left`, as columns, those of large eigenvalues first; None where `left` is.
        right_basis: of `right`.
    """

    count: Array
    mu: Any
    nu: Any
    left: Any
    right: Any
    left_basis: Any
    right_basis: Any


def scale_by_soap(*, b1: float, b2: float, eps: float, every: int, largest: int) -> optax.GradientTransformation:
    """Adam on rotated gradients; the first update, which only finds the rotation, moves nothing.

    Args:
        b1: decay of the mean of the gradients.
        b2: decay of the mean of their squares, and of the preconditioners.
        eps: added to the divisor.
        every: updates from one refinement of the eigenvectors to the next.
        largest: inputs or outputs that are turned; of more, that side of the matrix stays as it is.

    Returns:
        A transformation of trees of hidden matrices.
    """

    def init(params: Any) -> SoapState:
        zeros = lambda: jax.tree.map(jnp.zeros_like, params)

        def squares(fill: float, side: int) -> Any:
            return jax.tree_util.tree_map_with_path(functools.partial(_square, fill, side, largest), params)

        bases = squares(1.0, 0), squares(1.0, 1)
        return SoapState(jnp.zeros((), jnp.int32), zeros(), zeros(), squares(0.0, 0), squares(0.0, 1), *bases)

    def update(
        grads: Any, state: SoapState, params: Any = None, *, specs: Specs | None = None, **extra: Any
    ) -> tuple[Any, SoapState]:
        moves = state.count > 0
        rounds = jnp.where(moves, (state.count % every == 0).astype(jnp.int32), _FIRST_ROUNDS)

        def one(path: Any, g: Array, mu: Array, nu: Array, *squares: Array | None) -> tuple[Array | None, ...]:
            matrix = hidden_matrix(path)
            left, right, left_basis, right_basis = squares
            g_IO = to_matrices(g, matrix)
            mu = jnp.where(moves, b1 * mu + (1 - b1) * g, mu)
            rotated = _rotate(g_IO, left_basis, right_basis).reshape(g.shape)
            nu = jnp.where(moves, b2 * nu + (1 - b2) * rotated**2, nu)
            mean = _rotate(to_matrices(mu, matrix), left_basis, right_basis) / _correction(b1, state.count)
            scaled = mean / (jnp.sqrt(to_matrices(nu, matrix) / _correction(b2, state.count)) + eps)
            direction = _rotate_back(scaled, left_basis, right_basis).reshape(g.shape)
            if left is not None:
                left = b2 * left + (1 - b2) * jnp.einsum("...io,...jo->...ij", g_IO, g_IO, precision=_EXACT)
            if right is not None:
                right = b2 * right + (1 - b2) * jnp.einsum("...io,...ip->...op", g_IO, g_IO, precision=_EXACT)
            bases = []
            for side, square, basis in (("left", left, left_basis), ("right", right, right_basis)):
                if square is None or basis is None:
                    bases.append(None)
                    continue
                spec = None
                if specs is not None:
                    sizes = jax.sharding.get_abstract_mesh().shape
                    spec = spec_of_part(side, matrix, square.shape, specs[parameter_name(path)], sizes)
                bases.append(_eigenvectors(rounds, square, basis, spec))
            return jnp.where(moves, direction, 0.0), mu, nu, left, right, *bases

        flat, tree = jax.tree_util.tree_flatten_with_path(grads)
        if not flat:  # adapters alone are trained, or the model has no hidden matrix
            return grads, state._replace(count=state.count + 1)
        others = (jax.tree.leaves(other, is_leaf=lambda node: node is None) for other in state[1:])
        results = [one(path, g, *more) for (path, g), *more in zip(flat, *others, strict=True)]
        direction, *rest = (jax.tree.unflatten(tree, column) for column in zip(*results, strict=True))
        return direction, SoapState(state.count + 1, *rest)

    return optax.GradientTransformationExtraArgs(init, update)  # pyright: ignore[reportArgumentType]


def _square(fill: float, side: int, largest: int, path: Any, param: Array) -> Array | None:
    """A number times the identity, for each matrix; None if that would be too large."""
    matrix = hidden_matrix(path)
    size = math.prod(param.shape[i] for i in (matrix.inputs, matrix.outputs)[side])
    if size > largest:
        return None
    return jnp.broadcast_to(fill * jnp.eye(size, dtype=param.dtype), (*param.shape[: num_stacked(matrix)], size, size))


def _correction(decay: float, count: Array) -> Array:
    return 1 - decay ** jnp.maximum(count, 1).astype(jnp.float32)


def _rotate(x_IO: Array, left_Ii: Array | None, right_Oo: Array | None) -> Array:
    """Left^T X Right, where None is the identity."""
    if left_Ii is not None:
        x_IO = jnp.einsum("...io,...ij->...jo", x_IO, left_Ii, precision=_EXACT)
    return x_IO if right_Oo is None else jnp.matmul(x_IO, right_Oo, precision=_EXACT)


def _rotate_back(x_io: Array, left_Ii: Array | None, right_Oo: Array | None) -> Array:
    """Left X Right^T."""
    return _rotate(x_io, None if left_Ii is None else left_Ii.mT, None if right_Oo is None else right_Oo.mT)


def _eigenvectors(rounds: Array, square: Array, basis: Array, spec: PartitionSpec | None) -> Array:
    """Refines eigenvectors by rounds of power iteration and QR (algorithm 4), each matrix on one device."""

    def refine(square: Array, basis: Array) -> Array:
        return jnp.linalg.qr(jnp.matmul(square, basis, precision=_EXACT))[0]

    spread_out = functools.partial(spread, refine, num_stacked=square.ndim - 2, spec=spec)
    return jax.lax.fori_loop(0, rounds, lambda _, basis: spread_out(square, basis), basis)
