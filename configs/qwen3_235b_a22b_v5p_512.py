"""Qwen3 235B-A22B on 512 v5p chips.

    python -m train.plan --config configs/qwen3_235b_a22b_v5p_512.py --topology v5p:8x8x8

Plan, an estimate from shapes and the hardware's peaks, not measured: fsdp=256 expert=2, rows=4, remat=dots,
attention=splash. 69.5 of 95.7 GiB a chip; a step takes at least 6.2 s (9.19 s if the network is not hidden), MFU at
most 85.5% (57.6%), 1,353,970 tokens/s; compute binds. Compiled: needs 79.3 of 95.7 GiB, which fits; by its cycles and
the bytes of its collectives 140 s (142 s), MFU 3.8% (3.7%).
"""

from ml_collections import ConfigDict

from configs import qwen3_235b_a22b


def get_config() -> ConfigDict:
    """The config of the run."""
    config = qwen3_235b_a22b.get_config()
    config.name = "qwen3_235b_a22b_v5p_512"
    config.mesh.update(data=1, expert=2, fsdp=256)
    config.model.remat = "dots"
    config.train.microbatch_rows = 4
    return config
