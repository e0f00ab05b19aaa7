"""Tokens per second of greedy generation, beside `transformers` with the same parameters, in turns in one process.

    python -m tests.bench.generation

It needs the extra [bench], takes three minutes on two CPU cores, and writes tests/bench/results/generation.json and
docs/generation.md. The tokens must be the same, or nothing is written.
"""

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from model import GREEDY, generate
from tests.bench.peers.ours import processor
from tests.bench.results import save
from tests.reference import ours

LAYERS, WIDTH, HEADS, VOCAB = 6, 384, 6, 4096
PROMPT, NEW = 64, 192  # tokens
ROWS = (1, 8)
ROUNDS = 5
OURS, EAGER, COMPILED = "Palmette", "transformers", "transformers, static cache and torch.compile"
PACKAGES = ("jax", "jaxlib", "flax", "torch", "transformers")

HEADER = f"""# Generation, beside transformers

A GPT-2 of {LAYERS} layers of {WIDTH} and {VOCAB:,} tokens with random parameters, in float32: prompts of {PROMPT}
tokens, {NEW} new ones, greedy, with a cache of keys and values. In turns in one process on {{machine}};
medians of {ROUNDS} rounds. All write the same tokens.

| rows | | tokens/s | Palmette's speed over it | first call s |
| --- | --- | --- | --- | --- |
"""


def models() -> dict[str, Callable[[np.ndarray], np.ndarray]]:
    """Functions of prompts (rows, PROMPT) that return the new tokens (rows, NEW)."""
    import torch  # pyright: ignore[reportMissingImports]
    from transformers import CompileConfig, GPT2Config, GPT2LMHeadModel  # pyright: ignore[reportMissingImports]

    torch.manual_seed(0)
    ids = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": 0}
    config = GPT2Config(vocab_size=VOCAB, n_positions=PROMPT + NEW, n_embd=WIDTH, n_layer=LAYERS, n_head=HEADS, **ids)
    theirs: Any = GPT2LMHeadModel(config).eval()
    with tempfile.TemporaryDirectory() as directory:
        theirs.save_pretrained(directory)
        imported = ours.load(Path(directory))

    def continue_here(prompts: np.ndarray) -> np.ndarray:
        lengths = np.full(len(prompts), PROMPT, np.int32)
        key = jax.random.key(0)
        tokens = generate(imported.model, imported.params, prompts, lengths, key, max_tokens=NEW, sampling=GREEDY)
        return np.asarray(tokens)

    def continue_there(**cache: Any) -> Callable[[np.ndarray], np.ndarray]:
        def call(prompts: np.ndarray) -> np.ndarray:
            inputs = torch.from_numpy(prompts).long()
            how = {"attention_mask": torch.ones_like(inputs), "do_sample": False, "max_new_tokens": NEW}
            with torch.inference_mode():
                return theirs.generate(inputs, **how, **cache)[:, PROMPT:].numpy()

        return call

    compiled = CompileConfig()
    compiled._compile_all_devices = True  # a CPU's too, which it otherwise does not compile for
    static = continue_there(cache_implementation="static", compile_config=compiled)
    return {OURS: continue_here, EAGER: continue_there(), COMPILED: static}


def race(rows: int) -> list[dict[str, Any]]:
    """Raises ValueError: their tokens differ."""
    prompts = np.random.default_rng(0).integers(0, VOCAB, (rows, PROMPT), dtype=np.int32)
    who, first, tokens = models(), {}, {}
    for one, call in who.items():
        began = time.perf_counter()
        tokens[one] = call(prompts)
        first[one] = time.perf_counter() - began
        if not np.array_equal(tokens[one], tokens[OURS]):
            raise ValueError(f"{one} writes {tokens[one]} and {OURS} {tokens[OURS]}")
    seconds: dict[str, list[float]] = {one: [] for one in who}
    for _ in range(ROUNDS + 1):
        for one, call in who.items():
            began = time.perf_counter()
            call(prompts)
            seconds[one].append(time.perf_counter() - began)
    return [
        {"rows": rows, "who": one, "seconds": each[1:], "first_call_s": first[one], "machine": processor()}
        for one, each in seconds.items()
    ]


def markdown(found: list[dict[str, Any]]) -> str:
    """The page for the docs."""
    lines = HEADER.format(machine=found[0]["machine"])
    for row in found:
        mine = next(one["seconds"] for one in found if (one["rows"], one["who"]) == (row["rows"], OURS))
        share = statistics.median(their / our for our, their in zip(mine, row["seconds"], strict=True))
        lines += (
            f"| {row['rows']} | {row['who']} | {row['rows'] * NEW / statistics.median(row['seconds']):,.0f} | "
            f"{'' if row['who'] == OURS else f'{share:.2f}'} | {row['first_call_s']:.1f} |\n"
        )
    return lines


def main() -> None:
    """Races with one row and with several."""
    found = [row for rows in ROWS for row in race(rows)]
    save("generation", found, markdown(found), packages=PACKAGES)


if __name__ == "__main__":
    main()
