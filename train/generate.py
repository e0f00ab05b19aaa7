"""Text from a trained model: `python -m train.generate --workdir runs/tiny --prompt "def "`.

A decoder continues the prompt, an encoder-decoder answers it, as config.sample says. With --interactive each line that
is typed is answered, with what was said before in mind: Ctrl-C ends an answer, /reset forgets, Ctrl-D ends.
"""

import itertools
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import jax

from data.command_line import read_command_line

from .chat import converse
from .restore import restore_params
from .runtime import run_command
from .samples import check_prompts, check_writes, decoder_start_id, pieces, reads_apart, write_texts
from .strategy import check_sampling
from .workdir import read_tokenizer

OPTIONS = {
    "workdir": (None, "the run's directory"),
    "prompt": ("", "the text to continue; empty: a text from its beginning"),
    "stream": (True, "print the text while it is written"),
    "interactive": (False, "read lines and answer each"),
}


def main(argv: list[str]) -> None:
    """The command."""
    arguments = read_command_line(argv, "train.generate", __doc__ or "", options=OPTIONS, config_from_workdir=True)
    config: Any = arguments.config
    flags = arguments.flags
    if flags["interactive"] and flags["prompt"]:
        raise ValueError(f"--interactive reads prompts from the terminal; leave out --prompt={flags['prompt']!r}")
    check_sampling(config)
    check_writes(config)
    params, mesh, step = restore_params(config, flags["workdir"])
    if config.train.best and jax.process_index() == 0:
        print(f"The checkpoint of step {step}, the best by config.train.best={config.train.best!r}", file=sys.stderr)
    tokenizer = read_tokenizer(flags["workdir"])
    start_id = decoder_start_id(config, tokenizer, flags["workdir"])

    def write(ids: Sequence[int]) -> Iterator[str]:
        every = 1 if flags["stream"] else 0
        found = pieces(write_texts(config, params, mesh, tokenizer, [ids], every=every, start_id=start_id))
        return found if flags["stream"] else iter(["".join(found)])

    if flags["interactive"]:
        if jax.process_count() > 1:
            raise ValueError(f"--interactive reads one terminal; use one process, not {jax.process_count()}")
        converse(config, tokenizer, write)
        return
    shown = "" if reads_apart(config) else flags["prompt"]
    ids = check_prompts(config, tokenizer, [flags["prompt"]])[0]
    for piece in itertools.chain([shown], write(ids), ["\n"]):
        if jax.process_index() == 0:
            print(piece, end="", flush=True)


if __name__ == "__main__":
    run_command(main)
