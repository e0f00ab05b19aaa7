"""Several processes on one machine, with commands so small that they need no JAX."""

import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from parallel.launch import free_port, how, main

ROOT = Path(__file__).parents[1]


def test_each_process_finds_its_place_and_its_lines_are_marked(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delenv("NPROC")
    monkeypatch.setenv("XLA_FLAGS", "--xla_force_host_platform_device_count=8")
    program = (
        "import os; e = os.environ; print(e['PALMETTE_PROCESS_ID'], e['PALMETTE_NUM_PROCESSES'], "
        "e['PALMETTE_COORDINATOR'], e['XLA_FLAGS'], e['NPROC'])"
    )
    assert main(["--num-processes=3", "--devices-per-process=2", "--port=7123", "--", "python", "-c", program]) == 0
    lines = sorted(capfd.readouterr().out.splitlines())
    flag = "--xla_force_host_platform_device_count=2"  # in place of 8
    assert lines == [f"[{i}] {i} 3 127.0.0.1:7123 {flag} 8" for i in range(3)]


def test_a_process_that_dies_is_shown_and_the_others_are_ended(capfd: pytest.CaptureFixture[str]):
    program = "import os, time; os.environ['PALMETTE_PROCESS_ID'] == '1' and os.kill(os.getpid(), 9); time.sleep(60)"
    began = time.monotonic()
    assert main(["--num-processes=3", "--grace-s=0.5", "--", "python", "-c", program]) == 137
    assert time.monotonic() - began < 30
    errors = capfd.readouterr().err
    assert "launch: process 1 (pid " in errors
    assert "was killed by SIGKILL" in errors
    assert "launch: killing processes 0, 2, which have not ended within 0.5 s" in errors


def test_the_exit_status_is_that_of_the_process_that_failed(capfd: pytest.CaptureFixture[str]):
    program = "import os, sys; sys.exit(7 * (os.environ['PALMETTE_PROCESS_ID'] == '1'))"
    assert main(["--num-processes=2", "--", "python", "-c", program]) == 7
    assert how(7) == "ended with exit status 7"
    assert how(-15) == "was killed by SIGTERM"


def test_ctrl_c_comes_to_each_process_once(tmp_path: Path):
    program = (
        "import os, signal, sys, time\n"
        "came = []\n"
        "signal.signal(signal.SIGINT, lambda *a: came.append(1))\n"
        f"open(os.path.join({str(tmp_path)!r}, os.environ['PALMETTE_PROCESS_ID']), 'w').close()\n"
        "while not came: time.sleep(0.01)\n"
        "time.sleep(0.5)\n"
        "print('came', len(came))\n"
    )
    command = [sys.executable, "-m", "parallel.launch", "--num-processes=2", "--", "python", "-c", program]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    while len(list(tmp_path.iterdir())) < 2:
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=60)
    assert sorted(out.splitlines()) == ["[0] came 1", "[1] came 1"]
    assert process.returncode == 0


def test_help_shows_an_example(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as left:
        main(["--help"])
    assert left.value.code == 0
    assert "python -m train --config configs/tiny.py" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argv", "said"), [(["--num-processes=2", "--"], "no command"), (["--num-processes=0", "--", "x"], "at least 1")]
)
def test_what_cannot_be_launched_is_an_error(argv: list[str], said: str, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as left:
        main(argv)
    assert left.value.code == 2
    assert said in capsys.readouterr().err


def test_a_command_that_does_not_exist_is_an_error(capfd: pytest.CaptureFixture[str]):
    assert main(["--num-processes=2", "--", "no-such-command", "--config=x"]) == 127
    assert "launch: error: 'no-such-command' cannot be run: No such file or directory" in capfd.readouterr().err


def test_a_port_that_is_taken_is_an_error(capfd: pytest.CaptureFixture[str]):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        assert main(["--num-processes=2", f"--port={port}", "--", "python", "-c", ""]) == 2
        said = f"launch: error: --port={port} cannot be listened on: Address already in use; 0, the default, takes"
        assert said in capfd.readouterr().err
    assert free_port(port) == port
    assert 1024 < free_port() < 65536
