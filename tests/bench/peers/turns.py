"""Processes that take turns at the same work, so that what disturbs the machine disturbs all of them.

A worker prepares, says so in a line of JSON, and then waits for lines "steps 10", each of which it answers with the
seconds that it took. The others are idle meanwhile.
"""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

ROOT = Path(__file__).parents[3]
ROUNDS = 5


def serve(run: Callable[[int], float], about: Mapping[str, Any] | None = None) -> None:
    """The worker's side, which ends with its standard input.

    Args:
        run: makes so many steps and returns the last one's loss.
        about: what else there is to say first, beside the first step's seconds and the losses of steps 1 and 10.
    """
    began = time.perf_counter()
    losses = [run(1)]
    first_step_s = time.perf_counter() - began
    losses.append(run(9))
    print(json.dumps({**(about or {}), "first_step_s": first_step_s, "losses": losses}), flush=True)
    for line in sys.stdin:
        began = time.perf_counter()
        run(int(line.split()[1]))
        print(json.dumps(time.perf_counter() - began), flush=True)


class Worker:
    """A process that `serve`s.

    Args:
        command: of the process.

    Attributes:
        about: what it said when it was ready.
    """

    def __init__(self, command: Sequence[str]):
        self._command = list(command)
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
        self._process.stdin.write(f"steps {steps}\n")
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
