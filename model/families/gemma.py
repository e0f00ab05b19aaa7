"""Gemma 1: norms that scale by 1 + w, a scaled embedding and a gated GELU."""

from collections.abc import Collection, Mapping
from typing import Any

from .family import Config, Family
from .llama_like import ATTENTION, DEFAULTS, ENDS, FILES, MLP, NORMS, read_llama, write_llama
from .positions import read_rope, write_rope

GEMMA_DEFAULTS = DEFAULTS | {"tie_word_embeddings": True, "head_dim": 256, "max_position_embeddings": 8192}
GEMMA_LEGAL = {"attention_bias": (False,), "use_bidirectional_attention": (None, False)}
SHARED = {"norm": "zero_centered_rmsnorm"}


def embedding_scale(core: Config) -> float:
    """Of all Gemmas."""
    return core["d_model"] ** 0.5


def _read(config: Mapping[str, Any], names: Collection[str]) -> Config:
    # The first releases say "gelu" and mean the tanh form, which transformers takes it for.
    said = config.get("hidden_activation") or config["hidden_act"]
    config = {**config, "hidden_act": "gelu_pytorch_tanh" if said == "gelu" else said}
    core = {**read_llama(config), **read_rope(config), **SHARED}
    return {**core, "embedding_scale": embedding_scale(core)}


def _write(core: Config) -> Config:
    written = {**write_llama(core), **write_rope(core)}
    return {**written, "hidden_activation": written["hidden_act"]}


GEMMA = Family(
    model_type="gemma",
    architecture="GemmaForCausalLM",
    read=_read,
    write=_write,
    weights={**ENDS, **NORMS, **ATTENTION, **MLP},
    defaults=GEMMA_DEFAULTS | {"hidden_act": "gelu_pytorch_tanh"},
    legal=GEMMA_LEGAL,
    **FILES,
)
