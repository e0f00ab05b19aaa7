"""The backward pass of a function in two parts: the gradient of its input, and later those of its parameters.

Reference: the split of Qi et al. 2023 (arXiv:2401.10241, section 2), found here in the jaxpr of the backward pass
instead of being written into each layer.
"""

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
from jax import Array
from jax.extend import core


@dataclasses.dataclass(frozen=True)
class BackwardParts:
    """The parts of `split_backward`.

    Attributes:
        forward: (params, numbers, x, rows) -> (y, aux, pull_back), where pull_back(cotangent of (y, aux loss)) returns
            (cotangent of x, what is kept for `weights`).
        weights: (params, numbers, rows, kept) -> cotangent of params.
        kept_shapes: shapes and dtypes of what is kept.
    """

    forward: Callable[..., Any]
    weights: Callable[..., Any]
    kept_shapes: Sequence[Any]


def split_backward(fn: Callable[..., Any], params: Any, numbers: Array, x: Array, rows: Any) -> BackwardParts:
    """Splits the backward pass of fn(params, numbers, x, rows) -> (y, (aux_loss, aux)).

    An equation that computes both gradients at once, such as a loop over layers or a rematerialised layer, stays whole
    in the first part.

    Args:
        fn: the function.
        params: its parameters, for their shapes, as are the other arguments.
        numbers: passed through.
        x: its input.
        rows: passed through.
    """

    def forward_and_backward(params: Any, numbers: Array, rows: Any, x: Array, cotangent: Any) -> Any:
        def differentiable(params: Any, x: Array) -> Any:
            y, (aux_loss, aux) = fn(params, numbers, x, rows)
            return (y, aux_loss), aux

        (y, aux_loss), pull_back, aux = jax.vjp(differentiable, params, x, has_aux=True)
        d_params, dx = pull_back(cotangent)
        return (y, (aux_loss, aux)), dx, d_params

    y, (aux_loss, _) = jax.eval_shape(fn, params, numbers, x, rows)
    again = (params, numbers, rows)  # at hand when the weights' turn comes
    closed, shapes = jax.make_jaxpr(forward_and_backward, return_shape=True)(*again, x, (y, aux_loss))
    trees = [jax.tree.structure(part) for part in shapes]
    jaxpr = closed.jaxpr
    outputs = _cut(jaxpr.outvars, [tree.num_leaves for tree in trees])
    inputs = _cut(jaxpr.invars, [len(jax.tree.leaves(part)) for part in (again, x, (y, aux_loss))])
    constants = dict(zip(jaxpr.constvars, closed.consts, strict=True))

    first = _needed(jaxpr.eqns, outputs[0])
    second = _needed(jaxpr.eqns, outputs[1], but=first)
    third = _needed(jaxpr.eqns, outputs[2], but=[*first, *second])
    made = {variable for eqn in third for variable in eqn.outvars}
    used = [v for eqn in third for v in eqn.invars] + list(outputs[2])
    known = made | set(inputs[0]) | set(jaxpr.constvars)
    kept = list(dict.fromkeys(v for v in used if not isinstance(v, core.Literal) and v not in known))

    def forward(params: Any, numbers: Array, x: Array, rows: Any) -> Any:
        env = constants | dict(
            zip([*inputs[0], *inputs[1]], jax.tree.leaves(((params, numbers, rows), x)), strict=True)
        )
        _evaluate(first, env)

        def pull_back(cotangent: Any) -> tuple[Any, list[Array]]:
            here = env | dict(zip(inputs[2], jax.tree.leaves(cotangent), strict=True))
            _evaluate(second, here)
            return trees[1].unflatten(_read(here, outputs[1])), _read(here, kept)

        y, (aux_loss, aux) = trees[0].unflatten(_read(env, outputs[0]))
        return y, (aux_loss, aux), pull_back

    def weights(params: Any, numbers: Array, rows: Any, values: Sequence[Array]) -> Any:
        env = constants | dict(zip(inputs[0], jax.tree.leaves((params, numbers, rows)), strict=True))
        env |= dict(zip(kept, values, strict=True))
        _evaluate(third, env)
        return trees[2].unflatten(_read(env, outputs[2]))

    return BackwardParts(forward, weights, [v.aval for v in kept])


def _cut(variables: Sequence[Any], lengths: Iterable[int]) -> list[Sequence[Any]]:
    """Consecutive parts of a sequence."""
    parts, start = [], 0
    for length in lengths:
        parts.append(variables[start : start + length])
        start += length
    return parts


def _needed(eqns: Sequence[Any], outputs: Iterable[Any], but: Sequence[Any] = ()) -> list[Any]:
    """The equations that the outputs depend on, in order, but for some."""
    done = set(map(id, but))
    wanted = {v for v in outputs if not isinstance(v, core.Literal)}
    needed = []
    for eqn in reversed(eqns):
        if wanted.intersection(eqn.outvars):
            needed.append(eqn)
            wanted.update(v for v in eqn.invars if not isinstance(v, core.Literal))
    return [eqn for eqn in reversed(needed) if id(eqn) not in done]


def _read(env: dict[Any, Any], variables: Iterable[Any]) -> list[Any]:
    return [v.val if isinstance(v, core.Literal) else env[v] for v in variables]


def _evaluate(eqns: Iterable[Any], env: dict[Any, Any]) -> None:
    """Adds what the equations compute to `env`."""
    for eqn in eqns:
        with eqn.ctx.manager:
            results = eqn.primitive.bind(*_read(env, eqn.invars), **eqn.primitive.get_bind_params(eqn.params))
        env.update(zip(eqn.outvars, results if eqn.primitive.multiple_results else [results], strict=True))
