"""Texts as they grow: stop strings, whole characters, few programs, and the same on any mesh."""

import json
import re
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from jax.sharding import Mesh
from ml_collections import ConfigDict

from data import prepare
from data.tokenizer import train_tokenizer
from model import Beams, Sampling, advance, begin, row_keys
from parallel import MeshConfig, make_mesh, on_mesh
from tests.helpers import one_device
from train import init_state
from train.compose import make_model, rules_of
from train.samples import (
    Look,
    check_prompts,
    continue_prompts,
    cut_at_stop,
    decoder_start_id,
    pad_rows,
    pieces,
    round_up,
    write_texts,
)
from train.strategy import make_strategy

PROMPTS = ["the model", "", "a row of many words which", "sees"]
STRATEGIES = ["greedy,repetition_penalty=1.3", "sample,temperature=1.5", "beam,beams=3,repetition_penalty=1.2"]


def random_state(config: ConfigDict, mesh: Mesh | None = None) -> tuple[Any, Mesh, Any]:
    """What `continue_prompts` takes beside the config, with parameters that do not repeat themselves."""
    mesh = mesh or one_device()
    params = init_state(config, mesh).params
    params = jax.tree.map(lambda leaf: leaf * 3.0, params)
    return params, mesh, prepare(config.data).tokenizer


# ---- config.sample


def test_a_strategy_is_read_with_its_defaults(config: ConfigDict):
    said = {}
    for text in ("sample", "greedy", "sample,temperature=1,top_k=5,top_p=1,min_p=0.1", "beam", *STRATEGIES):
        config.sample.strategy = text
        said[text] = make_strategy(config)
    assert said["sample"] == Sampling(temperature=0.8, top_k=0, top_p=0.95, min_p=0.0, repetition_penalty=1.0)
    assert said["greedy"] == Sampling(temperature=0.0)
    assert said["sample,temperature=1,top_k=5,top_p=1,min_p=0.1"] == Sampling(temperature=1.0, top_k=5, min_p=0.1)
    assert said["beam"] == Beams(beams=4, length_penalty=1.0, early_stopping="false", repetition_penalty=1.0)
    assert said["beam,beams=3,repetition_penalty=1.2"] == Beams(beams=3, repetition_penalty=1.2)


def test_the_same_seed_gives_the_same_text_and_rows_do_not_depend_on_one_another(config: ConfigDict):
    state = random_state(config)
    config.sample.update(max_tokens=12, strategy="sample")
    texts = continue_prompts(config, *state, PROMPTS)
    assert continue_prompts(config, *state, PROMPTS) == texts
    assert continue_prompts(config, *state, PROMPTS[:1]) == texts[:1]
    assert continue_prompts(config, *state, PROMPTS[:3]) == texts[:3]
    same = continue_prompts(config, *state, PROMPTS[:1] * 3)
    assert len(set(same)) == 3
    config.seed = 1
    assert not set(continue_prompts(config, *state, PROMPTS)) & set(texts)


# ---- stop strings


@pytest.mark.parametrize(
    ("text", "stops", "expected"),
    [
        ("one two", (), ("one two", False)),
        ("one two", ("two",), ("one ", True)),
        ("one two", ("e", "one t"), ("on", True)),  # the one that ends first
        ("abcde", ("cd", "bcde"), ("ab", True)),
        ("abcd", ("bcd", "cd"), ("a", True)),  # they end together: the longer
        ("one tw", ("two",), ("one ", False)),  # may become one
        ("one tt", ("two",), ("one t", False)),
        ("aab", ("abab", "bc"), ("a", False)),
        ("stop", ("stop",), ("", True)),
    ],
)
def test_a_text_is_cut_before_its_first_stop_string(text: str, stops: tuple[str, ...], expected: tuple[str, bool]):
    assert cut_at_stop(text, stops, is_last=False) == expected
    whole = text if not expected[1] else expected[0]
    assert cut_at_stop(text, stops, is_last=True) == (whole, expected[1])


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_stop_strings_may_span_tokens_and_end_each_row_by_itself(config: ConfigDict, strategy: str):
    params, mesh, tokenizer = random_state(config)
    config.sample.update(max_tokens=24, strategy=strategy)
    free = continue_prompts(config, params, mesh, tokenizer, PROMPTS)
    # Two characters at the seam of two tokens of the first row, and three from the middle of the last one.
    ids = tokenizer.encode(free[0])
    seam = len(tokenizer.decode(ids[:8]))
    stops = (free[0][seam - 1 : seam + 1], free[3][10:13])
    config.sample.stop = stops
    expected = [cut_at_stop(text, stops, is_last=True)[0] for text in free]
    assert continue_prompts(config, params, mesh, tokenizer, PROMPTS) == expected
    assert expected[0] != free[0]
    assert expected[3] != free[3]
    assert not any(stop in text for stop in stops for text in expected)


