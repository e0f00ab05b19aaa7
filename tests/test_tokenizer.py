"""Every text comes back from its tokens, and no text makes a special token."""

import random

import pytest

from data import Tokenizer
from data.tokenizer import train_tokenizer

RNG = random.Random(0)
SYLLABLES = ["ka", "to", "mi", "ne", "su", "ri", "ho", "yu"]
WORDS = ["".join(RNG.choice(SYLLABLES) for _ in range(RNG.randint(1, 4))) for _ in range(200)]
TEXTS = ["\n".join("  " * (i % 3) + " ".join(RNG.choices(WORDS, k=9)) for i in range(8)) for _ in range(40)]

NASTY = [
    "",
    " ",
    "\n",
    "\t\tx\ty\t",
    "a  b   c    ",
    "  leading and trailing  ",
    "\n\nlines\n\n\n",
    "carriage\r\nreturn\rhere\r\n",
    "a block \u2581 and \u2581\u2581two, \u2581at a word",
    "\ue000",
    "\ue001",
    "\ue000\ue001\u2581\ue000\ue000\ue001\ue001\u2581",
    "\u2585 \u2047  \u2047 ",  # SentencePiece's own signs for what it does not know
    "\N{GRINNING FACE}\N{MAN}\N{ZERO WIDTH JOINER}\N{WOMAN}\N{ZERO WIDTH JOINER}\N{GIRL}",
    "NUL \0 in \0\0 between\0",
    "e\u0301 and \u00e9, \ufb01 and fi, \uff21 and A, \u212b and \u00c5",  # what NFC and NFKC would join
    "\ufeffbyte order mark, \ufffd replacement, \u00a0no-break\u3000wide\u2028\u0085spaces",
    "<s></s><pad><unk><0x41> <s> </s>",
    "\U0010ffff\ue123\x7f\x01",
    "語言模型 ngôn ngữ язык لغة",
]


@pytest.fixture(scope="module", params=["bpe", "unigram"])
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    return train_tokenizer(TEXTS, kind=request.param, vocab_size=300)


def random_texts() -> list[str]:
    """Strings of code points from all planes, and of the characters that are likeliest to go wrong."""
    rng = random.Random(0)
    odd = " \t\r\n\0\u2581\ue000\ue001\u0301<>/sab\u00e9\U0001f600"
    planes = [(0, 0x7F), (0x80, 0x7FF), (0x800, 0xD7FF), (0xE000, 0xFFFF), (0x10000, 0x10FFFF)]
    return [
        "".join(rng.choice(odd) if rng.random() < 0.5 else chr(rng.randint(*rng.choice(planes))) for _ in range(length))
        for length in range(1, 300)
    ]


@pytest.mark.parametrize("text", NASTY)
def test_a_text_comes_back_from_its_tokens(text: str, tokenizer: Tokenizer):
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_random_unicode_comes_back_from_its_tokens_one_by_one_and_in_batches(tokenizer: Tokenizer):
    texts = random_texts()
    batch = tokenizer.encode_batch(texts)
    assert [tokenizer.decode(ids) for ids in batch] == texts
    assert [tokenizer.encode(text) for text in texts] == [list(ids) for ids in batch]


def test_special_ids_are_0_to_3_and_no_text_makes_one(tokenizer: Tokenizer):
    assert (tokenizer.pad_id, tokenizer.bos_id, tokenizer.eos_id, tokenizer.unk_id) == (0, 1, 2, 3)
    assert tokenizer.cls_id is tokenizer.sep_id is tokenizer.mask_id is None
    for text in NASTY + random_texts():
        assert min(tokenizer.encode(text), default=4) >= 4
    assert len(tokenizer.encode("<s>")) >= 3


def test_special_ids_and_ids_beyond_the_vocabulary_give_no_text(tokenizer: Tokenizer):
    ids = tokenizer.encode("row of words")
    assert tokenizer.decode([1, *ids, 2, 0, 3, 300, 4000]) == "row of words"


def test_bytes_per_id_add_up_to_the_length_of_a_text(tokenizer: Tokenizer):
    sizes = tokenizer.bytes_per_id
    assert sizes.shape == (300,)
    assert sizes[:4].tolist() == [0, 0, 0, 0]
    assert sizes[4:].min() >= 1
    escaped = set("\u2581\ue000\ue001")
    texts = [text for text in NASTY + random_texts() + TEXTS if not escaped & set(text)]
    assert len(texts) > 50
    for text in texts:
        assert sizes[tokenizer.encode(text)].sum() == len(text.encode())
    assert sizes[tokenizer.encode("a\u2581")].sum() == 7  # 1 and, escaped, 6 instead of 3


