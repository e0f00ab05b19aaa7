"""Prepares a corpus, or finds it prepared: `python -m data.prepare --config configs/tiny.py`."""

import json

from .command_line import read_command_line, run_main
from .preparation import prepare


def main(argv: list[str]) -> None:
    """The command; prints where the corpus lies and what it holds, as JSON."""
    corpus = prepare(read_command_line(argv, "data.prepare", __doc__ or "").config.data)
    print(json.dumps({"directory": str(corpus.directory)} | corpus.metadata, indent=2))


if __name__ == "__main__":
    run_main(main)
