"""ModernBERT: a pre-norm encoder with rotary positions, a gated MLP, and a window in two of three layers."""

from collections.abc import Collection, Mapping
from typing import Any

from .bert_like import KEYS as BERT_KEYS
from .family import GATED, Config, Family, no_counterpart, read_activation, read_keys, write_activation, write_keys
from .positions import FULL, SLIDING, read_rope, read_windows, write_layer_types, write_rope
from .tables import norm

KEYS = {field: key for field, key in BERT_KEYS.items() if field != "token_types"} | {"norm_eps": "norm_eps"}
BIASES = ("attention_bias", "mlp_bias", "norm_bias", "classifier_bias")
ROPE_KEYS: dict[str, Any] = {"theta_key": "global_rope_theta", "local_theta_key": "local_rope_theta"}
LAYER = "model.layers.{i}."
WEIGHTS = {
    "model.embeddings.tok_embeddings.weight": "embedding: V D",
    **norm("model.embeddings.norm", "embedding_norm"),
    **norm(f"{LAYER}attn_norm", "layers/attention_norm"),
    f"{LAYER}attn.Wqkv.weight": tuple(f"layers/attention/w_{n}: *(N H) D -> D N H" for n in "qkv"),
    f"{LAYER}attn.Wqkv.bias": tuple(f"layers/attention/b_{n}: *(N H) -> N H" for n in "qkv"),
    f"{LAYER}attn.Wo.weight": "layers/attention/w_out: D (N H) -> N H D",
    f"{LAYER}attn.Wo.bias": "layers/attention/b_out: D",
    **norm(f"{LAYER}mlp_norm", "layers/mlp_norm"),
    f"{LAYER}mlp.Wi.weight": ("layers/mlp/w_gate: *F D -> D F", "layers/mlp/w_in: *F D -> D F"),
    f"{LAYER}mlp.Wi.bias": ("layers/mlp/b_gate: *F", "layers/mlp/b_in: *F"),
    f"{LAYER}mlp.Wo.weight": "layers/mlp/w_out: D F -> F D",
    f"{LAYER}mlp.Wo.bias": "layers/mlp/b_out: D",
    **norm("model.final_norm", "final_norm"),
    "head.dense.weight": "head_transform/w: E D -> D E",
    "head.dense.bias": "head_transform/b: D",
    **norm("head.norm", "head_norm"),
    "decoder.weight": "head: V D",
    "decoder.bias": "head_bias: V",
}


def _read(config: Mapping[str, Any], names: Collection[str]) -> Config:
    bias = config["attention_bias"]
    for key in (*BIASES, "classifier_activation"):
        same = config["hidden_activation"] if key == "classifier_activation" else bias
        if config[key] != same:
            raise no_counterpart(key, config[key], (same,))
    period = config.get("global_attn_every_n_layers", 3)
    types = [SLIDING if i % period else FULL for i in range(config["num_hidden_layers"])]
    rope = read_rope(config, theta=160000.0, local_theta=10000.0, **ROPE_KEYS)
    return {
        **read_keys(config, KEYS),
        **rope,
        # `local_attention` counts both ways, and half of it on each side, beside the token itself.
        **read_windows(config["local_attention"] // 2 + 1, config.get("layer_types") or types),
        "architecture": "encoder",
        "norm": "layernorm",
        "bias": "all" if bias else "none",
        "activation": read_activation(config, "hidden_activation", GATED),
        "embedding_norm": "first",
        "head": "transform" if "head.dense.weight" in names else "linear",
    }


def _write(core: Config) -> Config:
    activation = write_activation(core, GATED)
    return {
        **write_keys(core, KEYS),
        **write_rope(core, local_theta_key=ROPE_KEYS["local_theta_key"], theta_key=ROPE_KEYS["theta_key"]),
        **dict.fromkeys(BIASES, core["bias"] == "all"),
        "local_attention": 2 * (core["window"] - 1) if core["window"] else 0,
        "layer_types": write_layer_types(core),
        "hidden_activation": activation,
        "classifier_activation": activation,
    }


MODERNBERT = Family(
    model_type="modernbert",
    architecture=lambda core: "ModernBertForMaskedLM" if core["head"] == "transform" else "ModernBertModel",
    read=_read,
    write=_write,
    weights=WEIGHTS,
    defaults={"hidden_activation": "gelu", "classifier_activation": "gelu", "norm_eps": 1e-5, "local_attention": 128}
    | dict.fromkeys(BIASES, False)
    | {"tie_word_embeddings": True, "max_position_embeddings": 8192},
    legal={"decoder_bias": (True,)},
    renames=((r"^(embeddings|layers|final_norm)\.", r"model.\1."),),
    copies={"decoder.weight": "model.embeddings.tok_embeddings.weight"},
    spellings={"ModernBertModel": ((r"^model\.", ""),)},
)
