"""Llama 3 8B on 64 v5e chips.

    python -m train.plan --config configs/llama3_8b_v5e_64.py --topology v5e:8x8

Plan, an estimate from shapes and the hardware's peaks, not measured: data=2 fsdp=32, rows=2, remat=full,
attention=splash, loss in chunks of 512. 12.2 of 15.8 GiB a chip; a step takes at least 21.2 s (24 s if the network is
not hidden), MFU at most 80.7% (71.5%), 197,557 tokens/s; compute binds. Compiled: needs 13.6 of 15.8 GiB, which fits;
by its cycles and the bytes of its collectives 25.2 s (26.7 s), MFU 68.1% (64.1%).
"""

from ml_collections import ConfigDict

from configs import llama3_8b


def get_config() -> ConfigDict:
    """The config of the run."""
    config = llama3_8b.get_config()
    config.name = "llama3_8b_v5e_64"
    config.mesh.update(data=2, fsdp=32)
    config.train.update(microbatch_rows=2, objective="auto,chunk=512")
    return config
