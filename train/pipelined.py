"""Any objective as a pipeline: it is cut at the model's layer stack."""

import contextlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from model import Transformer, loop_layers
from parallel import Pieces, pipeline_value_and_grad

from .compose import schedule_of
from .distill import with_teacher
from .objective import Objective
from .state import model_shardings
from .trainable import join, trained_part

STACK = "layers"  # the stack's name among the model's parameters


class _ReachedStack(Exception):  # noqa: N818 - it is no error
    """Ends a forward pass at the layer stack."""


def make_pipelined_grad_fn(config: Any, mesh: Mesh, model: Transformer, objective: Objective) -> Callable[..., Any]:
    """The function (trees, microbatches) -> ((loss, (weight, sums)), gradients), summed over the microbatches.

    As `train.step.make_grad_fn`; the gradients of all parameters are led back to those that are trained.
    """
    schedule, choice = schedule_of(config, mesh), trained_part(config)
    shardings = {of: model_shardings(config, mesh, of=of)[STACK] for of in ("", "gradient")}

    def place(tree: Any, of: str) -> Any:
        def constrain(leaf: Array, sharding: NamedSharding) -> Array:
            stage, *rest = sharding.spec
            return jax.lax.with_sharding_constraint(leaf, PartitionSpec(stage, None, None, *rest))

        return jax.tree.map(constrain, tree, shardings[of])

    def grad_fn(trees: Any, microbatches: Any) -> Any:
        trained, fixed = trees
        params, pull_back = jax.vjp(lambda trained: join(choice, trained, fixed.get("base", {})), trained)

        def with_fixed(apply_fn: Callable[..., Any], params: Any, *more: Any) -> Any:
            return objective(apply_fn, with_teacher(params, fixed), *more)

        pieces = cut_objective(model, with_fixed, params, unrolled=schedule.splits_backward)
        shared = {name: leaf for name, leaf in params.items() if name != STACK}
        (loss, ((weight, sums), aux)), (d_shared, d_stacked) = pipeline_value_and_grad(
            pieces, schedule, shared, params[STACK], microbatches, place=place
        )
        return (loss, (weight, sums | aux)), pull_back({**d_shared, STACK: d_stacked})[0]

    return grad_fn


def cut_objective(model: Transformer, objective: Objective, params: Any, *, unrolled: bool = False) -> Pieces:
    """Cuts an objective in what comes before the model's layer stack, the layers, and what follows them.

    The objective is traced with a stand-in for the stack, so it need not know.

    Args:
        model: the model; its `stack_fn` runs the layers of a piece.
        objective: the objective.
        params: the model's parameters, to trace it with.
        unrolled: run the layers of a piece one by one, so that the parts of their backward passes can be told apart.
    """

    def run(stack_fn: Callable[..., Any], shared: Any, rows: Any) -> Any:
        batch, keys_B = rows
        with jax.numpy_dtype_promotion("strict"):
            variables = {**shared, STACK: params[STACK]}
            return objective(model.clone(stack_fn=stack_fn).apply, variables, batch, keys_B)

    def stack_call(shared: Any, rows: Any) -> Any:
        """What the stack is called with: (layer_fns, params, x, per_layer, name)."""
        call: list[Any] = []

        def stop(*arguments: Any) -> Any:
            if arguments[-1] != STACK:
                return model.stack_fn(*arguments)
            call.extend(arguments)
            raise _ReachedStack

        with contextlib.suppress(_ReachedStack):
            run(stop, shared, rows)
        assert call, "the objective does not run the model's layers"
        return call

    def enter(shared: Any, rows: Any) -> Array:
        return stack_call(shared, rows)[2]

    def layers(piece: Any, numbers: Array, x: Array, rows: Any) -> Any:
        layer_fns, *_ = stack_call(params, rows)
        stack_fn = loop_layers if unrolled else model.stack_fn
        x, sums = stack_fn(layer_fns, piece, x, numbers + model.config.num_dense_layers)
        sums = {name: jnp.sum(value) for name, value in sums.items()}
        return x, (sums.get("aux_loss", jnp.zeros(())), sums)

    def leave(shared: Any, x: Array, rows: Any) -> Any:
        def skip(*arguments: Any) -> Any:
            return x, {}

        loss, weight, sums = run(skip, shared, rows)
        return loss, (weight, sums)

    return Pieces(enter, layers, leave)
