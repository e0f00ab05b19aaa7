"""DeepSeek-V3: latent attention, shared experts beside a sigmoid router, dense first layers."""

import math
from collections.abc import Collection, Mapping
from typing import Any

from .family import Config, Family, choice, options
from .llama_like import DEFAULTS, ENDS, FILES, MLP, NORMS, read_llama, write_llama
from .positions import read_rope, write_rope, yarn_scale
from .qwen3_moe import EXPERTS

LATENT = {
    "model.layers.{i}.self_attn.q_proj.weight": "layers/attention/w_q: (N G~) D -> D N G",
    "model.layers.{i}.self_attn.q_a_proj.weight": "layers/attention/w_q_down: C D -> D C",
    "model.layers.{i}.self_attn.q_a_layernorm.weight": "layers/attention/q_down_norm: C",
    "model.layers.{i}.self_attn.q_b_proj.weight": "layers/attention/w_q_up: (N G~) C -> C N G",
    "model.layers.{i}.self_attn.kv_a_proj_with_mqa.weight": "layers/attention/w_kv_down: P~ D -> D P",
    "model.layers.{i}.self_attn.kv_a_layernorm.weight": "layers/attention/kv_norm: C",
    "model.layers.{i}.self_attn.kv_b_proj.weight": "layers/attention/w_kv_up: (N H) C -> C N H",
    "model.layers.{i}.self_attn.o_proj.weight": "layers/attention/w_out: D (N H) -> N H D",
}
SHARED = {
    "model.layers.{i}.mlp.gate.e_score_correction_bias": "layers/moe/router_bias: E",
    "model.layers.{i}.mlp.shared_experts.gate_proj.weight": "layers/shared_mlp/w_gate: F D -> D F",
    "model.layers.{i}.mlp.shared_experts.up_proj.weight": "layers/shared_mlp/w_in: F D -> D F",
    "model.layers.{i}.mlp.shared_experts.down_proj.weight": "layers/shared_mlp/w_out: D F -> F D",
}
NUMBERS = {"num_experts": "n_routed_experts", "experts_per_token": "num_experts_per_tok"}
NUMBERS |= {"num_dense_layers": "first_k_dense_replace", "d_expert": "moe_intermediate_size"}


def _read(config: Mapping[str, Any], names: Collection[str]) -> Config:
    rope, scaling = read_rope(config), config.get("rope_scaling") or config.get("rope_parameters") or {}
    turning, fixed = config["qk_rope_head_dim"], config["qk_nope_head_dim"]
    scale, factor = 0.0, options(rope["rope_scaling"]).get("factor", 1.0)
    if rope["rope_scaling"] and scaling.get("mscale_all_dim"):
        scale = (turning + fixed) ** -0.5 * yarn_scale(factor, scaling["mscale_all_dim"]) ** 2
    widths = {"kv": config["kv_lora_rank"], "rope": turning, "value": config["v_head_dim"]}
    groups = {"groups": config["n_group"] or 1, "top_groups": config["topk_group"] or 1}
    norm, factor = int(config["norm_topk_prob"]), float(config["routed_scaling_factor"])
    return {
        **read_llama({**config, "head_dim": fixed}),
        **rope,
        **{field: config[key] for field, key in NUMBERS.items()},
        "attention_scale": scale,
        "latent_attention": choice("latent", **widths, query=config["q_lora_rank"] or 0),
        "router": choice("sigmoid", normalize=norm, **groups, scale=factor),
        "d_shared_expert": config["n_shared_experts"] * config["moe_intermediate_size"],
        "balance_bias_rate": 0.001,  # the paper's
    }


def _write(core: Config) -> Config:
    written, latent, router = write_llama(core), options(core["latent_attention"]), options(core["router"])
    rope, turning, fixed = write_rope(core), int(latent["rope"]), written.pop("head_dim")
    if core["attention_scale"] and rope["rope_scaling"]:
        factor = rope["rope_scaling"]["factor"]
        ratio = math.sqrt(core["attention_scale"] * math.sqrt(turning + fixed))
        for keys in (rope["rope_scaling"], rope["rope_parameters"]):
            keys["mscale_all_dim"] = round((ratio - 1) / (0.1 * math.log(factor)), 9)
    d_expert = core["d_expert"] or core["d_mlp"]
    return {
        **written,
        **rope,
        **{key: core[field] for field, key in NUMBERS.items()},
        **{"moe_intermediate_size": d_expert, "n_shared_experts": core["d_shared_expert"] // d_expert},
        **{"qk_rope_head_dim": turning, "qk_nope_head_dim": fixed, "v_head_dim": latent["value"]},
        **{"kv_lora_rank": latent["kv"], "q_lora_rank": latent["query"] or None, "rope_interleave": True},
        **{"n_group": router["groups"], "topk_group": router["top_groups"], "num_nextn_predict_layers": 0},
        **{"norm_topk_prob": bool(router["normalize"]), "routed_scaling_factor": router["scale"]},
    }


DEEPSEEK_V3 = Family(
    model_type="deepseek_v3",
    architecture="DeepseekV3ForCausalLM",
    read=_read,
    write=_write,
    weights={**ENDS, **NORMS, **LATENT, **MLP, **EXPERTS, **SHARED},
    defaults=DEFAULTS
    | {"kv_lora_rank": 512, "q_lora_rank": 1536, "qk_rope_head_dim": 64, "qk_nope_head_dim": 128, "v_head_dim": 128}
    | {"n_group": 8, "topk_group": 4, "n_routed_experts": 256, "n_shared_experts": 1, "num_experts_per_tok": 8}
    | {"moe_intermediate_size": 2048, "first_k_dense_replace": 3, "norm_topk_prob": True}
    | {"routed_scaling_factor": 2.5, "max_position_embeddings": 4096},
    # The norms of the latents have an eps of their own in Hugging Face's code, which is 1e-6 whatever the config says.
    legal={"attention_bias": (False,), "rope_interleave": (True,), "rms_norm_eps": (1e-6,)}
    | {"scoring_func": ("sigmoid",), "topk_method": ("noaux_tc",)},
    renames=FILES["renames"],
    ignored=(*FILES["ignored"], r"model\.layers\.{num_layers}\..*"),  # predicts the token after the next
    copies=FILES["copies"],
)
