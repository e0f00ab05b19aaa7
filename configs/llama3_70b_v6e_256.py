"""Llama 3 70B on 256 v6e chips.

    python -m train.plan --config configs/llama3_70b_v6e_256.py --topology v6e:16x16

Plan, an estimate from shapes and the hardware's peaks, neither compiled nor measured: fsdp=256, rows=1, remat=full,
attention=splash. 22.5 of 31.2 GiB a chip; a step takes at least 20 s (26.2 s if the network is not hidden), MFU at
most 80.3% (61.3%), 420,193 tokens/s; compute binds.
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
