"""GPT-2, 124 million parameters, on 8 v5e chips.

    python -m train.plan --config configs/gpt2_124m_v5e_8.py --topology v5e:2x4

Plan, an estimate from shapes and the hardware's peaks, neither compiled nor measured: data=8, rows=16, remat=dots,
attention=splash. 9.3 of 15.8 GiB a chip; a step takes at least 0.272 s (0.281 s if the network is not hidden), MFU at
most 97.7% (94.3%), 1,929,056 tokens/s; compute binds.
"""

from ml_collections import ConfigDict

from configs import gpt2_124m


def get_config() -> ConfigDict:
    """The config of the run."""
    config = gpt2_124m.get_config()
    config.name = "gpt2_124m_v5e_8"
    config.mesh.data = 8
    config.train.microbatch_rows = 16
    config.model.remat = "dots"
    return config
