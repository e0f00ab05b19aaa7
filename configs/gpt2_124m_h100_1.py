"""GPT-2, 124 million parameters, on one H100.

    python -m train.plan --config configs/gpt2_124m_h100_1.py --topology gpu:h100:1

Plan, an estimate from shapes and the hardware's peaks, not measured: one device, rows=128, remat=dots,
attention=cudnn. 47.1 of 59.3 GiB a chip; a step takes at least 0.433 s (0.433 s if the network is not hidden), MFU at
most 97.7% (97.7%), 1,210,556 tokens/s; compute binds. Compiled: needs 47.7 of 59.3 GiB, which fits; by operations on
paper and the bytes of its collectives 0.433 s (0.433 s), MFU 97.7% (97.7%).
"""

from ml_collections import ConfigDict

from configs import gpt2_124m


def get_config() -> ConfigDict:
    """The config of the run."""
    config = gpt2_124m.get_config()
    config.name = "gpt2_124m_h100_1"
    config.mesh.data = 1
    config.model.remat = "dots"
    config.train.microbatch_rows = 128
    return config
