"""The Transformer: embeddings, one tower of layers or two, and what is read off the last activations.

Letters: B batch, T query length, S key length or cache slots, D model, V vocab, L layers.
"""

import functools
import itertools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.core import meta
from jax import Array

from .attention import RelativeBias, attention
from .block import ACTIVATION_AXES, Block, Dense, Memory, Norm, Place, first_values
from .cache import KVCache, append
from .config import TransformerConfig
from .head import Head
from .init import classifier_std, head_init, table_init
from .layers import ACTIVATIONS, dropout, fold_in, look_up, weight
from .lstm import LSTMBlock
from .moe import dropless
from .rope import sinusoids
from .stack import scan_layers
from .value_mix import SharedValues, embed_values


class Transformer(nn.Module):
    """Tokens to logits.

    Attributes:
        config: the hyperparameters.
        attention_fn: called as `model.attention.attention` is.
        stack_fn: the way through the layers; see `model.stack`.
        experts_fn: called as `model.moe.dropless` is.

    Example:
        logits_BTV = model.apply({"params": params}, tokens_BT)
    """

    config: TransformerConfig
    attention_fn: Callable[..., Array] = attention
    stack_fn: Callable[..., tuple[Array, Any]] = scan_layers
    experts_fn: Callable[..., Array] = dropless

    @nn.compact
    def __call__(
        self,
        tokens_BT: Array,
        *,
        positions_BT: Array | None = None,
        segment_ids_BT: Array | None = None,
        order_BT: Array | None = None,
        token_types_BT: Array | None = None,
        encoder_tokens_BS: Array | None = None,
        encoder_positions_BS: Array | None = None,
        encoder_segment_ids_BS: Array | None = None,
        cache: KVCache | None = None,
        dropout_keys_B: Array | None = None,
        want: str = "logits",
    ):
        """Computes the logits of each position; in a causal model, of the token that follows it.

        Applied with mutable=["aux"], a mixture of experts also returns the sums of `model.moe.MoE` over its layers.

        Args:
            tokens_BT: ids in [0, vocab_size), or images (B, size, size, channels) if the config has an `image`.
            positions_BT: position of each token in its document; None counts from 0 along the row. But for the plain
                attention and the ring they must grow by one a token along each document.
            segment_ids_BT: document of each token, 0 for padding; None makes each row one document.
            order_BT: in a causal model, a token sees those of its document whose order is not above its own; None is
                the position. The tokens of a prefix that all see one another have the same (Raffel et al. 2020,
                section 3.2.1).
            token_types_BT: in [0, token_types); None is 0.
            encoder_tokens_BS: what an encoder-decoder's encoder reads; None takes what the cache has of it. A decoder's
                document sees the encoder's document with the same number.
            encoder_positions_BS: of these tokens.
            encoder_segment_ids_BS: of these tokens.
            cache: earlier tokens to attend to as well; the new ones are appended.
            dropout_keys_B: turns dropout on; a random key for each row. A token's mask follows from its row's key, its
                segment and its position, so it is the same however rows and lengths are split or reordered.
            want: "logits", (B, T, padded vocabulary) in float32, the padded ones masked to a large negative number, or
                the classes of images; "head", the `Head` that they are made from, which need not make them all at once;
                "hidden", the last activations (B, T, D); "pooled" (B, D) and "classes"
                (B, C), or (B, T, D) and (B, T, C) of each token, as the config's classifier says; or "all", a dict of
                those that there are.

        Returns:
            What is wanted; with a cache, the pair (it, new cache).
        """
        c = self.config
        table_VD = None
        if not c.image:
            shape = (c.padded_vocab_size, c.d_model)
            table_VD = weight(self, "embedding", shape, ("vocab", "embed"), table_init(c))

        def embed(tokens_BT: Array) -> Array:
            if table_VD is None:
                return self._embed_patches(tokens_BT)
            x_BTD = look_up(table_VD, tokens_BT, c.compute_dtype)
            x_BTD = nn.with_logical_constraint(x_BTD, ("batch", "length", "act_embed"))
            return x_BTD * jnp.asarray(c.embedding_scale, c.compute_dtype) if c.embedding_scale != 1.0 else x_BTD

        memory = None
        if c.encoder is not None:
            if self.is_initializing() and encoder_tokens_BS is None:
                encoder_tokens_BS = jnp.zeros_like(tokens_BT)
            if encoder_tokens_BS is not None:
                where = _where(encoder_tokens_BS.shape, encoder_positions_BS, encoder_segment_ids_BS)
                keys_B = None
                if dropout_keys_B is not None:  # other masks than the decoder's
                    keys_B = jax.vmap(lambda key: jax.random.fold_in(key, 1))(dropout_keys_B)
                y_BSD, _ = self._tower(c.encoder, "encoder_", embed(encoder_tokens_BS), *where, keys_B=keys_B)
                memory = Memory(y_BSD, *where)
            else:
                kept = None if cache is None else cache.memory
                assert kept is not None, "an encoder-decoder needs encoder_tokens_BS"
                memory = Memory(None, kept.positions_BS, kept.segment_ids_BS)

        x_BTD = embed(tokens_BT)
        values = SharedValues(embedded_BTGKH=embed_values(self, c, tokens_BT) if c.value_tables else None)
        where = _where(x_BTD.shape[:2], positions_BT, segment_ids_BT)
        types_BT = token_types_BT if token_types_BT is not None else jnp.zeros(x_BTD.shape[:2], jnp.int32)
        more: dict[str, Any] = {"types_BT": types_BT, "memory": memory, "cache": cache, "keys_B": dropout_keys_B}
        x_BTD, cache = self._tower(c, "", x_BTD, *where, order_BT, values=values, **more)
        outputs = {"hidden": x_BTD, **self._read_off(x_BTD, table_VD, where[1])}
        assert want == "all" or want in outputs, f"this model has {', '.join(outputs)}, no {want}"
        output = outputs if want == "all" else outputs[want]
        return output if cache is None else (output, cache)

    def _embed_patches(self, images_BHWC: Array) -> Array:
        """A projection of each patch, row by row, after the one of the whole image: (B, T, D)."""
        c, image = self.config, self.config.choice("image")
        B, n, P = images_BHWC.shape[0], image.size // image.patch, image.patch
        patches = images_BHWC.reshape(B, n, P, n, P, image.channels).swapaxes(2, 3).reshape(B, n * n, -1)
        x_BTD = Dense(c, c.d_model, bias=c.bias == "all", name="patches")(patches.astype(c.compute_dtype))
        first_D = weight(self, "first_token", (c.d_model,), ("norm",), table_init(c))
        first_B1D = jnp.broadcast_to(first_D.astype(c.compute_dtype), (B, 1, c.d_model))
        return jnp.concatenate((first_B1D, x_BTD), axis=1)

    def _tower(
        self,
        c: TransformerConfig,
        prefix: str,
        x_BTD: Array,
        positions_BT: Array,
        segment_ids_BT: Array,
        order_BT: Array | None = None,
        *,
        values: SharedValues = SharedValues(),  # noqa: B008, it is frozen
        types_BT: Array | None = None,
        memory: Memory | None = None,
        cache: KVCache | None = None,
        keys_B: Array | None = None,
    ) -> tuple[Array, KVCache | None]:
        """From token embeddings to the last activations, with parameters named after `prefix`."""
        keys_BT = None
        if keys_B is not None:
            keys_BT = jnp.broadcast_to(keys_B[:, None], positions_BT.shape)
            keys_BT = fold_in(fold_in(keys_BT, segment_ids_BT), positions_BT)
        x_BTD = self._add_positions(c, prefix, x_BTD, positions_BT)
        if c.token_types and types_BT is not None:
            shape = (c.token_types, c.d_model)
            table_CD = weight(self, "token_types", shape, ("token_types", "embed"), table_init(c))
            x_BTD = x_BTD + nn.with_logical_constraint(table_CD, (None, None)).astype(c.compute_dtype)[types_BT]
        if c.embedding_norm != "none":
            x_BTD = Norm(c, name=f"{prefix}embedding_norm")(x_BTD)
        x_BTD = nn.with_logical_constraint(x_BTD, ACTIVATION_AXES)
        x_BTD = dropout(x_BTD, c.dropout, None if keys_BT is None else fold_in(keys_BT, 0))

        position, bias = c.choice("position"), None
        if position.kind == "relative":
            shape = (position.buckets, c.num_heads)
            table_RN = weight(self, f"{prefix}relative_bias", shape, ("buckets", "heads"), table_init(c))
            bias = RelativeBias(table_RN, position.distance)
        in_order = order_BT is None and cache is None
        order_BT = positions_BT if order_BT is None else order_BT
        place = Place(positions_BT, order_BT, order_BT, segment_ids_BT, segment_ids_BT, bias, in_order, values=values)
        x_BTD, cache = self._layers(c, prefix, x_BTD, place, memory, cache, keys_BT)
        if c.block not in ("post", "lstm"):
            x_BTD = Norm(c, name=f"{prefix}final_norm")(x_BTD)
        return x_BTD, cache

    def _add_positions(self, c: TransformerConfig, prefix: str, x_BTD: Array, positions_BT: Array) -> Array:
        position = c.choice("position")
        if position.kind == "learned":
            shape = (c.max_length + position.offset, c.d_model)
            table_TD = weight(self, f"{prefix}positions", shape, ("length_table", "embed"), table_init(c))
            table_TD = nn.with_logical_constraint(table_TD, (None, None)).astype(c.compute_dtype)
            return x_BTD + table_TD[positions_BT + position.offset]
        if position.kind == "sinusoidal":
            return x_BTD + sinusoids(positions_BT, c.d_model).astype(c.compute_dtype)
        return x_BTD

    def _layers(
        self,
        c: TransformerConfig,
        prefix: str,
        x_BTD: Array,
        place: Place,
        memory: Memory | None,
        cache: KVCache | None,
        keys_BT: Array | None,
    ) -> tuple[Array, KVCache | None]:
        """Runs the stacks: first the dense layers that a model of experts may have, then the others."""
        caches: Any = (None, None)
        if cache is not None:
            place = place._replace(
                kv_order_BS=append(cache.positions_BS, place.q_order_BT, cache.length),
                kv_segment_ids_BS=append(cache.segment_ids_BS, place.q_segment_ids_BT, cache.length),
                cached=cache.length,
            )
            caches = (cache.layers, None if cache.memory is None else cache.memory.layers)
        for first, last in itertools.pairwise(sorted({0, c.num_dense_layers, c.num_layers})):
            x_BTD, caches, place = self._stack(c, prefix, first, last, x_BTD, place, memory, caches, keys_BT)
        if cache is None:
            return x_BTD, None
        kept = cache.memory
        if kept is not None and memory is not None:
            kept = kept.replace(
                layers=caches[1], positions_BS=memory.positions_BS, segment_ids_BS=memory.segment_ids_BS
            )
        return x_BTD, cache.replace(
            layers=caches[0],
            positions_BS=place.kv_order_BS,
            segment_ids_BS=place.kv_segment_ids_BS,
            length=cache.length + x_BTD.shape[1],
            memory=kept,
        )

    def _stack(
        self,
        c: TransformerConfig,
        prefix: str,
        first: int,
        last: int,
        x_BTD: Array,
        place: Place,
        memory: Memory | None,
        caches: Any,
        keys_BT: Array | None,
    ) -> tuple[Array, Any, Place]:
        """Runs layers of one shape; their parameters are those of a Block, each with a leading layer dim.

        Where later layers need the first one's values, the place that is returned has them.
        """
        has_experts = bool(c.num_experts) and first >= c.num_dense_layers
        name = f"{prefix}layers" if last > c.num_dense_layers else f"{prefix}dense_layers"

        def layer(window: int, params: Any, x: Any, number: Array) -> Any:
            x_BTD, caches = (x, (None, None)) if isinstance(x, Array) else x
            keys = None if keys_BT is None else fold_in(keys_BT, 1 + number)  # 0 is the embedding
            block = self._block(c, window, has_experts, memory)
            done: Any = block.apply(
                {"params": params}, x_BTD, place, number=number, caches=caches, memory=memory, dropout_keys_BT=keys
            )
            x_BTD, caches, sums = done
            return x_BTD if isinstance(x, Array) else (x_BTD, caches), sums

        init = functools.partial(self._init_layers, c, last - first, has_experts, memory is not None)
        windows = c.window_of_layers[first:last][: max(1, len(c.layer_pattern))]
        layer_fns = tuple(functools.partial(layer, window) for window in windows)
        params = self.param(name, init)
        if first == 0 and "first_layer" in c.choice("value_mix").kind:
            place = place._replace(values=place.values._replace(first_BTKH=first_values(c, params, x_BTD)))
        # A cache goes from layer to layer, so that each writes its own tokens into it, and none of it is copied.
        x = x_BTD if caches[0] is None else (x_BTD, caches)
        x, sums = self.stack_fn(layer_fns, params, x, jnp.arange(first, last), name)
        x_BTD, caches = (x, caches) if isinstance(x, Array) else x
        if not self.is_initializing():
            for key, sums_L in sums.items():
                self.sow("aux", key, jnp.sum(sums_L), init_fn=lambda: jnp.zeros(()), reduce_fn=jnp.add)
        return x_BTD, caches, place

    def _block(self, c: TransformerConfig, window: int, has_experts: bool, memory: Memory | None) -> nn.Module:
        if c.block == "lstm":
            return LSTMBlock(c, parent=None)
        return Block(c, self.attention_fn, self.experts_fn, window, has_experts, memory is not None, parent=None)

    @staticmethod
    def _init_layers(c: TransformerConfig, num_layers: int, has_experts: bool, has_memory: bool, key: Array) -> Any:
        """Parameters of a stack: those of one Block, each with a leading layer dim."""
        # The shape of the activations does not matter to the parameters: one token is enough, and the plain
        # attention takes it, where one that divides the length could not.
        x, zeros = jnp.zeros((1, 1, c.d_model), c.compute_dtype), jnp.zeros((1, 1), jnp.int32)
        place, memory = Place(zeros, zeros, zeros, zeros, zeros), Memory(x, zeros, zeros) if has_memory else None
        block = Block(c, attention, has_experts=has_experts, has_memory=has_memory, parent=None)
        block = LSTMBlock(c, parent=None) if c.block == "lstm" else block
        axis = "dense_layers" if c.num_experts and not has_experts else "layers"
        init = jax.vmap(lambda key: block.init(key, x, place, number=1, memory=memory)["params"])
        return jax.tree.map(
            # A pipeline's stages divide the layers; the dense ones are computed before the first of them.
            lambda box: box.add_axis(0, {nn.PARTITION_NAME: axis}),
            init(jax.random.split(key, num_layers)),
            is_leaf=lambda leaf: isinstance(leaf, meta.AxisMetadata),
        )

    def _read_off(self, x_BTD: Array, table_VD: Array | None, segment_ids_BT: Array) -> dict[str, Array]:
        """What the last activations say."""
        c, D = self.config, self.config.d_model
        outputs, classifier = {}, c.choice("classifier")
        if classifier.kind:
            pooled = pool(x_BTD, segment_ids_BT, classifier.kind)
            if classifier.kind == "tanh":
                pooled = jnp.tanh(Dense(c, D, bias=True, name="pooler")(pooled))
            outputs["pooled"] = pooled
            if classifier.classes:
                classes = Dense(c, classifier.classes, bias=True, std=classifier_std(c), name="classifier")(pooled)
                outputs["classes"] = classes.astype(jnp.float32)
        if table_VD is None:
            return outputs | {"logits": outputs["classes"]}
        if c.head == "transform":
            x_BTD = ACTIVATIONS[c.activation].fn(Dense(c, D, bias=c.bias == "all", name="head_transform")(x_BTD))
            x_BTD = Norm(c, name="head_norm")(x_BTD)
        V = c.padded_vocab_size
        if not c.tie_embeddings:
            table_VD = weight(self, "head", (V, D), ("vocab", "embed"), head_init(c))
        bias_V = None
        if c.head != "linear":
            bias_V = weight(self, "head_bias", (V,), ("vocab",), nn.initializers.zeros)
        scale = c.as_standard().logit_scale
        head = Head(x_BTD, table_VD.astype(c.compute_dtype), bias_V, scale, c.logit_soft_cap, c.vocab_size)
        logits_BTV = nn.with_logical_constraint(head.logits(), ("batch", "length", "vocab"))
        return outputs | {"logits": logits_BTV, "head": head}


