"""The training loop."""

import functools
import os
import sys
import time
from collections import deque
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from etils import epath
from jax import Array
from jax.sharding import Mesh

from data import Corpus, DataConfig, TrainingRows, make_batches, open_rows, prepare
from model import count_params
from parallel import check_platform, chip_of, has_accelerator, in_turns, local_rows, make_mesh, shard_batch, start

from .best import Best
from .checkpoint import Checkpoints
from .compose import attention_of, make_model, preflight, schedule_of
from .depth import with_depth
from .distill import check_same_meaning
from .evaluation import evaluate, figures_of_answers, make_eval_step
from .flops import peak_of, row_work
from .initial import adopt, first_state, fresh_parameters
from .interrupt import Interrupt
from .metrics import Recorder
from .parameters_of_run import read_fixed
from .planning import with_plan
from .runtime import Stopwatch, set_up
from .samples import check_prompts, continue_prompts, reads_apart, writes
from .stages import Growth, with_stage
from .state import TrainState, abstract_state, abstract_trained, model_params, num_bytes, restore_state, save_state
from .step import make_train_step
from .suitability import check_labels, check_suits
from .workdir import check_equal_corpora, check_same_corpus, check_space, check_workdir, write_run


class Result(NamedTuple):
    """How a call of `fit` ended.

    Attributes:
        step: updates made.
        signum: the signal that ended it early, or 0.
        num_traces: how often JAX traced the train step; once for each size of a batch or a window.
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
        workdir: the run's directory.

    Returns:
        How it ended.

    Raises:
        ValueError: what is wrong with the config, the data or the workdir, and a legal choice.
        OSError: a disk is full or cannot be written to.

    Example:
        fit(get_config(), "runs/tiny").validation["bits_per_byte"]
    """
    watch = Stopwatch()
    config = adopt(config)
    set_up(config.compile_cache)
    start(config.distributed)
    workdir = epath.Path(workdir)
    check_platform(config.platform)
    config = with_plan(with_depth(config, _log), _log)
    mesh = make_mesh(config.mesh)
    is_process_0 = jax.process_index() == 0
    preflight(config, mesh)
    check_suits(config)
    target = abstract_state(config, mesh)
    fresh_parameters(config)
    check_workdir(workdir, config, _log)
    check_space(workdir, num_bytes(target), config.train.keep_checkpoints + 1 + bool(config.train.best))
    corpus = in_turns("prepare", lambda: prepare(config.data, log=_log))
    check_equal_corpora(corpus)
    order = _check_corpus(config, corpus, workdir)
    if is_process_0:
        write_run(workdir, config, corpus)

    checkpoints = Checkpoints(workdir, keep=config.train.keep_checkpoints, keep_every=config.train.keep_every)
    try:
        first = checkpoints.latest_step() or 0
        if first > config.train.steps:
            raise ValueError(f"config.train.steps={config.train.steps}, but --workdir={workdir} is at step {first}")
        _log(_describe(config, mesh, corpus, order, first))
        if first:
            state = restore_state(checkpoints, first, target).replace(fixed=read_fixed(config, workdir, mesh))
        else:
            state = first_state(config, mesh, workdir=workdir, log=_log)
        with _recorder(config, mesh, workdir, first, is_process_0) as recorder:
            result = _train(config, mesh, state, corpus, checkpoints, recorder, watch)
    finally:
        checkpoints.close()
    if result.signum:
        _log(f"Saved step {result.step} in {workdir}; the same command continues")
    return result


