r"""Runs a command as several processes on this machine, for tests and trials.

python -m parallel.launch --num-processes 4 --devices-per-process 2 -- \
    python -m train --config configs/tiny.py --workdir runs/four

Each process has its own simulated CPU devices and finds the others over loopback; JAX sums between them with gloo.
Lines of output begin with the number of their process. Ctrl-C and SIGTERM are passed on to all processes, so that they
save and end; when one process dies, the others are given time to end by themselves, and are then killed.
"""

import argparse
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import IO

from .place import COORDINATOR, NUM_PROCESSES, PROCESS_ID
from .simulated import simulate


def main(argv: Sequence[str]) -> int:
    """The command; its exit status is 0 if that of all processes is, else that of the first that failed."""
    arguments = _read(argv)
    lock = threading.Lock()
    try:
        port = free_port(arguments.port)
    except OSError as error:
        reason = os.strerror(error.errno or 0)
        _say(f"error: --port={arguments.port} cannot be listened on: {reason}; 0, the default, takes a free one")
        return 2
    try:
        processes = [_start(arguments, index, port) for index in range(arguments.num_processes)]
    except OSError as error:  # the first fails as the others would
        _say(f"error: {arguments.command[0]!r} cannot be run: {error.strerror}")
        return 127
    printers = [
        threading.Thread(target=_copy, args=(source, target, f"[{index}] ", lock))
        for index, process in enumerate(processes)
        for source, target in ((process.stdout, sys.stdout), (process.stderr, sys.stderr))
    ]
    for printer in printers:
        printer.start()
    asked, restore = _pass_on(processes)
    try:
        failed = _wait(processes, arguments.grace_s, asked)
    finally:
        restore()
        _kill(processes)
        for printer in printers:
            printer.join()
    return 0 if failed is None else _status(processes[failed].returncode)


def _read(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m parallel.launch",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage="%(prog)s --num-processes N [--devices-per-process N] [--grace-s S] [--port P] -- COMMAND ...",
    )
    parser.add_argument("--num-processes", type=int, required=True, help="how many")
    parser.add_argument("--devices-per-process", type=int, default=1, help="simulated CPU devices of each (1)")
    parser.add_argument(
        "--grace-s", type=float, default=30.0, help="seconds that the others have to end after one died (30)"
    )
    parser.add_argument("--port", type=int, default=0, help="of the coordination service; 0 is a free one")
    parser.add_argument("command", nargs=argparse.REMAINDER, metavar="-- COMMAND ...", help="what each process runs")
    arguments = parser.parse_args(argv)
    arguments.command = arguments.command[arguments.command[:1] == ["--"] :]
    if not arguments.command:
        parser.error("there is no command after --")
    if arguments.num_processes < 1 or arguments.devices_per_process < 1:
        parser.error("--num-processes and --devices-per-process must be at least 1")
    if arguments.command[0] == "python":  # the same one, also where none of that name is on the PATH
        arguments.command[0] = sys.executable
    return arguments


def free_port(port: int = 0) -> int:
    """A TCP port that nobody listens on; the given one, or the system's choice.

    Raises:
        OSError: somebody listens on the given one.
    """
    with socket.create_server(("", port)) as probe:
        return probe.getsockname()[1]


def _start(arguments: argparse.Namespace, index: int, port: int) -> subprocess.Popen[str]:
    environment = simulate(dict(os.environ), arguments.devices_per_process) | {
        COORDINATOR: f"127.0.0.1:{port}",
        NUM_PROCESSES: str(arguments.num_processes),
        PROCESS_ID: str(index),
        "PYTHONUNBUFFERED": "1",
    }
    return subprocess.Popen(
        arguments.command,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        start_new_session=True,  # so that Ctrl-C comes to this process alone, which passes it on once
    )


def _copy(source: IO[str] | None, target: IO[str], prefix: str, lock: threading.Lock) -> None:
    assert source is not None
    with source:
        for line in source:
            # One for each new group of devices, and nothing to learn from; those of two devices come mixed.
            if line.startswith("[Gloo] Rank") or "connected peer ranks is" in line:
                continue
            with lock:
                target.write(prefix + line if line.endswith("\n") else f"{prefix}{line}\n")
                target.flush()


def _pass_on(processes: Sequence[subprocess.Popen[str]]) -> tuple[list[int], Callable[[], None]]:
    """Passes SIGINT and SIGTERM on to all processes, each time once; the list of those that came, and the way back."""
    came: list[int] = []

    def handle(number: int, frame: object) -> None:
        came.append(number)
        for process in processes:
            if process.poll() is None:
                process.send_signal(number)

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    return came, restore


def _wait(processes: Sequence[subprocess.Popen[str]], grace_s: float, asked: list[int]) -> int | None:
    """Waits for all to end; returns the first that failed, or None."""
    failed, until = None, float("inf")
    while any(process.poll() is None for process in processes) and time.monotonic() < until:
        time.sleep(0.05)
        ended = [i for i, process in enumerate(processes) if process.poll() not in (None, 0)]
        if failed is None and ended:
            failed = ended[0]
            if not asked:
                _say(f"process {failed} (pid {processes[failed].pid}) {how(processes[failed].returncode)}")
                until = time.monotonic() + grace_s
    left = [i for i, process in enumerate(processes) if process.poll() is None]
    if left:
        _say(f"killing processes {', '.join(map(str, left))}, which have not ended within {grace_s:g} s")
    if failed is None:  # they may all have ended within one look
        failed = next((i for i, process in enumerate(processes) if process.returncode), None)
    return failed


def how(returncode: int) -> str:
    """How a process ended, for people."""
    if returncode >= 0:
        return f"ended with exit status {returncode}"
    return f"was killed by {signal.Signals(-returncode).name}"


def _status(returncode: int) -> int:
    return 128 - returncode if returncode < 0 else returncode


def _kill(processes: Sequence[subprocess.Popen[str]]) -> None:
    for process in processes:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _say(line: str) -> None:
    print(f"launch: {line}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
