"""BART, and what Marian shares: an encoder-decoder with norms after the sums."""

from collections.abc import Collection, Mapping
from typing import Any

from .bert import dense, norm
from .family import (
    UNGATED,
    Config,
    Family,
    choice,
    no_counterpart,
    options,
    read_activation,
    read_keys,
    write_activation,
    write_keys,
)

KEYS = {
    "vocab_size": "vocab_size",
    "d_model": "d_model",
    "num_layers": "decoder_layers",
    "num_heads": "decoder_attention_heads",
    "num_kv_heads": "decoder_attention_heads",
    "d_mlp": "decoder_ffn_dim",
    "max_length": "max_position_embeddings",
    "tie_embeddings": "tie_word_embeddings",
}
OF_ENCODER = {"encoder_attention_heads": "decoder_attention_heads", "encoder_ffn_dim": "decoder_ffn_dim"}
LEGAL = {"normalize_before": (False,), "add_final_layer_norm": (False,), "is_decoder": (False,)}
COPIES = dict.fromkeys(
    ("model.encoder.embed_tokens.weight", "model.decoder.embed_tokens.weight", "lm_head.weight"), "model.shared.weight"
)
HEAD = {"lm_head.weight": "head: V D", "final_logits_bias": "head_bias: 1 V -> V"}


def attention(name: str, path: str) -> dict[str, str]:
    """The names of an attention."""
    return {
        **dense(f"{name}.q_proj", f"{path}/w_q: (N H) D -> D N H", "b_q: (N H) -> N H"),
        **dense(f"{name}.k_proj", f"{path}/w_k: (K H) D -> D K H", "b_k: (K H) -> K H"),
        **dense(f"{name}.v_proj", f"{path}/w_v: (K H) D -> D K H", "b_v: (K H) -> K H"),
        **dense(f"{name}.out_proj", f"{path}/w_out: D (N H) -> N H D", "b_out: D"),
    }


def layers(name: str, path: str) -> dict[str, str]:
    """The names of a stack of layers."""
    layer = name + ".layers.{i}."
    return {
        **attention(f"{layer}self_attn", f"{path}/attention"),
        **norm(f"{layer}self_attn_layer_norm", f"{path}/attention_norm"),
        **attention(f"{layer}encoder_attn", f"{path}/cross_attention"),
        **norm(f"{layer}encoder_attn_layer_norm", f"{path}/cross_attention_norm"),
        **dense(f"{layer}fc1", f"{path}/mlp/w_in: F D -> D F", "b_in: F"),
        **dense(f"{layer}fc2", f"{path}/mlp/w_out: D F -> F D", "b_out: D"),
        **norm(f"{layer}final_layer_norm", f"{path}/mlp_norm"),
    }


LAYERS = {
    "model.shared.weight": "embedding: V D",
    **layers("model.encoder", "encoder_layers"),
    **layers("model.decoder", "layers"),
}


def read_bart(config: Mapping[str, Any], names: Collection[str]) -> Config:
    """What BART and Marian share, without positions."""
    for key, same in OF_ENCODER.items():
        if config[key] != config[same]:
            raise no_counterpart(key, config[key], (config[same],))
    return {
        **read_keys(config, KEYS),
        "architecture": choice("encoder_decoder", encoder_layers=config["encoder_layers"]),
        "activation": read_activation(config, "activation_function", UNGATED),
        "block": "post",
        "norm": "layernorm",
        "norm_eps": 1e-5,
        "bias": "all",
        "embedding_scale": config["d_model"] ** 0.5 if config["scale_embedding"] else 1.0,
        "head": "bias" if "final_logits_bias" in names else "linear",
    }


def write_bart(core: Config) -> Config:
    """The way back."""
    keys = write_keys(core, KEYS)
    return {
        **keys,
        **{key: keys[same] for key, same in OF_ENCODER.items()},
        "encoder_layers": options(core["architecture"])["encoder_layers"] or core["num_layers"],
        "activation_function": write_activation(core, UNGATED),
        "scale_embedding": core["embedding_scale"] != 1.0,
        "is_encoder_decoder": True,
    }


def _read(config: Mapping[str, Any], names: Collection[str]) -> Config:
    return {**read_bart(config, names), "position": choice("learned", offset=2), "embedding_norm": "norm"}


BART = Family(
    model_type="bart",
    architecture="BartForConditionalGeneration",
    read=_read,
    write=write_bart,
    weights={
        **LAYERS,
        "model.encoder.embed_positions.weight": "encoder_positions: T D",
        "model.decoder.embed_positions.weight": "positions: T D",
        **norm("model.encoder.layernorm_embedding", "encoder_embedding_norm"),
        **norm("model.decoder.layernorm_embedding", "embedding_norm"),
        **HEAD,
    },
    defaults={"activation_function": "gelu", "scale_embedding": False, "tie_word_embeddings": True}
    | {"max_position_embeddings": 1024},
    legal=LEGAL | {"normalize_embedding": (True,), "static_position_embeddings": (False,)},
    renames=((r"^(shared|encoder|decoder)\.", r"model.\1."),),
    copies=COPIES,
)
