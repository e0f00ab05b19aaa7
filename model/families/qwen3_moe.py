"""Qwen3-MoE: Qwen3 with experts, in all layers but perhaps the first."""

from collections.abc import Collection, Mapping
from typing import Any

from .family import Config, Family, choice, no_counterpart, options
from .llama_like import ATTENTION, DEFAULTS, ENDS, FILES, MLP, NORMS
from .qwen2 import read_qwen, write_qwen
from .qwen3 import QK_NORMS

EXPERTS = {
    "model.layers.{i}.mlp.gate.weight": "layers/moe/w_router: E D -> D E",
    "model.layers.{i}.mlp.experts.{e}.gate_proj.weight": "layers/moe/w_gate: F D -> D F",
    "model.layers.{i}.mlp.experts.{e}.up_proj.weight": "layers/moe/w_in: F D -> D F",
    "model.layers.{i}.mlp.experts.{e}.down_proj.weight": "layers/moe/w_out: D F -> F D",
}


def _read(config: Mapping[str, Any], names: Collection[str]) -> Config:
    dense = sorted(config.get("mlp_only_layers") or [])
    if dense != list(range(len(dense))):
        raise no_counterpart("mlp_only_layers", dense, (list(range(len(dense))),))
    # All layers have the window here, whatever max_window_layers says of Qwen3.
    types = ["sliding_attention"] * config["num_hidden_layers"]
    return {
        **read_qwen({**config, "layer_types": types}),
        "qk_norm": "head",
        "num_experts": config.get("num_experts") or config.get("num_local_experts") or 128,
        "experts_per_token": config["num_experts_per_tok"],
        "d_expert": config["moe_intermediate_size"],
        "num_dense_layers": len(dense),
        "router": choice("softmax", normalize=int(config["norm_topk_prob"])),
    }


def _write(core: Config) -> Config:
    return {
        **write_qwen(core),
        "num_experts": core["num_experts"],
        "num_experts_per_tok": core["experts_per_token"],
        "moe_intermediate_size": core["d_expert"] or core["d_mlp"],
        "mlp_only_layers": list(range(core["num_dense_layers"])),
        "decoder_sparse_step": 1,
        "norm_topk_prob": bool(options(core["router"])["normalize"]),
    }


QWEN3_MOE = Family(
    model_type="qwen3_moe",
    architecture="Qwen3MoeForCausalLM",
    read=_read,
    write=_write,
    weights={**ENDS, **NORMS, **ATTENTION, **QK_NORMS, **MLP, **EXPERTS},
    defaults=DEFAULTS
    | {
        "sliding_window": 4096,
        "max_window_layers": 28,
        "num_key_value_heads": 4,
        "num_experts_per_tok": 8,
        "moe_intermediate_size": 768,
        "norm_topk_prob": False,
        "max_position_embeddings": 32768,
    },
    legal={"attention_bias": (False,), "decoder_sparse_step": (1,)},
    **FILES,
)