@pytest.mark.parametrize("strategy", STRATEGIES[:2])
def test_how_often_one_looks_changes_no_text_and_nothing_shown_is_taken_back(config: ConfigDict, strategy: str):
    params, mesh, tokenizer = random_state(config)
    config.sample.update(max_tokens=24, strategy=strategy)
    ids = check_prompts(config, tokenizer, PROMPTS)
    *_, free = write_texts(config, params, mesh, tokenizer, ids)
    config.sample.stop = (free[2][9:11], "\n")
    *_, expected = write_texts(config, params, mesh, tokenizer, ids)
    for every in (1, 3, 16, 99):
        shown = [""] * 4
        for texts in write_texts(config, params, mesh, tokenizer, ids, every=every):
            assert all(text.startswith(before) for text, before in zip(texts, shown, strict=True))
            shown = texts
        assert shown == expected
    looks = list(write_texts(config, params, mesh, tokenizer, ids, every=1))
    assert len(looks) > 5
    joined = ["".join(pieces(write_texts(config, params, mesh, tokenizer, ids, every=2), row)) for row in range(4)]
    assert joined == expected


def test_writing_ends_when_all_rows_have_stopped(config: ConfigDict):
    params, mesh, tokenizer = random_state(config)
    config.sample.update(max_tokens=24, strategy="sample", stop=tuple("abcdefghijklmnopqrstuvwxyz .\n"))
    ids = check_prompts(config, tokenizer, PROMPTS[:1])
    assert len(list(write_texts(config, params, mesh, tokenizer, ids, every=1))) < 20


# ---- whole characters


def test_a_character_of_several_tokens_is_shown_when_it_is_whole():
    tokenizer = train_tokenizer(["plain text only, of a few words " * 20] * 3, kind="bpe", vocab_size=290)
    text = "a€ \U0001f600\u2581\ue000b"
    ids = np.array(tokenizer.encode(text))
    assert len(ids) > len(text)
    look, shown = Look(tokenizer, [tokenizer.bos_id], ()), ""
    seen = []
    for n in range(1, len(ids) + 1):
        text_so_far = look(ids[:n], is_last=n == len(ids))
        assert text_so_far.startswith(shown)
        shown = text_so_far
        seen.append(shown)
    assert shown == text
    assert "\ufffd" not in "".join(seen)
    assert {"a", "a€", "a€ ", "a€ \U0001f600"} <= set(seen)
    broken = Look(tokenizer, [tokenizer.bos_id], ())(ids[:3], is_last=True)
    assert broken.startswith("a\ufffd")  # what will not be whole is shown as such at the end


# ---- programs


def test_sizes_are_rounded_up_to_few():
    assert [round_up(n) for n in (1, 16, 17, 32, 33, 1000)] == [16, 16, 32, 32, 64, 1024]
    tokens, lengths = pad_rows([[5, 6], [7], [8, 9, 10]], one_device(), 0)
    assert tokens.shape == (4, 16)
    np.testing.assert_array_equal(lengths, [2, 1, 3, 0])
    np.testing.assert_array_equal(tokens[:, :4], [[5, 6, 0, 0], [7, 0, 0, 0], [8, 9, 10, 0], [0, 0, 0, 0]])
    mesh = make_mesh(MeshConfig(data=3, fsdp=2), jax.devices()[:6])
    assert pad_rows([[1]], mesh, 0)[0].shape[0] == 6
    assert pad_rows([[1]] * 7, mesh, 0)[0].shape[0] == 12


