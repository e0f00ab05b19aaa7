"""What BART and Marian share: an encoder-decoder with norms after the sums."""

from collections.abc import Collection, Mapping
from typing import Any

from .family import (
    UNGATED,
    Config,
    choice,
    no_counterpart,
    options,
    read_activation,
    read_keys,
    write_activation,
    write_keys,
)
from .tables import attention, mlp, norm

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
DEFAULTS = {"activation_function": "gelu", "scale_embedding": False, "tie_word_embeddings": True}
DEFAULTS |= {"max_position_embeddings": 1024}
LEGAL = {"normalize_before": (False,), "add_final_layer_norm": (False,), "is_decoder": (False,)}
RENAMES = ((r"^(shared|encoder|decoder)\.", r"model.\1."),)
COPIES: dict[str, str] = dict.fromkeys(
    ("model.encoder.embed_tokens.weight", "model.decoder.embed_tokens.weight", "lm_head.weight"), "model.shared.weight"
)


def layers(name: str, path: str) -> dict[str, str]:
    """The names of a stack of layers."""
    layer, names = name + ".layers.{i}.", {}
    for theirs, ours in (("self_attn", "attention"), ("encoder_attn", "cross_attention")):
        q, k, v, out = (f"{layer}{theirs}.{end}_proj" for end in ("q", "k", "v", "out"))
        names |= attention(f"{path}/{ours}", query=q, key=k, value=v, out=out)
        names |= norm(f"{layer}{theirs}_layer_norm", f"{path}/{ours}_norm")
    return {
        **names,
        **mlp(f"{path}/mlp", first=f"{layer}fc1", last=f"{layer}fc2"),
        **norm(f"{layer}final_layer_norm", f"{path}/mlp_norm"),
    }


WEIGHTS = {
    "model.shared.weight": "embedding: V D",
    **layers("model.encoder", "encoder_layers"),
    **layers("model.decoder", "layers"),
    "lm_head.weight": "head: V D",
    "final_logits_bias": "head_bias: 1 V -> V",
}


def read_bart(config: Mapping[str, Any], names: Collection[str]) -> Config:
    """All but positions."""
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