def _train(
    config: Any,
    mesh: Mesh,
    state: TrainState,
    corpus: Corpus,
    checkpoints: Checkpoints,
    recorder: Recorder,
    watch: Stopwatch,
) -> Result:
    """The loop itself: step, record, evaluate, save; then the last figures and a few samples."""
    t, step = config.train, int(state.step)
    traces: list[None] = []
    growth = Growth.of(config)
    configs = {stage: with_stage(config, stage, mesh) for stage in growth.stages}
    train_steps = {
        stage: make_train_step(of_stage, mesh, on_trace=lambda: traces.append(None))
        for stage, of_stage in configs.items()
    }
    flops = {stage: row_work(of_stage)[1] for stage, of_stage in configs.items()}
    eval_step = make_eval_step(config, mesh)
    rows = functools.partial(local_rows, mesh)
    batches = make_batches(config.data, corpus=corpus, seed=config.seed, start=step, rows=rows)
    in_flight: deque[Array] = deque()

    def evaluation(limit: int, state: TrainState) -> dict[str, float]:
        return evaluate(config, model_params(config, state), mesh, corpus=corpus, limit=limit, eval_step=eval_step)

    best = Best.of(config)
    if best.metric:
        best.check([*evaluation(1, state), *(() if t.eval_batches else figures_of_answers(config))])
        best.recall(checkpoints, step)
        checkpoints.best = best.step
    with Interrupt() as interrupt:
        while step < t.steps and not best.has_ended:
            waited = time.perf_counter()
            batch = next(batches)
            waited = time.perf_counter() - waited
            stage = growth.at(step)
            state, metrics = train_steps[stage](state, shard_batch(batch, mesh))
            step += 1
            recorder.count_step(rows=stage.rows, flops_per_row=flops[stage], data_wait=waited)
            if not in_flight:
                metrics["loss"].block_until_ready()
                _log(f"First step after {watch.said()}")
            in_flight.append(metrics["loss"])
            if len(in_flight) > 2:  # the host may run two steps ahead, no further
                in_flight.popleft().block_until_ready()
            if step % t.log_every == 0:
                recorder.train(step, metrics)
            is_last, is_due = step == t.steps, t.eval_every and step % t.eval_every == 0
            evaluates = bool(best.metric) if is_last else is_due  # the last is chosen from, too, by the same figures
            if evaluates:
                with recorder.pause(metrics):
                    values = evaluation(t.eval_batches, state)
                recorder.evaluation(step, values)
                best.see(step, values)
                checkpoints.best = best.step
            stopping = interrupt.agreed(step)
            if step % t.checkpoint_every == 0 or is_last or stopping or (evaluates and best.metric):
                recorder.flush()  # what a restart from this checkpoint will not record again
                with recorder.stall(metrics):
                    save_state(checkpoints, step, state, facts=best.facts)
            if stopping:
                checkpoints.wait()
                return Result(step, stopping, len(traces), {})
        checkpoints.wait()
    state = _chosen(config, mesh, state, best, checkpoints)
    values = evaluation(0, state)
    recorder.evaluation(step, values, best_step=int(state.step) if best.metric else None)
    _report(config, model_params(config, state), mesh, corpus, values)
    return Result(step, 0, len(traces), values)


def _chosen(config: Any, mesh: Mesh, state: TrainState, best: Best, checkpoints: Checkpoints) -> TrainState:
    """The state whose parameters a run ends with: those of the best evaluation where it chooses, or the last."""
    last = int(state.step)
    if best.metric:
        ended = "; training ended there" if last < config.train.steps else ""
        _log(f"Best {best.metric} {best.value:.6g}, at step {best.step or last} of {last}{ended}")
    if best.step in (None, last):
        return state
    params = checkpoints.restore(best.step, params=abstract_trained(config, mesh))["params"]
    return state.replace(step=jnp.asarray(best.step, jnp.int32), params=params, opt_state=())


def _recorder(config: Any, mesh: Mesh, workdir: epath.Path, start: int, writes: bool) -> Recorder:
    tokens, _ = row_work(config)
    chip = chip_of(jax.devices()[0].device_kind)
    return Recorder(
        workdir,
        start=start,
        num_steps=config.train.steps,
        tokens_per_row=tokens,
        peak=peak_of(config, chip) * mesh.size if chip and chip.platform != "cpu" else None,
        writes=writes,
        chooses_best=bool(config.train.best),
    )


