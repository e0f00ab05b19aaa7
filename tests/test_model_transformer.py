"""The Transformer against the same network in NumPy float64, and the properties that must hold exactly.

Letters: B batch, T length, N heads, K kv heads, H head dim, D model, F mlp, V vocab, L layers.
"""

import dataclasses
import functools
import itertools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import base
from model import REMAT_POLICIES, Transformer, TransformerConfig, loop_layers, scan_layers

# What a tiny test waits for is the compiler.
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def make_config(**changes) -> TransformerConfig:
    """The defaults of configs/base.py in a tiny shape, with `changes`."""
    defaults: Any = base.get_config().model
    names = {field.name for field in dataclasses.fields(TransformerConfig)}
    shape: dict[str, Any] = {"vocab_size": 40, "vocab_multiple": 1, "max_length": 16, "num_layers": 2, "d_mlp": 48}
    shape |= {"d_model": 32, "num_heads": 4, "num_kv_heads": 4}
    return TransformerConfig(**({name: defaults[name] for name in defaults if name in names} | shape | changes))


VARIANTS: dict[str, dict[str, Any]] = {
    "gpt": {},
    "gpt2": {"position": "learned", "norm": "layernorm", "bias": "all"},
    "llama": {"num_kv_heads": 2, "activation": "swiglu", "tie_embeddings": False},
    "gemma": {"num_kv_heads": 1, "activation": "geglu", "qk_norm": "head", "head_dim": 16, "window": 3}
    | {"attention_soft_cap": 2.0, "logit_soft_cap": 3.0, "norm_eps": 1e-3},
    "primer": {"num_kv_heads": 2, "activation": "squared_relu", "bias": "all", "rope_theta": 100.0},
    "opt": {"activation": "relu", "norm": "layernorm", "position": "learned", "tie_embeddings": False, "window": 4},
}
each_variant = pytest.mark.parametrize("variant", VARIANTS)


@functools.cache
def build(variant: str = "gpt", **changes) -> tuple[TransformerConfig, Any, Any]:
    """The config, random parameters (biases and scales too, which start as constants) and the jitted model."""
    config = make_config(**(VARIANTS[variant] | changes))
    model = Transformer(config)
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 1), jnp.int32))["params"]
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda leaf: 0.3 * rng.standard_normal(leaf.shape, np.float32), nn.unbox(shapes))
    apply = jit(lambda params, *args, **kwargs: model.apply({"params": params}, *args, **kwargs))
    return config, params, apply


# Two rows of two documents; the first row ends in padding.
SEGMENT_IDS = np.array([[1] * 5 + [2] * 4 + [0] * 3, [1] * 7 + [2] * 5], np.int32)
POSITIONS = np.array([[0, 1, 2, 3, 4, 0, 1, 2, 3, 0, 1, 2], [0, 1, 2, 3, 4, 5, 6, 0, 1, 2, 3, 4]], np.int32)
TOKENS = np.random.default_rng(1).integers(0, 40, size=(2, 12)).astype(np.int32)
PACKING: dict[str, Any] = {"positions_BT": POSITIONS, "segment_ids_BT": SEGMENT_IDS}


def changed_where(where: np.ndarray) -> np.ndarray:
    return np.where(where, (TOKENS + 7) % 40, TOKENS).astype(np.int32)


# ---- against NumPy


