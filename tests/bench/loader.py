"""How fast data comes: the loader beside a memory map and Grain alone, preparation beside SentencePiece alone.

    python -m tests.bench.loader

It writes tests/bench/results/data.json and docs/data.md. Figures are per second of CPU time of a process with one
thread, so that they hold for a core, whatever else the machine does; what is compared takes turns.
"""

import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grain
import numpy as np
import sentencepiece

from configs import base
from data import Corpus, make_batches, prepare
from data.sources import open_sources
from tests.bench.results import save

B, T = 16, 1024  # rows of a batch, tokens of a window
TOKENS, DOCUMENT = 50_000_000, 600  # of the corpus, and of a document on average
ROUNDS, BATCHES = 7, 100
SMALL = 300  # bytes of a short document

HEADER = f"""# How fast data comes

Tokens, or bytes of text, per second of CPU time: what one core does. The medians of {ROUNDS} rounds in which all take
turns. `python -m tests.bench.loader` wrote this page.

Batches of {B} windows of {T:,} tokens, in a shuffled order, of {TOKENS / 1e6:.0f} million tokens in documents of
{DOCUMENT} on average. The first two rows give inputs and targets; ours give weights, segments and positions as well.

| loader | million tokens a second | of the memory map |
| --- | --- | --- |
"""
PREPARATION = """
Preparation reads, checks, removes repetitions, stores, tokenizes, and compresses the held-out 5% with gzip and xz for
their figures. The texts are Python's standard library, as files and cut into documents of {small} bytes.

| of | SentencePiece alone, MB a second | preparation | share |
| --- | --- | --- | --- |
"""
WAIT = """
In the default run, `configs/tiny.py`, a step of {step:.0f} ms waits {wait:.3f} ms for its batch: {share:.2%}.
"""


