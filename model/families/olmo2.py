"""OLMo 2: norms on what the sublayers give, and on all queries and keys of a token together."""

from collections.abc import Collection, Mapping
from typing import Any

from .family import Config, Family
from .llama_like import ATTENTION, DEFAULTS, ENDS, FILES, MLP, NO_BIAS, read_llama, write_llama
from .positions import read_rope, write_rope

NORMS_AFTER = {
    "model.layers.{i}.self_attn.q_norm.weight": "layers/attention/q_norm: (N H) -> N H",
    "model.layers.{i}.self_attn.k_norm.weight": "layers/attention/k_norm: (K H) -> K H",
    "model.layers.{i}.post_attention_layernorm.weight": "layers/attention_norm/scale: D",
    "model.layers.{i}.post_feedforward_layernorm.weight": "layers/mlp_norm/scale: D",
}


def _read(config: Mapping[str, Any], names: Collection[str]) -> Config:
    return {**read_llama(config), **read_rope(config), "block": "output", "qk_norm": "all"}


def _write(core: Config) -> Config:
    return {**write_llama(core), **write_rope(core)}


OLMO2 = Family(
    model_type="olmo2",
    architecture="Olmo2ForCausalLM",
    read=_read,
    write=_write,
    weights={**ENDS, **ATTENTION, **NORMS_AFTER, **MLP},
    defaults=DEFAULTS | {"rms_norm_eps": 1e-5},
    legal=NO_BIAS,
    **FILES,
)
