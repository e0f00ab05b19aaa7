"""Tokenizers that come with models: the library's ids, what begins and ends a document, and how they are kept."""

import io
import json
import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sentencepiece
import tokenizers
from etils import epath
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

from configs import base
from data import Tokenizer, eval_batches, load_tokenizer, make_batches, prepare
from data.tokenizer import train_tokenizer
from data.tokenizer_export import save_pretrained_tokenizer
from train.samples import check_prompts, following
from train.workdir import config_difference, read_tokenizer, write_run

from .test_tokenizer import NASTY, TEXTS, random_texts

SENTENCES = [f"The Model number {i} sees {text}" for i, text in enumerate(TEXTS)]


def quiet(line: str) -> None:
    del line


def byte_level(end: str = "<|endoftext|>") -> tokenizers.Tokenizer:
    """As GPT-2's and Llama-3's: every byte is a character, and one token ends documents."""
    engine = tokenizers.Tokenizer(models.BPE())
    engine.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    engine.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=320, special_tokens=[end], initial_alphabet=alphabet, show_progress=False)
    engine.train_from_iterator(SENTENCES, trainer)
    return engine


def word_piece() -> tokenizers.Tokenizer:
    """As BERT's: without capitals and accents, and with the padding and cutting that embedding models save."""
    engine = tokenizers.Tokenizer(models.WordPiece(unk_token="[UNK]"))
    engine.normalizer = normalizers.BertNormalizer()
    engine.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    engine.decoder = decoders.WordPiece()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    engine.train_from_iterator(
        SENTENCES, trainers.WordPieceTrainer(vocab_size=200, special_tokens=special, show_progress=False)
    )
    engine.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    engine.enable_truncation(8)
    engine.enable_padding(length=8)
    return engine


def sentence_piece(**settings: Any) -> bytes:
    """A model with SentencePiece's defaults: a dummy prefix, NFKC, no bytes to fall back on."""
    output = io.BytesIO()
    settings = {"model_type": "unigram", "vocab_size": 60, "hard_vocab_limit": False, "minloglevel": 2} | settings
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(SENTENCES), model_writer=output, num_threads=1, **settings
    )
    return output.getvalue()


def write(directory: Path, content: bytes | tokenizers.Tokenizer, **beside: Any) -> Path:
    directory.mkdir(parents=True)
    if isinstance(content, bytes):
        (directory / "tokenizer.model").write_bytes(content)
    else:
        (directory / "tokenizer.json").write_text(content.to_str())
    for name, value in beside.items():
        (directory / f"{name}.json").write_text(json.dumps(value))
    return directory


