"""Settings of the process, each seen in a process of its own."""

import subprocess
import sys
from pathlib import Path

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


def test_freed_memory_is_kept_for_the_next_step():
    kept = "from train.runtime import _keep_freed_memory; _keep_freed_memory()"
    assert page_faults(kept) < 10
    assert page_faults("import train") > 10
