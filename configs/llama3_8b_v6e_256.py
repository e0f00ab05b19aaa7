"""Llama 3 8B on 256 v6e chips.

    python -m train.plan --config configs/llama3_8b_v6e_256.py --topology v6e:16x16

Plan, an estimate from shapes and the hardware's peaks, not measured: fsdp=256, rows=1, remat=dots, attention=splash.
27.4 of 31.2 GiB a chip; a step takes at least 1.11 s (1.46 s if the network is not hidden), MFU at most 82.7%
(62.9%), 3,777,661 tokens/s; compute binds. Compiled: needs 28.2 of 31.2 GiB, which fits; by its cycles and the bytes
of its collectives 2.28 s (2.62 s), MFU 40.4% (35.0%).
"""

from ml_collections import ConfigDict

from configs import llama3_8b


def get_config() -> ConfigDict:
    """The config of the run."""
    config = llama3_8b.get_config()
    config.name = "llama3_8b_v6e_256"
    config.mesh.update(data=1, fsdp=256)
    config.model.remat = "dots"
    config.train.microbatch_rows = 1
    return config
