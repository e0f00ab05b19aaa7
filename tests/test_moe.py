"""Mixture of experts against loops in NumPy, and divided over meshes against one device."""

import dataclasses
import functools
import math
import re
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec
from ml_collections import ConfigDict

from configs import base
from model import EXPERT_AXES, Transformer, TransformerConfig, count_params, dropless, forward_flops, init_cache
from model.choice import Choice, parse_choice
from model.choices import CHOICES
from model.moe import MoE, balance_loss, load_gradient, route, router_z_loss, with_capacity
from parallel import MeshConfig, exchange_experts, make_mesh, make_rules, on_mesh, shard_batch
from tests.helpers import leaf_errors, one_device, uneven_batch
from train import init_state, make_train_step
from train.compose import preflight, rules_of
from train.evaluation import make_eval_step
from train.optimizer import gradient_norm, make_optimizer
from train.state import abstract_state

B, T, D, F, E = 2, 12, 8, 6, 4
# Row 0 ends in padding, row 1 has some between its documents.
SEGMENT_IDS = np.array([[1] * 5 + [2] * 4 + [0] * 3, [1] * 4 + [0] * 2 + [3] * 6], np.int32)


def make_config(**changes) -> TransformerConfig:
    defaults: Any = base.get_config().model
    names = {field.name for field in dataclasses.fields(TransformerConfig)}
    shape: dict[str, Any] = {"vocab_size": 40, "vocab_multiple": 16, "max_length": 16, "num_layers": 2, "d_model": D}
    shape |= {"d_mlp": F, "num_experts": E, "num_heads": 2, "num_kv_heads": 2}
    return TransformerConfig(**({name: defaults[name] for name in defaults if name in names} | shape | changes))


def make_layer(**changes) -> tuple[MoE, dict, jax.Array]:
    """A layer, parameters of it that are nowhere zero, and tokens."""
    layer = MoE(make_config(**changes), dropless)
    x_BTD = jax.random.normal(jax.random.key(1), (B, T, D))
    shapes = nn.unbox(jax.eval_shape(layer.init, jax.random.key(0), x_BTD, SEGMENT_IDS))["params"]
    keys = iter(jax.random.split(jax.random.key(2), 20))
    params = {name: jax.random.normal(next(keys), leaf.shape) / 2 for name, leaf in shapes.items()}
    return layer, params, x_BTD


def apply(layer: MoE, params: dict, x_BTD, segment_ids_BT=SEGMENT_IDS) -> tuple[jax.Array, dict[str, jax.Array]]:
    return jax.jit(layer.apply)({"params": params}, x_BTD, segment_ids_BT)  # pyright: ignore


# ---- one layer


def loops(config: TransformerConfig, params: dict, x_BTD: np.ndarray) -> tuple[np.ndarray, int]:
    """Output and dropped copies, token by token and expert by expert, in float64."""
    p = {name: np.asarray(leaf, np.float64) for name, leaf in params.items()}
    x_BTD, k, y_BTD, dropped = np.asarray(x_BTD, np.float64), config.experts_per_token, np.zeros((B, T, D)), 0
    for b in range(B):
        chosen: dict[int, list[tuple[float, int, float]]] = {e: [] for e in range(E)}
        for t in range(T):
            if SEGMENT_IDS[b, t] == 0:
                continue
            logits = x_BTD[b, t] @ p["w_router"]
            probs = np.exp(logits) / np.exp(logits).sum()
            best = np.argsort(-(probs + p.get("router_bias", 0.0)))[:k]
            for e in best:
                chosen[int(e)].append((probs[e], t, probs[e] / (probs[best].sum() if k > 1 else 1.0)))
        for e, copies in chosen.items():
            room = math.ceil(config.expert_capacity * T * k / E) if config.expert_capacity else T
            copies.sort(reverse=True)
            dropped += len(copies[room:])
            for _, t, gate in copies[:room]:
                hidden = x_BTD[b, t] @ p["w_in"][e] + (p["b_in"][e] if config.bias == "all" else 0)
                if config.activation == "swiglu":
                    z = x_BTD[b, t] @ p["w_gate"][e] + (p["b_gate"][e] if config.bias == "all" else 0)
                    hidden = hidden * z / (1 + np.exp(-z))
                else:
                    hidden = np.maximum(hidden, 0)
                y_BTD[b, t] += gate * (hidden @ p["w_out"][e] + (p["b_out"][e] if config.bias == "all" else 0))
    return y_BTD, dropped


