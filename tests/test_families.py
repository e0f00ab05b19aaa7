"""Hyperparameters and weights in Hugging Face's format, both ways; what the models compute is in test_golden.py."""

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from safetensors.numpy import load_file, save_file

from configs import base
from model import Transformer, TransformerConfig
from model.families import FAMILIES, bind, family_of
from tests.reference.models import REFERENCES
from tests.reference.weights import write_directory
from train.exchange import import_params, import_tensors, open_source
from train.export import export_tensors

# config.json of published models, as transformers 4 wrote them, and what the core must make of them.
PUBLISHED: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "llama": (
        {"hidden_size": 4096, "intermediate_size": 14336, "num_attention_heads": 32, "num_hidden_layers": 32}
        | {"num_key_value_heads": 8, "rms_norm_eps": 1e-05, "rope_theta": 500000.0, "vocab_size": 128256}
        | {"rope_scaling": {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "rope_type": "llama3"}}
        | {"max_position_embeddings": 131072, "attention_bias": False, "tie_word_embeddings": False}
        | {"original_max_position_embeddings": 8192},
        {"head_dim": 128, "rope_theta": 500000.0, "rope_scaling": "llama3,factor=8.0,length=8192", "bias": "none"},
    ),
    "gemma3_text": (
        {"head_dim": 256, "hidden_size": 1152, "intermediate_size": 6912, "num_attention_heads": 4}
        | {"num_hidden_layers": 26, "num_key_value_heads": 1, "query_pre_attn_scalar": 256, "vocab_size": 262144}
        | {"rope_local_base_freq": 10000, "rope_scaling": None, "rope_theta": 1000000, "sliding_window": 512}
        | {"sliding_window_pattern": 6, "max_position_embeddings": 32768},
        {"position": "rope,local_theta=10000.0", "rope_theta": 1e6, "window": 512, "layer_pattern": "LLLLLG"}
        | {"attention_scale": 0.0, "embedding_scale": 1152**0.5, "tie_embeddings": True, "activation": "geglu"},
    ),
    "phi3": (
        {"hidden_size": 8, "intermediate_size": 16, "num_attention_heads": 2, "num_hidden_layers": 1, "vocab_size": 9}
        | {"max_position_embeddings": 131072, "original_max_position_embeddings": 4096, "sliding_window": 262144}
        | {"rope_scaling": {"type": "su", "short_factor": [1.0, 1.25], "long_factor": [2.5, 64.0]}},
        {"rope_scaling": f"longrope,length=4096,short=1.0/1.25,long=2.5/64.0,scale={math.sqrt(1 + 5 / 12)}"},
    ),
    "gpt_neox": (
        {"hidden_size": 512, "intermediate_size": 2048, "num_attention_heads": 8, "num_hidden_layers": 6}
        | {"rotary_emb_base": 20000, "rotary_pct": 0.5, "use_parallel_residual": True, "vocab_size": 50304},
        {"position": "rope,fraction=0.5", "rope_theta": 20000.0, "block": "parallel", "tie_embeddings": False},
    ),
    "deepseek_v3": (
        {"hidden_size": 7168, "intermediate_size": 18432, "num_attention_heads": 128, "num_key_value_heads": 128}
        | {"num_hidden_layers": 61, "rope_theta": 10000, "vocab_size": 129280, "scoring_func": "sigmoid"}
        | {"max_position_embeddings": 163840, "num_nextn_predict_layers": 1}
        | {"rope_scaling": {"type": "yarn", "factor": 40, "mscale": 1.0, "mscale_all_dim": 1.0, "beta_fast": 32}}
        | {"original_max_position_embeddings": 4096},
        {"rope_scaling": "yarn,factor=40.0,length=4096", "router": "sigmoid,groups=8,top_groups=4,scale=2.5"}
        | {"attention_scale": (1 + 0.1 * math.log(40)) ** 2 / math.sqrt(192), "num_dense_layers": 3}
        | {"latent_attention": "latent,kv=512,rope=64,value=128,query=1536", "d_shared_expert": 2048},
    ),
    "modernbert": (
        {"hidden_size": 768, "intermediate_size": 1152, "num_attention_heads": 12, "num_hidden_layers": 22}
        | {"global_attn_every_n_layers": 3, "global_rope_theta": 160000.0, "local_rope_theta": 10000.0}
        | {"local_attention": 128, "vocab_size": 50368},
        {"window": 65, "layer_pattern": "GLL", "rope_theta": 160000.0, "position": "rope,local_theta=10000.0"},
    ),
    "marian": (
        {
            "d_model": 512,
            "decoder_attention_heads": 8,
            "decoder_ffn_dim": 2048,
            "decoder_layers": 6,
            "vocab_size": 58101,
        }
        | {"encoder_attention_heads": 8, "encoder_ffn_dim": 2048, "encoder_layers": 6, "activation_function": "swish"}
        | {"max_position_embeddings": 512, "normalize_before": False, "scale_embedding": True},
        {"activation": "silu", "position": "sinusoidal", "embedding_scale": 512**0.5, "block": "post"},
    ),
    "t5": (
        {"d_model": 512, "d_kv": 64, "d_ff": 1024, "num_layers": 8, "num_decoder_layers": 6, "num_heads": 6}
        | {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False, "vocab_size": 32128},
        {"architecture": "encoder_decoder,encoder_layers=8", "num_layers": 6, "activation": "geglu", "head_dim": 64}
        | {"logit_scale": 1.0, "attention_scale": 1.0, "tie_embeddings": True},  # no lm_head among the names
    ),
}


