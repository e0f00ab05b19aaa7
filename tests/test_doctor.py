"""The doctor says what is there, and by its exit status whether something is wrong."""

import os
import re
from pathlib import Path

import jax
import pytest

from parallel.doctor import Holder, bus_bandwidth, holders, main, matmul_rate
from tests.test_distributed import launch, output


def test_one_process_says_what_is_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main([f"--workdir={tmp_path / 'new' / 'run'}"]) == 0
    said = capsys.readouterr().out
    assert "devices 8 cpu (cpu) in 1 processes" in said
    for figure in (r"matmul  float32 512 x 512 x 512: [\d.e-]+ TFLOP/s", r"memory  read and written at [\d.]+ GB/s"):
        assert re.search(figure, said), figure
    assert re.search(r"all-reduce over 8 devices: bus bandwidth [\d.e-]+ GB/s", said)
    assert f"jax {jax.__version__}" in said
    assert "can be written to by all 1 processes" in said
    assert "nothing wrong was found" in said


def test_a_workdir_that_cannot_be_written_to_is_wrong(capsys: pytest.CaptureFixture[str]):
    assert main(["--workdir=/proc/nowhere"]) == 1
    assert "WRONG   cannot write to --workdir=/proc/nowhere" in capsys.readouterr().out


def test_two_processes_measure_together(tmp_path: Path):
    process = launch(2, 2, "-m", "parallel.doctor", f"--workdir={tmp_path}")
    said = output(process)
    assert process.returncode == 0, said
    assert "[0] devices 4 cpu (cpu) in 2 processes" in said
    assert "[0] process 1 (" in said
    assert "can be written to by all 2 processes, and is the same for them" in said
    assert re.search(r"all-reduce over 4 devices: .*slowest: process [01] on", said)
    assert "[1]" not in said


def test_holders_are_found_by_their_open_files(tmp_path: Path):
    for pid, files in (("101", ["/dev/accel0", "/dev/accel1", "/dev/null"]), ("102", ["/dev/nvidiactl"])):
        (tmp_path / pid / "fd").mkdir(parents=True)
        (tmp_path / pid / "cmdline").write_bytes(b"python\0-m\0train\0")
        for i, file in enumerate(files):
            os.symlink(file, tmp_path / pid / "fd" / str(i))
    assert holders(tmp_path) == [Holder(101, ("/dev/accel0", "/dev/accel1"), "python -m train")]


def test_rates():
    assert bus_bandwidth(1000, 4, 2.0) == 750.0
    assert 1e6 < matmul_rate(jax.devices()[0], 128, "float32") < 1e15
