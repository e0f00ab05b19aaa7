"""GPT-2, 1.5 billion parameters, on one H200.

    python -m train.plan --config configs/gpt2_1b5_h200_1.py --topology gpu:h200:1

Plan, an estimate from shapes and the hardware's peaks, not measured: one device, rows=8, remat=none, attention=cudnn.
81.6 of 104.8 GiB a chip; a step takes at least 5.2 s (5.2 s if the network is not hidden), MFU at most 100.0%
(100.0%), 100,892 tokens/s; compute binds. Compiled: needs 82.6 of 104.8 GiB, which fits; by operations on paper and
the bytes of its collectives 5.2 s (5.2 s), MFU 100.0% (100.0%).
"""

from ml_collections import ConfigDict

from configs import gpt2_1b5


def get_config() -> ConfigDict:
    """The config of the run."""
    config = gpt2_1b5.get_config()
    config.name = "gpt2_1b5_h200_1"
    config.mesh.data = 1
    config.train.microbatch_rows = 8
    return config
