"""Llama 2, 3 and 3.1+."""

from collections.abc import Collection, Mapping
from typing import Any

from .family import Config, Family, no_counterpart
from .llama_like import ATTENTION, BIASES, DEFAULTS, ENDS, FILES, MLP, NORMS, read_llama, write_llama
from .positions import read_rope, write_rope


def _read(config: Mapping[str, Any], names: Collection[str]) -> Config:
    has_bias = bool(config.get("attention_bias"))
    if bool(config.get("mlp_bias")) != has_bias:
        raise no_counterpart("mlp_bias", config.get("mlp_bias"), (has_bias,))
    return {**read_llama(config), **read_rope(config), "bias": "all" if has_bias else "none"}


def _write(core: Config) -> Config:
    has_bias = core["bias"] == "all"
    return {**write_llama(core), **write_rope(core), "attention_bias": has_bias, "mlp_bias": has_bias}


LLAMA = Family(
    model_type="llama",
    architecture="LlamaForCausalLM",
    read=_read,
    write=_write,
    weights={**ENDS, **NORMS, **ATTENTION, **MLP, **BIASES},
    defaults=DEFAULTS,
    **FILES,
)