def reference_logits(config: TransformerConfig, params: Any, tokens: np.ndarray) -> np.ndarray:
    """The logits (T, V) of one document, in float64, from the papers' formulas."""
    c, p = config, jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    (T,), H = tokens.shape, c.head_dim or c.d_model // c.num_heads
    act = {
        "relu": lambda x: np.maximum(x, 0),
        "squared_relu": lambda x: np.maximum(x, 0) ** 2,
        "gelu": lambda x: 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))),
        "swiglu": lambda x: x / (1 + np.exp(-x)),
    }
    act = (act | {"geglu": act["gelu"]})[c.activation]

    def cap(x, bound):
        return bound * np.tanh(x / bound) if bound else x

    def norm(x, p):
        x = x - x.mean(-1, keepdims=True) if c.norm == "layernorm" else x
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + c.norm_eps) * p["scale"] + p.get("bias", 0)

    def turn(x):  # as complex numbers, unlike the model
        z = x[..., : H // 2] + 1j * x[..., H // 2 :]
        angles = np.arange(T)[:, None] * c.rope_theta ** (-2 * np.arange(H // 2) / H)
        z = z * np.exp(1j * angles)[:, None]
        return np.concatenate((z.real, z.imag), -1)

    def attend(x, p):
        q, k, v = (np.tensordot(x, p[f"w_{name}"], 1) + p.get(f"b_{name}", 0) for name in "qkv")
        if c.qk_norm == "head":
            q, k = (
                y / np.sqrt((y**2).mean(-1, keepdims=True) + c.norm_eps) * p[f"{name}_norm"]
                for y, name in ((q, "q"), (k, "k"))
            )
        if c.position == "rope":
            q, k = turn(q), turn(k)
        y = np.zeros_like(q)
        for t, n in np.ndindex(T, c.num_heads):
            group = n // (c.num_heads // c.num_kv_heads)
            seen = slice(max(0, t + 1 - c.window) if c.window else 0, t + 1)
            weights = np.exp(cap(k[seen, group] @ q[t, n] / np.sqrt(H), c.attention_soft_cap))
            y[t, n] = weights @ v[seen, group] / weights.sum()
        return np.tensordot(y, p["w_out"], 2) + p.get("b_out", 0)

    def mlp(x, p):
        y = x @ p["w_in"] + p.get("b_in", 0)
        y = act(x @ p["w_gate"] + p.get("b_gate", 0)) * y if "w_gate" in p else act(y)
        return y @ p["w_out"] + p.get("b_out", 0)

    x = p["embedding"][tokens] + (p["positions"][:T] if c.position == "learned" else 0)
    for layer in range(c.num_layers):
        own = jax.tree.map(lambda leaf, layer=layer: leaf[layer], p["layers"])
        x = x + attend(norm(x, own["attention_norm"]), own["attention"])
        x = x + mlp(norm(x, own["mlp_norm"]), own["mlp"])
    return cap(norm(x, p["final_norm"]) @ p.get("head", p["embedding"]).T, c.logit_soft_cap)


@each_variant
def test_logits_are_those_of_the_network_in_numpy(variant):
    config, params, apply = build(variant)
    logits = apply(params, TOKENS)
    for row, tokens in zip(logits, TOKENS, strict=True):
        np.testing.assert_allclose(row, reference_logits(config, params, tokens), rtol=1e-4, atol=1e-4)


# ---- documents, rows and order


@each_variant
def test_a_changed_document_leaves_the_logits_of_the_others_bit_identical(variant):
    _, params, apply = build(variant)
    before = np.asarray(apply(params, TOKENS, **PACKING))
    for document in (0, 1, 2):  # padding, first, second
        changed = np.equal(SEGMENT_IDS, document)
        after = np.asarray(apply(params, changed_where(changed), **PACKING))
        np.testing.assert_array_equal(before[~changed], after[~changed])
        assert not np.isclose(before[changed], after[changed]).all(axis=-1).any()


@each_variant
def test_a_packed_document_has_the_logits_of_the_document_alone(variant):
    _, params, apply = build(variant)
    packed = apply(params, TOKENS, **PACKING)
    np.testing.assert_allclose(packed[0, 5:9], apply(params, TOKENS[:1, 5:9])[0], rtol=1e-5, atol=1e-5)


@each_variant
def test_a_changed_token_changes_no_logits_before_it(variant):
    _, params, apply = build(variant)
    before = np.asarray(apply(params, TOKENS))
    after = np.asarray(apply(params, changed_where(np.arange(12) == 6)))
    np.testing.assert_array_equal(before[:, :6], after[:, :6])
    assert not np.isclose(before[:, 6:8], after[:, 6:8]).all(axis=-1).any()


def test_rows_of_a_batch_are_independent():
    _, params, apply = build()
    before = np.asarray(apply(params, TOKENS))
    after = np.asarray(apply(params, changed_where(np.array([[True], [False]]))))
    np.testing.assert_array_equal(before[1], after[1])
    assert not np.array_equal(before[0], after[0])


@pytest.mark.parametrize(("variant", "same"), [("gpt", True), ("gpt2", False)])
def test_shifted_positions_matter_to_learned_ones_only(variant, same):
    _, params, apply = build(variant)
    at = np.tile(np.arange(12, dtype=np.int32), (2, 1))
    logits = [
        np.asarray(apply(params, TOKENS, positions_BT=at + shift, segment_ids_BT=SEGMENT_IDS)) for shift in (0, 3)
    ]
    assert np.allclose(*logits, rtol=1e-4, atol=1e-4) is same


def test_positions_count_from_zero_and_rows_are_one_document_by_default():
    _, params, apply = build("gpt2")
    at = np.tile(np.arange(12, dtype=np.int32), (2, 1))
    given = apply(params, TOKENS, positions_BT=at, segment_ids_BT=np.ones_like(TOKENS))
    np.testing.assert_allclose(apply(params, TOKENS), given, atol=1e-6)


# ---- parameters


def boxed_params(config: TransformerConfig, init=jax.eval_shape) -> Any:
    return init(Transformer(config).init, jax.random.key(0), jnp.zeros((1, 1), jnp.int32))["params"]


def named_leaves(tree: Any) -> dict[str, Any]:
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def test_names_shapes_and_logical_axes_of_the_parameters():
    choices = {"bias": "all", "qk_norm": "head", "tie_embeddings": False, "vocab_multiple": 64}
    config = make_config(
        num_layers=3, num_kv_heads=2, position="learned", norm="layernorm", activation="swiglu", **choices
    )
    tree = boxed_params(config)
    shapes, axes = named_leaves(nn.unbox(tree)), named_leaves(nn.get_partition_spec(tree))
    assert {name: (leaf.shape, tuple(axes[name])) for name, leaf in shapes.items()} == {
        "embedding": ((64, 32), ("vocab", "embed")),
        "positions": ((16, 32), ("length_table", "embed")),
        "head": ((64, 32), ("vocab", "embed")),
        "final_norm/scale": ((32,), ("norm",)),
        "final_norm/bias": ((32,), ("norm",)),
        "layers/attention_norm/scale": ((3, 32), ("layers", "norm")),
        "layers/attention_norm/bias": ((3, 32), ("layers", "norm")),
        "layers/attention/w_q": ((3, 32, 4, 8), ("layers", "embed", "heads", "head_dim")),
        "layers/attention/w_k": ((3, 32, 2, 8), ("layers", "embed", "kv_heads", "head_dim")),
        "layers/attention/w_v": ((3, 32, 2, 8), ("layers", "embed", "kv_heads", "head_dim")),
        "layers/attention/w_out": ((3, 4, 8, 32), ("layers", "heads", "head_dim", "embed")),
        "layers/attention/b_q": ((3, 4, 8), ("layers", "heads", "head_dim")),
        "layers/attention/b_k": ((3, 2, 8), ("layers", "kv_heads", "head_dim")),
        "layers/attention/b_v": ((3, 2, 8), ("layers", "kv_heads", "head_dim")),
        "layers/attention/b_out": ((3, 32), ("layers", "norm")),
        "layers/attention/q_norm": ((3, 8), ("layers", "norm")),
        "layers/attention/k_norm": ((3, 8), ("layers", "norm")),
        "layers/mlp_norm/scale": ((3, 32), ("layers", "norm")),
        "layers/mlp_norm/bias": ((3, 32), ("layers", "norm")),
        "layers/mlp/w_gate": ((3, 32, 48), ("layers", "embed", "mlp")),
        "layers/mlp/w_in": ((3, 32, 48), ("layers", "embed", "mlp")),
        "layers/mlp/w_out": ((3, 48, 32), ("layers", "mlp", "embed")),
        "layers/mlp/b_gate": ((3, 48), ("layers", "mlp")),
        "layers/mlp/b_in": ((3, 48), ("layers", "mlp")),
        "layers/mlp/b_out": ((3, 32), ("layers", "norm")),
    }


def test_a_plain_model_has_no_parameters_for_what_it_does_not_use():
    attention = {f"layers/attention/w_{name}" for name in ("q", "k", "v", "out")}
    norms = {"layers/attention_norm/scale", "layers/mlp_norm/scale", "final_norm/scale"}
    expected = attention | norms | {"embedding", "layers/mlp/w_in", "layers/mlp/w_out"}
    assert set(named_leaves(nn.unbox(boxed_params(make_config())))) == expected


def test_standard_deviations_at_initialisation():
    wide = {"d_model": 64, "head_dim": 32, "num_kv_heads": 2, "d_mlp": 256, "vocab_size": 512, "max_length": 256}
    choices = {"activation": "swiglu", "bias": "all", "tie_embeddings": False, "position": "learned"}
    config = make_config(num_layers=8, norm="layernorm", qk_norm="head", init="standard,std=0.05", **wide, **choices)
    params = named_leaves(nn.unbox(boxed_params(config, init=lambda fn, *args: jit(fn)(*args))))
    expected = {
        "embedding": 0.05,
        "positions": 0.05,
        "head": 0.125,  # 1 / sqrt(64)
        "layers/attention/w_q": 0.125,
        "layers/attention/w_k": 0.125,
        "layers/attention/w_v": 0.125,
        "layers/attention/w_out": 0.0883883 / 4,  # 1 / sqrt(4 * 32), over the root of two writes in each of 8 layers
        "layers/mlp/w_gate": 0.125,
        "layers/mlp/w_in": 0.125,
        "layers/mlp/w_out": 0.0625 / 4,  # 1 / sqrt(256), likewise
    }
    for name, value in params.items():
        if name in expected:
            assert np.std(value) == pytest.approx(expected[name], rel=0.03), name
            assert np.mean(value) == pytest.approx(0, abs=0.04 * expected[name]), name
        else:
            np.testing.assert_array_equal(value, float(name.endswith(("scale", "q_norm", "k_norm"))), err_msg=name)
    for name in expected.keys() - {"embedding", "positions", "head"}:
        layers = np.reshape(params[name], (8, -1))
        assert np.abs(np.corrcoef(layers) - np.eye(8)).max() < 0.1, f"layers share their {name}"


def test_an_untied_head_equal_to_the_table_gives_the_tied_logits():
    tied = build("llama", tie_embeddings=True)
    _, params, apply = build("llama")
    same = tied[1] | {"head": tied[1]["embedding"]}
    np.testing.assert_allclose(apply(same, TOKENS), tied[2](tied[1], TOKENS), atol=1e-6)
    assert not np.allclose(apply(params, TOKENS), apply(same, TOKENS))


@pytest.mark.parametrize(("dtype", "error"), [("bfloat16", 0.1)])
def test_parameters_and_logits_are_float32_under_a_narrow_compute_dtype(dtype, error):
    config, params, apply = build("gpt2", dtype=dtype)
    assert {leaf.dtype for leaf in jax.tree.leaves(boxed_params(config))} == {np.dtype("float32")}
    logits, wide = apply(params, TOKENS), build("gpt2")[2](params, TOKENS)
    assert logits.dtype == jnp.float32
    relative = np.abs(logits - wide).max() / np.std(wide)
    assert 1e-4 < relative < error  # narrow, and still the same network


# ---- vocabulary


@pytest.mark.parametrize("variant", ["gpt", "llama"])  # tied and untied
def test_a_padded_vocabulary_does_not_change_the_loss(variant):
    _, params, apply = build(variant)
    _, padded_params, padded_apply = build(variant, vocab_multiple=64)
    tables = {name: padded_params[name].copy() for name in ("embedding", "head") if name in params}
    for name, table in tables.items():
        assert table.shape == (64, 32)
        table[:40] = params[name]

    def loss(logits):
        logits = np.asarray(logits, np.float64)
        return np.mean(np.log(np.exp(logits).sum(-1)) - np.take_along_axis(logits, TOKENS[..., None], -1)[..., 0])

    logits, padded_logits = apply(params, TOKENS), padded_apply(params | tables, TOKENS)
    assert padded_logits.shape == (2, 12, 64)
    assert padded_logits[..., 40:].max() <= -1e29
    np.testing.assert_allclose(padded_logits[..., :40], logits, atol=1e-6)
    assert loss(padded_logits) == pytest.approx(loss(logits), abs=1e-6)


# ---- the way through the layers


NAMED = ("names,keep=attention_sum+mlp_gate", "names,keep=attention_out,offload=layer_input+qkv+mlp_in")
POLICIES = (*(name for name in REMAT_POLICIES if name != "none"), *NAMED)
STACKS = {
    "loop": loop_layers,
    "unroll 2 of 3": functools.partial(scan_layers, unroll=2),
} | {f"remat {policy}": functools.partial(scan_layers, remat=policy) for policy in POLICIES}


def stack_loss(stack_fn):
    """The loss of three layers with every kind of parameter and with dropout, as a function of the parameters."""
    config, params, _ = build("llama", num_layers=3, dropout=0.2, bias="all", norm="layernorm", qk_norm="head")
    model = Transformer(config, stack_fn=stack_fn)

    def loss(params):
        keys = jax.random.split(jax.random.key(3), TOKENS.shape[0])
        logits: Any = model.apply({"params": params}, TOKENS, **PACKING, dropout_keys_B=keys)
        return jnp.mean(jax.nn.logsumexp(logits, axis=-1) - logits[..., 3])

    return loss, params


@functools.cache
def scanned() -> tuple[Any, Any]:
    loss, params = stack_loss(scan_layers)
    return jit(jax.value_and_grad(loss))(params)


def test_every_parameter_has_a_gradient():
    for name, grad in named_leaves(scanned()[1]).items():
        assert np.abs(grad).max() > 1e-5, name


@pytest.mark.parametrize("stack", STACKS)
def test_every_way_through_the_layers_has_the_loss_and_gradients_of_the_scan(stack):
    loss, params = stack_loss(STACKS[stack])
    value, grads = jit(jax.value_and_grad(loss))(params)
    expected_value, expected = scanned()
    assert float(value) == pytest.approx(float(expected_value), rel=1e-6)
    for name, leaf in named_leaves(expected).items():
        np.testing.assert_allclose(named_leaves(grads)[name], leaf, rtol=1e-3, atol=1e-6, err_msg=name)


def test_remat_policies_recompute_more_and_more():
    def matmuls(policy: str) -> int:
        loss, params = stack_loss(functools.partial(scan_layers, remat=policy))
        return str(jax.make_jaxpr(jax.grad(loss))(params)).count("dot_general")

    counts = [matmuls(policy) for policy in ("none", "projections", "attention", "full")]
    assert counts == sorted(set(counts)), counts
    assert counts[0] < matmuls("dots") < counts[-1]


# ---- dropout


TOKENS_2X16 = jnp.zeros((2, 16), jnp.int32)


@functools.cache
def dropout_model(stack_fn) -> tuple[Any, Any]:
    """A model whose logits are the residual stream, to which write number i adds 2^i, and parameters for it.

    All parameters are zero but the embedding, the output biases and an identity as head; an eps that dwarfs the
    activations makes the last norm a constant factor.
    """
    config = make_config(vocab_size=32, num_layers=3, bias="all", tie_embeddings=False, dropout=0.5, norm_eps=1e8)
    params = jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), nn.unbox(boxed_params(config)))
    params["embedding"] += 1.0
    params["layers"]["attention"]["b_out"] += np.array([[2.0], [8.0], [32.0]], np.float32)
    params["layers"]["mlp"]["b_out"] += np.array([[4.0], [16.0], [64.0]], np.float32)
    params["final_norm"]["scale"] += 1e4
    params["head"] += np.eye(32, dtype=np.float32)
    model = Transformer(config, stack_fn=stack_fn)

    def apply(params, key, positions=None):
        keys = None if key is None else jax.random.split(key, 2)
        return model.apply({"params": params}, TOKENS_2X16, positions_BT=positions, dropout_keys_B=keys)

    return jit(apply), params


def dropout_masks(logits: jax.Array) -> np.ndarray:
    """The masks (7, B, T, D): of the embedding, and of attention and MLP in each of three layers."""
    sums = np.asarray(logits) / 2  # what is kept at rate 0.5 is doubled
    np.testing.assert_allclose(sums, np.round(sums), atol=0.1)
    return np.stack([np.round(sums).astype(int) >> write & 1 for write in range(7)])


def test_dropout_masks_differ_over_layers_rows_and_keys():
    apply, params = dropout_model(scan_layers)
    masks = np.concatenate([dropout_masks(apply(params, jax.random.key(seed))) for seed in (0, 1)])
    flat = masks.reshape(-1, 16 * 32)  # of two keys, seven writes and two rows
    assert np.abs(flat.mean(axis=1) - 0.5).max() < 0.1
    for one, other in itertools.combinations(flat, 2):
        assert abs((one == other).mean() - 0.5) < 0.12


def test_dropout_masks_follow_from_the_key_alone():
    scan, params = dropout_model(scan_layers)
    expected = dropout_masks(scan(params, jax.random.key(0)))
    np.testing.assert_array_equal(dropout_masks(scan(params, jax.random.key(0))), expected)
    loop, _ = dropout_model(loop_layers)
    np.testing.assert_array_equal(dropout_masks(loop(params, jax.random.key(0))), expected)


def test_dropout_masks_move_with_their_tokens():
    apply, params = dropout_model(scan_layers)
    order = np.random.default_rng(0).permutation(16)
    moved = dropout_masks(apply(params, jax.random.key(0), jnp.broadcast_to(order, (2, 16))))
    np.testing.assert_array_equal(moved, dropout_masks(apply(params, jax.random.key(0)))[:, :, order])


def test_dropout_is_off_without_a_key():
    apply, params = dropout_model(scan_layers)
    np.testing.assert_allclose(apply(params, None), 127.0, atol=0.1)  # 1 + 2 + ... + 64, nothing doubled


# ---- errors


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"num_heads": 6, "num_kv_heads": 4}, ["model.num_heads=6", "model.num_kv_heads=4", "[1, 2, 3, 6]"]),
        ({"num_heads": 4, "num_kv_heads": 8}, ["model.num_heads=4", "model.num_kv_heads=8", "[1, 2, 4]"]),
        ({"d_model": 34, "position": "learned"}, ["model.d_model=34", "model.num_heads=4", "d_model=36", "head_dim"]),
        ({"d_model": 34}, ["model.d_model=34", "model.num_heads=4", "d_model=40", "head_dim"]),
        ({"head_dim": 7}, ["model.head_dim=7", "model.position='rope'", "use 8"]),
        ({"d_model": 36}, ["model.head_dim=9", "model.position='rope'", "use 10"]),
        ({"activation": "swish"}, ["model.activation='swish'", "relu", "gelu", "squared_relu", "swiglu", "geglu"]),
        ({"norm": "batchnorm"}, ["model.norm='batchnorm'", "rmsnorm, layernorm"]),
        ({"position": "alibi"}, ["model.position='alibi'", "rope, learned"]),
        ({"dtype": "float64"}, ["model.dtype='float64'", "float32, bfloat16"]),
        ({"dropout": 1.0}, ["model.dropout=1.0", "at least 0 and below 1"]),
        ({"dropout": -0.1}, ["model.dropout=-0.1", "at least 0 and below 1"]),
        *(
            ({name: 0}, [f"model.{name}=0", "at least 1"])
            for name in ("num_layers", "d_model", "num_heads", "num_kv_heads", "d_mlp", "vocab_multiple")
        ),
        ({"head_dim": -8}, ["model.head_dim=-8", "0 (off) or more"]),
        ({"window": -1}, ["model.window=-1", "0 (off) or more"]),
        ({"attention_soft_cap": -1.0}, ["model.attention_soft_cap=-1.0", "0 (off) or more"]),
        ({"logit_soft_cap": -1.0}, ["model.logit_soft_cap=-1.0", "0 (off) or more"]),
        *(({name: 0.0}, [f"model.{name}=0.0", "above 0"]) for name in ("norm_eps", "rope_theta")),
        ({"init": "standard,std=0"}, ["model.init='standard,std=0'", "std must be above 0"]),
        (
            {"init": "standard,zero_outputs=1", "block": "both"},
            ["model.init='standard,zero_outputs=1'", "model.block='both'", "use 'pre' or zero_outputs=0"],
        ),
    ],
    ids=lambda value: "-".join(f"{k}={v}" for k, v in value.items()) if isinstance(value, dict) else "",
)
def test_an_illegal_config_names_keys_values_and_a_legal_choice(changes, said):
    with pytest.raises(ValueError, match="config") as error:
        make_config(**changes)
    for part in said:
        assert part in str(error.value)