@pytest.mark.parametrize("capacity", [0.0, 0.5, 1.0])
@pytest.mark.parametrize(
    "choices",
    [
        {"experts_per_token": 1, "activation": "relu"},
        {"experts_per_token": 2, "activation": "swiglu", "balance_bias_rate": 0.1},
        {"experts_per_token": 2, "activation": "relu", "bias": "all"},
        {"experts_per_token": 4, "activation": "swiglu", "bias": "all"},
    ],
    ids=["plain, 1", "gated, 2, router bias", "plain, 2, biases", "gated, all, biases"],
)
def test_a_layer_equals_loops_over_tokens_and_experts(choices: dict, capacity: float):
    layer, params, x_BTD = make_layer(**choices, expert_capacity=capacity)
    y_BTD, sums = apply(layer, params, x_BTD)
    expected, dropped = loops(layer.config, params, np.asarray(x_BTD))
    np.testing.assert_allclose(y_BTD, expected, atol=1e-5)
    assert sums["dropped"] == dropped
    assert (dropped > 0) == (0 < capacity <= (0.5 if choices["experts_per_token"] == 4 else 1.0))


def test_capacity_keeps_the_most_likely_of_a_row():
    """Four tokens choose expert 0, which has room for ceil(1.0 * 4 * 1 / 2) = 2 of them; its MLP is relu(x)."""
    x_BTD = jnp.array([[[1.0], [2.0], [3.0], [4.0]]])
    probs_BTE = jnp.array([[[0.9, 0.1], [0.6, 0.4], [0.7, 0.3], [0.8, 0.2]]])
    weights = {"w_in": jnp.ones((2, 1, 1)), "w_out": jnp.ones((2, 1, 1))}
    chosen_BTk, gates_BTk = jnp.zeros((1, 4, 1), jnp.int32), jnp.full((1, 4, 1), 0.5)
    call = functools.partial(with_capacity, x_BTD, probs_BTE=probs_BTE, weights=weights, activation="relu")
    y_BTD, dropped = call(chosen_BTk=chosen_BTk, gates_BTk=gates_BTk, factor=1.0)
    assert y_BTD.tolist() == [[[0.5], [0.0], [0.0], [2.0]]]
    assert dropped == 2
    y_BTD, dropped = call(chosen_BTk=chosen_BTk.at[0, 3].set(2), gates_BTk=gates_BTk, factor=1.2)  # one is padding
    assert y_BTD.tolist() == [[[0.5], [1.0], [1.5], [0.0]]]
    assert dropped == 0


def router(text: str) -> Choice:
    return parse_choice("config.model.router", text, CHOICES["router"])


SOFTMAX = router("softmax")


def test_routing_of_literal_probabilities():
    logits_BTE = jnp.log(jnp.array([[[0.5, 0.3, 0.2], [0.1, 0.2, 0.7], [0.6, 0.3, 0.1]]]))
    is_token_BT = jnp.array([[True, True, False]])
    chosen_BTk, gates_BTk, probs_BTE = route(logits_BTE, is_token_BT, num_chosen=2, router=SOFTMAX)
    assert chosen_BTk.tolist() == [[[0, 1], [2, 1], [3, 3]]]
    np.testing.assert_allclose(gates_BTk, [[[5 / 8, 3 / 8], [7 / 9, 2 / 9], [0, 0]]], rtol=1e-6)
    np.testing.assert_allclose(probs_BTE[0, 1], [0.1, 0.2, 0.7], rtol=1e-6)
    # The bias decides who is chosen, not how much it counts.
    biased = route(logits_BTE, is_token_BT, num_chosen=2, router=SOFTMAX, bias_E=jnp.array([0.0, -1.0, 0.0]))
    assert biased[0].tolist() == [[[0, 2], [2, 0], [3, 3]]]
    np.testing.assert_allclose(biased[1], [[[5 / 7, 2 / 7], [7 / 8, 1 / 8], [0, 0]]], rtol=1e-6)
    # One expert alone keeps its probability, from which the router learns.
    chosen_BTk, gates_BTk, _ = route(logits_BTE, is_token_BT, num_chosen=1, router=SOFTMAX)
    assert chosen_BTk.tolist() == [[[0], [2], [3]]]
    np.testing.assert_allclose(gates_BTk, [[[0.5], [0.7], [0.0]]], rtol=1e-6)


