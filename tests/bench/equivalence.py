"""The errors of the equivalence matrix, measured: every split of the work beside one device.

    python -m tests.bench.equivalence

It writes tests/bench/results/equivalence.json and docs/equivalence.md. The mesh with all six axes takes 64 simulated
devices, so it has a process of its own.
"""

import json
import os
import subprocess
import sys
from typing import Any

from tests.bench.results import save

HEADER = """# Every split of the work beside one device

Three training steps in float32 on simulated CPU devices: dropout, packed documents of uneven lengths, rows without
targets, gradients accumulated over microbatches; a decoder of four layers, with eight experts where `expert` is named.
Errors are relative to one device: the largest over the steps for the loss, over the parameters for the norm of the
difference of their gradients (first step) and of their values (after three steps, by Adam). `make bench` wrote this
table; `tests/test_equivalence.py` holds every row but the last to 1e-6, 1e-5 and 1e-4.

| mesh | loss | gradients | parameters |
|---|---|---|---|
"""


def in_process(num_devices: int) -> list[dict[str, Any]]:
    """The rows of the cases for so many simulated devices, measured in a process that has them."""
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",  # as in the tests, which wait for the compiler
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={num_devices}",
        "NPROC": str(3 * num_devices),
    }
    command = [sys.executable, "-m", "tests.bench.equivalence", str(num_devices)]
    output = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True).stdout
    return [json.loads(line) for line in output.splitlines()]


def main() -> None:
    """Runs all cases and writes the table."""
    rows = in_process(8) + in_process(64)
    table = "".join(f"| {r['mesh']} | {r['loss']:.1e} | {r['gradient']:.1e} | {r['parameter']:.1e} |\n" for r in rows)
    save("equivalence", rows, HEADER + table)


def measure_here(num_devices: int) -> None:
    """Prints the rows as JSON; JAX must see that many devices."""
    from tests.matrix import ALL_SIX, CHOICES, SINGLE, TRIPLES, measure, name_of

    for case in SINGLE + CHOICES + TRIPLES if num_devices == 8 else [ALL_SIX]:
        print(json.dumps({"mesh": name_of(case), **measure(case)._asdict()}), flush=True)


if __name__ == "__main__":
    measure_here(int(sys.argv[1])) if len(sys.argv) > 1 else main()