def random_corpus(directory: Path) -> Corpus:
    """Token files of documents of random lengths."""
    rng = np.random.default_rng(0)
    rng.integers(4, 32_000, TOKENS).astype("<u2").tofile(directory / "train.tokens")
    ends = np.cumsum(np.maximum(8, rng.exponential(DOCUMENT, 2 * TOKENS // DOCUMENT)).astype(np.int64))
    starts = np.concatenate([[0], ends[ends < TOKENS], [TOKENS]])
    np.save(directory / "train.starts.npy", starts)
    number = len(starts) - 1
    halves = [[0, number // 2], [number // 2, number]]
    facts = {"documents": number, "tokens": TOKENS, "bytes": TOKENS, "parts": [[0, number]]}
    splits = {"train": facts, "halves": facts | {"parts": halves}}
    return Corpus(directory, {"token_dtype": "<u2", "pad_id": 0, "splits": splits})


def memory_map(corpus: Corpus) -> Iterator[Any]:
    """Windows copied from a memory map."""
    tokens, rng = corpus.tokens("train"), np.random.default_rng(0)
    while True:
        firsts = rng.integers(0, (TOKENS - 1) // T, B) * T
        rows = np.stack([tokens[first : first + T + 1] for first in firsts]).astype(np.int32)
        yield {"inputs": rows[:, :-1], "targets": rows[:, 1:]}


class _Rows:
    def __init__(self, tokens: np.ndarray):
        self._tokens = tokens

    def __len__(self) -> int:
        return (TOKENS - 1) // T

    def __getitem__(self, index: int) -> Any:
        row = self._tokens[index * T : (index + 1) * T + 1].astype(np.int32)
        return {"inputs": row[:-1], "targets": row[1:]}


def grain_alone(corpus: Corpus) -> Iterator[Any]:
    """The same windows through Grain's own shuffle and batch."""
    rows = grain.MapDataset.source(_Rows(corpus.tokens("train"))).shuffle(seed=0).repeat(None).batch(B)
    return iter(rows.to_iter_dataset(grain.ReadOptions(num_threads=0, prefetch_buffer_size=1)))


def ours(corpus: Corpus, **changes: Any) -> Iterator[Any]:
    """Our batches, read by the thread that asks for them."""
    data: Any = base.get_config().data
    data.update(seq_len=T, batch_size=B, read_threads=0, prefetch=1, **changes)
    if " + " in data.source:
        corpus = Corpus(corpus.directory, corpus.metadata | {"splits": {"train": corpus.metadata["splits"]["halves"]}})
    return make_batches(data, corpus=corpus)


def per_second(work: Callable[[], float]) -> float:
    """What `work` says it has done, by CPU time."""
    start = time.process_time()
    done = work()
    return done / (time.process_time() - start)


def loaders() -> list[dict[str, Any]]:
    """Million tokens a second of each loader."""
    with tempfile.TemporaryDirectory() as directory:
        corpus = random_corpus(Path(directory))
        iterators = {
            "a memory map, read in no order": memory_map(corpus),
            "Grain alone on the memory map": grain_alone(corpus),
            "ours, packed": ours(corpus),
            "ours, a document a window": ours(corpus, packing=False),
            "ours, a mixture of two": ours(corpus, source="stdlib,weight=3 + stdlib"),
        }

        def read(batches: Iterator[Any]) -> float:
            return sum(batch["inputs"].size for batch in itertools.islice(batches, BATCHES)) / 1e6

        rounds = [{name: per_second(lambda it=it: read(it)) for name, it in iterators.items()} for _ in range(ROUNDS)]
    return [{"loader": name, "rounds": [one[name] for one in rounds]} for name in iterators]


def preparations() -> list[dict[str, Any]]:
    """Million bytes a second of SentencePiece and of a preparation with a tokenizer that is given."""
    with tempfile.TemporaryDirectory() as directory:
        data: Any = base.get_config().data
        data.update(dir=directory, tokenizer_bytes=2_000_000)
        tokenizer = prepare(data).directory
        data.update(tokenizer=str(tokenizer))
        texts = [record.fields["text"].decode() for record in open_sources("", "stdlib")[0].examples()]
        small = Path(directory, "small.jsonl")
        cut = [text[i : i + SMALL] for text in texts[::4] for i in range(0, len(text), SMALL)]
        small.write_text("".join(json.dumps({"text": text}) + "\n" for text in cut))
        rows = []

        def prepared() -> float:
            corpus = prepare(data, log=lambda line: None)
            return sum(facts["bytes"] for facts in corpus.metadata["splits"].values()) / 1e6

        for name, source, documents in (("files", "stdlib", texts), ("short documents", f"jsonl,path={small}", cut)):
            rounds = []
            for i in range(3):
                data.update(source=source, dir=f"{directory}/{name}{i}")
                alone = per_second(lambda documents=documents: encode(documents, tokenizer / "tokenizer.model"))
                rounds.append((alone, per_second(prepared)))
            rows.append({"of": name, "rounds": rounds})
    return rows


def encode(texts: list[str], model: Path) -> float:
    """Tokenizes; returns million bytes."""
    processor = sentencepiece.SentencePieceProcessor(model_file=str(model))
    for first in range(0, len(texts), 256):
        processor.encode(texts[first : first + 256], num_threads=1)
    return sum(len(text.encode()) for text in texts) / 1e6


def wait_of_default_run() -> dict[str, float]:
    """Seconds of a step, and those of it that it waits for its batch."""
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"} | {"JAX_PLATFORMS": "cpu"}
    with tempfile.TemporaryDirectory() as workdir:
        command = [sys.executable, "-m", "train", "--config=configs/tiny.py", f"--workdir={workdir}/run"]
        command += ["--config.train.steps=60", "--config.train.eval_every=0"]
        command += ["--config.optimizer.schedule=wsd,decay_steps=20"]
        subprocess.run(command, env=environment, check=True, stdout=sys.stderr)
        lines = [json.loads(line) for line in Path(workdir, "run", "metrics.jsonl").read_text().splitlines()]
    timed = [line for line in lines if "data_wait" in line][1:]  # the first has the compilation
    return {name: statistics.median(line[name] for line in timed) for name in ("step_time", "data_wait")}


def main() -> None:
    """Measures and writes."""
    rows = {"loaders": loaders(), "preparations": preparations(), "default_run": wait_of_default_run()}
    save("data", rows, markdown(rows), packages=("grain", "numpy", "sentencepiece", "tensorflow-datasets", "jax"))


def markdown(rows: dict[str, Any]) -> str:
    """The page."""
    page, first = HEADER, statistics.median(rows["loaders"][0]["rounds"])
    for row in rows["loaders"]:
        speed = statistics.median(row["rounds"])
        page += f"| {row['loader']} | {speed:.1f} | {speed / first:.0%} |\n"
    page += PREPARATION.format(small=SMALL)
    for row in rows["preparations"]:
        alone, whole = (statistics.median(column) for column in zip(*row["rounds"], strict=True))
        page += f"| {row['of']} | {alone:.2f} | {whole:.2f} | {whole / alone:.0%} |\n"
    step, wait = (rows["default_run"][name] for name in ("step_time", "data_wait"))
    return page + WAIT.format(step=1e3 * step, wait=1e3 * wait, share=wait / step)


if __name__ == "__main__":
    main()
