"""GPT-2, 124 million parameters, on 8 v5e chips.

    python -m train.plan --config configs/gpt2_124m_v5e_8.py --topology v5e:2x4

Plan, an estimate from shapes and the hardware's peaks, not measured: data=8, rows=16, remat=dots, attention=splash.
9.3 of 15.8 GiB a chip; a step takes at least 0.297 s (0.307 s if the network is not hidden), MFU at most 89.4%
(86.6%), 1,765,725 tokens/s; compute binds. Compiled: needs 9.3 of 15.8 GiB, which fits; by its cycles and the bytes
of its collectives 0.715 s (0.72 s), MFU 37.1% (36.9%).
"""

from ml_collections import ConfigDict

from configs import gpt2_124m


def get_config() -> ConfigDict:
    """The config of the run."""
    config = gpt2_124m.get_config()
    config.name = "gpt2_124m_v5e_8"
    config.mesh.data = 8
    config.model.remat = "dots"
    config.train.microbatch_rows = 16
    return config
