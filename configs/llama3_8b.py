"""Llama 3, 8 billion parameters (Grattafiori et al. 2024, arXiv:2407.21783, table 3).

    python -m train.plan --config configs/llama3_8b.py --topology v5p:4x4x4

4 million tokens a step at 8,192 tokens a row; 8,030,261,248 parameters.
"""

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
    """The config of the run."""
    config = base.get_config()
    config.name = "llama3_8b"
    config.model.update(num_layers=32, d_model=4096, num_heads=32, num_kv_heads=8, d_mlp=14336)
    config.model.update(activation="swiglu", norm_eps=1e-5, tie_embeddings=False, rope_theta=500_000.0)
    config.model.update(dtype="bfloat16", remat="full")
    config.data.update(source="jsonl,path=~/data/text", vocab_size=128_256, seq_len=8192, batch_size=512)
    config.optimizer.update(learning_rate=3e-4, warmup_steps=2000)
    config.train.steps = 100_000
    return config
