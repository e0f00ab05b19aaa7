"""Mistral: Llama with a window in all layers."""

from collections.abc import Collection, Mapping
from typing import Any

from .family import Config, Family
from .llama_like import ATTENTION, DEFAULTS, ENDS, FILES, MLP, NO_BIAS, NORMS, read_llama, write_llama
from .positions import read_rope, read_windows, write_rope


def read(config: Mapping[str, Any], names: Collection[str], *, theta: float = 10000.0) -> Config:
    """The core's fields of a family with one window."""
    return {**read_llama(config), **read_rope(config, theta=theta), **read_windows(config["sliding_window"], None)}


def write(core: Config) -> Config:
    """The way back."""
    return {**write_llama(core), **write_rope(core), "sliding_window": core["window"] or None}


MISTRAL = Family(
    model_type="mistral",
    architecture="MistralForCausalLM",
    read=read,
    write=write,
    weights={**ENDS, **NORMS, **ATTENTION, **MLP},
    defaults=DEFAULTS | {"sliding_window": 4096, "num_key_value_heads": 8, "max_position_embeddings": 131072},
    legal=NO_BIAS,
    **FILES,
)
