"""GPT-2, 124 million parameters (Radford et al. 2019), on one H100 or H200, or eight v5e.

    python -m train.plan --config configs/gpt2_124m.py --topology gpu:h100:1

Half a million tokens a step and 10 billion in all, as most who train it again do. The published weights have
124,439,808 parameters; here the vocabulary is padded to 50,304.
"""

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
    """The config of the run."""
    config = base.get_config()
    config.name = "gpt2_124m"
    config.model.update(num_layers=12, d_model=768, num_heads=12, num_kv_heads=12, d_mlp=3072)
    config.model.update(norm="layernorm", norm_eps=1e-5, bias="all", position="learned", dtype="bfloat16")
    config.data.update(source="jsonl,path=~/data/text", vocab_size=50257, seq_len=1024, batch_size=512)
    config.optimizer.update(learning_rate=6e-4, warmup_steps=700)
    config.train.steps = 19_073
    return config
