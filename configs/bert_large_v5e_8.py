"""BERT-large on 8 v5e chips.

    python -m train.plan --config configs/bert_large_v5e_8.py --topology v5e:2x4

Plan, an estimate from shapes and the hardware's peaks, not measured: data=8, rows=16, remat=dots, attention=splash.
10.9 of 15.8 GiB a chip; a step takes at least 3.21 s (3.23 s if the network is not hidden), MFU at most 89.6%
(88.8%), 654,256 tokens/s; compute binds. Compiled: needs 12.9 of 15.8 GiB, which fits; by its cycles and the bytes of
its collectives 9 s (9.01 s), MFU 31.9% (31.8%).
"""

from ml_collections import ConfigDict

from configs import bert_large


def get_config() -> ConfigDict:
    """The config of the run."""
    config = bert_large.get_config()
    config.name = "bert_large_v5e_8"
    config.mesh.data = 8
    config.model.remat = "dots"
    config.train.microbatch_rows = 16
    return config
