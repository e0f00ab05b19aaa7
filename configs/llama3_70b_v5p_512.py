"""Llama 3 70B on 512 v5p chips.

    python -m train.plan --config configs/llama3_70b_v5p_512.py --topology v5p:8x8x8

Plan, an estimate from shapes and the hardware's peaks, not measured: fsdp=256 context=2, rows=1, remat=dots,
attention=ring. 63.7 of 95.7 GiB a chip; a step takes at least 16.4 s (21.7 s if the network is not hidden), MFU at
most 97.7% (74.1%), 510,926 tokens/s; compute binds. Compiled: needs 67.7 of 95.7 GiB, which fits; by its cycles and
the bytes of its collectives 29 s (33.4 s), MFU 55.3% (48.0%).
"""

from ml_collections import ConfigDict

from configs import llama3_70b


def get_config() -> ConfigDict:
    """The config of the run."""
    config = llama3_70b.get_config()
    config.name = "llama3_70b_v5p_512"
    config.mesh.update(context=2, data=1, fsdp=256)
    config.model.remat = "dots"
    config.train.microbatch_rows = 1
    return config
