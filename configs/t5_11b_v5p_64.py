"""T5 11B on 64 v5p chips.

    python -m train.plan --config configs/t5_11b_v5p_64.py --topology v5p:4x4x4

Plan, an estimate from shapes and the hardware's peaks, not measured: data=16 tensor=4, rows=8, remat=none,
attention=blocked. 75.6 of 95.7 GiB a chip; a step takes at least 1.59 s (1.94 s if the network is not hidden), MFU at
most 100.0% (81.8%), 808,718 tokens/s; compute binds. Compiled: needs 72.0 of 95.7 GiB, which fits; by its cycles and
the bytes of its collectives 6.45 s (6.65 s), MFU 24.6% (23.8%).
"""

from ml_collections import ConfigDict

from configs import t5_11b


def get_config() -> ConfigDict:
    """The config of the run."""
    config = t5_11b.get_config()
    config.name = "t5_11b_v5p_64"
    config.mesh.update(data=16, tensor=4)
    config.model.remat = "none"
    config.train.microbatch_rows = 8
    return config
