"""Qwen3: queries and keys are normalised per head."""

from collections.abc import Collection, Mapping
from typing import Any

from .family import Config, Family
from .llama_like import ATTENTION, DEFAULTS, ENDS, FILES, MLP, NO_BIAS, NORMS
from .qwen2 import read_qwen, write_qwen

QK_NORMS = {
    "model.layers.{i}.self_attn.q_norm.weight": "layers/attention/q_norm: H",
    "model.layers.{i}.self_attn.k_norm.weight": "layers/attention/k_norm: H",
}


def _read(config: Mapping[str, Any], names: Collection[str]) -> Config:
    return {**read_qwen(config), "qk_norm": "head"}


QWEN3 = Family(
    model_type="qwen3",
    architecture="Qwen3ForCausalLM",
    read=_read,
    write=write_qwen,
    weights={**ENDS, **NORMS, **ATTENTION, **QK_NORMS, **MLP},
    defaults=DEFAULTS
    | {"sliding_window": 4096, "max_window_layers": 28, "max_position_embeddings": 32768, "head_dim": 128},
    legal=NO_BIAS,
    **FILES,
)
