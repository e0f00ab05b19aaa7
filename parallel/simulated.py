"""Simulated CPU devices, and the threads that they need.

A collective of XLA's CPU client holds a thread of its pool until all devices have come to it. With as many devices as
threads, those that wait leave none to the others, and the run stands still; the pool has a thread a core, or `NPROC`.
"""

import os
import re

_FLAG = "--xla_force_host_platform_device_count"


def simulate(environment: dict[str, str], num_devices: int) -> dict[str, str]:
    """An environment whose processes see that many CPU devices, and have the threads for them."""
    others = re.sub(rf"{_FLAG}=\S*", "", environment.get("XLA_FLAGS", "")).strip()
    added = {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": f"{others} {_FLAG}={num_devices}".strip()}
    return {"NPROC": threads(num_devices)} | environment | added


def reserve_threads() -> None:
    """Gives this process the threads for the devices that XLA_FLAGS asks for; to be called before JAX makes them."""
    if found := re.findall(rf"{_FLAG}=(\d+)", os.environ.get("XLA_FLAGS", "")):
        os.environ.setdefault("NPROC", threads(int(found[-1])))


def threads(num_devices: int) -> str:
    """Enough for each device to wait in two collectives and to compute."""
    return str(max(8, 3 * num_devices))
