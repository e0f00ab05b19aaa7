"""Text from a trained model."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from data import Tokenizer
from model import generate
from parallel import on_mesh, to_host

from .compose import make_model, rules_of


def check_prompts(config: Any, tokenizer: Tokenizer, prompts: Sequence[str]) -> list[list[int]]:
    """Encodes prompts as the beginnings of documents.

    Raises:
        ValueError: prompt and continuation are longer than learned positions reach.
    """
    ids = [[tokenizer.bos_id, *tokenizer.encode(prompt)] for prompt in prompts]
    longest, s = max(map(len, ids)), config.sample
    if config.model.position == "learned" and longest + s.max_tokens > config.data.seq_len:
        raise ValueError(
            f"a prompt of {longest} tokens and config.sample.max_tokens={s.max_tokens} do not fit the "
            f"config.data.seq_len={config.data.seq_len} learned positions; use at most "
            f"config.sample.max_tokens={max(0, config.data.seq_len - longest)}"
        )
    return ids


def continue_prompts(config: Any, params: Any, mesh: Mesh, tokenizer: Tokenizer, prompts: Sequence[str]) -> list[str]:
    """Continues each prompt, as the beginning of a document, by `config.sample`.

    Args:
        config: the whole config.
        params: the model's parameters on `mesh`.
        mesh: the mesh.
        tokenizer: the run's tokenizer.
        prompts: texts; they may be empty.

    Returns:
        The texts that follow the prompts.

    Raises:
        ValueError: prompt and continuation are longer than learned positions reach.
    """
    ids, s = check_prompts(config, tokenizer, prompts), config.sample
    longest = max(map(len, ids))
    prompt_BP = np.full((len(ids), longest), tokenizer.pad_id, np.int32)
    for row, tokens in zip(prompt_BP, ids, strict=True):
        row[: len(tokens)] = tokens
    tokens_BG = on_mesh(generate, mesh, rules_of(config))(
        make_model(config),
        params,
        prompt_BP,
        np.array([len(tokens) for tokens in ids], np.int32),
        jax.random.key(config.seed),
        max_tokens=s.max_tokens,
        temperature=s.temperature,
        top_k=s.top_k,
        top_p=s.top_p,
        eos_id=tokenizer.eos_id,
    )
    replicated = jax.device_put(tokens_BG, NamedSharding(mesh, PartitionSpec()))
    return [following(tokenizer, prompt, row) for prompt, row in zip(ids, to_host(replicated), strict=True)]


def following(tokenizer: Tokenizer, prompt: list[int], ids: np.ndarray) -> str:
    """The text that ids add to a prompt: by themselves some tokenizers would lose the space before them."""
    before, whole = tokenizer.decode(prompt), tokenizer.decode([*prompt, *ids])
    return whole.removeprefix(before) if whole.startswith(before) else tokenizer.decode(ids)
