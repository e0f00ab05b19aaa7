"""A GPT of 3 million parameters on the source files of Python's standard library, for two CPU cores.

    python -m train --config configs/tiny.py --workdir runs/tiny

Two cores of an Intel Xeon with AVX-512 take 4 minutes and reach a validation loss of 3.08 nats per token, which is 1.29
bits per byte; gzip -9 needs 1.91 on the same text and xz -9e 1.55 (Python 3.11.7; other Pythons have other sources).
"""

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
    """The config of the run."""
    config = base.get_config()
    config.name = "tiny"
    config.model.update(num_layers=3, num_kv_heads=2, activation="squared_relu", qk_norm="head")
    config.model.init = "standard,std=0.05"
    config.model.scan_unroll = 3  # on a CPU the loop over layers costs more than it saves
    config.data.update(seq_len=256, batch_size=8)
    config.optimizer.update(name="muon,iterations=3,b2=0.99", learning_rate=0.015, weight_decay=0.0)
    config.optimizer.update(schedule="wsd,decay_steps=360,final_fraction=0", warmup_steps=30)
    config.train.update(steps=600, log_every=20, eval_every=200, checkpoint_every=200)
    return config
