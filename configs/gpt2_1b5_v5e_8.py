"""GPT-2, 1.5 billion parameters, on 8 v5e chips.

    python -m train.plan --config configs/gpt2_1b5_v5e_8.py --topology v5e:2x4

Plan, an estimate from shapes and the hardware's peaks, neither compiled nor measured: fsdp=8, rows=16, remat=full,
attention=splash. 10.5 of 15.8 GiB a chip; a step takes at least 3.97 s (4.47 s if the network is not hidden), MFU at
most 82.2% (73.0%), 132,147 tokens/s; compute binds.
"""

from ml_collections import ConfigDict

from configs import gpt2_1b5


def get_config() -> ConfigDict:
    """The config of the run."""
    config = gpt2_1b5.get_config()
    config.name = "gpt2_1b5_v5e_8"
    config.mesh.update(data=1, fsdp=8)
    config.train.microbatch_rows = 16
    config.model.remat = "full"
    return config
