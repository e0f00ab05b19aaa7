"""Llama 3 70B on 512 H100.

    python -m train.plan --config configs/llama3_70b_h100_512.py --topology gpu:h100:8x64

Plan, an estimate from shapes and the hardware's peaks, not measured: data=8 fsdp=64, rows=2, remat=full,
attention=cudnn. 51.2 of 59.3 GiB a chip; a step takes at least 9.27 s (11.1 s if the network is not hidden), MFU at
most 80.3% (67.1%), 905,382 tokens/s; compute binds. Compiled: needs 52.1 of 59.3 GiB, which fits; by operations on
paper and the bytes of its collectives 9.27 s (11.2 s), MFU 80.3% (66.4%).
"""

from ml_collections import ConfigDict

from configs import llama3_70b


def get_config() -> ConfigDict:
    """The config of the run."""
    config = llama3_70b.get_config()
    config.name = "llama3_70b_h100_512"
    config.mesh.update(data=8, fsdp=64, num_slices=64)
    config.train.microbatch_rows = 2
    return config
