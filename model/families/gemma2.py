"""Gemma 2: norms around every sublayer, soft caps, and a window in every other layer."""

from collections.abc import Collection, Mapping
from typing import Any

from .family import Config, Family
from .gemma import GEMMA_DEFAULTS, GEMMA_LEGAL, SHARED, embedding_scale
from .llama_like import ATTENTION, ENDS, FILES, MLP, read_llama, write_llama
from .positions import FULL, SLIDING, read_rope, read_windows, write_layer_types, write_rope

NORMS_AROUND = {
    "model.layers.{i}.input_layernorm.weight": "layers/attention_norm/scale: D",
    "model.layers.{i}.post_attention_layernorm.weight": "layers/attention_output_norm/scale: D",
    "model.layers.{i}.pre_feedforward_layernorm.weight": "layers/mlp_norm/scale: D",
    "model.layers.{i}.post_feedforward_layernorm.weight": "layers/mlp_output_norm/scale: D",
}


def read_gemma2(config: Mapping[str, Any], period: int) -> Config:
    """What Gemma 2 and 3 share, without positions; every `period`-th layer has no window."""
    types = [SLIDING if (i + 1) % period else FULL for i in range(config["num_hidden_layers"])]
    core = {**read_llama(config, "hidden_activation"), **SHARED, "block": "both"}
    scalar = config["query_pre_attn_scalar"]
    return {
        **core,
        **read_windows(config["sliding_window"], config.get("layer_types") or types),
        "embedding_scale": embedding_scale(core),
        "attention_scale": 0.0 if scalar == core["head_dim"] else scalar**-0.5,
        "attention_soft_cap": float(config.get("attn_logit_softcapping") or 0.0),
        "logit_soft_cap": float(config.get("final_logit_softcapping") or 0.0),
    }


def write_gemma2(core: Config) -> Config:
    """The way back."""
    plain, scale = write_llama(core, "hidden_activation"), core["attention_scale"]
    return {
        **plain,
        "query_pre_attn_scalar": round(scale**-2) if scale else plain["head_dim"],
        "sliding_window": core["window"] or None,
        "layer_types": write_layer_types(core),
        "attn_logit_softcapping": core["attention_soft_cap"] or None,
        "final_logit_softcapping": core["logit_soft_cap"] or None,
    }


def _read(config: Mapping[str, Any], names: Collection[str]) -> Config:
    return {**read_gemma2(config, 2), **read_rope(config)}


def _write(core: Config) -> Config:
    return {**write_gemma2(core), **write_rope(core)}


GEMMA2 = Family(
    model_type="gemma2",
    architecture="Gemma2ForCausalLM",
    read=_read,
    write=_write,
    weights={**ENDS, **NORMS_AROUND, **ATTENTION, **MLP},
    defaults=GEMMA_DEFAULTS
    | {
        "hidden_activation": "gelu_pytorch_tanh",
        "query_pre_attn_scalar": 256,
        "sliding_window": 4096,
        "attn_logit_softcapping": 50.0,
        "final_logit_softcapping": 30.0,
    },
    legal=GEMMA_LEGAL,
    **FILES,
)