def test_common_words_are_shorter_than_their_bytes(tokenizer: Tokenizer):
    assert len(tokenizer.encode(TEXTS[0])) < 0.6 * len(TEXTS[0])


def test_extra_ids_are_made_by_no_text_and_change_no_other():
    plain = train_tokenizer(TEXTS, kind="bpe", vocab_size=300)
    with_extra = train_tokenizer(TEXTS, kind="bpe", vocab_size=305, extra_ids=5)
    assert with_extra.extra_ids == (4, 5, 6, 7, 8)
    assert (with_extra.cls_id, with_extra.sep_id, with_extra.mask_id) == (1, 2, 4)
    assert plain.extra_ids == ()
    injected = ["<mask>", "<extra_1>", "a<extra_4>b", " <mask> <s></s>", "<extra_"]
    for text in NASTY + random_texts() + injected:
        ids = with_extra.encode(text)
        assert min(ids, default=9) >= 9
        assert with_extra.decode(ids) == text
        assert [i - 5 for i in ids] == plain.encode(text)
    assert with_extra.decode([1, 4, *with_extra.encode("ka"), 8, 2]) == "ka"
    assert with_extra.bytes_per_id[:9].tolist() == [0] * 9
    assert train_tokenizer(TEXTS, kind="bpe", vocab_size=300, extra_ids=0).model == plain.model


def test_offsets_are_the_characters_of_each_id(tokenizer: Tokenizer):
    pieces = tokenizer.pieces
    for text in NASTY + random_texts() + TEXTS:
        ids, spans = tokenizer.encode_with_offsets(text)
        assert ids == tokenizer.encode(text)
        assert spans.shape == (len(ids), 2)
        covered = {character for start, end in spans.tolist() for character in range(start, end)}
        assert covered == {*range(len(text))}
        for i, (start, end) in zip(ids, spans.tolist(), strict=True):
            piece = pieces[i]
            assert piece in ("\ufffd", text[start:end]) or {*text[start:end]} & {"\u2581", "\ue000", "\ue001"}


def test_offsets_of_a_literal_text(tokenizer: Tokenizer):
    _, spans = tokenizer.encode_with_offsets("\u00e9\u2581z")
    assert spans.tolist() == [[0, 1]] * 2 + [[1, 2]] * 6 + [[2, 3]]  # bytes; of U+2581 those of its escape


def test_an_indentation_is_one_token():
    code = "".join(f"if {word}:\n    {word}()\n" for word in WORDS)
    assert len(train_tokenizer([code], kind="bpe", vocab_size=320).encode("    ")) == 1


def test_vocabulary_has_the_size_asked_for_with_all_bytes_in_it(tokenizer: Tokenizer):
    assert tokenizer.vocab_size == 300
    singles = {tokenizer.encode(chr(code))[-1] for code in range(128)}
    assert len(singles) == 128
    assert max(singles) < 300


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
def test_training_is_deterministic(kind: str):
    first, second = (train_tokenizer(iter(TEXTS), kind=kind, vocab_size=280) for _ in range(2))
    assert first.sha256 == second.sha256
    assert first.model == second.model
    assert train_tokenizer([text.upper() for text in TEXTS], kind=kind, vocab_size=280).sha256 != first.sha256


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
def test_a_vocabulary_too_large_for_the_corpus_is_named(kind: str):
    with pytest.raises(ValueError, match=r"config\.data\.vocab_size=50000 "):
        train_tokenizer(TEXTS, kind=kind, vocab_size=50000)


def test_a_vocabulary_too_small_for_the_characters_is_not_told_to_be_smaller():
    many = ["".join(chr(0x4E00 + i) for i in range(500))] * 3
    with pytest.raises(ValueError, match=r"config\.data\.vocab_size=300 ") as error:
        train_tokenizer(many, kind="bpe", vocab_size=300)
    assert "smaller one" not in str(error.value)


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
def test_a_tokenizer_that_saw_no_space_still_writes_one(kind: str):
    tokenizer = train_tokenizer(["acgtacca\nttgcat\naaccggtt"], kind=kind, vocab_size=266)
    assert tokenizer.decode(tokenizer.encode("a c  g ")) == "a c  g "


def test_a_long_line_and_an_empty_text_are_trained_on(capfd: pytest.CaptureFixture[str]):
    tokenizer = train_tokenizer(["", "ab " * 60_000, "\n" * 9000], kind="bpe", vocab_size=264)
    assert tokenizer.decode(tokenizer.encode("ab " * 60_000)) == "ab " * 60_000
    assert capfd.readouterr().err == ""
