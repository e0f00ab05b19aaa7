"""The executor of pipeline schedules against plain autodiff, on a stack small enough to compile quickly."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from parallel import MeshConfig, Pieces, make_mesh, make_rules, make_schedule, on_mesh, pipeline_value_and_grad
from parallel.pipeline import from_stages, to_stages
from parallel.split_backward import split_backward

L, D, T, ROWS = 8, 6, 3, 2


def enter(shared: Any, rows: Any) -> jax.Array:
    return jnp.tanh(rows["in"] @ shared["in"])


def layers(params: Any, numbers: jax.Array, x: jax.Array, rows: Any) -> Any:
    """Layers that depend on their number and their rows, each with an auxiliary loss; unrolled."""
    aux_loss = jnp.zeros(())
    for i in range(params["w"].shape[0]):
        x = x + jnp.sin(x @ params["w"][i] + params["b"][i]) * (1 + 0.1 * numbers[i]) * rows["gain"][:, None, None]
        aux_loss = aux_loss + 0.1 * jnp.sum(jnp.square(x) * rows["gain"][:, None, None])
    return x, (aux_loss, {"aux": aux_loss})


def leave(shared: Any, x: jax.Array, rows: Any) -> Any:
    loss = jnp.sum(jnp.square(x @ shared["out"]) * rows["weight"][:, None])
    return loss, {"weight": rows["weight"].sum()}


def problem(M: int, rows: int = ROWS, length: int = T, width: int = D) -> Any:
    rng = np.random.default_rng(0)

    def normal(*shape: int) -> jax.Array:
        return jnp.asarray(rng.normal(size=shape), jnp.float32)

    shared = {"in": normal(5, width), "out": normal(width)}
    stacked = {"w": normal(L, width, width) / 4, "b": normal(L, width)}
    microbatches = {"in": normal(M, rows, length, 5), "gain": normal(M, rows), "weight": normal(M, rows) > 0.5}
    microbatches["weight"] = microbatches["weight"].astype(jnp.float32).at[1].set(0)  # a microbatch with no target
    return shared, stacked, microbatches


@functools.cache
def plain(M: int) -> Any:
    """Loss, sums and gradients without a pipeline."""

    def loss_fn(shared: Any, stacked: Any, microbatches: Any) -> Any:
        total, aux, weight = jnp.zeros(()), jnp.zeros(()), jnp.zeros(())
        for m in range(M):
            rows = jax.tree.map(lambda x, m=m: x[m], microbatches)
            x, (aux_loss, _) = layers(stacked, jnp.arange(L), enter(shared, rows), rows)
            loss, sums = leave(shared, x, rows)
            total, aux, weight = total + loss + aux_loss, aux + aux_loss, weight + sums["weight"]
        return total, ({"weight": weight}, {"aux": aux})

    return jax.jit(jax.value_and_grad(loss_fn, argnums=(0, 1), has_aux=True))(*problem(M))


def pipelined(name: str, S: int, C: int, M: int) -> Any:
    """The jitted pipeline, to be called with `problem`."""
    mesh = make_mesh(MeshConfig(data=1, stage=S), devices=jax.devices()[:S])
    schedule = make_schedule(name, num_stages=S, num_microbatches=M, num_chunks=C)

    def place(tree: Any, of: str) -> Any:
        return jax.tree.map(lambda x: jax.lax.with_sharding_constraint(x, PartitionSpec("stage")), tree)

    fn = functools.partial(pipeline_value_and_grad, Pieces(enter, layers, leave), schedule, place=place)
    return on_mesh(jax.jit(fn), mesh, make_rules())


@pytest.mark.parametrize(
    ("name", "S", "C", "M"),
    [
        ("gpipe", 2, 1, 3),
        ("gpipe", 4, 1, 4),
        ("1f1b", 2, 1, 3),
        ("1f1b", 4, 1, 4),
        ("1f1b", 8, 1, 4),
        ("interleaved", 2, 2, 4),
        ("interleaved", 2, 4, 4),
        ("interleaved", 4, 2, 4),
        ("zero_bubble", 2, 1, 3),
        ("zero_bubble", 4, 1, 4),
        ("zero_bubble", 4, 2, 4),
    ],
)
def test_a_pipeline_has_the_loss_and_gradients_of_the_stack(name, S, C, M):
    measured, expected = pipelined(name, S, C, M)(*problem(M)), plain(M)
    for (path, leaf), reference in zip(
        jax.tree_util.tree_leaves_with_path(measured), jax.tree.leaves(expected), strict=True
    ):
        scale = np.linalg.norm(reference)
        assert np.linalg.norm(leaf - reference) <= 2e-6 * scale, jax.tree_util.keystr(path)
        assert scale > 0


def test_stages_hold_consecutive_layers_and_interleaved_ones_every_other_piece():
    numbers = jnp.arange(8)
    plain_stages = to_stages(numbers, make_schedule("1f1b", num_stages=2, num_microbatches=2))
    assert plain_stages.tolist() == [[[0, 1, 2, 3]], [[4, 5, 6, 7]]]
    schedule = make_schedule("interleaved", num_stages=2, num_microbatches=2, num_chunks=2)
    assert to_stages(numbers, schedule).tolist() == [[[0, 1], [4, 5]], [[2, 3], [6, 7]]]
    assert from_stages(to_stages(numbers, schedule)).tolist() == numbers.tolist()


# ---- memory, from the compiler

BIG = {"rows": 4, "length": 64, "width": 32}
X_BYTES = 4 * 4 * 64 * 32  # of one microbatch's activations between layers


@functools.cache
def temporaries(name: str, M: int) -> int:
    """Bytes of a device's temporary buffers, but for the per-microbatch inputs that XLA may copy."""
    fn = pipelined(name, 2, 1, M)
    lowered = on_mesh(
        fn.__wrapped__.lower, make_mesh(MeshConfig(data=1, stage=2), devices=jax.devices()[:2]), make_rules()
    )
    memory = lowered(*problem(M, **BIG)).compile().memory_analysis()
    return memory.temp_size_in_bytes


