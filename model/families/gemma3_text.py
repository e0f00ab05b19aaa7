"""Gemma 3's text model: five layers with a window and a rotary base of their own to one without; qk-norm."""

from collections.abc import Collection, Mapping
from typing import Any

from .family import Config, Family
from .gemma import GEMMA_DEFAULTS, GEMMA_LEGAL
from .gemma2 import NORMS_AROUND, read_gemma2, write_gemma2
from .llama_like import ATTENTION, ENDS, FILES, MLP
from .positions import read_rope, write_rope
from .qwen3 import QK_NORMS

LOCAL = "rope_local_base_freq"


def _read(config: Mapping[str, Any], names: Collection[str]) -> Config:
    period = config.get("sliding_window_pattern") or config.get("_sliding_window_pattern") or 6
    rope = read_rope(config, theta=1e6, local_theta_key=LOCAL, local_theta=10000.0)
    return {**read_gemma2(config, period), **rope, "qk_norm": "head"}


def _write(core: Config) -> Config:
    return {**write_gemma2(core), **write_rope(core, local_theta_key=LOCAL)}


GEMMA3_TEXT = Family(
    model_type="gemma3_text",
    architecture="Gemma3ForCausalLM",
    read=_read,
    write=_write,
    weights={**ENDS, **NORMS_AROUND, **ATTENTION, **QK_NORMS, **MLP},
    defaults=GEMMA_DEFAULTS
    | {
        "hidden_activation": "gelu_pytorch_tanh",
        "query_pre_attn_scalar": 256,
        "sliding_window": 4096,
        "num_key_value_heads": 4,
        "max_position_embeddings": 131072,
    },
    legal=GEMMA_LEGAL,
    **FILES,
)
