"""Llama 3 405B on 2 slices of 1024 v5p chips.

    python -m train.plan --config configs/llama3_405b_2x_v5p_1024.py --topology v5p:8x8x16 --num-slices 2

Plan, an estimate from shapes and the hardware's peaks, not measured: fsdp=512 tensor=4, rows=1, remat=dots,
attention=splash. 84.8 of 95.7 GiB a chip; a step takes at least 45.7 s (69.7 s if the network is not hidden), MFU at
most 98.7% (64.6%), 367,516 tokens/s; compute binds. Compiled: needs 85.4 of 95.7 GiB, which fits; by its cycles and
the bytes of its collectives 54.7 s (70.9 s), MFU 82.4% (63.5%).
"""

from ml_collections import ConfigDict

from configs import llama3_405b


def get_config() -> ConfigDict:
    """The config of the run."""
    config = llama3_405b.get_config()
    config.name = "llama3_405b_2x_v5p_1024"
    config.mesh.update(data=1, fsdp=512, num_slices=2, tensor=4)
    config.model.remat = "dots"
    config.train.microbatch_rows = 1
    return config