def test_routing_by_sigmoids_in_groups():
    scores = [0.9, 0.1, 0.5, 0.6, 0.8, 0.2]  # in three groups, whose sums are 1.0, 1.1 and 1.0
    logits_BTE = jnp.log(jnp.array([[scores]]) / (1 - jnp.array([[scores]])))
    here = jnp.ones((1, 1), bool)
    text = "sigmoid,groups=3,top_groups=1,scale=2.5"
    chosen_BTk, gates_BTk, scores_BTE = route(logits_BTE, here, num_chosen=2, router=router(text))
    assert chosen_BTk.tolist() == [[[3, 2]]]
    np.testing.assert_allclose(gates_BTk, [[[2.5 * 6 / 11, 2.5 * 5 / 11]]], rtol=1e-5)
    np.testing.assert_allclose(scores_BTE[0, 0], np.array(scores) / 3.1, rtol=1e-5)
    # A bias moves the groups, and negative scores of the chosen group still come before those of others.
    bias_E = jnp.array([-2.0, -2.0, -2.0, -2.0, -1.0, -1.0])
    biased = route(logits_BTE, here, num_chosen=2, router=router(text + ",normalize=0"), bias_E=bias_E)
    assert biased[0].tolist() == [[[4, 5]]]
    np.testing.assert_allclose(biased[1], [[[2.0, 0.5]]], rtol=1e-5)


def test_losses_of_literal_rows():
    # Row 0: three tokens, two of which chose expert 0; mean probabilities 0.6 and 0.4; so 2 * (2/3 * 0.6 + 1/3 * 0.4)
    # a token. Row 1: one token, 2 * (1 * 0.2). Its padding does not count.
    probs_BTE = jnp.array([[[0.9, 0.1], [0.6, 0.4], [0.3, 0.7]], [[0.8, 0.2], [0.5, 0.5], [0.5, 0.5]]])
    is_token_BT = jnp.array([[True, True, True], [True, False, False]])
    total = balance_loss(probs_BTE, jnp.array([[2, 1], [0, 1]]), is_token_BT)
    assert float(total) == pytest.approx(3 * 2 * (2 / 3 * 0.6 + 1 / 3 * 0.4) + 0.4, rel=1e-6)
    assert balance_loss(probs_BTE, jnp.zeros((2, 2), jnp.int32), jnp.zeros((2, 3), bool)) == 0
    logits_BTE = jnp.log(jnp.array([[[1.0, 3.0], [2.0, 5.0], [9.0, 9.0]]]))
    total = router_z_loss(logits_BTE, jnp.array([[True, True, False]]))
    assert float(total) == pytest.approx(math.log(4) ** 2 + math.log(7) ** 2, rel=1e-6)


def test_load_gradient_is_zero_and_slopes_with_the_load():
    value, slope = jax.value_and_grad(load_gradient)(jnp.array([0.3, -0.1, 0.7]), jnp.array([5, 1, 0]))
    assert value == 0
    assert slope.tolist() == [3 * (5 - 2), 3 * (1 - 2), 3 * (0 - 2)]


def test_aux_loss_is_the_weighted_sum():
    def total(**changes) -> float:
        layer, params, x_BTD = make_layer(**changes)
        return float(apply(layer, params, x_BTD)[1]["aux_loss"])

    balance, z = total(balance_loss=1.0, router_z_loss=0.0), total(balance_loss=0.0, router_z_loss=1.0)
    assert balance > np.count_nonzero(SEGMENT_IDS)  # 1 a token if all loads were even
    assert total(balance_loss=0.5, router_z_loss=0.25) == pytest.approx(0.5 * balance + 0.25 * z, rel=1e-6)


def one_hot_layer(params: dict, x_BTD: jax.Array, k: int) -> jax.Array:
    """A gated layer in which every expert computes every token: what `jax.grad` of it gives is beyond doubt."""
    probs_BTE = jax.nn.softmax(x_BTD @ params["w_router"])
    kept_BTE = jnp.where(probs_BTE >= jnp.sort(probs_BTE)[..., -k:][..., :1], probs_BTE, 0.0)
    gates_BTE = kept_BTE / (kept_BTE.sum(-1, keepdims=True) if k > 1 else 1.0) * (SEGMENT_IDS != 0)[..., None]
    hidden_BTEF = jax.nn.silu(jnp.einsum("BTD,EDF->BTEF", x_BTD, params["w_gate"]) + params["b_gate"])
    hidden_BTEF = hidden_BTEF * (jnp.einsum("BTD,EDF->BTEF", x_BTD, params["w_in"]) + params["b_in"])
    y_BTED = jnp.einsum("BTEF,EFD->BTED", hidden_BTEF, params["w_out"]) + params["b_out"]
    return jnp.einsum("BTED,BTE->BTD", y_BTED, gates_BTE)


