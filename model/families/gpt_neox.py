"""GPT-NeoX (Pythia): attention and MLP in parallel, a part of each head turns, and projections fused head by head."""

from collections.abc import Collection, Mapping
from typing import Any

from .family import UNGATED, Config, Family, read_activation, read_keys, write_activation, write_keys
from .llama_like import KEYS as LLAMA_KEYS
from .positions import read_rope, write_rope
from .tables import dense, mlp, norm

KEYS = LLAMA_KEYS | {"norm_eps": "layer_norm_eps", "num_kv_heads": "num_attention_heads"}
KEYS.pop("head_dim")
ROPE_KEYS: dict[str, Any] = {"theta_key": "rotary_emb_base", "fraction_key": "rotary_pct"}
LAYER = "gpt_neox.layers.{i}."
WEIGHTS = {
    "gpt_neox.embed_in.weight": "embedding: V D",
    **norm(f"{LAYER}input_layernorm", "layers/attention_norm"),
    **norm(f"{LAYER}post_attention_layernorm", "layers/mlp_norm"),
    f"{LAYER}attention.query_key_value.weight": tuple(f"layers/attention/w_{n}: (N *H) D -> D N H" for n in "qkv"),
    f"{LAYER}attention.query_key_value.bias": tuple(f"layers/attention/b_{n}: (N *H) -> N H" for n in "qkv"),
    **dense(f"{LAYER}attention.dense", "layers/attention/w_out: D (N H) -> N H D", "b_out: D"),
    **mlp("layers/mlp", first=f"{LAYER}mlp.dense_h_to_4h", last=f"{LAYER}mlp.dense_4h_to_h"),
    **norm("gpt_neox.final_layer_norm", "final_norm"),
    "embed_out.weight": "head: V D",
}


def _read(config: Mapping[str, Any], names: Collection[str]) -> Config:
    return {
        **read_keys(config, KEYS),
        **read_rope(config, fraction=0.25, **ROPE_KEYS),
        "block": "parallel" if config["use_parallel_residual"] else "pre",
        "norm": "layernorm",
        "bias": "all",
        "activation": read_activation(config, "hidden_act", UNGATED),
    }


def _write(core: Config) -> Config:
    return {
        **write_keys(core, KEYS),
        **write_rope(core, has_fraction=True, **ROPE_KEYS),
        "use_parallel_residual": core["block"] == "parallel",
        "hidden_act": write_activation(core, UNGATED),
    }


GPT_NEOX = Family(
    model_type="gpt_neox",
    architecture="GPTNeoXForCausalLM",
    read=_read,
    write=_write,
    weights=WEIGHTS,
    defaults={
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-5,
        "max_position_embeddings": 2048,
        "tie_word_embeddings": False,
        "use_parallel_residual": True,
    },
    legal={"attention_bias": (True,), "is_decoder": (False,)},
    renames=((r"^(embed_in|layers|final_layer_norm)\.", r"gpt_neox.\1."), (r"^lm_head\.", "embed_out.")),
    ignored=(r".*\.attention\.(bias|masked_bias|rotary_emb\.inv_freq)",),
    copies={"embed_out.weight": "gpt_neox.embed_in.weight"},
)
