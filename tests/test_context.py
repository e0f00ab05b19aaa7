"""Attention over a divided length gives what the plain attention gives, and all shards do the same work."""

import functools
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from ml_collections import ConfigDict

from data import prepare
from model import attention, scan_layers
from parallel import MeshConfig, all_to_all_attention, make_mesh, ring_attention, shard_batch, zigzag_order
from parallel.context import kv_repeats
from parallel.ring import Step, ring_steps
from tests.helpers import one_device, uneven_batch
from train import evaluate, init_state, make_train_step
from train.compose import make_model, preflight
from train.samples import continue_prompts

B, T, N, H = 3, 64, 8, 8
FORMS = {"ring": ring_attention, "all_to_all": functools.partial(all_to_all_attention, attention_fn=attention)}


def mesh_of(**axes: int) -> Mesh:
    return make_mesh(MeshConfig(**{"data": 1, **axes}), jax.devices()[: int(np.prod(list(axes.values())))])


def packed_rows(length: int = T) -> tuple[np.ndarray, np.ndarray]:
    """Segment ids and positions of rows of three documents of uneven lengths; the first row ends in padding."""
    cuts = np.array([[5, 30], [17, 18], [31, 60]])[:, :, None] * length // T
    places = np.arange(length)
    segment_ids = 1 + (places >= cuts[:, 0]) + (places >= cuts[:, 1])
    positions = places - np.select([segment_ids == 2, segment_ids == 3], [cuts[:, 0], cuts[:, 1]], 0)
    segment_ids[0, -length // 4 :] = positions[0, -length // 4 :] = 0
    return segment_ids.astype(np.int32), positions.astype(np.int32)


def random_arrays(num_kv_heads: int, dtype: Any) -> list[jax.Array]:
    """Queries, keys, values and the output's gradient."""
    rng = np.random.default_rng(0)
    return [jnp.asarray(rng.normal(size=(B, T, heads, H)), dtype) for heads in (N, num_kv_heads, num_kv_heads, N)]


def output_and_gradients(fn: Any, arrays: Any, segment_ids: Any, positions: Any, **options: Any) -> list[np.ndarray]:
    """The output, and the gradients of q, k and v where no loss follows from padding, all zero there."""
    real = (segment_ids > 0)[:, :, None, None]
    where = {"q_positions_BT": positions, "kv_positions_BS": positions}
    where |= {"q_segment_ids_BT": segment_ids, "kv_segment_ids_BS": segment_ids}

    @functools.partial(jax.value_and_grad, argnums=(0, 1, 2), has_aux=True)
    def loss(q, k, v, d):
        out = fn(q, k, v, **where, **options)
        return jnp.sum(jnp.where(real, out * d, 0).astype(jnp.float32)), out

    (_, out), grads = jax.jit(loss)(*arrays)
    assert all(np.isfinite(x.astype(jnp.float32)).all() for x in (out, *grads))
    return [np.asarray(jnp.where(real, out, 0), np.float32), *(np.asarray(grad, np.float32) for grad in grads)]


def divided(form: str, num_shards: int, arrays: Any, **options: Any) -> list[np.ndarray]:
    """As `output_and_gradients`, on a mesh that divides the length; in the order of the length."""
    order = zigzag_order(T, num_shards)
    arrays, (segment_ids, positions) = [x[:, order] for x in arrays], [x[:, order] for x in packed_rows()]
    with jax.set_mesh(mesh_of(context=num_shards)):
        results = output_and_gradients(FORMS[form], arrays, segment_ids, positions, **options)
    return [x[:, np.argsort(order)] for x in results]


def relative(results: list[np.ndarray], expected: list[np.ndarray]) -> float:
    return max(float(np.linalg.norm(a - b) / np.linalg.norm(b)) for a, b in zip(results, expected, strict=True))


# ---- the order


def test_a_shard_holds_an_early_and_a_late_chunk():
    assert zigzag_order(8, 2).tolist() == [0, 1, 6, 7, 2, 3, 4, 5]
    assert zigzag_order(8, 4).tolist() == [0, 7, 1, 6, 2, 5, 3, 4]
    assert zigzag_order(4, 1).tolist() == [0, 1, 2, 3]


def test_batches_are_placed_in_this_order():
    batch = {"x": np.arange(16, dtype=np.int32).reshape(2, 8)}
    placed = shard_batch(batch, mesh_of(data=2, context=2, tensor=2))["x"]
    assert np.asarray(placed).tolist() == [[0, 1, 6, 7, 2, 3, 4, 5], [8, 9, 14, 15, 10, 11, 12, 13]]
    assert placed.sharding.shard_shape(placed.shape) == (1, 4)


# ---- equal to the plain attention

CASES = {
    "all heads": (8, {}),
    "grouped heads, soft cap": (2, {"soft_cap": 2.0}),
    "window within a chunk": (4, {"window": 3}),
    "window over chunks": (4, {"window": 20, "soft_cap": 3.0}),
    "both ways, scaled": (4, {"causal": False, "scale": 0.5}),
    "both ways, window": (2, {"causal": False, "window": 9, "soft_cap": 3.0}),
}


@pytest.fixture(scope="module")
def plain() -> dict[str, list[np.ndarray]]:
    return {
        case: output_and_gradients(attention, random_arrays(num_kv_heads, jnp.float32), *packed_rows(), **options)
        for case, (num_kv_heads, options) in CASES.items()
    }


@pytest.mark.xdist_group("context")
@pytest.mark.parametrize("num_shards", [2, 4, 8])
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("form", FORMS)
def test_output_and_gradients_equal_the_plain_ones(plain: dict, form: str, case: str, num_shards: int):
    num_kv_heads, options = CASES[case]
    results = divided(form, num_shards, random_arrays(num_kv_heads, jnp.float32), **options)
    assert relative(results, plain[case]) < 1e-6


@pytest.mark.parametrize("value_dim", [4, 12])
@pytest.mark.parametrize("form", FORMS)
def test_values_may_have_another_head_dim(form: str, value_dim: int):
    rng = np.random.default_rng(1)
    q, k, *_ = random_arrays(N, jnp.float32)
    arrays = [q, k, *(jnp.asarray(rng.normal(size=(B, T, N, value_dim)), jnp.float32) for _ in range(2))]
    expected = output_and_gradients(attention, arrays, *packed_rows())
    assert relative(divided(form, 4, arrays), expected) < 1e-6


@pytest.mark.parametrize("form", FORMS)
def test_in_bfloat16_the_error_is_that_of_the_plain_form(form: str):
    arrays = random_arrays(2, jnp.bfloat16)
    exact = output_and_gradients(attention, [x.astype(jnp.float32) for x in arrays], *packed_rows())
    rounding = relative(output_and_gradients(attention, arrays, *packed_rows()), exact)
    assert relative(divided(form, 4, arrays), exact) < 1.5 * rounding < 0.01


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("form", FORMS)
def test_a_changed_document_leaves_the_others_as_they_are(form: str, causal: bool):
    arrays = random_arrays(4, jnp.float32)
    changed = (packed_rows()[0] == 1)[:, :, None, None]
    others = [jnp.where(changed, 7.0 - x, x) for x in arrays]
    results = (divided(form, 4, qkvd, causal=causal) for qkvd in (arrays, others))
    for one, other in zip(*results, strict=True):
        np.testing.assert_array_equal(np.where(changed, 0, one), np.where(changed, 0, other))
        assert (one != other).any()


def test_a_query_that_sees_nothing_has_output_and_gradients_of_zero():
    order = zigzag_order(T, 2)
    q, k, v, d = random_arrays(4, jnp.float32)
    positions = jnp.broadcast_to(jnp.arange(T)[order], (B, T))
    where = {"q_positions_BT": positions, "kv_positions_BS": positions, "kv_segment_ids_BS": jnp.ones((B, T), int)}

    @jax.jit
    @functools.partial(jax.value_and_grad, argnums=(0, 1, 2), has_aux=True)
    def loss(q, k, v, segment_ids):
        out = ring_attention(q, k, v, q_segment_ids_BT=segment_ids, **where)
        return jnp.sum(out * d), out

    with jax.set_mesh(mesh_of(context=2)):
        (_, out), (dq, dk, dv) = loss(q, k, v, jnp.ones((B, T), int).at[1].set(2))
    assert all(np.isfinite(x).all() for x in (out, dq, dk, dv))
    assert not any(np.any(x[1]) for x in (out, dq, dk, dv))
    assert np.all(np.any(out[0] != 0, axis=(1, 2)))


# ---- the work


def test_steps_that_nobody_needs_are_left_out():
    assert ring_steps(8, 4, 0) == [Step(0, True, True), *(Step(i, True, True) for i in (1, 2, 3))]
    # Two positions reach the chunk before: of the same half but for the two in the middle, which one shard has.
    assert ring_steps(8, 4, 2) == [Step(0, True, True), Step(1, False, True), Step(3, False, True)]
    assert ring_steps(8, 4, 1) == [Step(0, False, True)]
    # From 10 positions on, two chunks back.
    assert [step.shift for step in ring_steps(8, 8, 9)] == [0, 1, 7]
    assert [step.shift for step in ring_steps(8, 8, 10)] == [0, 1, 2, 6, 7]


def abstract_arguments(num_shards: int, num_kv_heads: int = 4, dtype: Any = jnp.float32) -> tuple[Any, ...]:
    sharding = NamedSharding(mesh_of(context=num_shards), PartitionSpec(None, "context"))
    shapes = [(B, T, N, H), (B, T, num_kv_heads, H), (B, T, num_kv_heads, H)]
    where = jax.ShapeDtypeStruct((B, T), jnp.int32, sharding=sharding)
    return *(jax.ShapeDtypeStruct(shape, dtype, sharding=sharding) for shape in shapes), where


def collectives(form: str, num_shards: int, *, gradient: bool, **options: Any) -> dict[str, int]:
    """How many of each kind the compiled program has."""

    def fn(q, k, v, x):
        where = dict.fromkeys(("q_positions_BT", "kv_positions_BS", "q_segment_ids_BT", "kv_segment_ids_BS"), x)

        # Two layers in a loop, as a model has them: what a backward pass repeats is not merged with the forward one.
        def layer(q, _):
            return FORMS[form](q, q[:, :, :4] + k, q[:, :, 4:] + v, **where, **options), None

        return jnp.sum(jax.lax.scan(layer, q, length=2)[0] ** 2)

    with jax.set_mesh(mesh_of(context=num_shards)):
        lowered = jax.jit(jax.grad(fn, (0, 1, 2)) if gradient else fn).lower(*abstract_arguments(num_shards))
    kinds = "all-gather|all-to-all|all-reduce|collective-permute|reduce-scatter"
    names = re.findall(rf" ({kinds})(?:-start)?\(", lowered.compile().as_text())
    return {name: names.count(name) for name in sorted(set(names))}


def test_the_ring_sends_keys_once_forward_and_with_their_gradients_backward():
    loss = {"all-reduce": 1}  # of this test's own loss
    assert collectives("ring", 4, gradient=False) == {"all-gather": 1, "collective-permute": 3, **loss}
    assert collectives("ring", 4, gradient=False, window=2)["collective-permute"] == 2
    assert "collective-permute" not in collectives("ring", 4, gradient=False, window=1)
    assert collectives("ring", 4, gradient=True)["collective-permute"] == 3 + 3 + 3
    assert collectives("ring", 4, gradient=True, window=2)["collective-permute"] == 2 + 2 + 2


def test_the_all_to_all_exchanges_queries_keys_values_and_output():
    counts = collectives("all_to_all", 4, gradient=False)
    assert counts["all-to-all"] == 4
    assert collectives("all_to_all", 4, gradient=True)["all-to-all"] == 8
    assert "collective-permute" not in counts


@pytest.mark.parametrize(("remat", "count"), [("none", 8), ("full", 8 + 4), ("attention", 8 + 3)])
def test_remat_that_keeps_the_attention_does_not_exchange_its_output_again(remat: str, count: int):
    def loss(w_LHH: Any, x_BTNH: Any, x_BT: Any) -> Any:
        where = dict.fromkeys(("q_positions_BT", "kv_positions_BS", "q_segment_ids_BT", "kv_segment_ids_BS"), x_BT)

        def layer(w_HH: Any, x_BTNH: Any, _: None) -> Any:
            y_BTNH = FORMS["all_to_all"](x_BTNH, x_BTNH, x_BTNH, **where)
            return x_BTNH + jnp.einsum("BTNH,HG->BTNG", y_BTNH, w_HH), None

        return jnp.sum(scan_layers([layer], w_LHH, x_BTNH, None, remat=remat)[0])

    with jax.set_mesh(mesh_of(context=4)):
        x, *_, x_BT = abstract_arguments(4, N)
        jaxpr = jax.make_jaxpr(jax.grad(loss))(jax.ShapeDtypeStruct((2, H, H), jnp.float32), x, x_BT)
    assert str(jaxpr).count(" all_to_all[") == count


def matmul_flops(jaxpr: Any) -> int:
    """Of all matmuls in a jaxpr and those within, none of which is in a loop."""
    flops = 0
    for eqn in jaxpr.eqns:
        if eqn.primitive.name == "dot_general":
            (contracted, _), _ = eqn.params["dimension_numbers"]
            flops += 2 * eqn.outvars[0].aval.size * int(np.prod([eqn.invars[0].aval.shape[i] for i in contracted]))
        assert eqn.primitive.name not in ("while", "scan", "cond")
        inner = [x for param in eqn.params.values() for x in (param if isinstance(param, tuple) else (param,))]
        inner = [getattr(x, "jaxpr", x) for x in inner]
        flops += sum(matmul_flops(x) for x in inner if hasattr(x, "eqns"))
    return flops


@pytest.mark.parametrize("num_shards", [2, 4, 8])
def test_every_shard_does_half_of_each_step_whatever_the_step(num_shards: int):
    """Two of four pairs of chunks, three of them in the first step, and there is no branch in which shards differ."""

    def fn(q, k, v, x):
        where = dict.fromkeys(("q_positions_BT", "kv_positions_BS", "q_segment_ids_BT", "kv_segment_ids_BS"), x)
        return ring_attention(q, k, v, **where)

    with jax.set_mesh(mesh_of(context=num_shards)):
        jaxpr = jax.make_jaxpr(fn)(*abstract_arguments(num_shards)).jaxpr
    whole_step = 2 * 2 * B * (T // num_shards) ** 2 * N * H
    assert matmul_flops(jaxpr) == whole_step * 3 // 4 + (num_shards - 1) * whole_step // 2


@pytest.mark.parametrize(
    ("heads", "kv_heads", "parts", "repeats"), [(8, 8, 8, 1), (8, 2, 2, 1), (8, 2, 4, 2), (8, 1, 8, 8), (24, 6, 4, 2)]
)
def test_kv_heads_are_repeated_no_more_than_needed(heads: int, kv_heads: int, parts: int, repeats: int):
    assert kv_repeats(heads, kv_heads, parts) == repeats


# ---- within a model


@pytest.mark.parametrize("form", FORMS)
def test_within_stages_layers_and_remat(form: str):
    """As a pipeline has it: `vmap` over stages, in it a scan over layers that are computed again."""
    x_SBTNH = jax.random.normal(jax.random.key(0), (2, 2, 16, 4, H))
    w_SLHH = jax.random.normal(jax.random.key(1), (2, 3, H, H)) / 3
    positions_SBT = np.broadcast_to(np.arange(16), (2, 2, 16))

    def loss(attention_fn, w_SLHH, x_SBTNH, positions_SBT):
        def stage(w_LHH, x_BTNH, positions_BT):
            where = {"q_positions_BT": positions_BT, "kv_positions_BS": positions_BT}
            ones = jnp.ones_like(positions_BT)

            @jax.checkpoint
            def layer(x, w):
                q = jnp.einsum("BTNH,HG->BTNG", x, w)
                return x + attention_fn(q, q, x, **where, q_segment_ids_BT=ones, kv_segment_ids_BS=ones), None

            return jax.lax.scan(layer, x_BTNH, w_LHH)[0]

        return jnp.sum(jax.vmap(stage, spmd_axis_name="stage")(w_SLHH, x_SBTNH, positions_SBT) ** 2)

    expected, expected_grads = jax.jit(jax.value_and_grad(functools.partial(loss, attention)))(
        w_SLHH, x_SBTNH, positions_SBT
    )
    mesh, order = make_mesh(MeshConfig(stage=2, data=1, context=2, tensor=2)), zigzag_order(16, 2)
    specs = [("stage",), ("stage", None, "context", "tensor"), ("stage", None, "context")]
    arrays = (w_SLHH, x_SBTNH[:, :, order], positions_SBT[:, :, order])
    with jax.set_mesh(mesh):
        arrays = [jax.device_put(x, NamedSharding(mesh, PartitionSpec(*s))) for x, s in zip(arrays, specs, strict=True)]
        value, grads = jax.jit(jax.value_and_grad(functools.partial(loss, FORMS[form])))(*arrays)
    assert float(value) == pytest.approx(float(expected), rel=1e-6)
    np.testing.assert_allclose(grads, expected_grads, atol=1e-5 * float(jnp.linalg.norm(expected_grads)))
    assert grads.sharding.spec[0] == "stage"


def one_step(config: ConfigDict, mesh: Mesh) -> tuple[float, Any]:
    """Loss, and parameters and moments after a step; the first moments are the gradients but for a factor."""
    step = make_train_step(config, mesh)
    state, metrics = step(init_state(config, mesh), shard_batch(uneven_batch(config), mesh))
    return float(metrics["loss"]), jax.device_get((state.params, state.opt_state))


@pytest.fixture(scope="module")
def reference() -> dict[str, Any]:
    return {}


@pytest.mark.xdist_group("context")
@pytest.mark.parametrize(
    ("form", "axes"),
    [
        ("ring", {"context": 2}),
        ("ring", {"context": 4}),
        ("ring", {"context": 8}),
        ("ring", {"data": 2, "context": 2, "tensor": 2}),
        ("all_to_all", {"context": 4}),
        ("all_to_all", {"data": 2, "context": 2, "tensor": 2}),
    ],
)
def test_a_train_step_is_that_of_one_device(config: ConfigDict, reference: dict, form: str, axes: dict[str, int]):
    config.model.update(dropout=0.1, window=9, attention_soft_cap=5.0)
    config.mesh.context_attention = form
    if not reference:
        reference["step"] = one_step(config, one_device())
    loss, state = one_step(config, mesh_of(**axes))
    expected_loss, expected_state = reference["step"]
    assert loss == pytest.approx(expected_loss, rel=1e-6)
    errors = [
        float(np.linalg.norm(a - b) / max(np.linalg.norm(b), 1e-12))
        for a, b in zip(jax.tree.leaves(state), jax.tree.leaves(expected_state), strict=True)
    ]
    assert max(errors) < 1e-5


def test_evaluation_and_samples_are_those_of_one_device(config: ConfigDict):
    config.data.seq_len = 32
    mesh = mesh_of(data=2, context=2, tensor=2)
    figures, texts = [], []
    for place in (one_device(), mesh):
        params = init_state(config, place).params
        figures.append(evaluate(config, params, place, limit=2))
        texts.append(continue_prompts(config, params, place, prepare(config.data).tokenizer, ["the", "a row of", ""]))
    # The perplexity, an exponential, has the loss's error times the loss.
    assert figures[1] == pytest.approx(figures[0], rel=1e-5)
    assert texts[1] == texts[0]


# ---- what does not fit


def test_models_of_equal_configs_and_meshes_are_equal(config: ConfigDict):
    for form in FORMS:
        config.mesh.context_attention = form
        assert make_model(config, mesh_of(context=2)) == make_model(config, mesh_of(context=2))
        assert make_model(config, mesh_of(context=2)) != make_model(config, mesh_of(data=2)) == make_model(config)


@pytest.mark.parametrize(
    ("changes", "axes", "said"),
    [
        ({"data.seq_len": 30}, {"context": 4}, ["data.seq_len=30", "mesh.context=4", "8 chunks", "seq_len=32"]),
        ({"data.seq_len": 12}, {"context": 8}, ["data.seq_len=12", "mesh.context=8", "16 chunks", "seq_len=16"]),
        ({"mesh.context_attention": "tree"}, {"context": 2}, ["context_attention='tree'", "ring", "all_to_all"]),
        (
            {"mesh.context_attention": "all_to_all"},
            {"context": 4, "tensor": 2},
            ["num_heads=4", "num_kv_heads=2", "mesh.context=4", "mesh.tensor=2", "context_attention='ring'"],
        ),
    ],
)
def test_what_does_not_fit_is_said_before_anything_is_compiled(
    config: ConfigDict, changes: dict[str, Any], axes: dict[str, int], said: list[str]
):
    config.update_from_flattened_dict(changes)
    with pytest.raises(ValueError, match="config") as error:
        preflight(config, mesh_of(**axes))
    for part in said:
        assert part in str(error.value)