@pytest.mark.parametrize("capacity", [0.0, 4.0])
@pytest.mark.parametrize("k", [1, 2])
def test_gradients_equal_those_of_the_dense_form(k: int, capacity: float):
    layer, params, x_BTD = make_layer(experts_per_token=k, activation="swiglu", bias="all", expert_capacity=capacity)
    direction = jax.random.normal(jax.random.key(5), x_BTD.shape)
    grads = jax.grad(lambda p, x: jnp.sum(apply(layer, p, x)[0] * direction), argnums=(0, 1))(params, x_BTD)
    expected = jax.grad(lambda p, x: jnp.sum(one_hot_layer(p, x, k) * direction), argnums=(0, 1))(params, x_BTD)
    assert max(leaf_errors(grads, expected).values()) < 2e-5
    aux = jax.grad(lambda p: apply(layer, p, x_BTD)[1]["aux_loss"])(params)
    assert all(bool(jnp.all(jnp.isfinite(leaf))) for leaf in jax.tree.leaves(aux))
    assert bool(jnp.any(aux["w_router"] != 0))


@pytest.mark.parametrize("capacity", [0.0, 0.5])
def test_the_order_of_a_rows_tokens_changes_nothing(capacity: float):
    """Context parallelism reorders them."""
    layer, params, x_BTD = make_layer(expert_capacity=capacity)
    order = np.random.default_rng(0).permutation(T)
    y_BTD, sums = apply(layer, params, x_BTD)
    moved, moved_sums = apply(layer, params, x_BTD[:, order], SEGMENT_IDS[:, order])
    np.testing.assert_allclose(moved, y_BTD[:, order], atol=1e-6)
    assert moved_sums["dropped"] == sums["dropped"]
    assert float(moved_sums["aux_loss"]) == pytest.approx(float(sums["aux_loss"]), rel=1e-6)


def test_what_padding_holds_reaches_nothing():
    layer, params, x_BTD = make_layer(expert_capacity=0.5)
    other = jnp.where((SEGMENT_IDS == 0)[..., None], 100.0, x_BTD)
    for left, right in zip(*(jax.tree.leaves(apply(layer, params, x)) for x in (x_BTD, other)), strict=True):
        np.testing.assert_array_equal(left, right)


# ---- the model


def test_the_model_gives_the_sums_of_its_layers_when_asked():
    model = Transformer(make_config(expert_capacity=0.5))
    tokens_BT = jax.random.randint(jax.random.key(1), (B, T), 0, 40)
    variables = jax.jit(model.init)(jax.random.key(0), tokens_BT)
    assert set(variables) == {"params"}
    logits_BTV, asked = jax.jit(functools.partial(model.apply, mutable=["aux"]))(variables, tokens_BT)
    assert set(asked["aux"]) == {"aux_loss", "dropped"}
    assert asked["aux"]["dropped"] >= 2 * B * (T * 2 - E * 3)  # in each of 2 layers at most 3 slots of 4 experts a row
    np.testing.assert_array_equal(jax.jit(model.apply)(variables, tokens_BT), logits_BTV)
    dense = Transformer(make_config(num_experts=0))
    _, asked = dense.apply(dense.init(jax.random.key(0), tokens_BT), tokens_BT, mutable=["aux"])
    assert asked == {}


def test_a_cache_gives_the_logits_of_the_whole_sequence():
    model = Transformer(make_config())
    tokens_BT = jax.random.randint(jax.random.key(1), (B, 6), 0, 40)
    variables = model.init(jax.random.key(0), tokens_BT)
    whole, cache, step = model.apply(variables, tokens_BT), init_cache(model.config, B, 6), jax.jit(model.apply)
    for t in range(6):
        logits, cache = step(variables, tokens_BT[:, t : t + 1], positions_BT=jnp.full((B, 1), t), cache=cache)
        np.testing.assert_allclose(logits[:, 0], whole[:, t], atol=1e-5)  # pyright: ignore


