"""Processes that take turns at the same work, so that what disturbs the machine disturbs all of them.

A worker is a process whose only argument is the JSON of what its `start` takes. It prepares, says so in a line of JSON,
and then waits for lines: "steps 10" it answers with the seconds that they took, "valid" with the loss on the texts to
validate on. The others are idle meanwhile.
"""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

ROOT = Path(__file__).parents[3]
ROUNDS = 5


class Peer(NamedTuple):
    """A model in training.

    Attributes:
        run: makes so many steps and returns the last one's loss.
        valid: the mean loss on the texts to validate on.
    """

    run: Callable[[int], float]
    valid: Callable[[], float]


def serve(start: Callable[..., Peer], about: Mapping[str, Any] | None = None) -> None:
    """The worker's side, which ends with its standard input.

    Args:
        start: prepares to train.
        about: what else there is to say first, beside the first step's seconds and the losses of steps 1 and 10.
    """
    run, valid = start(**json.loads(sys.argv[1]))
    began = time.perf_counter()
    losses = [run(1)]
    first_step_s = time.perf_counter() - began
    losses.append(run(9))
    print(json.dumps({**(about or {}), "first_step_s": first_step_s, "losses": losses}), flush=True)
    for line in sys.stdin:
        what, *steps = line.split()
        if what == "valid":
            print(json.dumps(valid()), flush=True)
            continue
        began = time.perf_counter()
        run(int(*steps))
        print(json.dumps(time.perf_counter() - began), flush=True)


class Worker:
    """A process that `serve`s.

    Args:
        program: what Python is to run, such as ["-m", a module].
        given: what its `start` takes.

    Attributes:
        about: what it said when it was ready.
    """

    def __init__(self, program: Sequence[str], **given: Any):
        self._command = [sys.executable, *program, json.dumps(given)]
        self._process: Any = subprocess.Popen(
            self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
        )
        try:
            self.about: dict[str, Any] = self._answer()
        except RuntimeError:
            self.__exit__()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *args: object) -> None:
        with self._process:  # closes what joins it, and waits for its end
            self._process.stdin.close()

    def seconds(self, steps: int) -> float:
        """Has it do so many steps."""
        return self._ask(f"steps {steps}")

    def valid(self) -> float:
        """Has it validate."""
        return self._ask("valid")

    def _ask(self, what: str) -> float:
        self._process.stdin.write(f"{what}\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> Any:
        for line in self._process.stdout:
            if line.startswith(("{", "[")) or line[:1].isdigit():
                return json.loads(line)
        raise RuntimeError(f"{' '.join(self._command)} ended with status {self._process.wait()}")


def take_turns(workers: Mapping[str, Worker], steps: int, rounds: int = ROUNDS) -> dict[str, list[float]]:
    """Seconds a step of each worker in each round; a first round of a step each is not counted."""
    for worker in workers.values():
        worker.seconds(1)
    found: dict[str, list[float]] = {name: [] for name in workers}
    for _ in range(rounds):
        for name, worker in workers.items():
            found[name].append(worker.seconds(steps) / steps)
    return found
