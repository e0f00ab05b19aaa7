"""Qwen2 and 2.5: biases on queries, keys and values."""

from collections.abc import Collection, Mapping
from typing import Any

from .family import Config, Family
from .llama_like import ATTENTION, BIASES, DEFAULTS, ENDS, FILES, MLP, NORMS, read_llama, write_llama
from .positions import read_rope, read_windows, write_layer_types, write_rope


def read_qwen(config: Mapping[str, Any]) -> Config:
    """What Qwen2 and 3 share: a window that the layers from `max_window_layers` on have."""
    window = config.get("sliding_window") if config.get("use_sliding_window") else None
    first, num_layers = config["max_window_layers"], config["num_hidden_layers"]
    types = ["sliding_attention" if i >= first else "full_attention" for i in range(num_layers)]
    return {
        **read_llama(config),
        **read_rope(config),
        **read_windows(window, config.get("layer_types") or types),
    }


def write_qwen(core: Config) -> Config:
    """The way back."""
    types = write_layer_types(core)
    return {
        **write_llama(core),
        **write_rope(core),
        "use_sliding_window": core["window"] > 0,
        "sliding_window": core["window"] or None,
        "max_window_layers": next((i for i, kind in enumerate(types) if kind == "sliding_attention"), len(types)),
        "layer_types": types,
    }


def _read(config: Mapping[str, Any], names: Collection[str]) -> Config:
    return {**read_qwen(config), "bias": "qkv"}


QWEN2 = Family(
    model_type="qwen2",
    architecture="Qwen2ForCausalLM",
    read=_read,
    write=write_qwen,
    weights={**ENDS, **NORMS, **ATTENTION, **MLP, **BIASES},
    defaults=DEFAULTS | {"sliding_window": 4096, "max_window_layers": 28, "max_position_embeddings": 32768},
    **FILES,
)