@pytest.mark.parametrize("choices", [{}, {"activation": "swiglu", "bias": "all", "balance_bias_rate": 0.1}])
def test_counted_parameters_are_those_of_the_tree(choices: dict):
    config = make_config(**choices)
    params = jax.eval_shape(Transformer(config).init, jax.random.key(0), jnp.zeros((1, 1), jnp.int32))["params"]
    assert count_params(config)["total"] == sum(leaf.size for leaf in jax.tree.leaves(params))


def test_flops_count_the_router_and_the_chosen_experts():
    # As in test_model_flops: with F = 3 the MLP has 2 * 2 * 3 multiply-adds a token; two of five and a router 24 + 10.
    tiny = {"num_layers": 1, "num_heads": 1, "num_kv_heads": 1, "d_model": 2, "d_mlp": 3, "vocab_size": 5}
    config = make_config(**tiny, vocab_multiple=1, num_experts=5, experts_per_token=2)
    assert forward_flops(config, 4, causal=False) == 2 * 4 * (16 + 24 + 10 + 10 + 4 * 4)


def test_new_weights_have_the_scale_of_the_mlp_they_replace():
    config = make_config(d_model=64, d_mlp=128)
    params = nn.unbox(MoE(config, dropless).init(jax.random.key(0), jnp.zeros((1, 1, 64)), jnp.ones((1, 1))))["params"]
    scales = {name: float(jnp.std(leaf)) for name, leaf in params.items()}
    assert scales == pytest.approx({"w_router": 64**-0.5, "w_in": 64**-0.5, "w_out": (128 * 4) ** -0.5}, rel=0.1)


# ---- training


@pytest.fixture
def moe_config(config: ConfigDict) -> ConfigDict:
    config.model.update(num_experts=8, d_mlp=24, activation="swiglu")
    config.optimizer.update(name="adamw,eps=1e-3")  # so that the update follows the gradient, not only its sign
    return config


def padded_batch(config: ConfigDict) -> dict[str, np.ndarray]:
    batch = uneven_batch(config)
    for name in ("segment_ids", "weights"):
        batch[name][5:, 20:] = 0
    return batch


def train_step(config: ConfigDict, **axes: int) -> tuple[Any, dict[str, float]]:
    size = math.prod(axes.values())
    mesh = make_mesh(MeshConfig(**({"data": 1} | axes)), devices=jax.devices()[:size])
    state, metrics = make_train_step(config, mesh)(init_state(config, mesh), shard_batch(padded_batch(config), mesh))
    return jax.device_get(state.params), {name: float(value) for name, value in metrics.items()}


KINDS = {
    "dropless": {"balance_bias_rate": 0.01},
    "capacity": {"expert_capacity": 1.0, "bias": "all"},
}
# Other meshes are in tests/test_equivalence.py; these two also show the sums that the router reports.
MESHES = {
    "expert=4": {"expert": 4},
    "data=2,expert=2,context=2": {"data": 2, "expert": 2, "context": 2},
}


@pytest.fixture(scope="module")
def one_device_steps() -> dict[str, Any]:
    return {}


@pytest.mark.xdist_group("moe")
@pytest.mark.parametrize("mesh", MESHES)
@pytest.mark.parametrize("choice", KINDS)
def test_a_step_on_a_mesh_equals_one_device(
    moe_config: ConfigDict, one_device_steps: dict, capfd: pytest.CaptureFixture, choice: str, mesh: str
):
    moe_config.model.update(KINDS[choice])
    if choice not in one_device_steps:
        one_device_steps[choice] = train_step(moe_config, data=1)
    params, metrics = one_device_steps[choice]
    split_params, split = train_step(moe_config, **MESHES[mesh])
    assert split["loss"] == pytest.approx(metrics["loss"], rel=1e-6)
    assert split["aux_loss"] == pytest.approx(metrics["aux_loss"], rel=1e-6)
    assert split["dropped"] == metrics["dropped"]
    assert (split["dropped"] > 0) == (choice == "capacity")
    assert split["grad_norm"] == pytest.approx(metrics["grad_norm"], rel=1e-5)
    assert max(leaf_errors(split_params, params).values()) < 3e-5  # Adam divides small gradients by their own size
    assert "rematerialization" not in capfd.readouterr().err


