"""Parameters and floating-point operations, counted on paper.

A multiply-add is two operations. Only matmuls count, as is usual for MFU (Chowdhery et al. 2022, arXiv:2204.02311,
appendix B), but attention is counted for the positions that are really seen, and of the experts
those that a token chooses.

Letters: T length, N heads, K kv heads, H head dim, D model, F mlp, V vocab, E experts, L layers.
"""

from .config import TransformerConfig


def count_params(config: TransformerConfig) -> dict[str, int]:
    """Counts parameters, padded rows of the vocabulary included.

    Returns:
        "embedding" (with learned positions), "layers", "head" (untied head and last norm) and "total".
    """
    c = config
    D, N, K, H, F = c.d_model, c.num_heads, c.num_kv_heads, c.size_of_head, c.d_mlp
    norm = D * (2 if c.norm == "layernorm" and c.use_bias else 1)
    attention = D * H * (N + 2 * K) + N * H * D
    mlp = D * F * (3 if c.is_gated else 2)
    if c.use_bias:
        attention += H * (N + 2 * K) + D
        mlp += F * (2 if c.is_gated else 1) + D
    if c.num_experts:
        mlp = c.num_experts * (mlp + D + (1 if c.balance_bias_rate else 0))  # a column of the router for each expert
    if c.qk_norm:
        attention += 2 * H
    embedding = c.padded_vocab_size * D + (c.max_length * D if c.position == "learned" else 0)
    head = norm + (0 if c.tie_embeddings else c.padded_vocab_size * D)
    layers = c.num_layers * (attention + mlp + 2 * norm)
    return {"embedding": embedding, "layers": layers, "head": head, "total": embedding + layers + head}


def seen_positions(length: int, window: int) -> float:
    """Mean number of positions that a query sees in a causal sequence of `length` with an optional window."""
    reach = min(window, length) if window else length
    # The first `reach` queries see 1, 2, ..., reach positions; the others see `reach`.
    return (reach * (reach + 1) / 2 + (length - reach) * reach) / length


def forward_flops(config: TransformerConfig, length: int, *, causal: bool = True) -> float:
    """Matmul operations of one forward pass over one sequence, head included.

    Args:
        config: the model.
        length: tokens T in the sequence.
        causal: count only the pairs that the mask lets through; False counts all T * T, which is what a
            plain implementation executes.

    Returns:
        Operations for the whole sequence. A training step takes three times as many: the backward pass
        has two matmuls for each one forward.
    """
    c = config
    D, N, K, H, F = c.d_model, c.num_heads, c.num_kv_heads, c.size_of_head, c.d_mlp
    mlp = D * F * (3 if c.is_gated else 2)
    if c.num_experts:
        mlp = c.experts_per_token * mlp + D * c.num_experts
    projections = D * H * (N + 2 * K) + N * H * D + mlp
    seen = seen_positions(length, c.window) if causal else length
    attention = 2 * N * H * seen  # queries by keys, and probabilities by values
    return 2.0 * length * (c.num_layers * (projections + attention) + c.padded_vocab_size * D)
