"""GPT-2, 1.5 billion parameters (Radford et al. 2019), on one H200 or eight v5e.

    python -m train.plan --config configs/gpt2_1b5.py --topology gpu:h200:1

The published weights have 1,557,611,200 parameters. Its 25 heads are not divisible over "tensor" but by 5 and 25.
"""

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
    """The config of the run."""
    config = base.get_config()
    config.name = "gpt2_1b5"
    config.model.update(num_layers=48, d_model=1600, num_heads=25, num_kv_heads=25, d_mlp=6400)
    config.model.update(norm="layernorm", norm_eps=1e-5, bias="all", position="learned", dtype="bfloat16")
    config.data.update(source="jsonl,path=~/data/text", vocab_size=50257, seq_len=1024, batch_size=512)
    config.optimizer.update(learning_rate=2.5e-4, warmup_steps=700)
    config.train.steps = 61_036
    return config
