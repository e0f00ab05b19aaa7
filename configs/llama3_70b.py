"""Llama 3, 70 billion parameters (Grattafiori et al. 2024, arXiv:2407.21783, table 3).

    python -m train.plan --config configs/llama3_70b.py --topology v5p:8x8x8

8 million tokens a step at 8,192 tokens a row; 70,553,706,496 parameters.
"""

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
    """The config of the run."""
    config = base.get_config()
    config.name = "llama3_70b"
    config.model.update(num_layers=80, d_model=8192, num_heads=64, num_kv_heads=8, d_mlp=28672)
    config.model.update(activation="swiglu", norm_eps=1e-5, tie_embeddings=False, rope_theta=500_000.0)
    config.model.update(dtype="bfloat16", remat="full")
    config.data.update(source="jsonl,path=~/data/text", vocab_size=128_256, seq_len=8192, batch_size=1024)
    config.optimizer.update(learning_rate=1.5e-4, warmup_steps=2000)
    config.train.steps = 100_000
    return config