@pytest.mark.parametrize("choice", KINDS)
def test_microbatches_do_not_change_a_step(moe_config: ConfigDict, choice: str):
    moe_config.model.update(KINDS[choice])
    params, whole = train_step(moe_config, data=1)
    moe_config.train.microbatch_rows = 2
    split_params, split = train_step(moe_config, data=1)
    for name in ("loss", "aux_loss", "dropped", "grad_norm"):
        assert split[name] == pytest.approx(whole[name], rel=1e-5), name
    assert max(leaf_errors(split_params, params).values()) < 3e-5


def test_the_loss_has_the_layers_losses_and_evaluation_has_not(moe_config: ConfigDict):
    mesh = one_device()
    batch = padded_batch(moe_config) | {"target_bytes": np.ones((8, 32), np.float32)}
    sums, _ = make_eval_step(moe_config, mesh)(init_state(moe_config, mesh).params, shard_batch(batch, mesh))
    _, metrics = train_step(moe_config, data=1)
    assert metrics["aux_loss"] > 0.01
    assert metrics["loss"] == pytest.approx(metrics["nll"] + metrics["aux_loss"], rel=1e-6)
    assert metrics["nll"] == pytest.approx(float(sums["nll"]) / float(sums["weight"]), rel=1e-6)


@pytest.mark.parametrize(
    ("capacity", "kinds"),
    [(0.0, {"all-gather", "reduce-scatter", "all-reduce"}), (1.0, {"all-to-all", "all-reduce"})],
)
def test_experts_stay_on_their_devices(moe_config: ConfigDict, capacity: float, kinds: set[str]):
    """Over the expert axis tokens are exchanged, never weights or their gradients; 24 is the hidden width."""
    moe_config.model.expert_capacity = capacity
    mesh = make_mesh(MeshConfig(data=1, expert=8))
    step = make_train_step(moe_config, mesh)
    batch = shard_batch(padded_batch(moe_config), mesh)
    lower = on_mesh(step.__wrapped__.lower, mesh, rules_of(moe_config))  # pyright: ignore[reportFunctionMemberAccess]
    text = lower(abstract_state(moe_config, mesh), batch).compile().as_text()
    # Sums of one device each, as jax 0.10 and 0.11 write them.
    alone = ("replica_groups={{0},{1}", "{'stage','data','fsdp','context','tensor'}")
    lines = [line for line in text.splitlines() if not any(groups in line for groups in alone)]
    kind = r"= (.*?) (all-gather|all-reduce|reduce-scatter|all-to-all|collective-permute)\("
    moved = re.findall(kind, "\n".join(lines))
    assert {kind for _, kind in moved} == kinds
    assert [shapes for shapes, _ in moved if re.search(r"\b24\b", shapes)] == []


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_experts_nest_in_a_pipeline(dtype: str):
    """vmap over stages, scan over a stage's layers, checkpoint: forward and gradients as layer after layer."""
    mesh = make_mesh(MeshConfig(stage=2, data=1, expert=2, tensor=2))
    rules = make_rules()
    shapes = {"w_in": (4, E, D, F), "w_gate": (4, E, D, F), "w_out": (4, E, F, D), "b_out": (4, E, D)}
    keys = iter(jax.random.split(jax.random.key(0), 9))
    weights = {name: jax.random.normal(next(keys), shape, dtype) / 4 for name, shape in shapes.items()}
    x_SBTD = jax.random.normal(next(keys), (2, 4, 6, D), dtype)  # each stage is at rows of its own
    choose = jax.random.normal(next(keys), (4, D, E), dtype)

    def layer(x_BTD, params, experts_fn):
        weights, choose_DE = params
        gates_BTk, chosen_BTk = jax.lax.top_k(jax.nn.softmax((x_BTD @ choose_DE).astype(jnp.float32)), 2)
        return x_BTD + experts_fn(x_BTD, chosen_BTk, gates_BTk, weights, activation="swiglu"), None

    def plain(params, x_SBTD):
        for i in range(4):  # layers 0 and 1 for the first stage's rows, 2 and 3 for the second's
            s = i // 2
            x_SBTD = x_SBTD.at[s].set(layer(x_SBTD[s], jax.tree.map(lambda leaf, i=i: leaf[i], params), dropless)[0])
        return jnp.mean(jnp.square(x_SBTD.astype(jnp.float32)))

    def pipelined(params, x_SBTD):
        experts_fn = exchange_experts(dropless, rules=rules, axes=EXPERT_AXES)
        one_layer = jax.checkpoint(functools.partial(layer, experts_fn=experts_fn), prevent_cse=False)
        stages = jax.tree.map(lambda leaf: leaf.reshape(2, 2, *leaf.shape[1:]), params)
        stage = jax.vmap(lambda x, params: jax.lax.scan(one_layer, x, params)[0], spmd_axis_name="stage")
        return jnp.mean(jnp.square(stage(x_SBTD, stages).astype(jnp.float32)))

    def place(path, leaf):
        name = path[-1].key if path[0].idx == 0 else None
        logical = ("layers", *EXPERT_AXES[name]) if name else ("layers",)
        return jax.device_put(leaf, NamedSharding(mesh, PartitionSpec(*(dict(rules)[axis] for axis in logical))))

    params = (weights, choose)
    expected = jax.jit(jax.value_and_grad(plain))(params, x_SBTD)
    placed = jax.tree_util.tree_map_with_path(place, params)
    got = on_mesh(jax.jit(jax.value_and_grad(pipelined)), mesh, rules)(placed, x_SBTD)
    exact = dtype == "float32"
    assert float(got[0]) == pytest.approx(float(expected[0]), rel=1e-6 if exact else 1e-2)
    to_float = functools.partial(jax.tree.map, lambda leaf: np.asarray(leaf, np.float32))
    assert max(leaf_errors(to_float(got[1]), to_float(expected[1])).values()) < (1e-5 if exact else 0.2)


