"""Llama 3 8B on 8 H100.

    python -m train.plan --config configs/llama3_8b_h100_8.py --topology gpu:h100:8

Plan, an estimate from shapes and the hardware's peaks, not measured: fsdp=8, rows=1, remat=dots, attention=cudnn.
45.4 of 59.3 GiB a chip; a step takes at least 28.4 s (34 s if the network is not hidden), MFU at most 96.0% (80.2%),
147,560 tokens/s; compute binds. Compiled: needs 46.3 of 59.3 GiB, which fits; by operations on paper and the bytes of
its collectives 28.4 s (35.3 s), MFU 96.0% (77.3%).
"""

from ml_collections import ConfigDict

from configs import llama3_8b


def get_config() -> ConfigDict:
    """The config of the run."""
    config = llama3_8b.get_config()
    config.name = "llama3_8b_h100_8"
    config.mesh.update(data=1, fsdp=8)
    config.model.remat = "dots"
    config.train.microbatch_rows = 1
    return config
