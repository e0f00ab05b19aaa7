"""GPT-2, 1.5 billion parameters, on 8 v5e chips.

    python -m train.plan --config configs/gpt2_1b5_v5e_8.py --topology v5e:2x4

Plan, an estimate from shapes and the hardware's peaks, not measured: fsdp=8, rows=32, remat=full, attention=splash,
loss in chunks of 512. 12.9 of 15.8 GiB a chip; a step takes at least 4.18 s (4.43 s if the network is not hidden),
MFU at most 78.1% (73.7%), 125,519 tokens/s; compute binds. Compiled: needs 12.4 of 15.8 GiB, which fits; by its
cycles and the bytes of its collectives 6.76 s (6.9 s), MFU 48.2% (47.3%).
"""

from ml_collections import ConfigDict

from configs import gpt2_1b5


def get_config() -> ConfigDict:
    """The config of the run."""
    config = gpt2_1b5.get_config()
    config.name = "gpt2_1b5_v5e_8"
    config.mesh.update(data=1, fsdp=8)
    config.model.remat = "full"
    config.train.update(microbatch_rows=32, objective="auto,chunk=512")
    return config
