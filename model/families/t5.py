"""T5 v1.0 and v1.1: relative positions, no biases, no scale of the attention's logits."""

from collections.abc import Collection, Mapping
from typing import Any

from .family import GATED, UNGATED, Config, Family, choice, no_counterpart, options, read_keys, write_keys

KEYS = {
    "vocab_size": "vocab_size",
    "d_model": "d_model",
    "num_layers": "num_decoder_layers",
    "num_heads": "num_heads",
    "num_kv_heads": "num_heads",
    "head_dim": "d_kv",
    "d_mlp": "d_ff",
    "max_length": "n_positions",
    "norm_eps": "layer_norm_epsilon",
}
# What v1.1 calls gated-gelu is the tanh form.
ACTIVATIONS = {name: UNGATED[name] for name in ("relu", "gelu", "gelu_new", "silu")}
ACTIVATIONS |= {f"gated-{name}": GATED[name] for name in ("relu", "silu", "gelu_new")} | {"gated-gelu": "geglu"}
RELATIVE = {"buckets": "relative_attention_num_buckets", "distance": "relative_attention_max_distance"}


def _layers(name: str, path: str, *, mlp: int) -> dict[str, str]:
    layer = name + ".block.{i}.layer."
    attentions = [("SelfAttention", "attention"), ("EncDecAttention", "cross_attention")][:mlp]
    names = {}
    for i, (theirs, ours) in enumerate(attentions):
        for letter, dims in (("q", "(N H) D -> D N H"), ("k", "(K H) D -> D K H"), ("v", "(K H) D -> D K H")):
            names[f"{layer}{i}.{theirs}.{letter}.weight"] = f"{path}/{ours}/w_{letter}: {dims}"
        names[f"{layer}{i}.{theirs}.o.weight"] = f"{path}/{ours}/w_out: D (N H) -> N H D"
        names[f"{layer}{i}.layer_norm.weight"] = f"{path}/{ours}_norm/scale: D"
    return {
        **names,
        f"{layer}{mlp}.DenseReluDense.wi.weight": f"{path}/mlp/w_in without w_gate: F D -> D F",
        f"{layer}{mlp}.DenseReluDense.wi_0.weight": f"{path}/mlp/w_gate: F D -> D F",
        f"{layer}{mlp}.DenseReluDense.wi_1.weight": f"{path}/mlp/w_in with w_gate: F D -> D F",
        f"{layer}{mlp}.DenseReluDense.wo.weight": f"{path}/mlp/w_out: D F -> F D",
        f"{layer}{mlp}.layer_norm.weight": f"{path}/mlp_norm/scale: D",
    }


def _read(config: Mapping[str, Any], names: Collection[str]) -> Config:
    kind = config["feed_forward_proj"]
    if kind not in ACTIVATIONS:
        raise no_counterpart("feed_forward_proj", kind, tuple(ACTIVATIONS))
    # transformers 4 has v1.1's untied head in `tie_word_embeddings`, 5 only in the tensors and in this key.
    is_scaled = config.get("scale_decoder_outputs", config.get("tie_word_embeddings", True))
    config = {**config, "num_decoder_layers": config.get("num_decoder_layers") or config["num_layers"]}
    return {
        **read_keys(config, KEYS),
        "architecture": choice("encoder_decoder", encoder_layers=config["num_layers"]),
        "activation": ACTIVATIONS[kind],
        "position": choice("relative", **{option: config[key] for option, key in RELATIVE.items()}),
        "attention_scale": 1.0,
        "logit_scale": config["d_model"] ** -0.5 if is_scaled else 1.0,
        "tie_embeddings": is_scaled or "lm_head.weight" not in names,
    }


def _write(core: Config) -> Config:
    position, is_scaled = options(core["position"]), core["logit_scale"] != 1.0
    kinds = [kind for kind, activation in ACTIVATIONS.items() if activation == core["activation"]]
    return {
        **write_keys({**core, "head_dim": core["head_dim"] or core["d_model"] // core["num_heads"]}, KEYS),
        **{key: position.get(option) for option, key in RELATIVE.items()},
        "num_layers": options(core["architecture"])["encoder_layers"] or core["num_layers"],
        "feed_forward_proj": "gated-gelu" if "gated-gelu" in kinds else (kinds or [core["activation"]])[0],
        "scale_decoder_outputs": is_scaled,
        "tie_word_embeddings": is_scaled,
        "is_encoder_decoder": True,
    }


T5 = Family(
    model_type="t5",
    architecture="T5ForConditionalGeneration",
    read=_read,
    write=_write,
    weights={
        "shared.weight": "embedding: V D",
        "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight": "encoder_relative_bias: B N",
        **_layers("encoder", "encoder_layers", mlp=1),
        "encoder.final_layer_norm.weight": "encoder_final_norm/scale: D",
        "decoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight": "relative_bias: B N",
        **_layers("decoder", "layers", mlp=2),
        "decoder.final_layer_norm.weight": "final_norm/scale: D",
        "lm_head.weight": "head: V D",
    },
    defaults={"feed_forward_proj": "relu", "layer_norm_epsilon": 1e-6, "n_positions": 512}
    | {"relative_attention_num_buckets": 32, "relative_attention_max_distance": 128},
    ignored=(r"decoder\.block\.0\.layer\.1\.EncDecAttention\.relative_attention_bias\.weight",),
    copies=dict.fromkeys(
        ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight", "lm_head.weight"), "shared.weight"
    ),
)
