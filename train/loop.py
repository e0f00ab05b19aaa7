"""The training loop."""

import os
import sys
import time
from collections import deque
from typing import Any, NamedTuple

import jax
from etils import epath
from jax import Array
from jax.sharding import Mesh

from data import Corpus, DataConfig, Windows, make_batches, prepare
from model import count_params, forward_flops
from parallel import check_platform, local_rows, make_mesh, shard_batch

from .checkpoint import Checkpoints
from .compose import make_model, preflight
from .evaluation import evaluate, make_eval_step
from .interrupt import Interrupt
from .metrics import Recorder, peak_flops
from .runtime import set_up
from .samples import continue_prompts
from .state import TrainState, abstract_state, init_state
from .step import make_train_step
from .workdir import check_space, check_workdir, write_run


class Result(NamedTuple):
    """How a call of `fit` ended.

    Attributes:
        step: updates made.
        signum: the signal that ended it early, or 0.
        num_traces: how often JAX traced the train step.
        validation: figures of the last evaluation, empty if it was ended early.
    """

    step: int
    signum: int
    num_traces: int
    validation: dict[str, float]


def fit(config: Any, workdir: str | os.PathLike[str]) -> Result:
    """Trains a config to its last step, from where its workdir stands.

    Everything that can be known to be wrong is an error before anything is compiled or overwritten. Ctrl-C or SIGTERM
    save a checkpoint and return; the same call continues, and gives what it would have given undisturbed.

    Args:
        config: the whole config.
        workdir: the run's directory, local or gs:// or s3://.

    Returns:
        How it ended.

    Raises:
        ValueError: what is wrong with the config, the data or the workdir, and a legal choice.
        OSError: a disk is full or cannot be written to.
    """
    set_up(config.compile_cache)
    workdir = epath.Path(workdir)
    check_platform(config.platform)
    mesh = make_mesh(config.mesh)
    writes = jax.process_index() == 0
    log = _log if writes else lambda line: None
    preflight(config, mesh)
    target = abstract_state(config, mesh)
    check_workdir(workdir, config, log)
    checkpoint_bytes = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(target))
    check_space(workdir, checkpoint_bytes)
    corpus = prepare(config.data, log=log)
    check_corpus(config, corpus)
    if writes:
        write_run(workdir, config, corpus)

    checkpoints = Checkpoints(workdir, keep=config.train.keep_checkpoints, keep_every=config.train.keep_every)
    try:
        start = checkpoints.latest_step() or 0
        state = checkpoints.restore(start, target) if start else init_state(config, mesh)
        log(_describe(config, mesh, corpus, start))
        return _train(config, mesh, state, start, checkpoints, workdir, corpus, writes)
    finally:
        checkpoints.close()


def _train(
    config: Any,
    mesh: Mesh,
    state: TrainState,
    start: int,
    checkpoints: Checkpoints,
    workdir: epath.Path,
    corpus: Corpus,
    writes: bool,
) -> Result:
    """The loop itself: step, record, evaluate, save; then the last figures and a few samples."""
    t = config.train
    traces: list[int] = []
    train_step = make_train_step(config, mesh, on_trace=lambda: traces.append(1))
    eval_step = make_eval_step(config, mesh)
    peak = peak_flops(jax.devices()[0].device_kind)
    recorder = Recorder(
        workdir,
        start=start,
        num_steps=t.steps,
        tokens_per_step=config.data.batch_size * config.data.seq_len,
        flops_per_step=3 * config.data.batch_size * forward_flops(make_model(config).config, config.data.seq_len),
        peak=peak and peak * mesh.size,
        writes=writes,
    )
    rows = local_rows(mesh, config.data.batch_size)
    batches = make_batches(config.data, seed=config.seed, start=start, rows=rows)
    in_flight: deque[Array] = deque()
    step = start
    with Interrupt() as interrupt, recorder:
        while step < t.steps and not interrupt.signum:
            waited = time.perf_counter()
            batch = next(batches)
            waited = time.perf_counter() - waited
            state, metrics = train_step(state, shard_batch(batch, mesh))
            step += 1
            recorder.count_step(data_wait=waited)
            in_flight.append(metrics["loss"])
            if len(in_flight) > 2:  # the host may run two steps ahead, no further
                in_flight.popleft().block_until_ready()
            if step % t.log_every == 0:
                recorder.train(step, metrics)
            if t.eval_every and step % t.eval_every == 0 and step < t.steps:
                evaluating = time.perf_counter()
                values = evaluate(config, state.params, mesh, limit=t.eval_batches, eval_step=eval_step)
                recorder.evaluation(step, values)
                recorder.skip_time(time.perf_counter() - evaluating)
            if step % t.checkpoint_every == 0 or step == t.steps or interrupt.signum:
                recorder.flush()  # what a restart from this checkpoint will not record again
                saving = time.perf_counter()
                checkpoints.save(step, state)
                recorder.count_stall(time.perf_counter() - saving)
        checkpoints.wait()
        if interrupt.signum:
            recorder.message(f"Saved step {step} in {workdir}; the same command continues")
            return Result(step, interrupt.signum, len(traces), {})
        values = evaluate(config, state.params, mesh, eval_step=eval_step)
        recorder.evaluation(step, values)
    if writes:
        _report(config, state, mesh, corpus, values)
    return Result(step, 0, len(traces), values)


def check_corpus(config: Any, corpus: Corpus) -> None:
    """Checks that the corpus suits the config.

    Raises:
        ValueError: a split is shorter than a window, or the vocabulary is too small for the tokenizer.
    """
    if corpus.tokenizer.vocab_size > config.data.vocab_size:
        raise ValueError(
            f"config.data.vocab_size={config.data.vocab_size}, but the tokenizer in {corpus.directory} has "
            f"{corpus.tokenizer.vocab_size} ids; use at least that"
        )
    for split in ("train", "valid"):
        Windows(corpus, split, DataConfig.of(config.data))


def _describe(config: Any, mesh: Mesh, corpus: Corpus, start: int) -> str:
    sizes = " ".join(f"{axis}={size}" for axis, size in mesh.shape.items() if size > 1) or "one device"
    splits = corpus.metadata["splits"]
    return (
        f"{config.name}: {count_params(make_model(config).config)['total']:,} parameters, "
        f"{splits['train']['tokens']:,} training tokens, {jax.devices()[0].device_kind} ({sizes}), "
        + (f"continuing at step {start} of {config.train.steps}" if start else f"{config.train.steps} steps")
    )


def _report(config: Any, state: TrainState, mesh: Mesh, corpus: Corpus, values: dict[str, float]) -> None:
    """Prints the last figures beside the compressors', and samples."""
    print(f"\nvalidation loss {values['loss']:.4f} nats per token, perplexity {values['perplexity']:.2f}")
    print(f"bits per byte {values['bits_per_byte']:.4f}", end="")
    compressed = corpus.metadata["compressed_bits_per_byte"]
    print("".join(f"   {name} {value:.4f}" for name, value in compressed.items()))
    if config.sample.prompts:
        texts = continue_prompts(config, state.params, mesh, corpus.tokenizer, config.sample.prompts)
        for prompt, text in zip(config.sample.prompts, texts, strict=True):
            print(f"\n--- {prompt!r}\n{prompt}{text}")


def _log(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
