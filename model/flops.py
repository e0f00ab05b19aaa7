"""Parameters and floating-point operations, counted on paper.

A multiply-add is two operations. Only matmuls count, as is usual for MFU (Chowdhery et al. 2022, arXiv:2204.02311,
appendix B), but attention is counted for the positions that are really seen, and of the experts
those that a token chooses.

Letters: T length, N heads, K kv heads, H head dim, D model, F mlp, V vocab, E experts, L layers.
"""

from .config import TransformerConfig
from .remat import kept_names


def _sizes(config: TransformerConfig) -> dict[str, int]:
    """Weights of the matmuls that a token passes in one layer, each sublayer once."""
    c = config
    D, N, K, H = c.d_model, c.num_heads, c.num_kv_heads, c.size_of_head
    gates = 3 if c.is_gated else 2
    attention = D * H * (N + 2 * K) + N * H * D
    latent = c.choice("latent_attention")
    if latent.kind:
        queries = N * (H + latent.rope)
        attention = latent.query * (D + queries) if latent.query else D * queries
        attention += D * (latent.kv + latent.rope) + latent.kv * N * (H + latent.value) + N * latent.value * D
    if c.block == "lstm":
        return {"attention": 8 * D * D, "mlp": 0, "expert": 0, "router": 0, "shared": 0}
    return {
        "attention": attention,
        "mlp": D * c.d_mlp * gates,
        "expert": D * c.size_of_expert * gates,
        "router": D * c.num_experts,
        "shared": D * c.d_shared_expert * gates,
    }


def count_params(config: TransformerConfig) -> dict[str, int]:
    """Counts parameters, padded rows of the vocabulary included.

    Returns:
        "embedding" (with positions, token types and value embeddings), "layers", "head" (all after the last layer) and
        "total".
    """
    c, D = config, config.d_model
    position = c.choice("position")
    norm = D * (2 if c.norm == "layernorm" and c.bias == "all" else 1)
    image, embedding = c.choice("image"), c.padded_vocab_size * D + c.token_types * D
    embedding += c.padded_vocab_size * c.value_tables * c.num_kv_heads * c.size_of_head
    if image.kind:
        embedding = image.patch**2 * image.channels * D + D + (D if c.bias == "all" else 0)
    towers = [tower for tower in (c, c.encoder) if tower is not None]
    of_tower = (c.max_length + position.offset) * D if position.kind == "learned" else 0
    of_tower += position.buckets * c.num_heads if position.kind == "relative" else 0
    embedding += len(towers) * (of_tower + (norm if c.embedding_norm != "none" else 0))
    head = 0 if c.block in ("post", "lstm") else norm * len(towers)
    if not image.kind:
        head += 0 if c.tie_embeddings else c.padded_vocab_size * D
        head += 0 if c.head == "linear" else c.padded_vocab_size
        head += D * D + norm + (D if c.bias == "all" else 0) if c.head == "transform" else 0
    classifier = c.choice("classifier")
    if classifier.kind:
        head += (D * D + D if classifier.kind == "tanh" else 0) + (D + 1) * classifier.classes
    layers = sum(_count_layers(tower, norm, has_memory=tower is c and len(towers) > 1) for tower in towers)
    return {"embedding": embedding, "layers": layers, "head": head, "total": embedding + layers + head}


def _count_layers(c: TransformerConfig, norm: int, *, has_memory: bool) -> int:
    D, N, K, H, F = c.d_model, c.num_heads, c.num_kv_heads, c.size_of_head, c.d_mlp
    if c.block == "lstm":
        return c.num_layers * (8 * D * D + 4 * D)
    sizes, sublayers = _sizes(c), 3 if has_memory else 2
    attention = sizes["attention"] + {"none": 0, "qkv": H * (N + 2 * K), "all": H * (N + 2 * K) + D}[c.bias]
    attention += {"none": 0, "head": 2 * H, "all": (N + K) * H}[c.qk_norm]
    attention += c.num_values if c.value_mix else 0
    latent = c.choice("latent_attention")
    if latent.kind:
        attention = sizes["attention"] + latent.query + latent.kv + (D if c.bias == "all" else 0)

    def with_bias(size: int, hidden: int) -> int:
        return size + (hidden * (2 if c.is_gated else 1) + D if c.bias == "all" else 0)

    others = attention * (sublayers - 1) + norm * sublayers * (2 if c.block == "both" else 1)
    mlp = with_bias(sizes["mlp"], F)
    if not c.num_experts:
        return c.num_layers * (others + mlp)
    experts = c.num_experts * with_bias(sizes["expert"], c.size_of_expert) + sizes["router"]
    experts += c.num_experts if c.balance_bias_rate else 0
    experts += with_bias(sizes["shared"], c.d_shared_expert) if c.d_shared_expert else 0
    return c.num_layers * others + c.num_dense_layers * mlp + (c.num_layers - c.num_dense_layers) * experts


def seen_positions(length: int, window: int, *, causal: bool = True) -> float:
    """Mean number of positions that a query sees in a sequence of `length` with an optional window."""
    reach = min(window, length) if window else length
    # The first `reach` queries see 1, 2, ..., reach positions; the others see `reach`.
    before = (reach * (reach + 1) / 2 + (length - reach) * reach) / length
    return before if causal else 2 * before - 1


