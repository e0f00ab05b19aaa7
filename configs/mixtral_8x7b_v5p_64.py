"""Mixtral 8x7B on 64 v5p chips.

    python -m train.plan --config configs/mixtral_8x7b_v5p_64.py --topology v5p:4x4x4

Plan, an estimate from shapes and the hardware's peaks, not measured: fsdp=64, rows=8, remat=attention,
attention=splash. 67.2 of 95.7 GiB a chip; a step takes at least 14.4 s (15.1 s if the network is not hidden), MFU at
most 82.4% (78.7%), 291,852 tokens/s; compute binds. Compiled: needs 73.6 of 95.7 GiB, which fits; by its cycles and
the bytes of its collectives 32.7 s (33.8 s), MFU 36.2% (35.1%).
"""

from ml_collections import ConfigDict

from configs import mixtral_8x7b


def get_config() -> ConfigDict:
    """The config of the run."""
    config = mixtral_8x7b.get_config()
    config.name = "mixtral_8x7b_v5p_64"
    config.mesh.update(data=1, fsdp=64)
    config.model.remat = "attention"
    config.train.microbatch_rows = 8
    return config
