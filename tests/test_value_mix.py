"""Values that are mixed: literal sums, the network in NumPy, a cache, packing, meshes, and what is refused."""

import functools
import re
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from configs import base
from model import GREEDY, generate, init_cache, scan_layers
from model.value_mix import SharedValues
from parallel import MeshConfig, make_mesh, shard_batch
from tests.helpers import command, leaf_errors, one_device, random_model, uneven_batch
from train import fit, init_state, make_train_step
from train.activations import bytes_of, kept_activations
from train.compose import preflight
from train.layer_decay import layer_factor
from train.parameters import matrix_of, parameter_name

BOTH = "first_layer+embedding,tables=2"
SHAPES: dict[str, dict[str, Any]] = {
    "first layer": {"value_mix": "first_layer", "bias": "qkv", "block": "output"},
    "embedding": {"value_mix": "embedding,tables=2", "block": "output"},
    "both": {"value_mix": BOTH, "num_kv_heads": 2, "num_layers": 3, "qk_norm": "head"},
}
each_shape = pytest.mark.parametrize("shape", SHAPES)
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
TOKENS = np.random.default_rng(1).integers(0, 40, size=(2, 12)).astype(np.int32)


def test_the_layers_take_turns_with_the_tables():
    embedded = jnp.arange(3.0).reshape(1, 1, 3, 1, 1)
    values = SharedValues(jnp.full((1, 1, 1, 1), 7.0), embedded)
    assert [[float(part[0, 0, 0, 0]) for part in values.of_layer(i)] for i in range(5)] == [
        [7, 0],
        [7, 1],
        [7, 2],
        [7, 0],
        [7, 1],
    ]


