"""The train step: a pure function from (state, batch) to (state, metrics)."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jax.sharding import Mesh

from model import Transformer
from parallel import compiler_options, divides_parameters, on_mesh, sum_over_replicas

from .compose import attention_of, make_model, maps_devices, num_microbatches, rules_of
from .distill import with_teacher
from .objective import Objective, make_objective, with_aux
from .optimizer import gradient_norm, make_optimizer
from .pipelined import make_pipelined_grad_fn
from .schedule import make_schedule
from .state import TrainState, abstract_state, moment_specs, param_shardings
from .trainable import join, trained_part

Step = Callable[[TrainState, dict[str, Array]], tuple[TrainState, dict[str, Array]]]


def make_train_step(config: Any, mesh: Mesh, *, on_trace: Callable[[], None] = lambda: None) -> Step:
    """Builds the jit-compiled step of a config; it takes over the memory of the state it is given.

    Loss and gradients are sums over the global batch divided once by the sum of its weights, so microbatches and
    devices do not change them.

    Args:
        config: the whole config.
        mesh: the mesh that the state lives on.
        on_trace: called each time that JAX traces the step.

    Returns:
        A function (state, batch) -> (state, metrics). Metrics are scalars: "loss", "nll" (nats per token), "grad_norm"
        (before clipping), "learning_rate" and "weight" (targets that counted); a mixture of experts adds "aux_loss" and
        "dropped" (copies of tokens), both per target as the loss is.

    Raises:
        ValueError: the config is wrong, or does not fit the mesh.

    Example:
        state, metrics = make_train_step(config, mesh)(state, shard_batch(batch, mesh))
    """
    model, optimizer, objective = make_model(config, mesh), make_optimizer(config), make_objective(config)
    schedule = make_schedule(config, config.optimizer.learning_rate)
    count = num_microbatches(config, mesh)
    specs = moment_specs(config, mesh)
    has_dropout, seed = config.model.dropout > 0, config.seed

    if mesh.shape["stage"] > 1:
        sum_grads = make_pipelined_grad_fn(config, mesh, model, objective)
    else:
        sum_grads = make_grad_fn(config, mesh, model, objective)
    rules = rules_of(config)
    # Within a pipeline, attention over a divided length or by a kernel maps over "stage", on which XLA (jax 0.11.2)
    # aborts within a map over "data": it wants manual axes in the mesh's order. There gradients are added up in every
    # microbatch.
    maps = mesh.shape["context"] > 1 or maps_devices(attention_of(config, mesh).kind)
    maps_stages = mesh.shape["stage"] > 1 and maps
    if mesh.shape["data"] > 1 and count > 1 and not divides_parameters(rules, "data") and not maps_stages:
        sum_grads = sum_over_replicas(sum_grads, rules)

    def train_step(state: TrainState, batch: dict[str, Array]) -> tuple[TrainState, dict[str, Array]]:
        on_trace()
        keys_B = None
        if has_dropout:
            key = jax.random.fold_in(jax.random.key(seed), state.step)
            keys_B = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(batch["inputs"].shape[0]))
        trees = (state.params, state.fixed)
        (loss, (weight, sums)), grads = sum_grads(trees, split_rows((batch, keys_B), count))
        denominator = jnp.where(weight > 0, weight, 1.0)
        grads = jax.tree.map(lambda grad: grad / denominator, grads)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params, specs=specs)
        metrics = {
            "loss": loss / denominator,
            **{name: total / denominator for name, total in sums.items()},
            "grad_norm": gradient_norm(grads),
            "learning_rate": jnp.asarray(schedule(state.step), jnp.float32),
            "weight": weight,
        }
        params = optax.apply_updates(state.params, updates)
        return state.replace(step=state.step + 1, params=params, opt_state=opt_state), metrics

    shardings = jax.tree.map(lambda leaf: leaf.sharding, abstract_state(config, mesh))
    options = compiler_options(mesh)
    jitted = jax.jit(train_step, donate_argnums=0, out_shardings=(shardings, None), compiler_options=options)
    return on_mesh(jitted, mesh, rules)


def make_grad_fn(config: Any, mesh: Mesh, model: Transformer, objective: Objective) -> Callable[..., Any]:
    """The function (trees, microbatches) -> ((loss, (weight, sums)), gradients), summed over the microbatches.

    Its trees are the trained parameters, which the gradients are of, and what is fixed (`TrainState`).
    """
    specs = jax.tree.map(lambda sharding: sharding.spec, param_shardings(config, mesh, of="gradient"))
    objective, choice = with_aux(objective), trained_part(config)

    def loss_fn(params: Any, fixed: Any, batch: dict[str, Array], keys_B: Array | None) -> Any:
        with jax.numpy_dtype_promotion("strict"):  # no hidden casts; Optax, outside, has some
            params = with_teacher(join(choice, params, fixed.get("base", {})), fixed)
            loss, weight, sums = objective(model.apply, params, batch, keys_B)
        return loss, (weight, sums)

    @functools.partial(jax.jit, inline=True)  # traced once, for its shapes and for the loop
    def grad_fn(trees: Any, microbatch: Any) -> Any:
        result, grads = jax.value_and_grad(loss_fn, has_aux=True)(*trees, *microbatch)
        return result, jax.lax.with_sharding_constraint(grads, specs)

    def sum_grads(trees: Any, microbatches: Any) -> Any:
        first = jax.tree.map(lambda x: x[0], microbatches)
        if jax.tree.leaves(microbatches)[0].shape[0] == 1:
            return grad_fn(trees, first)

        def body(sums: Any, microbatch: Any) -> tuple[Any, None]:
            return jax.tree.map(jnp.add, sums, grad_fn(trees, microbatch)), None

        zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(grad_fn, trees, first))
        return jax.lax.scan(body, zeros, microbatches)[0]

    return sum_grads


def split_rows(rows: Any, count: int) -> Any:
    """Arrays (B, ...) as microbatches (count, B / count, ...).

    Rows i, i + count, ... make microbatch i: each device finds its part among the rows it has.
    """
    return jax.tree.map(lambda x: x.reshape(x.shape[0] // count, count, *x.shape[1:]).swapaxes(0, 1), rows)
