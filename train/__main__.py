"""Trains a config; started again with the same command, it continues.

python -m train --config configs/tiny.py --workdir runs/tiny --config.train.steps=2000
"""

from data.command_line import read_command_line

from .loop import fit
from .runtime import run_command


def main(argv: list[str]) -> int:
    """The command; exits with 128 + the signal's number when a signal ended it."""
    options = {"workdir": (None, "the run's directory, local or gs:// or s3://; made when missing")}
    arguments = read_command_line(argv, "train", __doc__ or "", options=options)
    result = fit(arguments.config, arguments.flags["workdir"])
    return 128 + result.signum if result.signum else 0


if __name__ == "__main__":
    run_command(main)