@pytest.mark.parametrize(
    ("strategy", "programs"), [("sample,min_p=0.01", ["begin", "advance"]), ("beam,beams=2", ["beam_search"])]
)
@pytest.mark.parametrize("axes", [{}, {"fsdp": 2, "tensor": 2}], ids=["one device", "mesh"])
def test_other_lengths_and_numbers_compile_nothing_anew(
    config: ConfigDict, caplog: pytest.LogCaptureFixture, axes: dict[str, int], strategy: str, programs: list[str]
):
    mesh = make_mesh(MeshConfig(**{"data": 1, **axes}), jax.devices()[: 4 if axes else 1])
    params, mesh, tokenizer = random_state(config, mesh)
    config.sample.strategy = strategy
    compiled = []
    # 3 or 4 rows, prompts of up to 16 tokens, up to 16 new ones: one of each kind.
    for prompts, max_tokens, stop in (
        (["the model", "", "in"], 5, ()),
        (["a", "the tokens", "", "of"], 16, ()),
        (["the"] * 4, 9, ("xyz", "e")),
    ):
        config.sample.update(max_tokens=max_tokens, stop=stop)
        ids = check_prompts(config, tokenizer, prompts)
        caplog.clear()
        with jax.log_compiles():
            list(write_texts(config, params, mesh, tokenizer, ids, every=2))
        found = [re.match(r"Compiling (?:jit\()?(\w+)", record.getMessage()) for record in caplog.records]
        compiled.append([match[1] for match in found if match])
    assert [name for name in compiled[0] if name in programs] == programs
    assert compiled[1:] == [[], []]


# ---- meshes and encoder-decoders


@pytest.mark.parametrize(("architecture", "strategies"), [("decoder", STRATEGIES), ("encoder_decoder", STRATEGIES[2:])])
def test_a_mesh_writes_the_tokens_of_one_device(config: ConfigDict, architecture: str, strategies: list[str]):
    config.model.architecture = architecture
    config.sample.max_tokens = 12
    mesh = make_mesh(MeshConfig(data=1, fsdp=2, tensor=2), jax.devices()[:4])
    states = [random_state(config, place) for place in (one_device(), mesh)]
    for strategy in strategies:
        config.sample.strategy = strategy
        expected, texts = (continue_prompts(config, *state, PROMPTS[:3]) for state in states)
        assert texts == expected
        assert len(set(texts)) == 3


def test_each_device_holds_its_share_of_the_cache(config: ConfigDict):
    mesh = make_mesh(MeshConfig(data=1, fsdp=2, tensor=2), jax.devices()[:4])
    params, mesh, tokenizer = random_state(config, mesh)
    prompt_BP, lengths_B = pad_rows(check_prompts(config, tokenizer, PROMPTS), mesh, tokenizer.pad_id)
    how: dict[str, Any] = {"sampling": Sampling(), "eos_id": tokenizer.eos_id}
    rules, keys_B = rules_of(config), row_keys(jax.random.key(0), 4)
    state = on_mesh(begin, mesh, rules)(make_model(config), params, prompt_BP, lengths_B, keys_B, room=16, **how)
    for _ in range(2):
        keys = state.cache.layers.k_LBKSH
        assert keys.shape == (2, 4, 2, 48, 8)  # layers, rows, heads, 32 + 16 tokens
        assert {shard.data.shape for shard in keys.addressable_shards} == {(2, 2, 1, 48, 8)}
        before = keys
        state = on_mesh(advance, mesh, rules)(make_model(config), params, state, 9, **how)
        assert before.is_deleted()  # its memory was taken over


def test_an_encoder_decoder_reads_the_prompt_and_writes_from_its_first_token(config: ConfigDict, tmp_path: Path):
    config.model.update(architecture="encoder_decoder", position="learned")
    config.sample.update(max_tokens=8, strategy="greedy")
    params, mesh, tokenizer = random_state(config)
    ids = check_prompts(config, tokenizer, ["the model"])
    assert ids == [[tokenizer.bos_id, *tokenizer.encode("the model"), tokenizer.eos_id]]
    one, other = continue_prompts(config, params, mesh, tokenizer, ["the model", "a row of many words"])
    assert one != other
    *_, [elsewhere] = write_texts(config, params, mesh, tokenizer, ids, start_id=17)
    assert elsewhere != one
    # What train.convert notes of an imported model counts, there and in runs that start from it.
    assert decoder_start_id(config, tokenizer) == tokenizer.pad_id
    (tmp_path / "imported.json").write_text(json.dumps({"token_ids": {"decoder_start_token_id": 17}}))
    assert decoder_start_id(config, tokenizer, tmp_path) == 17
    config.init_from = str(tmp_path)
    assert continue_prompts(config, params, mesh, tokenizer, ["the model"]) == [elsewhere]
    config.data.task = "span_corruption"  # whose rows begin with the padding, whatever the model did before
    assert decoder_start_id(config, tokenizer, tmp_path) == tokenizer.pad_id
    config.data.task = "causal_lm"
    config.sample.max_tokens = 32
    with pytest.raises(ValueError, match=r"max_tokens=32 do not fit .* use at most config.sample.max_tokens=31"):
        check_prompts(config, tokenizer, ["the"])
