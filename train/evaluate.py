"""Validation figures of a run, as JSON: `python -m train.evaluate --workdir runs/tiny`."""

import json
import sys
from typing import Any

import jax

from data import prepare
from data.command_line import read_command_line
from parallel import in_turns, start

from .distill import without_teacher
from .evaluation import evaluate
from .harness import run_harness
from .restore import restore_params
from .runtime import run_command, set_up
from .suitability import check_suits
from .workdir import check_same_corpus, with_labels_of


def main(argv: list[str]) -> None:
    """The command."""
    options = {
        "workdir": (None, "the run's directory"),
        "split": ("valid", "valid or train"),
        "limit": (0, "at most this many batches, or with --harness examples of each task; 0 is all"),
        "source": ("", "instead of the run's data, all of another source, such as jsonl,path=test.jsonl"),
        "harness": ("", "instead, tasks of lm-evaluation-harness, such as arc_easy,hellaswag, or files of your own"),
    }
    arguments = read_command_line(argv, "train.evaluate", __doc__ or "", options=options, config_from_workdir=True)
    split = arguments.flags["split"]
    if split not in ("valid", "train"):
        raise ValueError(f"--split={split!r} is not known; use valid or train")
    config: Any = arguments.config
    workdir = arguments.flags["workdir"]
    set_up(config.compile_cache)
    start(config.distributed)
    if arguments.flags["harness"]:
        write_report(run_harness(config, workdir, arguments.flags["harness"], limit=arguments.flags["limit"]))
        return
    check_suits(without_teacher(config))
    if arguments.flags["source"]:
        config.data.update(source="", valid_source=arguments.flags["source"], tokenizer=str(workdir))
        corpus = with_labels_of(workdir, in_turns("prepare", lambda: prepare(config.data)))
    else:
        corpus = in_turns("prepare", lambda: prepare(config.data))
        check_same_corpus(workdir, corpus)
    params, mesh, step = restore_params(config, workdir)
    values = evaluate(config, params, mesh, corpus=corpus, split=split, limit=arguments.flags["limit"])
    compressed = corpus.metadata["compressed_bits_per_byte"] if split == "valid" else {}
    where = {"source": arguments.flags["source"]} if arguments.flags["source"] else {"split": split}
    write_report({"step": step} | where | values | {"compressed_bits_per_byte": compressed})


def write_report(report: dict[str, Any]) -> None:
    """Prints it as JSON, once for all processes."""
    if jax.process_index() == 0:
        json.dump(report, sys.stdout, indent=2)
        print()


if __name__ == "__main__":
    run_command(main)