def shapes_of(core: dict[str, Any], **changes: Any) -> dict[str, tuple[int, ...]]:
    """The parameters of the core, by their paths; the vocabulary is padded to a multiple of 64."""
    defaults: Any = base.get_config().model
    names = {field.name for field in dataclasses.fields(TransformerConfig)}
    values = {name: defaults[name] for name in defaults if name in names}
    values |= {"vocab_size": 1, **core, "vocab_multiple": 64, **changes}
    config = TransformerConfig(**values)
    image = config.choice("image")
    inputs = jnp.zeros((1, image.size, image.size, image.channels) if image.kind else (1, 1), jnp.int32)
    tree = nn.unbox(jax.eval_shape(Transformer(config).init, jax.random.key(0), inputs)["params"])
    return {"/".join(key.key for key in path): leaf.shape for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def as_tree(leaves: dict[str, Any]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for path, leaf in leaves.items():
        *above, name = path.split("/")
        place = tree
        for key in above:
            place = place.setdefault(key, {})
        place[name] = leaf
    return tree


def assert_same(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert sorted(found) == sorted(expected)
    for name, tensor in expected.items():
        assert (found[name].shape, found[name].dtype) == (tensor.shape, tensor.dtype), name
        assert found[name].tobytes() == tensor.tobytes(), name


@pytest.fixture
def llama(tmp_path: Path) -> Path:
    return write_directory("llama", tmp_path / "llama")


def test_every_family_has_a_tiny_model():
    assert {reference.model_type for reference in REFERENCES.values()} == set(FAMILIES)


@pytest.mark.parametrize("family", REFERENCES)
def test_import_then_export_changes_no_bit(family: str, tmp_path: Path):
    source = open_source(write_directory(family, tmp_path / "in"))
    params = as_tree(dict(import_tensors(source, shapes_of(source.core))))
    assert export_tensors(params, source.core, source.family, tmp_path / "out") == ["model.safetensors", "config.json"]
    assert_same(load_file(tmp_path / "out/model.safetensors"), load_file(tmp_path / "in/model.safetensors"))
    again = open_source(tmp_path / "out")
    assert again.core == source.core
    assert again.config["architectures"] == source.config["architectures"]


@pytest.mark.parametrize("model_type", PUBLISHED)
def test_published_configs_mean_these_hyperparameters(model_type: str):
    config, expected = PUBLISHED[model_type]
    family = family_of(model_type)
    core = family.from_hugging_face(config, ())
    assert {field: core[field] for field in expected} == expected
    assert family.from_hugging_face(family.to_hugging_face(core, ()), ()) == core


def test_rope_is_exported_by_the_keys_of_transformers_4_and_5():
    config, _ = PUBLISHED["llama"]
    written = FAMILIES["llama"].to_hugging_face(FAMILIES["llama"].from_hugging_face(config, ()), ())
    scaling = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    scaling |= {"original_max_position_embeddings": 8192}
    assert written["rope_theta"] == 500000.0
    assert written["rope_scaling"] == scaling
    assert written["rope_parameters"] == {**scaling, "rope_theta": 500000.0}

    config, _ = PUBLISHED["gemma3_text"]
    written = FAMILIES["gemma3_text"].to_hugging_face(FAMILIES["gemma3_text"].from_hugging_face(config, ()), ())
    assert (written["rope_theta"], written["rope_local_base_freq"], written["rope_scaling"]) == (1e6, 10000.0, None)
    assert written["rope_parameters"] == {
        "full_attention": {"rope_type": "default", "rope_theta": 1e6},
        "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
    }
    assert written["layer_types"][4:7] == ["sliding_attention", "full_attention", "sliding_attention"]


def test_fused_tensors_split_where_transformers_splits_them():
    """Literal rows: GPT-2's follow one another, NeoX's head by head, DeepSeek's turning ones are pairs."""
    shapes = {f"layers/attention/{n}": (1, 2, 2, 2) for n in ("w_q", "w_k", "w_v")}
    columns = np.arange(12, dtype=np.float32) + np.zeros((2, 1), np.float32)
    [gpt2] = bind(FAMILIES["gpt2"], {}, shapes)
    assert (gpt2.name, gpt2.shape) == ("transformer.h.0.attn.c_attn.weight", (2, 12))
    assert gpt2.read(columns, "layers/attention/w_k")[0].tolist() == [[4, 5], [6, 7]]
    [neox] = bind(FAMILIES["gpt_neox"], {}, shapes)
    assert (neox.name, neox.shape) == ("gpt_neox.layers.0.attention.query_key_value.weight", (12, 2))
    assert neox.read(columns.T, "layers/attention/w_k")[0].tolist() == [[2, 3], [8, 9]]
    core = {"latent_attention": "latent,kv=3,rope=4,value=2"}
    [latent] = bind(FAMILIES["deepseek_v3"], core, {"layers/attention/w_kv_down": (1, 2, 7)})
    assert latent.name == "model.layers.0.self_attn.kv_a_proj_with_mqa.weight"
    turned = latent.read(columns[:, :7].T, "layers/attention/w_kv_down")
    assert turned[0].tolist() == [0, 1, 2, 3, 5, 4, 6]
    assert np.array_equal(latent.write({"layers/attention/w_kv_down": turned}), columns[:, :7].T)


def test_vocabulary_is_padded_with_zeros_and_stripped(llama: Path, tmp_path: Path):
    source = open_source(llama)
    leaves = dict(import_tensors(source, shapes_of(source.core)))
    assert (source.core["vocab_size"], leaves["embedding"].shape[0]) == (131, 192)
    assert not leaves["embedding"][131:].any()
    leaves["embedding"][131:] = leaves["head"][131:] = 7
    export_tensors(as_tree(leaves), source.core, source.family, tmp_path / "out")
    assert_same(load_file(tmp_path / "out/model.safetensors"), load_file(llama / "model.safetensors"))


@pytest.mark.parametrize(("family", "dtype"), [("deepseek_v3", "float32"), ("modernbert", "bfloat16")])
def test_sharded_parameters_are_those_of_one_device(family: str, dtype: str, tmp_path: Path):
    source = open_source(write_directory(family, tmp_path / "in"))
    mesh = Mesh(np.array(jax.devices()).reshape(2, 4), ("x", "y"))

    def place(shape: tuple[int, ...]) -> jax.ShapeDtypeStruct:
        """The first dim that 2 divides is divided in 2, be it that of layers, and the last that 4 divides in 4."""
        spec: list[str | None] = [None] * len(shape)
        for axis, size in (("x", 2), ("y", 4)):
            free = [i for i, n in enumerate(shape) if n % size == 0 and spec[i] is None]
            if free:
                spec[free[0] if axis == "x" else free[-1]] = axis
        return jax.ShapeDtypeStruct(shape, jnp.float32, sharding=NamedSharding(mesh, PartitionSpec(*spec)))

    shapes = shapes_of(source.core)
    params = import_params(source, as_tree({path: place(shape) for path, shape in shapes.items()}))
    whole = as_tree(dict(import_tensors(source, shapes)))
    jax.tree.map(np.testing.assert_array_equal, params, whole)

    names = export_tensors(params, source.core, source.family, tmp_path / "out", max_shard_bytes=20_000, dtype=dtype)
    assert len(names) > 4
    assert names[-2:] == ["model.safetensors.index.json", "config.json"]
    files = [load_file(tmp_path / "out" / name) for name in names[:-2]]
    expected = {
        name: tensor.astype(ml_dtypes.bfloat16 if dtype == "bfloat16" else np.float32)
        for name, tensor in load_file(tmp_path / "in/model.safetensors").items()
    }
    assert_same({name: tensor for file in files for name, tensor in file.items()}, expected)
    again = open_source(tmp_path / "out")
    assert (again.dtype, again.config["torch_dtype"], again.config["dtype"]) == (dtype, dtype, dtype)
    rounded = jax.tree.map(lambda leaf: np.asarray(leaf).astype(dtype).astype(np.float32), whole)
    jax.tree.map(np.testing.assert_array_equal, as_tree(dict(import_tensors(again, shapes))), rounded)


def rewrite(directory: Path, change: Any) -> None:
    """Changes the tensors of a directory."""
    tensors = load_file(directory / "model.safetensors")
    change(tensors)
    save_file(tensors, directory / "model.safetensors")


def reconfigure(directory: Path, **changes: Any) -> None:
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps({**config, **changes}))


def test_old_and_partial_names_and_tensors_without_information_are_taken(tmp_path: Path):
    directory = write_directory("bert", tmp_path / "bert")
    expected = dict(import_tensors(open_source(directory), shapes_of(open_source(directory).core)))

    def age(tensors: dict[str, np.ndarray]) -> None:
        tensors["cls.predictions.decoder.weight"] = tensors["bert.embeddings.word_embeddings.weight"].copy()
        tensors["bert.embeddings.position_ids"] = np.arange(5)
        for name in [name for name in tensors if "LayerNorm" in name]:
            renamed = name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")
            tensors[renamed] = tensors.pop(name)

    rewrite(directory, age)
    source = open_source(directory)
    assert_same(dict(import_tensors(source, shapes_of(source.core))), expected)
    rewrite(directory, lambda tensors: tensors["cls.predictions.decoder.weight"].__setitem__(0, 5.0))
    with pytest.raises(ValueError, match=r"1 copies that are not equal:\n  cls\.predictions\.decoder\.weight \(131, 4"):
        dict(import_tensors(source, shapes_of(source.core)))


def test_all_wrong_tensors_are_named_with_both_shapes(llama: Path):
    def break_it(tensors: dict[str, np.ndarray]) -> None:
        tensors["model.layers.1.mlp.up_proj.weight"] = np.zeros((3, 4), np.float32)
        tensors["model.norm.weight"] = tensors["model.norm.weight"].astype(np.int8)
        tensors["surprise"] = np.zeros((2, 2), np.float32)
        del tensors["model.layers.0.input_layernorm.weight"]

    rewrite(llama, break_it)
    source = open_source(llama)
    with pytest.raises(ValueError, match=r"are not those of its config\.json as llama") as raised:
        dict(import_tensors(source, shapes_of(source.core)))
    assert str(raised.value).splitlines()[1:] == [
        "1 missing:",
        "  model.layers.0.input_layernorm.weight (40,), for layers/attention_norm/scale",
        "1 too many:",
        "  surprise (2, 2)",
        "1 of another shape:",
        "  model.layers.1.mlp.up_proj.weight is (3, 4) and must be (52, 40), for layers/mlp/w_in",
        "1 of a dtype that is not read:",
        "  model.norm.weight is I8; use F32, F16, BF16",
    ]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model_type": "lama"}, "model_type='lama' is not known; did you mean 'llama'?"),
        ({"hidden_act": "mish"}, "hidden_act='mish' has no counterpart; use one of 'silu', "),
        (
            {"rope_parameters": None, "rope_scaling": {"rope_type": "dynamic", "factor": 2.0}},
            "rope_type='dynamic' has no",
        ),
        ({"mlp_bias": True}, "mlp_bias=True has no counterpart; use one of False"),
        ({"rope_theta": 7.0}, r"rope_parameters and rope_theta give the bases \[7.0, "),
        ({"num_hidden_layers": None}, "config.json has no num_hidden_layers"),
    ],
)
def test_a_config_without_counterpart_is_an_error(changes: dict[str, Any], said: str, llama: Path):
    reconfigure(llama, **changes)
    with pytest.raises(ValueError, match=said):
        open_source(llama)