@pytest.fixture(scope="module", params=["bytes", "words", "pieces"])
def given(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tokenizer of each kind."""
    make: Callable[[], Any] = {"bytes": byte_level, "words": word_piece, "pieces": sentence_piece}[request.param]
    return write(tmp_path_factory.mktemp("given") / request.param, make())


def reference(directory: Path) -> Callable[[str], list[int]]:
    """The library's own way from a text to ids."""
    if (directory / "tokenizer.model").exists():
        return sentencepiece.SentencePieceProcessor(model_file=str(directory / "tokenizer.model")).encode
    engine = tokenizers.Tokenizer.from_file(str(directory / "tokenizer.json"))
    engine.no_truncation()
    engine.no_padding()
    return lambda text: engine.encode(text, add_special_tokens=False).ids


def ids_of(tokenizer: Tokenizer) -> tuple[int | None, ...]:
    t = tokenizer
    return (t.bos_id, t.eos_id, t.pad_id, t.unk_id, t.cls_id, t.sep_id, t.mask_id)


def test_ids_are_the_librarys_one_by_one_and_in_batches(given: Path):
    tokenizer, expected = load_tokenizer(given), reference(given)
    texts = [text for text in NASTY + random_texts() + SENTENCES if "<" not in text]
    ids = [tokenizer.encode(text) for text in texts]
    assert ids == [expected(text) for text in texts]
    assert [list(row) for row in tokenizer.encode_batch(texts)] == ids
    assert max(map(max, filter(None, ids))) < tokenizer.vocab_size


def test_no_text_makes_a_special_id(given: Path):
    tokenizer = load_tokenizer(given)
    special = {i for i in ids_of(tokenizer) if i is not None} - {tokenizer.unk_id}
    for text in ("<s>", "</s> <pad>", "<|endoftext|>", "[CLS] [SEP][PAD]", "a[MASK]"):
        assert not special & set(tokenizer.encode(text))


def test_a_plain_sentence_comes_back_and_special_ids_and_unknown_ones_give_nothing(given: Path):
    tokenizer = load_tokenizer(given)
    ids = [
        tokenizer.bos_id,
        *tokenizer.encode("ka to mi"),
        tokenizer.eos_id,
        tokenizer.pad_id,
        tokenizer.vocab_size + 7,
    ]
    assert tokenizer.decode(ids) == "ka to mi"


@pytest.mark.parametrize(
    ("make", "beside", "expected"),
    [
        (byte_level, {}, (0, 0, 0, None, None, None, None)),
        (lambda: byte_level("<end>"), {"tokenizer_config": {"eos_token": "<end>"}}, (0, 0, 0, None, None, None, None)),
        (
            lambda: byte_level("<end>"),
            {"special_tokens_map": {"eos_token": {"content": "<end>", "lstrip": False}, "mask_token": "<end>"}},
            (0, 0, 0, None, None, None, 0),
        ),
        (word_piece, {}, (2, 3, 0, 1, 2, 3, 4)),
        (word_piece, {"tokenizer_config": {"bos_token": "[MASK]", "cls_token": None}}, (4, 3, 0, 1, None, 3, 4)),
        (sentence_piece, {}, (1, 2, 2, 0, None, None, None)),
        (lambda: sentence_piece(pad_id=0, eos_id=1, unk_id=2, bos_id=-1), {}, (1, 1, 0, 2, None, None, None)),
        (
            lambda: sentence_piece(control_symbols="[CLS],[SEP]"),
            {"tokenizer_config": {"bos_token": "[CLS]", "eos_token": "[SEP]", "cls_token": "[CLS]"}},
            (3, 4, 4, 0, 3, 4, None),
        ),
    ],
)
def test_what_begins_ends_and_pads_a_document(make: Any, beside: dict, expected: tuple, tmp_path: Path):
    assert ids_of(load_tokenizer(write(tmp_path / "given", make(), **beside))) == expected


def test_what_transformers_puts_around_a_text(tmp_path: Path):
    bert = load_tokenizer(write(tmp_path / "bert", word_piece()))
    assert bert.framing == ((bert.cls_id,), (bert.sep_id,))
    config = {"add_bos_token": True}  # of a tokenizer.json its post-processor alone decides
    assert load_tokenizer(write(tmp_path / "gpt2", byte_level(), tokenizer_config=config)).framing == ((), ())
    llama = sentence_piece(model_type="bpe", vocab_size=200)
    for i, (settings, expected) in enumerate(
        [({}, ((), ())), ({"add_bos_token": True}, ((1,), ())), ({"add_eos_token": True}, ((), (2,)))]
    ):
        config = {"tokenizer_class": "LlamaTokenizer"} | settings
        assert load_tokenizer(write(tmp_path / f"llama{i}", llama, tokenizer_config=config)).framing == expected
    t5 = sentence_piece(pad_id=0, eos_id=1, unk_id=2, bos_id=-1)
    config = {"tokenizer_class": "T5Tokenizer"}
    assert load_tokenizer(write(tmp_path / "t5", t5, tokenizer_config=config)).framing == ((), (1,))
    assert train_tokenizer(TEXTS, kind="bpe", vocab_size=300).framing == ((1,), ())


def test_tokens_that_the_files_beside_add_count_as_ids(tmp_path: Path):
    model = sentence_piece()
    size = sentencepiece.SentencePieceProcessor(model_proto=model).vocab_size()
    added = {str(size + 4): {"content": "<extra>", "special": True}, "1": {"content": "<s>", "special": True}}
    config = {"added_tokens_decoder": added, "mask_token": "<extra>"}
    tokenizer = load_tokenizer(write(tmp_path / "a", model, tokenizer_config=config))
    assert (tokenizer.vocab_size, tokenizer.mask_id) == (size + 5, size + 4)
    assert tokenizer.bytes_per_id.shape == (size + 5,)
    assert load_tokenizer(write(tmp_path / "b", model, tokenizer_config={"extra_ids": 100})).vocab_size == size + 100


def test_bytes_of_a_byte_level_tokenizer_are_exact(tmp_path: Path):
    sizes = (tokenizer := load_tokenizer(write(tmp_path / "given", byte_level()))).bytes_per_id
    assert sizes[tokenizer.eos_id] == 0
    for text in NASTY + random_texts() + SENTENCES:
        assert sizes[tokenizer.encode(text)].sum() == len(text.encode())


def test_bytes_of_sentencepiece_with_byte_fallback_count_the_dummy_prefix(tmp_path: Path):
    model = sentence_piece(
        vocab_size=400, byte_fallback=True, normalization_rule_name="identity", remove_extra_whitespaces=False
    )
    sizes = (tokenizer := load_tokenizer(write(tmp_path / "given", model))).bytes_per_id
    for text in [text for text in NASTY + random_texts() + SENTENCES if text and "\u2581" not in text]:
        assert sizes[tokenizer.encode(text)].sum() == len(text.encode()) + 1


def test_bytes_of_words_count_the_space_before_them(tmp_path: Path):
    sizes = (tokenizer := load_tokenizer(write(tmp_path / "given", word_piece()))).bytes_per_id
    assert sizes[tokenizer.encode("Ka to \u00c9")].sum() in (len(" ka to"), len(" ka to e"))
    assert sizes[:5].tolist() == [0, 0, 0, 0, 0]


@pytest.fixture
def settings(given: Path, tmp_path: Path) -> Any:
    config = base.get_config()
    config.data.update(source=f"text,path={tmp_path / 'text'}", dir=str(tmp_path / "prepared"), valid_fraction=0.4)
    config.data.update(vocab_size=320, seq_len=16, batch_size=2, read_threads=0, prefetch=1, tokenizer=str(given))
    (tmp_path / "text").mkdir()
    for i in range(12):
        (tmp_path / "text" / f"{i}.txt").write_text("".join(random.Random(i).choices(SENTENCES, k=3)) + "\u00dcber")
    return config


def test_a_corpus_is_prepared_with_it_and_keeps_its_files(settings: Any, given: Path):
    said: list[str] = []
    corpus = prepare(settings.data, log=said.append)
    assert not any(line.startswith("Training") for line in said)
    assert corpus.tokenizer == load_tokenizer(given)
    assert corpus.tokenizer.sha256 == corpus.metadata["tokenizer_sha256"]
    for file in given.iterdir():
        assert (corpus.directory / file.name).read_bytes() == file.read_bytes()
    starts, tokens = corpus.starts("train"), corpus.tokens("train")
    assert set(tokens[starts[:-1]]) == {corpus.tokenizer.bos_id}
    assert set(tokens[starts[1:] - 1]) == {corpus.tokenizer.eos_id}
    assert next(make_batches(settings.data))["inputs"].max() < corpus.tokenizer.vocab_size


@pytest.mark.parametrize("packing", [True, False])
def test_target_bytes_of_a_split_are_its_bytes(packing: bool, settings: Any):
    settings.data.packing = packing
    corpus = prepare(settings.data, log=quiet)
    for split in ("train", "valid"):
        batches = list(eval_batches(settings.data, corpus=corpus, split=split))
        total = math.fsum(float((batch["target_bytes"] * batch["weights"]).sum()) for batch in batches)
        assert total == pytest.approx(corpus.metadata["splits"][split]["bytes"], rel=1e-6)
        for batch in batches:
            assert set(batch["inputs"][batch["segment_ids"] == 0]) <= {corpus.tokenizer.pad_id}
            assert not batch["target_bytes"][batch["segment_ids"] == 0].any()


def test_the_same_tokenizer_elsewhere_finds_the_same_corpus_and_another_does_not(settings: Any, tmp_path: Path):
    first = prepare(settings.data, log=quiet).directory
    copied = tmp_path / "copied"
    copied.mkdir()
    for file in Path(settings.data.tokenizer).iterdir():
        (copied / file.name).write_bytes(file.read_bytes())
    settings.data.update(tokenizer=str(copied), vocab_size=400)
    assert prepare(settings.data, log=quiet).directory == first
    (copied / "tokenizer_config.json").write_text('{"pad_token": null}')
    assert prepare(settings.data, log=quiet).directory != first


def test_a_run_keeps_the_tokenizer(settings: Any, tmp_path: Path):
    corpus = prepare(settings.data, log=quiet)
    (tmp_path / "run").mkdir()
    write_run(epath.Path(tmp_path / "run"), settings, corpus)
    tokenizer = read_tokenizer(epath.Path(tmp_path / "run"))
    assert tokenizer == corpus.tokenizer
    settings.data.tokenizer = str(tmp_path / "run")  # where the original is gone
    assert prepare(settings.data, log=quiet).directory == corpus.directory
    assert check_prompts(settings, tokenizer, ["ka to"]) == [[tokenizer.bos_id, *tokenizer.encode("ka to")]]


def test_a_run_goes_on_where_its_tokenizer_lies_elsewhere(settings: Any):
    moved, trained = settings.copy_and_resolve_references(), settings.copy_and_resolve_references()
    moved.data.tokenizer, trained.data.tokenizer = "/elsewhere", "unigram"
    assert config_difference(settings, moved)[0] == {}
    assert list(config_difference(settings, trained)[0]) == ["data.tokenizer"]


def test_the_space_after_a_prompt_is_not_lost(given: Path):
    tokenizer = load_tokenizer(given)
    prompt, whole = tokenizer.encode("ka to"), tokenizer.encode("ka to mi")
    assert whole[: len(prompt)] == prompt
    assert following(tokenizer, prompt, np.array(whole[len(prompt) :])) == " mi"


def test_a_vocabulary_that_is_too_small_names_both(settings: Any):
    settings.data.vocab_size = 30
    size = load_tokenizer(settings.data.tokenizer).vocab_size
    said = rf"config\.data\.vocab_size=30 is too small for config\.data\.tokenizer='.*', which has {size} ids; use at"
    with pytest.raises(ValueError, match=said):
        prepare(settings.data, log=quiet)


def broken(directory: Path, name: str, content: bytes) -> str:
    directory.mkdir()
    (directory / name).write_bytes(content)
    return str(directory / name)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda path: path / "nowhere", r"='.*/nowhere' is not known; use one of bpe, unigram, or the path of a"),
        (lambda path: "wordpiece", r"='wordpiece' is not known; use one of bpe, unigram"),
        (lambda path: "", r"='' is not known; use one of bpe, unigram"),
        (lambda path: path, r"holds no tokenizer: none of tokenizer\.json, tokenizer\.model"),
        (lambda path: broken(path / "a", "vocab.txt", b""), r"vocab\.txt is neither a tokenizer\.json nor a Sentence"),
        (lambda path: broken(path / "a", "tokenizer.json", b'{"a'), r"a/tokenizer\.json: tokenizer\.json cannot be r"),
        (lambda path: broken(path / "a", "tokenizer.json", b"\xff"), r"a/tokenizer\.json: tokenizer\.json cannot be r"),
        (lambda path: broken(path / "a", "my.model", b"no"), r"a/my\.model: tokenizer\.model is not a SentencePiece"),
        (lambda path: write(path / "a", byte_level("<end>")), "no token of its vocabulary ends a document; name"),
        (lambda path: write(path / "a", byte_level(), tokenizer_config=[]), r"tokenizer_config\.json must hold an obj"),
        (
            lambda path: write(path / "a", sentence_piece(), tokenizer_config={"tokenizer_class": "XLMRoberta"}),
            r"tokenizer_class=XLMRoberta, but the ids of tokenizer\.model are others; use the model's tokenizer\.json",
        ),
        (
            lambda path: write(path / "a", sentence_piece(), added_tokens={"<pad>": 1}),
            r"the token '<pad>' with id 1, but the ids of tokenizer\.model are others",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_named(make: Any, said: str, tmp_path: Path):
    data = base.get_config().data
    (tmp_path / "text").mkdir()
    data.update(source=f"text,path={tmp_path / 'text'}", tokenizer=str(make(tmp_path)))
    with pytest.raises(ValueError, match=rf"config\.data\.tokenizer.*{said}"):
        prepare(data, log=quiet)


def test_a_tokenizer_that_was_trained_here_is_known_wherever_it_lies(tmp_path: Path):
    tokenizer = train_tokenizer(TEXTS, kind="bpe", vocab_size=300)
    directory = write(tmp_path / "given", tokenizer.model, tokenizer_config={"eos_token": "<unk>"})
    assert load_tokenizer(directory) == tokenizer
    assert load_tokenizer(directory / "tokenizer.model") == tokenizer
    assert load_tokenizer(directory).sha256 == tokenizer.sha256


def test_a_foreign_tokenizer_is_saved_as_it_came(given: Path, tmp_path: Path):
    save_pretrained_tokenizer(load_tokenizer(given), tmp_path / "saved")
    for file in given.iterdir():
        assert (tmp_path / "saved" / file.name).read_bytes() == file.read_bytes()
    config = json.loads((tmp_path / "saved" / "tokenizer_config.json").read_text())
    assert config["eos_token"] == {"bytes": "<|endoftext|>", "words": "[SEP]", "pieces": "</s>"}[given.name]
    (tmp_path / "saved" / "tokenizer_config.json").write_text('{"chat_template":\n "{{ x }}"}')
    save_pretrained_tokenizer(load_tokenizer(tmp_path / "saved"), tmp_path / "again")
    for file in (tmp_path / "saved").iterdir():
        assert (tmp_path / "again" / file.name).read_bytes() == file.read_bytes()


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
def test_a_tokenizer_that_was_trained_here_is_saved_with_a_likeness(kind: str, tmp_path: Path):
    tokenizer = train_tokenizer([*TEXTS, "    " * 9], kind=kind, vocab_size=300)
    save_pretrained_tokenizer(tokenizer, tmp_path)
    assert load_tokenizer(tmp_path) == tokenizer
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    assert [config[f"{role}_token"] for role in ("pad", "bos", "eos", "unk")] == ["<pad>", "<s>", "</s>", "<unk>"]
    engine = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    engine.encode_special_tokens = config["split_special_tokens"]
    spelt = ["<0x41>", "</s>", "<pad><unk>", "<0x4", "a<s>b", " <s> "]
    for text in NASTY + TEXTS + spelt:
        ids = tokenizer.encode(text)
        assert engine.encode(text).ids == [1, *ids]
        assert engine.decode(ids) == text
    others = [
        text for text in random_texts() if kind == "bpe" or not {"aaa", "   "} & {text[i : i + 3] for i in range(300)}
    ]
    for text in others:
        assert engine.encode(text, add_special_tokens=False).ids == tokenizer.encode(text)
        assert engine.decode(tokenizer.encode(text)) == text


def test_random_merges_are_the_same_in_the_likeness(tmp_path: Path):
    rng = random.Random(1)
    texts = ["".join(rng.choices(letters, k=60)) for letters in ("ab", "aab ", "  a\n", "aabb_") for _ in range(100)]
    tokenizer = train_tokenizer(texts, kind="bpe", vocab_size=330)
    save_pretrained_tokenizer(tokenizer, tmp_path)
    engine = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    expected = [engine.encode(text, add_special_tokens=False).ids for text in texts]
    assert [list(ids) for ids in tokenizer.encode_batch(texts)] == expected


def test_numbers_from_an_array_are_decoded(given: Path):
    tokenizer = load_tokenizer(given)
    assert tokenizer.decode(np.array(tokenizer.encode("ka to"), np.int32)) == "ka to"


def test_offsets_cover_the_words(given: Path):
    tokenizer = load_tokenizer(given)
    for text in ["ka to mi", "the \u00fcber tokens", " sees  Model\nnumber 12 ", "\u8a9e\u8a00ka", ""]:
        ids, spans = tokenizer.encode_with_offsets(text)
        assert ids == tokenizer.encode(text)
        assert spans.shape == (len(ids), 2)
        covered = {character for start, end in spans.tolist() for character in range(start, end)}
        assert covered >= {i for i, letter in enumerate(text) if letter.isascii() and not letter.isspace()}
        assert (np.diff(spans[:, 0]) >= 0).all()


def test_offsets_of_characters_of_several_bytes(tmp_path: Path):
    pieces = load_tokenizer(write(tmp_path / "a", sentence_piece(byte_fallback=True, vocab_size=320)))
    ids, spans = pieces.encode_with_offsets("ka \u8a9e ka")
    assert spans[0].tolist()[0] == 0
    assert [span for span in spans.tolist() if span == [3, 4]] == [[3, 4]] * 3
    assert spans[-1].tolist()[1] == 7
    assert len(ids) == len(spans)


def test_pieces_are_texts(given: Path):
    tokenizer = load_tokenizer(given)
    pieces = tokenizer.pieces
    assert len(pieces) == tokenizer.vocab_size
    written = "".join(pieces[i] for i in tokenizer.encode("ka to kato"))
    assert written.strip() == "ka to kato"
    assert pieces[tokenizer.eos_id] == ""


def test_ids_that_models_have_to_spare(tmp_path: Path):
    engine = word_piece()
    vocab = engine.get_vocab()
    engine.add_special_tokens(["<extra_id_1>", "<extra_id_0>", "<|reserved_special_token_7|>"])
    engine.add_tokens(["[unused3]"])
    tokenizer = load_tokenizer(write(tmp_path / "a", engine))
    assert tokenizer.extra_ids == tuple(range(len(vocab), len(vocab) + 4))
    assert [tokenizer.pieces[i] for i in tokenizer.extra_ids] == [""] * 4
    beside = {"extra_ids": 3, "tokenizer_class": "T5Tokenizer"}
    pieces = load_tokenizer(write(tmp_path / "b", sentence_piece(), tokenizer_config=beside))
    assert pieces.extra_ids == tuple(range(pieces.vocab_size - 3, pieces.vocab_size))
    assert load_tokenizer(write(tmp_path / "c", sentence_piece())).extra_ids == ()


def test_a_likeness_keeps_its_extra_ids(tmp_path: Path):
    tokenizer = train_tokenizer(TEXTS, kind="bpe", vocab_size=300, extra_ids=4)
    save_pretrained_tokenizer(tokenizer, tmp_path)
    (tmp_path / "tokenizer.model").unlink()
    likeness = load_tokenizer(tmp_path)
    assert (likeness.mask_id, likeness.cls_id, likeness.sep_id) == (4, 1, 2)
    assert likeness.encode("<mask> <extra_1>") == tokenizer.encode("<mask> <extra_1>")