def _check_corpus(config: Any, corpus: Corpus, workdir: epath.Path) -> TrainingRows:
    """Checks that the corpus suits the config and is that of the run; returns the order of its rows.

    Raises:
        ValueError: a split is shorter than a window, a prompt too long, or the corpus another.
    """
    check_same_corpus(workdir, corpus)
    check_labels(config, corpus.metadata.get("labels"))
    check_same_meaning(config, corpus.metadata["tokenizer_sha256"], corpus.metadata.get("labels", []))
    order = TrainingRows(DataConfig.of(config.data), corpus, config.seed)
    open_rows(DataConfig.of(config.data), corpus, "valid", evaluating=True)  # else it would be packed for nothing
    if config.sample.prompts and writes(config):
        check_prompts(config, corpus.tokenizer, config.sample.prompts)
    return order


def _describe(config: Any, mesh: Mesh, corpus: Corpus, order: TrainingRows, start: int) -> str:
    sizes = " ".join(f"{axis}={size}" for axis, size in mesh.shape.items() if size > 1) or "one device"
    lines = [
        f"{config.name}: {count_params(make_model(config).config)['total']:,} parameters, "
        f"{corpus.metadata['splits']['train']['tokens']:,} training tokens, {jax.devices()[0].device_kind} ({sizes}), "
        + (f"continuing at step {start} of {config.train.steps}" if start else f"{config.train.steps} steps")
    ]
    epochs = order.epochs(DataConfig.of(config.data).ramp.rows_before(config.train.steps))
    parts = corpus.metadata["source"].split("+")
    choice = attention_of(config, mesh)
    options = ", ".join(f"{name}={value}" for name, value in choice.options.items() if value)
    lines.append(f"Attention: {choice.kind}" + (f" ({options})" if options else ""))
    lines.append("Epochs: " + ", ".join(f"{n:.2f} of {part}" for n, part in zip(epochs, parts, strict=True)))
    if config.model.window_ramp:
        windows: dict[int, int] = {}
        for stage, step in Growth.of(config).stages.items():
            windows.setdefault(stage.window, step)
        lines.append("Window: " + ", ".join(f"{window or 'all'} from step {step}" for window, step in windows.items()))
    if mesh.shape["stage"] > 1:
        schedule = schedule_of(config, mesh)
        lines.append(
            f"Pipeline: {config.mesh.schedule} with {schedule.num_microbatches} microbatches; a stage waits "
            f"{schedule.bubble_fraction():.0%} of the time"
        )
    if config.platform == "auto" and jax.default_backend() == "cpu" and has_accelerator():
        lines.append(
            "An accelerator is here, but JAX runs on the CPU: install it with make train EXTRAS=dev,cuda (or dev,tpu), "
            "or end the process that holds it"
        )
    return "\n".join(lines)


def _report(config: Any, params: Any, mesh: Mesh, corpus: Corpus, values: dict[str, float]) -> None:
    """Prints the last figures beside the compressors', and samples; every process computes, one prints."""
    prompts = config.sample.prompts if writes(config) else ()
    samples = continue_prompts(config, params, mesh, corpus.tokenizer, prompts) if prompts else []
    if jax.process_index() != 0:
        return
    print(f"\nvalidation loss {values['loss']:.4f} nats" + (" per token" if "perplexity" in values else ""), end="")
    others = {name: value for name, value in values.items() if name not in ("loss", "tokens", "rows", "bits_per_byte")}
    print("".join(f", {name.replace('_', ' ')} {value:.4f}" for name, value in others.items()))
    if "bits_per_byte" in values:
        figures = {"bits per byte": values["bits_per_byte"]} | corpus.metadata["compressed_bits_per_byte"]
        print("   ".join(f"{name} {value:.4f}" for name, value in figures.items()))
    for prompt, text in zip(prompts, samples, strict=True):
        print(f"\n--- {prompt!r}\n{'' if reads_apart(config) else prompt}{text}")


def _log(line: str) -> None:
    if jax.process_index() == 0:
        print(line, file=sys.stderr, flush=True)
