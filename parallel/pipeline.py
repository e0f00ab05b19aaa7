"""The executor of pipeline schedules: loss and gradients of a layer stack that is divided over the axis "stage".

One SPMD program runs every stage: arrays have a leading dim of stages that is divided over the axis, what a stage does
is a vmap over it, and activations pass on by a roll, which compiles to a collective-permute. A stage with nothing to do
computes on what it last held, and the result is dropped, so no collective ever depends on a device's own branch.

A stage keeps only the inputs of its pieces and computes the rest again in the backward pass.

Letters: S stages, C chunks, n layers of a piece, M microbatches.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from .schedules import ENDS, Schedule, tables
from .split_backward import split_backward

ACTIVATIONS = ("layers", None, "batch", "residual_length", "act_embed")


@dataclasses.dataclass(frozen=True)
class Pieces:
    """A loss cut at its layer stack; each function is for one microbatch.

    Attributes:
        enter: (shared parameters, microbatch) -> activations x that enter the first layer.
        layers: (parameters (n, ...), their layers' numbers (n,), x, microbatch) -> (x, (auxiliary loss, sums)).
        leave: (shared parameters, x after the last layer, microbatch) -> (loss, sums).
    """

    enter: Callable[[Any, Any], Array]
    layers: Callable[[Any, Array, Array, Any], tuple[Array, tuple[Array, Any]]]
    leave: Callable[[Any, Array, Any], tuple[Array, Any]]


def to_stages(tree: Any, schedule: Schedule) -> Any:
    """Leaves (L, ...) as (S, C, n, ...): piece c * S + s of the stack is chunk c of stage s.

    With one chunk each stage has its part already; otherwise the parameters change places once in a step.
    """
    S, C = schedule.num_stages, schedule.num_chunks
    return jax.tree.map(lambda x: x.reshape(C, S, x.shape[0] // (C * S), *x.shape[1:]).swapaxes(0, 1), tree)


def from_stages(tree: Any) -> Any:
    """The inverse of `to_stages`."""
    return jax.tree.map(lambda x: x.swapaxes(0, 1).reshape(-1, *x.shape[3:]), tree)


def pipeline_value_and_grad(
    pieces: Pieces,
    schedule: Schedule,
    shared: Any,
    stacked: Any,
    microbatches: Any,
    *,
    place: Callable[[Any, str], Any],
) -> tuple[tuple[Array, tuple[Any, Any]], tuple[Any, Any]]:
    """Sums losses and gradients over the microbatches, in the order of a schedule.

    Call it under jit and `on_mesh`, with a mesh whose axis "stage" has the schedule's number of stages.

    Args:
        pieces: the loss.
        schedule: what is done when.
        shared: parameters outside the stack.
        stacked: parameters of the stack, each leaf (L, ...).
        microbatches: each leaf (M, ...).
        place: constrains a tree like `to_stages(stacked)` to where the parameters (of="") or their gradients
            (of="gradient") live, called as place(tree, of).

    Returns:
        ((loss, (sums of `leave`, auxiliary sums)), (gradients of shared, gradients of stacked)).
    """
    run = _Executor(pieces, schedule, shared, place(to_stages(stacked, schedule), ""), microbatches)
    carry = run.start()
    carry["d_stages"] = place(carry["d_stages"], "gradient")
    arrays, _ = tables(schedule)
    for kinds, ticks in schedule.phases():
        rows = {name: array[ticks.start : ticks.stop] for name, array in arrays.items()}
        # What no tick of the phase does is not even compiled: a schedule's end need not have the loss.
        rows = {name: jnp.asarray(array) for name, array in rows.items() if name not in ENDS or (array >= 0).any()}
        carry, _ = jax.lax.scan(lambda carry, row, kinds=kinds: (run.tick(kinds, carry, row), None), carry, rows)
    return (carry["loss"], (carry["sums"], carry["aux"])), (carry["d_shared"], from_stages(carry["d_stages"]))


class _Executor:
    """What the ticks of one call have in common."""

    def __init__(self, pieces: Pieces, schedule: Schedule, shared: Any, stages: Any, microbatches: Any):
        self.pieces, self.schedule, self.shared, self.microbatches = pieces, schedule, shared, microbatches
        self.stages = stages
        S, C, n = jax.tree.leaves(stages)[0].shape[:3]
        self.numbers = to_stages(jnp.arange(S * C * n), schedule)
        self.first, self.last = jnp.arange(S) == 0, jnp.arange(S) == S - 1
        self.all_layers = jax.vmap(pieces.layers, spmd_axis_name="stage")

    def start(self) -> dict[str, Any]:
        """What passes from tick to tick, before the first."""
        S = self.schedule.num_stages
        first = self.rows(jnp.zeros((), int))
        x = jax.eval_shape(self.pieces.enter, self.shared, first)
        loss, sums = jax.eval_shape(self.pieces.leave, self.shared, x, first)
        zeros = jnp.zeros((S, *x.shape), x.dtype)
        _, num_slots = tables(self.schedule)
        carry = {
            "x": _placed(zeros),  # what each stage gets from the one before it
            "g": _placed(zeros),  # and from the one after it
            "inputs": _placed(jnp.zeros((S, num_slots["B"], *x.shape), x.dtype)),
            "d_shared": jax.tree.map(jnp.zeros_like, self.shared),
            "d_stages": jax.tree.map(jnp.zeros_like, self.stages),
            "loss": jnp.zeros(loss.shape, loss.dtype),
            "sums": jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), sums),
        }
        nothing = jnp.zeros(S, jnp.int32)
        arguments = (self.chunk(nothing), self.chunk_numbers(nothing), zeros, jax.vmap(self.rows)(nothing))
        aux = jax.eval_shape(self.all_layers, *arguments)[1][1]
        carry["aux"] = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape[1:], leaf.dtype), aux)
        if self.schedule.splits_backward:
            self.parts = split_backward(self.all_layers, *arguments)
            carry["kept"] = [
                jnp.zeros((S, num_slots["W"], *leaf.shape[1:]), leaf.dtype) for leaf in self.parts.kept_shapes
            ]
        return carry

    def tick(self, kinds: str, carry: dict[str, Any], row: dict[str, Array]) -> dict[str, Any]:
        """Everything that all stages do in a tick."""
        if "F" in kinds:
            carry = self.forward(carry, row)
        if "B" in kinds:
            carry = self.backward(carry, row)
        if "W" in kinds:
            carry = self.weights(carry, row)
        return carry

    def forward(self, carry: dict[str, Any], row: dict[str, Array]) -> dict[str, Any]:
        microbatch, chunk = row["F_microbatch"], row["F_chunk"]
        x = carry["x"]
        if "enter" in row:
            enters = row["enter"] >= 0
            x0 = jax.lax.cond(
                enters,
                lambda: self.pieces.enter(self.shared, self.rows(row["enter"])),
                lambda: jnp.zeros(x.shape[1:], x.dtype),
            )
            x = jnp.where(_like(self.first & enters, x), x0, x)
        x = _placed(x)
        inputs = _placed(_put(carry["inputs"], row["F_slot"], x, microbatch >= 0))
        y, _ = self.all_layers(self.chunk(chunk), self.chunk_numbers(chunk), x, jax.vmap(self.rows)(microbatch))
        return carry | {"inputs": inputs, "x": _placed(_roll(y, 1))}

    def backward(self, carry: dict[str, Any], row: dict[str, Array]) -> dict[str, Any]:
        microbatch, chunk = row["B_microbatch"], row["B_chunk"]
        active = microbatch >= 0
        x = _placed(_take(carry["inputs"], row["B_slot"]))
        params, numbers, rows = self.chunk(chunk), self.chunk_numbers(chunk), jax.vmap(self.rows)(microbatch)
        if self.schedule.splits_backward:
            y, (aux_loss, aux), pull_back = self.parts.forward(params, numbers, x, rows)
        else:

            def layers(params: Any, x: Array) -> Any:
                y, (aux_loss, aux) = self.all_layers(params, numbers, x, rows)
                return (y, aux_loss), aux

            (y, aux_loss), pull_back, aux = jax.vjp(layers, params, x, has_aux=True)
        dy = carry["g"]
        if "leave" in row:
            carry, dy_last = self.leave(carry, row["leave"], y)
            dy = jnp.where(_like(self.last & (row["leave"] >= 0), y), dy_last, dy)
        dy = _placed(jnp.where(_like(active, dy), dy, jnp.zeros((), dy.dtype)))
        cotangent = (dy, active.astype(aux_loss.dtype))
        if self.schedule.splits_backward:
            dx, kept = pull_back(cotangent)
            put = [
                _put(buffer, row["B_weight_slot"], new, active) for buffer, new in zip(carry["kept"], kept, strict=True)
            ]
            carry = carry | {"kept": put}
        else:
            d_params, dx = pull_back(cotangent)
            carry = carry | {"d_stages": self.add_to_chunk(carry["d_stages"], d_params, chunk, active)}
        aux_loss, aux = jax.tree.map(lambda sums: jnp.where(active, sums, 0).sum(0), (aux_loss, aux))
        return carry | {
            "g": _placed(_roll(dx, -1)),
            "loss": carry["loss"] + aux_loss,
            "aux": jax.tree.map(jnp.add, carry["aux"], aux),
            "d_shared": self.exit(carry["d_shared"], row["exit"], dx) if "exit" in row else carry["d_shared"],
        }

    def leave(self, carry: dict[str, Any], microbatch: Array, y: Array) -> tuple[dict[str, Any], Array]:
        """Loss and gradients of what follows the stack, for the microbatch that has passed it, if any."""

        def value_and_grad() -> Any:
            return jax.value_and_grad(self.pieces.leave, argnums=(0, 1), has_aux=True)(
                self.shared, y[-1], self.rows(microbatch)
            )

        def nothing() -> Any:
            return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(value_and_grad))

        (loss, sums), (d_shared, dy) = jax.lax.cond(microbatch >= 0, value_and_grad, nothing)
        old = (carry["loss"], carry["sums"], carry["d_shared"])
        loss, sums, d_shared = jax.tree.map(jnp.add, old, (loss, sums, d_shared))
        return carry | {"loss": loss, "sums": sums, "d_shared": d_shared}, dy

    def exit(self, d_shared: Any, microbatch: Array, dx: Array) -> Any:
        """Adds the gradients of what comes before the stack, for the microbatch that has come back to it, if any."""

        def add() -> Any:
            _, pull_back = jax.vjp(lambda shared: self.pieces.enter(shared, self.rows(microbatch)), self.shared)
            return jax.tree.map(jnp.add, d_shared, pull_back(dx[0])[0])

        return jax.lax.cond(microbatch >= 0, add, lambda: d_shared)

    def weights(self, carry: dict[str, Any], row: dict[str, Array]) -> dict[str, Any]:
        chunk, active = row["W_chunk"], row["W_microbatch"] >= 0
        rows = jax.vmap(self.rows)(row["W_microbatch"])
        kept = [_take(buffer, row["W_slot"]) for buffer in carry["kept"]]
        d_params = self.parts.weights(self.chunk(chunk), self.chunk_numbers(chunk), rows, kept)
        return carry | {"d_stages": self.add_to_chunk(carry["d_stages"], d_params, chunk, active)}

    def rows(self, microbatch: Array) -> Any:
        """One microbatch; any, for a stage that waits."""
        return jax.tree.map(lambda x: x[jnp.maximum(microbatch, 0)], self.microbatches)

    def chunk(self, chunk: Array) -> Any:
        """Parameters (S, n, ...) of a chunk of each stage."""
        return jax.tree.map(lambda x: x[:, 0] if x.shape[1] == 1 else _take(x, chunk), self.stages)

    def chunk_numbers(self, chunk: Array) -> Array:
        """Numbers (S, n) of the layers in a chunk of each stage."""
        return _take(self.numbers, chunk)

    def add_to_chunk(self, sums: Any, new: Any, chunk: Array, active: Array) -> Any:
        """Adds gradients (S, n, ...) to those (S, C, n, ...) of a chunk of each stage."""

        def add(total: Array, new: Array) -> Array:
            new = jnp.where(_like(active, new), new, 0)
            if total.shape[1] == 1:
                return total + new[:, None]
            return _put(total, chunk, _take(total, chunk) + new, active)

        return jax.tree.map(add, sums, new)


def _placed(x: Array) -> Array:
    """Divides (S, [slots,] B, T, D) over the mesh."""
    axes = ACTIVATIONS if x.ndim == len(ACTIVATIONS) else (ACTIVATIONS[0], *ACTIVATIONS[2:])
    return nn.with_logical_constraint(x, axes)


def _like(stages: Array, x: Array) -> Array:
    """(S,) as something that broadcasts against (S, ...)."""
    return stages.reshape(-1, *(1,) * (x.ndim - 1))


def _roll(x: Array, shift: int) -> Array:
    """What stage s holds goes to stage s + shift."""
    return jnp.roll(x, shift, axis=0)


def _take(buffer: Array, slot: Array) -> Array:
    """Reads a slot (S,) of each stage's buffer (S, slots, ...)."""
    return jax.vmap(lambda buffer, slot: jax.lax.dynamic_index_in_dim(buffer, slot, keepdims=False))(buffer, slot)


def _put(buffer: Array, slot: Array, new: Array, active: Array) -> Array:
    """Writes a slot (S,) of each stage's buffer (S, slots, ...), where the stage is active."""
    new = jnp.where(_like(active, new), new, _take(buffer, slot))
    return jax.vmap(lambda buffer, slot, new: jax.lax.dynamic_update_index_in_dim(buffer, new, slot, 0))(
        buffer, slot, new
    )
