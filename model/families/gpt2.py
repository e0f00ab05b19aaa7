"""GPT-2, whose projections are stored as (in, out)."""

from collections.abc import Collection, Mapping
from typing import Any

from .family import UNGATED, Config, Family, read_activation, read_keys, write_activation, write_keys
from .tables import dense, norm

KEYS = {
    "vocab_size": "vocab_size",
    "num_layers": "n_layer",
    "d_model": "n_embd",
    "num_heads": "n_head",
    "d_mlp": "n_inner",
    "max_length": "n_positions",
    "norm_eps": "layer_norm_epsilon",
    "tie_embeddings": "tie_word_embeddings",
}
LAYER = "transformer.h.{i}."
WEIGHTS = {
    "transformer.wte.weight": "embedding: V D",
    "transformer.wpe.weight": "positions: T D",
    **norm(f"{LAYER}ln_1", "layers/attention_norm"),
    f"{LAYER}attn.c_attn.weight": tuple(f"layers/attention/w_{n}: D *(N H) -> D N H" for n in "qkv"),
    f"{LAYER}attn.c_attn.bias": tuple(f"layers/attention/b_{n}: *(N H) -> N H" for n in "qkv"),
    **dense(f"{LAYER}attn.c_proj", "layers/attention/w_out: (N H) D -> N H D", "b_out: D"),
    **norm(f"{LAYER}ln_2", "layers/mlp_norm"),
    **dense(f"{LAYER}mlp.c_fc", "layers/mlp/w_in: D F", "b_in: F"),
    **dense(f"{LAYER}mlp.c_proj", "layers/mlp/w_out: F D", "b_out: D"),
    **norm("transformer.ln_f", "final_norm"),
    "lm_head.weight": "head: V D",
}


def _read(config: Mapping[str, Any], names: Collection[str]) -> Config:
    config = {**config, "n_inner": config.get("n_inner") or 4 * config["n_embd"]}
    return {
        **read_keys(config, KEYS),
        "num_kv_heads": config["n_head"],
        "activation": read_activation(config, "activation_function", UNGATED),
        "norm": "layernorm",
        "bias": "all",
        "position": "learned",
        "attention_scale": 0.0 if config["scale_attn_weights"] else 1.0,
    }


def _write(core: Config) -> Config:
    return {
        **write_keys(core, KEYS),
        "activation_function": write_activation(core, {"gelu_new": "gelu", **UNGATED}),  # as its own files say it
        "scale_attn_weights": core["attention_scale"] == 0,
    }


GPT2 = Family(
    model_type="gpt2",
    architecture="GPT2LMHeadModel",
    read=_read,
    write=_write,
    weights=WEIGHTS,
    defaults={
        "activation_function": "gelu_new",
        "layer_norm_epsilon": 1e-5,
        "n_positions": 1024,
        "scale_attn_weights": True,
        "tie_word_embeddings": True,
    },
    legal={"scale_attn_by_inverse_layer_idx": (False,), "add_cross_attention": (False,)},
    renames=((r"^(wte|wpe|h|ln_f)\.", r"transformer.\1."),),
    ignored=(r".*\.attn\.(bias|masked_bias)",),
    copies={"lm_head.weight": "transformer.wte.weight"},
)
