"""Llama 3 70B on 256 v6e chips.

    python -m train.plan --config configs/llama3_70b_v6e_256.py --topology v6e:16x16

Plan, an estimate from shapes and the hardware's peaks, not measured: fsdp=256, rows=1, remat=full, attention=splash.
22.5 of 31.2 GiB a chip; a step takes at least 21.5 s (27.7 s if the network is not hidden), MFU at most 74.6%
(57.9%), 390,222 tokens/s; compute binds. Compiled: needs 25.8 of 31.2 GiB, which fits; by its cycles and the bytes of
its collectives 32.6 s (39 s), MFU 49.2% (41.1%).
"""

from ml_collections import ConfigDict

from configs import llama3_70b


def get_config() -> ConfigDict:
    """The config of the run."""
    config = llama3_70b.get_config()
    config.name = "llama3_70b_v6e_256"
    config.mesh.update(data=1, fsdp=256)
    config.train.microbatch_rows = 1
    return config