@pytest.mark.parametrize(
    "replaced", ["", "experts=", "experts=expert+fsdp,embed=", "experts=expert+tensor,mlp=", "mlp=fsdp+tensor,embed="]
)
def test_any_rows_and_rules_give_the_same_output(replaced: str):
    """Three rows of five tokens, as prompts may be, do not fill the mesh; experts may live on other axes."""
    mesh = make_mesh(MeshConfig(fsdp=2, expert=2, tensor=2))
    rules = make_rules("zero3", replaced)
    x_BTD, choose = (jax.random.normal(key, (3, 5, D)) for key in jax.random.split(jax.random.key(0)))
    chosen_BTk = jnp.argsort(choose)[..., :2] % 9  # of eight experts; what is out of range goes nowhere
    gates_BTk = jax.nn.softmax(choose[..., :2])
    weights = {
        name: jax.random.normal(jax.random.key(3), shape)
        for name, shape in {"w_in": (8, D, 4), "w_out": (8, 4, D), "b_out": (8, D)}.items()
    }
    exchange = exchange_experts(dropless, rules=rules, axes=EXPERT_AXES)
    expected = dropless(x_BTD, chosen_BTk, gates_BTk, weights, activation="gelu")
    np.testing.assert_array_equal(exchange(x_BTD, chosen_BTk, gates_BTk, weights, activation="gelu"), expected)
    on_devices = on_mesh(jax.jit(functools.partial(exchange, activation="gelu")), mesh, rules)
    np.testing.assert_allclose(on_devices(x_BTD, chosen_BTk, gates_BTk, weights), expected, atol=1e-5)


# ---- balance and optimizers


def configure(config: ConfigDict, **optimizer) -> ConfigDict:
    config.model.update(num_experts=4, balance_bias_rate=0.02, balance_loss=0.0, router_z_loss=0.0)
    config.optimizer.update(schedule="constant", warmup_steps=0, learning_rate=1e-6, weight_decay=0.0)
    config.optimizer.update(optimizer)
    return config