def forward_flops(
    config: TransformerConfig, length: int, *, encoder_length: int = 0, causal: bool = True, logits: bool = True
) -> float:
    """Matmul operations of one forward pass over one sequence.

    Args:
        config: the model.
        length: tokens T in the sequence; of an encoder-decoder, those of the decoder.
        encoder_length: tokens S of the encoder of an encoder-decoder; 0 is as many as `length`.
        causal: count only the pairs that the mask lets through; False counts all T * T, which is what a
            plain implementation executes.
        logits: whether those of the vocabulary are computed, which an objective on classes does without.

    Returns:
        Operations for the whole sequence. A training step takes three times as many: the backward pass
        has two matmuls for each one forward.
    """
    T, S = length, encoder_length or length
    total = 0.0
    if logits:
        total += T * (0 if config.image else config.padded_vocab_size * config.d_model)
        total += T * (config.d_model**2 if config.head == "transform" else 0)
    for c in filter(None, (config, config.encoder)):
        sizes, tokens = _sizes(c), S if c is config.encoder else T
        experts = c.experts_per_token * sizes["expert"] + sizes["router"] + sizes["shared"]
        of_experts = c.num_layers - c.num_dense_layers if c.num_experts else 0
        total += tokens * c.num_layers * sizes["attention"]
        total += tokens * (of_experts * experts + (c.num_layers - of_experts) * sizes["mlp"])
        if c is config and config.encoder is not None:  # keys and values of what the encoder read
            of_memory = 2 * c.d_model * c.size_of_head * c.num_kv_heads
            total += c.num_layers * (T * (sizes["attention"] - of_memory) + S * of_memory)
    return 2.0 * total + attention_flops(config, length, encoder_length=encoder_length, causal=causal)


def attention_flops(config: TransformerConfig, length: int, *, encoder_length: int = 0, causal: bool = True) -> float:
    """Of `forward_flops`, attention's two products: queries with keys, and weights with values.

    Args:
        config: see `forward_flops`.
        length: see `forward_flops`.
        encoder_length: see `forward_flops`.
        causal: see `forward_flops`.
    """
    T, S = length, encoder_length or length
    total = 0.0
    for c in filter(None, (config, config.encoder)):
        if c.block == "lstm":
            continue
        tokens, latent = S if c is config.encoder else T, c.choice("latent_attention")
        wide = c.size_of_head + latent.rope + latent.value if latent.kind else 2 * c.size_of_head
        seen = [seen_positions(tokens, w, causal=c.is_causal) if causal else tokens for w in c.window_of_layers]
        total += tokens * c.num_heads * wide * sum(seen)
        if c is config and config.encoder is not None:
            total += T * S * c.num_layers * c.num_heads * wide
    return 2.0 * total


def recomputed_flops(
    config: TransformerConfig,
    length: int,
    remat: str,
    *,
    encoder_length: int = 0,
    keeps: bool = False,
    skips: bool = True,
) -> float:
    """Matmul operations that the backward pass of one sequence does a second time, as remat asks.

    They take time and are no part of the model's operations, which MFU counts. What no gradient needs, such as the
    product of an MLP's last matmul, is left out by JAX.

    Args:
        config: the model.
        length: see `forward_flops`.
        remat: as `model.remat` reads it.
        encoder_length: see `forward_flops`.
        keeps: whether attention keeps its probabilities for the backward pass.
        skips: whether attention skips what a causal mask hides.
    """
    if remat == "none":
        return 0.0
    kept = kept_names(remat)
    T, S, total = length, encoder_length or length, 0.0
    for c in filter(None, (config, config.encoder)):
        if c.block == "lstm":
            continue
        sizes, D = _sizes(c), c.d_model
        latent = c.choice("latent_attention")
        out = c.num_heads * (latent.value if latent.kind else c.size_of_head) * D
        gates = 2 / 3 if c.is_gated else 1 / 2  # of an MLP's matmuls all but the last
        experts = c.experts_per_token * sizes["expert"] * gates + sizes["router"] + sizes["shared"] * gates
        has_memory = c is config and config.encoder is not None
        tokens = S if c is config.encoder else T
        # Of an attention to what the encoder read, keys and values are of its tokens.
        of_memory = 2 * D * c.size_of_head * c.num_kv_heads if has_memory else 0
        projections = tokens * sizes["attention"]
        projections += T * (sizes["attention"] - of_memory) + S * of_memory if has_memory else 0
        for i, window in enumerate(c.window_of_layers):
            mlp = experts if c.num_experts and i >= c.num_dense_layers else sizes["mlp"] * gates
            seen = seen_positions(tokens, window, causal=c.is_causal) if skips else tokens
            wide = c.size_of_head + latent.rope + latent.value if latent.kind else 2 * c.size_of_head
            pairs = tokens * c.num_heads * wide * (seen + (S if has_memory else 0))
            attentions = 2 if has_memory else 1
            if remat == "dots":
                total += pairs  # products of each row with itself are not kept, and the output is one
                if c.num_experts and i >= c.num_dense_layers:  # experts are matmuls in groups, which it does not keep
                    total += tokens * c.experts_per_token * sizes["expert"] * gates
                continue
            # The plain attention needs its logits again, even where its output is kept.
            again = (pairs / 2 if keeps else 0) if "attention_out" in kept else pairs
            again += 0 if "qkv" in kept else projections - tokens * out * attentions
            again += 0 if "attention_sum" in kept else tokens * out * attentions
            if not (c.num_experts and i >= c.num_dense_layers):
                hidden = ("mlp_gate", "mlp_in") if c.is_gated else ("mlp_in",)
                mlp *= sum(name not in kept for name in hidden) / len(hidden)
            total += again + tokens * mlp
    return 2.0 * total
