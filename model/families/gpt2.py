"""GPT-2, whose projections are stored as (in, out)."""

from collections.abc import Collection, Mapping
from typing import Any

from .family import UNGATED, Config, Family, read_activation, read_keys, write_activation, write_keys

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
WEIGHTS = {
    "transformer.wte.weight": "embedding: V D",
    "transformer.wpe.weight": "positions: T D",
    "transformer.h.{i}.ln_1.weight": "layers/attention_norm/scale: D",
    "transformer.h.{i}.ln_1.bias": "layers/attention_norm/bias: D",
    "transformer.h.{i}.attn.c_attn.weight": (
        "layers/attention/w_q: D *(N H) -> D N H",
        "layers/attention/w_k: D *(K H) -> D K H",
        "layers/attention/w_v: D *(K H) -> D K H",
    ),
    "transformer.h.{i}.attn.c_attn.bias": (
        "layers/attention/b_q: *(N H) -> N H",
        "layers/attention/b_k: *(K H) -> K H",
        "layers/attention/b_v: *(K H) -> K H",
    ),
    "transformer.h.{i}.attn.c_proj.weight": "layers/attention/w_out: (N H) D -> N H D",
    "transformer.h.{i}.attn.c_proj.bias": "layers/attention/b_out: D",
    "transformer.h.{i}.ln_2.weight": "layers/mlp_norm/scale: D",
    "transformer.h.{i}.ln_2.bias": "layers/mlp_norm/bias: D",
    "transformer.h.{i}.mlp.c_fc.weight": "layers/mlp/w_in: D F",
    "transformer.h.{i}.mlp.c_fc.bias": "layers/mlp/b_in: F",
    "transformer.h.{i}.mlp.c_proj.weight": "layers/mlp/w_out: F D",
    "transformer.h.{i}.mlp.c_proj.bias": "layers/mlp/b_out: D",
    "transformer.ln_f.weight": "final_norm/scale: D",
    "transformer.ln_f.bias": "final_norm/bias: D",
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
        "activation_function": write_activation(core, UNGATED),
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