def test_the_bias_evens_out_the_loads_of_a_lopsided_router(config: ConfigDict):
    layer, params, _ = make_layer(balance_bias_rate=0.02, balance_loss=0.0, router_z_loss=0.0)
    x_BTD = jax.random.normal(jax.random.key(1), (8, 64, D)).at[..., 0].set(1.0)
    params["w_router"] = params["w_router"].at[0].add(jnp.array([3.0, 0.0, 0.0, -1.0]))
    params["router_bias"] = jnp.zeros(E)
    segment_ids_BT = np.ones((8, 64), np.int32)
    config = configure(config)
    config.model.balance_bias_rate = 0.005
    optimizer = make_optimizer(config)

    @jax.jit
    def update(params, state):
        grads = jax.grad(lambda p: layer.apply({"params": p}, x_BTD, segment_ids_BT)[1]["aux_loss"])(params)  # pyright: ignore
        updates, state = optimizer.update(grads, state, params)
        load_E = grads["router_bias"] / E + 8 * 64 * 2 / E
        return jax.tree.map(jnp.add, params, updates), state, jnp.max(load_E) / jnp.mean(load_E)

    state, loads = optimizer.init(params), []
    for _ in range(200):
        params, state, load = update(params, state)
        loads.append(float(load))
    assert loads[0] > 1.7  # 2 would be expert 0 in every token's choice
    assert max(loads[-5:]) < 1.2


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_the_bias_moves_by_its_rate_and_touches_nothing_else(config: ConfigDict, name: str):
    config = configure(config, name=name, weight_decay=0.5, clip_norm=1.0)
    params = {"layers": {"moe": {"w_in": jnp.ones((2, 4, 3, 5)), "w_router": jnp.ones((2, 3, 4))}}, "head": jnp.ones(7)}
    grads = jax.tree.map(lambda leaf: jnp.sin(jnp.arange(leaf.size, dtype=jnp.float32)).reshape(leaf.shape), params)
    load = {"router_bias": jnp.array([[900.0, -300.0, 0.0, -600.0], [0.0, 0.0, -8.0, 8.0]])}
    with_bias = {"layers": {"moe": params["layers"]["moe"] | {"router_bias": jnp.ones((2, 4))}}, "head": jnp.ones(7)}
    loaded = {"layers": {"moe": grads["layers"]["moe"] | load}, "head": grads["head"]}
    optimizer = make_optimizer(config)
    updates, _ = optimizer.update(loaded, optimizer.init(with_bias), with_bias)
    moved = updates["layers"]["moe"].pop("router_bias")  # pyright: ignore
    np.testing.assert_allclose(moved, [[-0.02, 0.02, 0, 0.02], [0, 0, 0.02, -0.02]], rtol=1e-6)
    config.model.balance_bias_rate = 0.0
    optimizer = make_optimizer(config)
    expected, _ = optimizer.update(grads, optimizer.init(params), params)
    assert max(leaf_errors(updates, expected).values()) < 1e-6
    norm = math.sqrt(sum(float(jnp.sum(leaf**2)) for leaf in jax.tree.leaves(grads)))
    assert float(gradient_norm(loaded)) == pytest.approx(norm, rel=1e-6)


def test_muon_makes_each_experts_update_nearly_orthogonal(config: ConfigDict):
    config.optimizer.update(name="muon,learning_rate=1.0", weight_decay=0.0, schedule="constant", warmup_steps=0)
    optimizer = make_optimizer(config)
    params = {"layers": {"moe": {"w_in": jnp.zeros((2, 3, 4, 8)), "w_out": jnp.zeros((2, 3, 8, 4))}}}
    grads = jax.tree.map(lambda leaf: jax.random.normal(jax.random.key(leaf.shape[-1]), leaf.shape), params)
    updates: Any = optimizer.update(grads, optimizer.init(params), params)[0]
    for name, update in updates["layers"]["moe"].items():
        singular = np.linalg.svd(np.asarray(update).reshape(6, *update.shape[2:]), compute_uv=False)
        if name == "w_in":
            singular /= math.sqrt(8 / 4)  # Optax scales by the root of outputs over inputs where that is above 1
        assert singular.min() > 0.6
        assert singular.max() < 1.3


# ---- errors


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model.experts_per_token": 9}, "config.model.experts_per_token=9 is more than config.model.num_experts=8"),
        ({"model.experts_per_token": 0}, "config.model.experts_per_token=0 must be at least 1"),
        ({"model.num_experts": -1}, "config.model.num_experts=-1 must be 0"),
        ({"model.expert_capacity": -1.0}, "config.model.expert_capacity=-1.0 must be 0"),
        ({"model.balance_loss": -1.0}, "config.model.balance_loss=-1.0 must be 0"),
        ({"model.num_experts": 6}, "config.model.num_experts makes 6 experts.*config.mesh.expert=4.*multiple of 4"),
    ],
)
def test_what_cannot_work_is_an_error(moe_config: ConfigDict, changes: dict, said: str):
    moe_config.update_from_flattened_dict(changes)
    with pytest.raises(ValueError, match=said):
        preflight(moe_config, make_mesh(MeshConfig(data=2, expert=4)))


def test_a_dense_model_may_use_the_expert_axis(config: ConfigDict):
    preflight(config, make_mesh(MeshConfig(data=2, expert=4)))
