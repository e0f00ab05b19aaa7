"""Mixtral 8x7B on 64 v5p chips.

    python -m train.plan --config configs/mixtral_8x7b_v5p_64.py --topology v5p:4x4x4

Plan, an estimate from shapes and the hardware's peaks, neither compiled nor measured: fsdp=64, rows=4, remat=dots,
attention=splash. 55.7 of 95.7 GiB a chip; a step takes at least 12.1 s (13.5 s if the network is not hidden), MFU at
most 97.5% (87.7%), 345,265 tokens/s; compute binds.
"""

from ml_collections import ConfigDict

from configs import mixtral_8x7b


def get_config() -> ConfigDict:
    """The config of the run."""
    config = mixtral_8x7b.get_config()
    config.name = "mixtral_8x7b_v5p_64"
    config.mesh.update(data=1, fsdp=64)
    config.train.microbatch_rows = 4
    config.model.remat = "dots"
    return config
