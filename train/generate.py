"""Text from a trained model: `python -m train.generate --workdir runs/tiny --prompt "def "`."""

import sys
from typing import Any

import jax

from data.command_line import read_command_line

from .compose import check_sampling
from .objective import check_objective
from .restore import restore_params
from .runtime import run_command
from .samples import continue_prompts
from .workdir import read_tokenizer


def main(argv: list[str]) -> None:
    """The command."""
    options = {"workdir": (None, "the run's directory"), "prompt": (None, "the text to continue")}
    arguments = read_command_line(argv, "train.generate", __doc__ or "", options=options, config_from_workdir=True)
    config: Any = arguments.config
    workdir, prompt = arguments.flags["workdir"], arguments.flags["prompt"]
    check_sampling(config)
    check_objective(config)
    params, mesh, step = restore_params(config, workdir)
    text = continue_prompts(config, params, mesh, read_tokenizer(workdir), [prompt])[0]
    if jax.process_index() == 0:
        if config.train.best:
            print(
                f"The checkpoint of step {step}, the best by config.train.best={config.train.best!r}", file=sys.stderr
            )
        print(prompt + text)


if __name__ == "__main__":
    run_command(main)
