"""Llama 3 8B on 64 v5p chips.

    python -m train.plan --config configs/llama3_8b_v5p_64.py --topology v5p:4x4x4

Plan, an estimate from shapes and the hardware's peaks, not measured: fsdp=64, rows=1, remat=none, attention=splash.
83.2 of 95.7 GiB a chip; a step takes at least 7.35 s (8.26 s if the network is not hidden), MFU at most 100.0%
(89.0%), 570,727 tokens/s; compute binds. Compiled: needs 88.4 of 95.7 GiB, which fits; by its cycles and the bytes of
its collectives 10.9 s (12.2 s), MFU 67.6% (60.2%).
"""

from ml_collections import ConfigDict

from configs import llama3_8b


def get_config() -> ConfigDict:
    """The config of the run."""
    config = llama3_8b.get_config()
    config.name = "llama3_8b_v5p_64"
    config.mesh.update(data=1, fsdp=64)
    config.model.remat = "none"
    config.train.microbatch_rows = 1
    return config
