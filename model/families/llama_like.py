"""What families like Llama share: names of hyperparameters and weights."""

from collections.abc import Mapping
from typing import Any

from .family import GATED, Config, read_activation, read_keys, write_activation, write_keys

KEYS = {
    "vocab_size": "vocab_size",
    "num_layers": "num_hidden_layers",
    "d_model": "hidden_size",
    "num_heads": "num_attention_heads",
    "num_kv_heads": "num_key_value_heads",
    "head_dim": "head_dim",
    "d_mlp": "intermediate_size",
    "max_length": "max_position_embeddings",
    "norm_eps": "rms_norm_eps",
    "tie_embeddings": "tie_word_embeddings",
}
DEFAULTS = {"rms_norm_eps": 1e-6, "hidden_act": "silu", "tie_word_embeddings": False, "max_position_embeddings": 2048}
NO_BIAS = {"attention_bias": (False,)}
FILES: dict[str, Any] = {
    "renames": ((r"^(embed_tokens|layers|norm)\.", r"model.\1."),),
    "ignored": (r".*\.rotary_emb\.inv_freq",),
    "copies": {"lm_head.weight": "model.embed_tokens.weight"},
}
ENDS = {
    "model.embed_tokens.weight": "embedding: V D",
    "model.norm.weight": "final_norm/scale: D",
    "lm_head.weight": "head: V D",
}
NORMS = {
    "model.layers.{i}.input_layernorm.weight": "layers/attention_norm/scale: D",
    "model.layers.{i}.post_attention_layernorm.weight": "layers/mlp_norm/scale: D",
}
ATTENTION = {
    "model.layers.{i}.self_attn.q_proj.weight": "layers/attention/w_q: (N H) D -> D N H",
    "model.layers.{i}.self_attn.k_proj.weight": "layers/attention/w_k: (K H) D -> D K H",
    "model.layers.{i}.self_attn.v_proj.weight": "layers/attention/w_v: (K H) D -> D K H",
    "model.layers.{i}.self_attn.o_proj.weight": "layers/attention/w_out: D (N H) -> N H D",
}
BIASES = {
    "model.layers.{i}.self_attn.q_proj.bias": "layers/attention/b_q: (N H) -> N H",
    "model.layers.{i}.self_attn.k_proj.bias": "layers/attention/b_k: (K H) -> K H",
    "model.layers.{i}.self_attn.v_proj.bias": "layers/attention/b_v: (K H) -> K H",
    "model.layers.{i}.self_attn.o_proj.bias": "layers/attention/b_out: D",
    "model.layers.{i}.mlp.gate_proj.bias": "layers/mlp/b_gate: F",
    "model.layers.{i}.mlp.up_proj.bias": "layers/mlp/b_in: F",
    "model.layers.{i}.mlp.down_proj.bias": "layers/mlp/b_out: D",
}
MLP = {
    "model.layers.{i}.mlp.gate_proj.weight": "layers/mlp/w_gate: F D -> D F",
    "model.layers.{i}.mlp.up_proj.weight": "layers/mlp/w_in: F D -> D F",
    "model.layers.{i}.mlp.down_proj.weight": "layers/mlp/w_out: D F -> F D",
}


def read_llama(config: Mapping[str, Any], activation: str = "hidden_act") -> Config:
    """All but positions and what a family adds; `activation` is the key that has it."""
    heads, width = config["num_attention_heads"], config["hidden_size"]
    config = dict(config)
    config["num_key_value_heads"] = config.get("num_key_value_heads") or heads
    config["head_dim"] = config.get("head_dim") or width // heads
    return {**read_keys(config, KEYS), "activation": read_activation(config, activation, GATED)}


def write_llama(core: Config, activation: str = "hidden_act") -> Config:
    """The way back."""
    head_dim = core["head_dim"] or core["d_model"] // core["num_heads"]
    return {**write_keys({**core, "head_dim": head_dim}, KEYS), activation: write_activation(core, GATED)}