def test_live_activations_of_gpipe_grow_with_the_microbatches_and_those_of_1f1b_do_not():
    per_microbatch = {name: (temporaries(name, 16) - temporaries(name, 8)) / 8 for name in ("gpipe", "1f1b")}
    assert per_microbatch["gpipe"] == pytest.approx(X_BYTES, rel=0.05)
    assert abs(per_microbatch["1f1b"]) < 0.05 * X_BYTES


# ---- the backward pass in two parts


def matmuls(fn: Any, *arguments: Any) -> int:
    return str(jax.make_jaxpr(fn)(*arguments)).count("dot_general")


def test_a_split_backward_pass_leaves_the_weights_matmuls_for_later():
    shared, stacked, microbatches = problem(4)
    rows = jax.tree.map(lambda x: x[0], microbatches)
    x, numbers = enter(shared, rows), jnp.arange(L)
    parts = split_backward(layers, stacked, numbers, x, rows)
    cotangent = (jnp.ones_like(x), jnp.ones(()))

    def first(params: Any, x: jax.Array) -> Any:
        return parts.forward(params, numbers, x, rows)[2](cotangent)

    dx, kept = first(stacked, x)
    assert matmuls(first, stacked, x) == 2 * L  # forward, and the gradient of the input
    assert matmuls(lambda kept: parts.weights(stacked, numbers, rows, kept), kept) == L

    def total(params: Any, x: jax.Array) -> jax.Array:
        y, (aux_loss, _) = layers(params, numbers, x, rows)
        return y.sum() + aux_loss

    expected, expected_dx = jax.grad(total, argnums=(0, 1))(stacked, x)
    np.testing.assert_allclose(dx, expected_dx, rtol=1e-5)
    for leaf, reference in zip(
        jax.tree.leaves(parts.weights(stacked, numbers, rows, kept)), jax.tree.leaves(expected), strict=True
    ):
        np.testing.assert_allclose(leaf, reference, rtol=1e-4, atol=1e-6)