def _where(shape: tuple[int, ...], positions_BT: Array | None, segment_ids_BT: Array | None) -> tuple[Array, Array]:
    """Positions and segments, by default those of one document a row."""
    if positions_BT is None:
        positions_BT = jnp.broadcast_to(jnp.arange(shape[1]), shape)
    return positions_BT, jnp.ones(shape, jnp.int32) if segment_ids_BT is None else segment_ids_BT


def pool(x_BTD: Array, segment_ids_BT: Array, kind: str) -> Array:
    """What of a row's activations a classifier reads: (B, D), or all of them for "tokens"; padding does not count."""
    is_token_BT = segment_ids_BT > 0
    if kind == "tokens":
        return x_BTD
    if kind == "mean":
        weights_BT = is_token_BT.astype(jnp.float32)
        weights_BT = weights_BT / jnp.maximum(1.0, jnp.sum(weights_BT, axis=1, keepdims=True))
        return jnp.einsum("BTD,BT->BD", x_BTD, weights_BT.astype(x_BTD.dtype))
    if kind == "last":
        last_B = jnp.max(jnp.where(is_token_BT, jnp.arange(x_BTD.shape[1]), 0), axis=1)
        return jnp.take_along_axis(x_BTD, last_B[:, None, None], axis=1)[:, 0]
    return x_BTD[:, 0]
