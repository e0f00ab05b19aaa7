"""Families of models: Hugging Face's model types as choices of the one core, one file each."""

import difflib

from .bart import BART
from .bert import BERT
from .deepseek_v3 import DEEPSEEK_V3
from .family import Family as Family
from .gemma import GEMMA
from .gemma2 import GEMMA2
from .gemma3_text import GEMMA3_TEXT
from .gpt2 import GPT2
from .gpt_neox import GPT_NEOX
from .llama import LLAMA
from .marian import MARIAN
from .mistral import MISTRAL
from .mixtral import MIXTRAL
from .modernbert import MODERNBERT
from .names import Tensor as Tensor
from .names import bind as bind
from .olmo2 import OLMO2
from .phi3 import PHI3
from .qwen2 import QWEN2
from .qwen3 import QWEN3
from .qwen3_moe import QWEN3_MOE
from .roberta import ROBERTA
from .t5 import T5
from .vit import VIT

FAMILIES: dict[str, Family] = {
    family.model_type: family
    for family in (
        GPT2,
        LLAMA,
        MISTRAL,
        QWEN2,
        QWEN3,
        GEMMA,
        GEMMA2,
        GEMMA3_TEXT,
        PHI3,
        OLMO2,
        GPT_NEOX,
        MIXTRAL,
        QWEN3_MOE,
        DEEPSEEK_V3,
        BERT,
        ROBERTA,
        MODERNBERT,
        MARIAN,
        T5,
        BART,
        VIT,
    )
}


def family_of(model_type: str) -> Family:
    """The family of a model type.

    Args:
        model_type: as config.json says it.

    Returns:
        Its entry in the table.

    Raises:
        ValueError: there is none; it names the nearest.
    """
    if model_type not in FAMILIES:
        nearest = difflib.get_close_matches(str(model_type), FAMILIES, n=1, cutoff=0.5)
        meant = f"did you mean {nearest[0]!r}? " if nearest else ""
        raise ValueError(
            f"config.json: model_type={model_type!r} is not known; {meant}use one of {', '.join(FAMILIES)}"
        )
    return FAMILIES[model_type]