def test_what_a_family_cannot_say_is_not_exported(llama: Path, tmp_path: Path):
    source = open_source(llama)
    params = as_tree(dict(import_tensors(source, shapes_of(source.core))))
    with pytest.raises(
        ValueError, match=r"config\.model\.logit_soft_cap=30\.0 cannot be exported as llama, which would"
    ):
        export_tensors(params, source.core | {"logit_soft_cap": 30.0}, source.family, tmp_path / "out")
    params["positions"] = np.zeros((3, 4), np.float32)
    with pytest.raises(ValueError, match="llama has no name for positions"):
        export_tensors(params, source.core, source.family, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_files_that_cannot_be_read_are_named(llama: Path, tmp_path: Path):
    with pytest.raises(ValueError, match=r"llama already has model\.safetensors; give another directory"):
        export_tensors({}, {}, FAMILIES["llama"], llama)
    (llama / "model.safetensors").write_bytes(b"\x10")
    with pytest.raises(ValueError, match=r"model\.safetensors is damaged"):
        open_source(llama)
    (llama / "model.safetensors").rename(llama / "pytorch_model.bin")
    with pytest.raises(
        ValueError, match=r"has pytorch_model\.bin but no safetensors.*convert it(.|\n)*save_pretrained"
    ):
        open_source(llama)
    (llama / "pytorch_model.bin").unlink()
    with pytest.raises(ValueError, match=r"neither model\.safetensors nor model\.safetensors\.index\.json"):
        open_source(llama)
    index = {"weight_map": {"a": "model-1.safetensors"}}
    (llama / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match=r"has no model-1\.safetensors, which model\.safetensors\.index\.json names"):
        open_source(llama)
    with pytest.raises(ValueError, match=r"has no config\.json"):
        open_source(tmp_path)