def reference_logits(c: Any, params: Any, tokens: np.ndarray) -> np.ndarray:
    """The logits (T, V) of one document in float64, layer by layer, for norms before or after a sublayer."""
    p = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    T, H, K, group = len(tokens), c.size_of_head, c.num_kv_heads, c.num_heads // c.num_kv_heads

    def rms(x, scale):
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + c.norm_eps) * scale

    def turn(x):
        z = x[..., : H // 2] + 1j * x[..., H // 2 :]
        z = z * np.exp(1j * np.arange(T)[:, None] * c.rope_theta ** (-2 * np.arange(H // 2) / H))[:, None]
        return np.concatenate((z.real, z.imag), -1)

    x, first = p["embedding"][tokens], None
    for layer in range(c.num_layers):
        own = jax.tree.map(lambda leaf, layer=layer: leaf[layer], p["layers"])
        a, m = own["attention"], own["mlp"]
        n1, n2 = own["attention_norm"]["scale"], own["mlp_norm"]["scale"]
        y = rms(x, n1) if c.block == "pre" else x
        q, k, v = (np.tensordot(y, a[f"w_{name}"], 1) + a.get(f"b_{name}", 0) for name in "qkv")
        if c.qk_norm == "head":
            q, k = rms(q, a["q_norm"]), rms(k, a["k_norm"])
        q, k = turn(q), turn(k)
        first = v if layer == 0 else first
        parts = [v]
        if "first_layer" in c.value_mix:
            parts.append(first)
        if "embedding" in c.value_mix:
            tables = p["value_embedding"].reshape(-1, c.value_tables, K, H)
            parts.append(tables[tokens, layer % c.value_tables])
        assert a["value_mix"].shape == (len(parts),)
        v = sum(weight * part for weight, part in zip(a["value_mix"], parts, strict=True))
        out = np.zeros_like(q)
        for t, n in np.ndindex(T, c.num_heads):
            weights = np.exp(k[: t + 1, n // group] @ q[t, n] / np.sqrt(H))
            out[t, n] = weights @ v[: t + 1, n // group] / weights.sum()
        out = np.tensordot(out, a["w_out"], 2)
        x = x + (out if c.block == "pre" else rms(out, n1))
        z = (rms(x, n2) if c.block == "pre" else x) @ m["w_in"]
        z = 0.5 * z * (1 + np.tanh(np.sqrt(2 / np.pi) * (z + 0.044715 * z**3))) @ m["w_out"]
        x = x + (z if c.block == "pre" else rms(z, n2))
    return rms(x, p["final_norm"]["scale"]) @ p["head"].T


@each_shape
def test_logits_are_those_of_the_network_in_numpy(shape: str):
    model, params = random_model(**SHAPES[shape])
    params = jax.tree.map(lambda leaf: 0.3 * leaf, params)
    logits = jit(model.apply)({"params": params}, TOKENS)
    for row, tokens in zip(logits, TOKENS, strict=True):
        np.testing.assert_allclose(row, reference_logits(model.config, params, tokens), rtol=2e-3, atol=2e-4)


def test_the_weights_begin_equal_and_the_embeddings_with_a_deviation_of_1():
    model, _ = random_model(value_mix=BOTH, num_layers=3)
    params: Any = nn.unbox(model.init(jax.random.key(0), TOKENS[:1, :1])["params"])
    np.testing.assert_allclose(params["layers"]["attention"]["value_mix"], np.full((3, 3), 1 / 3))
    assert params["value_embedding"].shape == (40, 2 * 4 * 4)
    assert abs(float(jnp.std(params["value_embedding"])) - 1) < 0.05


def test_every_new_parameter_has_a_gradient():
    """And each table of the layers that read it: the second one of three layers' two tables is one layer's."""
    model, params = random_model(**SHAPES["both"])
    params = jax.tree.map(lambda leaf: 0.3 * leaf, params)
    model = model.clone(stack_fn=functools.partial(scan_layers, remat="attention"))

    def loss(params: Any) -> Any:
        return jnp.mean(jnp.square(model.apply({"params": params}, TOKENS)))  # pyright: ignore[reportArgumentType]

    value, grads = jit(jax.value_and_grad(loss))(params)
    of_weights, of_tables = grads["layers"]["attention"]["value_mix"], grads["value_embedding"]
    assert np.all(np.abs(of_weights) > 1e-6)
    seen = np.isin(np.arange(40), TOKENS)
    norms = np.linalg.norm(np.asarray(of_tables).reshape(40, 2, -1), axis=-1)
    assert np.all(norms[seen] > 0)
    np.testing.assert_array_equal(norms[~seen], 0)
    for path in (("layers", "attention", "w_v"), ("value_embedding",)):
        direction = np.random.default_rng(2).standard_normal(_at(params, path).shape).astype(np.float32)
        step = jax.tree_util.tree_map_with_path(
            lambda at, leaf, path=path, direction=direction: (
                leaf + 1e-3 * direction if parameter_name(at) == "/".join(path) else leaf
            ),
            params,
        )
        expected = (float(jit(loss)(step)) - float(value)) / 1e-3
        np.testing.assert_allclose(np.sum(_at(grads, path) * direction), expected, rtol=0.05, atol=0.02)


def _at(tree: Any, path: tuple[str, ...]) -> Any:
    return functools.reduce(lambda tree, name: tree[name], path, tree)


@each_shape
def test_greedy_generation_with_a_cache_equals_the_loop_without(shape: str):
    model, params = random_model(**SHAPES[shape])
    prompts, lengths = np.array([[3, 1, 4], [6, 0, 0]], np.int32), np.array([3, 1], np.int32)
    tokens = generate(model, params, prompts, lengths, jax.random.key(0), max_tokens=9, sampling=GREEDY)
    apply = jit(model.apply)
    for row, prompt, length in zip(tokens, prompts, lengths, strict=True):
        text = list(prompt[:length])
        for _ in range(9):
            padded = np.zeros((1, 12), np.int32)
            padded[0, : len(text)] = text
            text.append(int(np.argmax(apply({"params": params}, padded)[0, len(text) - 1])))
        assert text[length:] == list(row)


@each_shape
def test_a_sequence_fed_to_the_cache_in_pieces_has_the_logits_of_the_whole(shape: str):
    model, params = random_model(**SHAPES[shape])
    apply, cache, logits = jit(model.apply), init_cache(model.config, 2, 12), []
    for piece in (slice(0, 5), slice(5, 11), slice(11, 12)):
        positions = np.broadcast_to(np.arange(12)[piece], (2, piece.stop - piece.start))
        some, cache = apply({"params": params}, TOKENS[:, piece], positions_BT=positions, cache=cache)
        logits.append(some)
    whole = apply({"params": params}, TOKENS)
    np.testing.assert_allclose(np.concatenate(logits, axis=1), whole, rtol=1e-4, atol=1e-4)


def test_packed_documents_have_the_logits_that_they_have_alone():
    model, params = random_model(**SHAPES["both"])
    apply = jit(model.apply)
    segment_ids, positions = np.array([[1] * 7 + [2] * 5] * 2), np.array([[*range(7), *range(5)]] * 2)
    packed = apply({"params": params}, TOKENS, positions_BT=positions, segment_ids_BT=segment_ids)
    np.testing.assert_allclose(packed[:, 7:], apply({"params": params}, TOKENS[:, 7:]), rtol=1e-4, atol=1e-4)
    cache = init_cache(model.config, 2, 12)
    some, cache = apply({"params": params}, TOKENS[:, :7], cache=cache)
    np.testing.assert_allclose(packed[:, :7], some, rtol=1e-4, atol=1e-4)


def test_dense_layers_hand_the_first_values_to_those_with_experts():
    """Without the MLPs' outputs a mixture with a dense layer is the same network as one without."""
    experts = {"num_experts": 2, "num_dense_layers": 1, "value_mix": BOTH, "num_layers": 3}
    model, params = random_model(**experts)
    plain, _ = random_model(value_mix=BOTH, num_layers=3)
    params["dense_layers"]["mlp"]["w_out"] = 0 * params["dense_layers"]["mlp"]["w_out"]
    params["layers"]["moe"]["w_out"] = 0 * params["layers"]["moe"]["w_out"]
    joined = {
        name: jax.tree.map(lambda *leaves: np.concatenate(leaves), params["dense_layers"][name], params["layers"][name])
        for name in ("attention", "attention_norm", "mlp_norm")
    }
    joined["mlp"] = jax.tree.map(lambda leaf: np.repeat(0 * leaf, 3, axis=0), params["dense_layers"]["mlp"])
    others = {name: leaf for name, leaf in params.items() if not name.endswith("layers")}
    logits = jit(model.apply)({"params": params}, TOKENS)
    same = jit(plain.apply)({"params": {**others, "layers": joined}}, TOKENS)
    np.testing.assert_allclose(logits, same, rtol=1e-4, atol=1e-4)


def test_optimizers_take_the_tables_for_embeddings_and_decay_nothing():
    found = {}
    for name in ("value_embedding", "layers/attention/value_mix"):
        matrix = matrix_of(name)
        is_decayed = not re.search(base.get_config().optimizer.no_decay, name)
        factor = np.asarray(layer_factor(name, 0.5, {"layers": 2})).tolist()
        found[name] = (matrix and (matrix.inputs, matrix.outputs, matrix.hidden), is_decayed, factor)
    assert found == {
        "value_embedding": (((0,), (1,), False), False, 0.125),
        "layers/attention/value_mix": (None, False, [0.25, 0.5]),
    }


def test_the_planner_counts_what_the_layers_keep():
    """Without remat each layer's own values, and the rows of its table, beside those that attention keeps anyway."""

    def kept(remat: str, **fields: Any) -> float:
        model, _ = random_model(num_kv_heads=2, num_layers=3, **fields)
        found = kept_activations(model.config, remat, fused=True)
        return bytes_of(found, rows=1, length=1, sizes={"tensor": 2}, divides_length=False)

    values = 3 * 2 * 4 * 4 / 2  # layers, heads, head dim and bytes, on two devices
    assert kept("none", value_mix="first_layer") - kept("none") == values
    assert kept("none", value_mix=BOTH) - kept("none") == 2 * values
    assert kept("projections", value_mix=BOTH) == kept("projections")


def test_what_no_family_says_is_refused_in_one_line(config: ConfigDict, tmp_path: Path):
    config.model.value_mix = "first_layer"
    config.mesh.update(data=1, allow_idle=True)
    config.train.steps = 3
    config.sample.prompts = ()
    fit(config, tmp_path / "run")
    with pytest.raises(ValueError, match=r"^config.model.value_mix='first_layer' cannot be exported: no family mixes"):
        command("convert")(["export", str(tmp_path / "out"), f"--workdir={tmp_path / 'run'}"])
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("axes", [{"fsdp": 2, "tensor": 2, "data": 2}, {"context": 4, "data": 2}], ids=str)
def test_a_step_on_eight_devices_is_that_of_one(config: ConfigDict, axes: dict[str, int]):
    config.model.update(value_mix=BOTH, remat="full")
    config.optimizer.update(name="adamw,eps=1e-2", clip_norm=0.0, warmup_steps=0)
    batch = uneven_batch(config)
    found = []
    for mesh in (one_device(), make_mesh(MeshConfig(**axes))):
        config.mesh.update({"data": 1} | (axes if mesh.size > 1 else {}))
        state, metrics = make_train_step(config, mesh)(init_state(config, mesh), shard_batch(batch, mesh))
        found.append((float(metrics["loss"]), jax.tree.map(np.asarray, state.params)))
    assert found[1][0] == pytest.approx(found[0][0], rel=1e-6)
    errors = leaf_errors(found[1][1], found[0][1])
    assert "value_embedding" in errors
    assert max(errors.values()) < 1e-4, errors


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"value_mix": "last"}, ["value_mix='last' is not known", "first_layer", "embedding"]),
        ({"block": "lstm"}, ["value_mix='embedding,tables=2'", "block='lstm'", "value_mix=''"]),
        ({"latent_attention": "latent,kv=8,rope=4,value=8"}, ["latent_attention='latent,kv=8", "value_mix=''"]),
        ({"architecture": "encoder_decoder"}, ["architecture='encoder_decoder'", "value_mix=''"]),
        (
            {"image": "patches,size=8,patch=4", "classifier": "first,classes=3"},
            ["image='patches,size=8,patch=4'", "use config.model.value_mix='first_layer' or ''"],
        ),
        ({"value_mix": "embedding,tables=3"}, ["tables=3", "use 1 to config.model.num_layers=2"]),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_what_has_no_values_to_mix_is_refused(changes: dict[str, Any], said: list[str]):
    with pytest.raises(ValueError, match=r"config\.model\.value_mix") as error:
        random_model(**({"value_mix": "embedding,tables=2"} | changes))
    for part in said:
        assert part in str(error.value)


@pytest.mark.parametrize(("field", "value"), [("value_mix", "first_layer"), ("position", "relative")])
def test_a_pipeline_of_layers_that_share_what_they_learn_is_refused(config: ConfigDict, field: str, value: str):
    config.update_from_flattened_dict({f"model.{field}": value})
    config.mesh.update(stage=2, data=1, allow_idle=True)
    with pytest.raises(ValueError, match=rf"config.model.{field}='{value}' .* use config.mesh.stage=1, not 2"):
        preflight(config, make_mesh(config.mesh))
