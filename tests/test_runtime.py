"""Settings of the process, each seen in a process of its own."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from train.runtime import set_up

ROOT = Path(__file__).parents[1]
PROGRAM = """
import resource
import numpy as np
{before}
for _ in range(3):
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    np.ones(1 << 26, np.uint8)
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults
print(faults)
"""


def page_faults(before: str) -> int:
    """Page faults of the third time that 64 MB are allocated, filled and freed."""
    program = [sys.executable, "-c", PROGRAM.format(before=before)]
    return int(subprocess.run(program, capture_output=True, text=True, check=True, cwd=ROOT).stdout)


@pytest.mark.parametrize(("flags", "threads"), [("", None), ("2", "8"), ("64", "192")])
def test_simulated_devices_have_threads_for_their_collectives(flags, threads, monkeypatch: pytest.MonkeyPatch):
    flag = f"--xla_force_host_platform_device_count={flags} --xla_cpu_use_onednn=false" if flags else ""
    monkeypatch.setattr(os, "environ", {"XLA_FLAGS": flag})
    set_up("")
    assert os.environ.get("NPROC") == threads


def test_threads_that_the_user_asked_for_stay(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(os, "environ", {"XLA_FLAGS": "--xla_force_host_platform_device_count=64", "NPROC": "5"})
    set_up("")
    assert os.environ["NPROC"] == "5"


def test_freed_memory_is_kept_for_the_next_step():
    kept = "from train.runtime import _keep_freed_memory; _keep_freed_memory()"
    assert page_faults(kept) < 10
    assert page_faults("import train") > 10


def test_programs_of_the_cache_are_counted(tmp_path: Path):
    program = """
import sys, jax
from train.runtime import Stopwatch, set_up
set_up(sys.argv[1])
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
watch = Stopwatch()
jax.jit(lambda x: x + 1)(1).block_until_ready()
print(watch.said())
"""
    said = []
    for _ in range(2):
        command = [sys.executable, "-c", program, str(tmp_path)]
        said.append(subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT).stdout.strip())
    assert [re.sub(r"^\d+\.\d s; ", "", line) for line in said] == [
        "0 of 1 programs from the compilation cache",
        "1 of 1 programs from the compilation cache",
    ]
