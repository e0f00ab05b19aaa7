"""Tasks of EleutherAI's lm-evaluation-harness, in process: `python -m train.evaluate --workdir DIR --harness arc_easy`.

The harness is the extra [harness]; what its tasks ask of a model is in `harness_model`.
"""

import contextlib
import difflib
import importlib.util
import os
import sys
from pathlib import Path
from typing import Any

from etils import epath

from .restore import restore_params
from .workdir import read_tokenizer


def run_harness(config: Any, workdir: epath.Path, names: str, *, limit: int = 0) -> dict[str, Any]:
    """Scores a run, by its best checkpoint if it keeps one or else the newest, or an imported model, on tasks.

    Every process does all of it together, and has the result.

    Args:
        config: the whole config; a batch has `config.data.batch_size` rows.
        workdir: the run's directory.
        names: tasks, groups, tags, patterns such as "arc_*" and paths of task files (.yaml), with commas between.
        limit: at most this many examples of each task, from the first; 0 is all.

    Returns:
        "step", and as the harness reports them "results" of each task, "groups" where there are, "num_fewshot",
        "versions" and "num_examples".

    Raises:
        ValueError: the harness is not installed, a name is unknown, or the model is no decoder; nothing is opened then.
    """
    if config.model.architecture != "decoder" or config.model.image:
        key = "image" if config.model.image else "architecture"
        raise ValueError(
            f"--harness={names} asks how a text goes on, which a model with config.model.{key}={config.model[key]!r} "
            "does not say; use one with config.model.architecture='decoder' and config.model.image=''"
        )
    tasks, manager = find_tasks(names)
    import lm_eval.evaluator  # pyright: ignore[reportMissingImports]

    from .harness_model import HarnessModel  # of the extra, which need not be there for the rest of `train`

    params, mesh, step = restore_params(config, workdir)
    model = HarnessModel(config, params, mesh, read_tokenizer(workdir))
    with contextlib.redirect_stdout(sys.stderr):  # stdout is for the figures
        found: Any = lm_eval.evaluator.simple_evaluate(
            model=model,
            tasks=tasks,
            task_manager=manager,
            limit=limit or None,
            bootstrap_iters=1000,
            log_samples=False,
        )
    return {"step": step} | report(found)


def find_tasks(names: str) -> tuple[list[Any], Any]:
    """The tasks that are meant, and the harness's manager that knows them.

    Raises:
        ValueError: the harness is not installed, or a name is unknown.
    """
    if importlib.util.find_spec("lm_eval") is None:
        raise ValueError("lm_eval is not installed; it comes with make train EXTRAS=dev,harness")
    # Its bootstrap of standard errors would fork, and JAX has threads.
    os.environ.setdefault("DISABLE_MULTIPROC", "1")
    import lm_eval.tasks  # pyright: ignore[reportMissingImports]

    manager, tasks = lm_eval.tasks.TaskManager(), []
    for name in filter(None, (part.strip() for part in names.split(","))):
        is_file = name.endswith((".yaml", ".yml")) and Path(name).expanduser().is_file()
        matches = [name] if is_file else manager.match_tasks([name])
        if not matches:
            near = difflib.get_close_matches(name, manager.all_tasks, 3)
            raise ValueError(
                f"--harness: {name!r} is neither a task of lm_eval {lm_eval.__version__} nor a .yaml file"
                + (f"; did you mean {', '.join(near)}?" if near else "; `lm-eval ls tasks` lists them")
            )
        tasks += matches
    if not tasks:
        raise ValueError(f"--harness={names!r} names no task; use one such as arc_easy")
    return tasks, manager


def report(found: dict[str, Any]) -> dict[str, Any]:
    """What of the harness's results belongs into a report, as plain values."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: plain(item) for key, item in value.items() if key not in ("alias", "name", "sample_len")}
        return value.item() if hasattr(value, "item") else value

    names = {"results": "results", "groups": "groups", "n-shot": "num_fewshot", "versions": "versions"}
    parts = {ours: plain(found[theirs]) for theirs, ours in names.items() if found.get(theirs)}
    return parts | {"num_examples": {task: counts["effective"] for task, counts in found["n-samples"].items()}}
