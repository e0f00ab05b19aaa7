"""Mixtral: Mistral with experts."""

from collections.abc import Collection, Mapping
from typing import Any

from . import mistral
from .family import Config, Family, choice
from .llama_like import ATTENTION, DEFAULTS, ENDS, FILES, NORMS

EXPERTS = {
    "model.layers.{i}.block_sparse_moe.gate.weight": "layers/moe/w_router: E D -> D E",
    "model.layers.{i}.block_sparse_moe.experts.{e}.w1.weight": "layers/moe/w_gate: F D -> D F",
    "model.layers.{i}.block_sparse_moe.experts.{e}.w2.weight": "layers/moe/w_out: D F -> F D",
    "model.layers.{i}.block_sparse_moe.experts.{e}.w3.weight": "layers/moe/w_in: F D -> D F",
}


def _read(config: Mapping[str, Any], names: Collection[str]) -> Config:
    return {
        **mistral.read(config, names, theta=1e6),
        "num_experts": config["num_local_experts"],
        "experts_per_token": config["num_experts_per_tok"],
        "router": choice("softmax", normalize=1),
    }


def _write(core: Config) -> Config:
    return {
        **mistral.write(core),
        "num_local_experts": core["num_experts"],
        "num_experts_per_tok": core["experts_per_token"],
    }


MIXTRAL = Family(
    model_type="mixtral",
    architecture="MixtralForCausalLM",
    read=_read,
    write=_write,
    weights={**ENDS, **NORMS, **ATTENTION, **EXPERTS},
    defaults=DEFAULTS
    | {
        "rms_norm_eps": 1e-5,
        "sliding_window": None,
        "num_key_value_heads": 8,
        "num_local_experts": 8,
        "num_experts_per_tok": 2,
        "max_position_embeddings": 131072,
    },
    **FILES,
)
