"""Scores beside literal cases and, to the last digit, beside the libraries that the field takes its figures from."""

import json
import random
import sys
from pathlib import Path

import numpy as np
import pytest
import sacrebleu
import scipy.stats
import sklearn.metrics
from rouge_score import rouge_scorer
from seqeval.metrics import sequence_labeling

from train import scores

GOLDEN = Path(__file__).parent / "golden" / "squad.json"
CASES = range(200)
WORDS = ["The", "the", "cat", "cats", "sat", "on", "mats,", "(running)", "3.5%", "«Straße»", "a", "dog's", ".", "\n"]


def texts(rng: random.Random, number: int, least: int = 1) -> list[str]:
    return [" ".join(rng.choices(WORDS, k=rng.randint(least, 12))) for _ in range(number)]


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        ("O O", set()),
        ("", set()),
        ("B-X I-X O", {("X", 0, 1)}),
        ("O B-X", {("X", 1, 1)}),  # ends with the sentence
        ("I-X I-X", {("X", 0, 1)}),  # begins without B
        ("O I-X", {("X", 1, 1)}),
        ("B-X B-X I-X", {("X", 0, 0), ("X", 1, 2)}),
        ("B-X I-Y I-Y", {("X", 0, 0), ("Y", 1, 2)}),  # I of another type
        ("I-X B-Y", {("X", 0, 0), ("Y", 1, 1)}),
        ("B-Y I-X B-Y", {("Y", 0, 0), ("X", 1, 1), ("Y", 2, 2)}),
        ("B-X O I-X", {("X", 0, 0), ("X", 2, 2)}),
        ("B-a-b I-a-b I-a", {("a-b", 0, 1), ("a", 2, 2)}),  # a type with a hyphen
    ],
)
def test_spans(tags: str, expected: set):
    assert scores.spans(tags.split()) == expected


@pytest.mark.parametrize("tag", ["B", "I-", "X", "S-PER", "", "-PER", "o"])
def test_what_is_no_tag_is_named(tag: str):
    with pytest.raises(ValueError, match=f"'{tag}' is no tag; use 'O', 'B-TYPE' or 'I-TYPE'"):
        scores.spans(["O", tag])


def test_span_f1_of_a_literal_case():
    predicted = [["B-PER", "I-PER", "O", "B-LOC"], ["B-LOC", "I-LOC"]]
    reference = [["B-PER", "I-PER", "O", "B-ORG"], ["B-LOC", "O"]]
    none = {"precision": 0.0, "recall": 0.0, "f1": 0.0}
    assert scores.span_f1(predicted, reference) == {
        **dict.fromkeys(none, 1 / 3),
        **{f"{name}_LOC": 0.0 for name in none},
        **{f"{name}_ORG": 0.0 for name in none},
        **{f"{name}_PER": 1.0 for name in none},
    }
    assert scores.span_f1([["O"]], [["O"]]) == none
    assert scores.span_f1([["O", "O"]], [["B-X", "I-X"]])["precision"] == 0.0
    # The end of a sentence ends a span.
    assert scores.span_f1([["B-X"], ["I-X"]], [["B-X"], ["B-X"]])["f1"] == 1.0


def test_span_f1_equals_seqeval():
    rng = random.Random(1)
    tags = ["O", "O", *(f"{prefix}-{kind}" for prefix in "BI" for kind in ("PER", "LOC", "ORG"))]
    for _ in CASES:
        reference = [rng.choices(tags, k=rng.randint(1, 9)) for _ in range(rng.randint(1, 5))]
        predicted = [[tag if rng.random() < 0.7 else rng.choice(tags) for tag in row] for row in reference]
        found = scores.span_f1(predicted, reference)
        of_types = sorted("_" + kind for kind in kinds(predicted, reference))
        for average, suffixes in (("micro", [""]), (None, of_types)):
            theirs = sequence_labeling.precision_recall_fscore_support(
                reference, predicted, average=average, zero_division=0
            )
            for name, figures in zip(("precision", "recall", "f1"), theirs[:3], strict=True):
                assert [found.pop(name + suffix) for suffix in suffixes] == np.atleast_1d(figures).tolist()
        assert not found


def kinds(*sides: list[list[str]]) -> set[str]:
    return {tag[2:] for side in sides for row in side for tag in row if tag != "O"}


@pytest.mark.parametrize(
    ("prediction", "golds", "exact", "f1"),
    [
        ("The Eiffel Tower!", ["eiffel tower"], 100, 100),
        ("Eiffel", ["the Eiffel tower", "tower"], 0, 100 * 2 / 3),  # of several the nearest
        ("tower", ["the Eiffel tower", "tower"], 100, 100),
        ("a b b", ["b c"], 0, 50),  # "a" is an article, and one of two "b" counts
        ("", [], 100, 100),  # no answer, and rightly so
        ("tower", [], 0, 0),
        ("", ["tower"], 0, 0),
        ("the", [], 100, 100),  # nothing is left of it
        ("tower", ["the", "tower"], 100, 100),  # nor of this gold answer
        ("U.S.", ["us"], 100, 100),
    ],
)
def test_squad_of_literal_cases(prediction: str, golds: list[str], exact: float, f1: float):
    assert scores.squad([prediction], [golds]) == {"exact_match": exact, "f1": pytest.approx(f1, rel=1e-12)}


def test_squad_tells_questions_with_and_without_answer_apart():
    found = scores.squad(["tower", "", "wall"], [["tower"], ["wall"], []])
    assert found == {
        "exact_match": 100 / 3,
        "f1": 100 / 3,
        "exact_match_answerable": 50,
        "f1_answerable": 50,
        "exact_match_unanswerable": 0,
        "f1_unanswerable": 0,
    }


def test_squad_equals_transformers_script():
    cases = json.loads(GOLDEN.read_text())
    assert len(cases) == 200
    both = 0
    for case in cases:
        found, expected = scores.squad(case["predictions"], case["references"]), case["scores"]
        assert (found["exact_match"], found["f1"]) == (expected["exact"], expected["f1"])
        if "f1_answerable" in found:
            both += 1
            for ours, theirs in (("answerable", "HasAns"), ("unanswerable", "NoAns")):
                assert found[f"exact_match_{ours}"] == expected[f"{theirs}_exact"]
                assert found[f"f1_{ours}"] == expected[f"{theirs}_f1"]
    assert both > 30


def test_scores_of_classes():
    predicted, reference = [0, 1, 2, 2], [0, 1, 1, 2]
    assert scores.accuracy(predicted, reference) == {"accuracy": 0.75}
    assert scores.f1(predicted, reference) == {"macro_f1": pytest.approx((1 + 2 / 3 + 2 / 3) / 3), "micro_f1": 0.75}
    assert scores.binary_f1([1, 1, 0], [1, 0, 1]) == {"f1": 0.5}
    assert scores.binary_f1([0, 0], [0, 0]) == {"f1": 0.0}
    assert scores.matthews([1, 1, 0, 0], [1, 1, 0, 0]) == {"matthews": 1.0}
    assert scores.matthews([1, 1], [1, 0]) == {"matthews": 0.0}
    assert scores.accuracy(["cat", "dog"], ["cat", "cow"]) == {"accuracy": 0.5}


def test_scores_of_several_labels():
    predicted, reference = [[1, 0, 1], [0, 1, 0]], [[1, 0, 1], [1, 1, 0]]
    assert scores.accuracy(predicted, reference) == {"accuracy": 0.5}
    assert scores.f1(predicted, reference) == {"macro_f1": pytest.approx((2 / 3 + 1 + 1) / 3), "micro_f1": 6 / 7}


def test_correlations():
    assert scores.pearson([1, 2, 3], [2, 4, 6]) == {"pearson": pytest.approx(1)}
    assert scores.spearman([1, 2, 3], [1, 10, 1000]) == {"spearman": pytest.approx(1.0)}
    assert scores.pearson([1, 2, 3], [3, 2, 1]) == {"pearson": pytest.approx(-1)}
    assert scores.pearson([1, 1], [1, 2]) == {"pearson": 0.0}
    assert scores.spearman([1, 2], [3, 3]) == {"spearman": 0.0}


def test_scores_of_classes_equal_scikit_learn():
    rng = np.random.default_rng(2)
    for _ in CASES:
        shape = (int(rng.integers(2, 40)), *([int(rng.integers(2, 5))] if rng.random() < 0.4 else []))
        num_classes = 2 if len(shape) == 2 else int(rng.integers(2, 6))
        reference = rng.integers(num_classes, size=shape)
        reference[:2] = [[0], [1]] if len(shape) == 2 else [0, 1]
        predicted = np.where(rng.random(shape) < 0.6, reference, rng.integers(num_classes, size=shape))
        assert scores.accuracy(predicted, reference)["accuracy"] == sklearn.metrics.accuracy_score(reference, predicted)
        for average in ("macro", "micro"):
            *_, expected, _ = sklearn.metrics.precision_recall_fscore_support(
                reference, predicted, average=average, zero_division=0
            )
            assert scores.f1(predicted, reference)[f"{average}_f1"] == expected
        if len(shape) == 1:
            expected = sklearn.metrics.matthews_corrcoef(reference, predicted)
            assert scores.matthews(predicted, reference)["matthews"] == expected
            expected = sklearn.metrics.f1_score(reference == 1, predicted == 1, zero_division=0)
            assert scores.binary_f1(predicted == 1, reference == 1)["f1"] == expected


def test_correlations_equal_scipy():
    rng = np.random.default_rng(3)
    for _ in CASES:
        reference = np.round(rng.normal(size=rng.integers(3, 40)), 1)  # so that some are equal
        predicted = reference + rng.normal(size=reference.shape)
        assert scores.pearson(predicted, reference)["pearson"] == scipy.stats.pearsonr(predicted, reference)[0]
        assert scores.spearman(predicted, reference)["spearman"] == scipy.stats.spearmanr(predicted, reference)[0]


def test_scores_of_texts_equal_their_libraries():
    rng, kinds = random.Random(4), ["rouge1", "rouge2", "rougeL", "rougeLsum"]
    scorer = rouge_scorer.RougeScorer(kinds, use_stemmer=True)
    for case in CASES:
        number, several = rng.randint(1, 4), case % 2
        references = [texts(rng, rng.randint(1, 3) if several else 1) for _ in range(number)]
        predicted = [rng.choice([golds[0], *texts(rng, 2, 0)]) for golds in references]
        given = references if several else [golds[0] for golds in references]
        streams = [[golds[min(i, len(golds) - 1)] for golds in references] for i in range(3)]  # twice is as once
        assert scores.bleu(predicted, given)["bleu"] == sacrebleu.BLEU().corpus_score(predicted, streams).score
        assert scores.chrf(predicted, given)["chrf"] == sacrebleu.CHRF().corpus_score(predicted, streams).score
        nearest = [
            {kind: max(scorer.score(gold, text)[kind].fmeasure for gold in golds) for kind in kinds}
            for text, golds in zip(predicted, references, strict=True)
        ]
        assert scores.rouge(predicted, given) == {kind: np.mean([each[kind] for each in nearest]) for kind in kinds}


def test_scores_of_texts():
    assert scores.bleu(["the cat sat on the mat"], ["the cat sat on the mat"]) == {"bleu": pytest.approx(100)}
    assert scores.bleu([""], ["a cat"]) == {"bleu": 0.0}
    assert scores.chrf(["abc"], ["abc"]) == {"chrf": 100.0}
    assert scores.rouge(["cats run"], ["the cat runs"])["rouge1"] == pytest.approx(0.8)  # stemmed
    assert set(scores.rouge([""], ["a"]).values()) == {0.0}


@pytest.mark.parametrize("name", scores.SCORES)
def test_a_score_of_nothing_or_of_unequal_numbers_is_refused(name: str):
    for predicted, reference in (([], []), ([], ["a"]), (["a", "b"], ["a"])):
        with pytest.raises(ValueError, match="as many references as predictions"):
            scores.SCORES[name](predicted, reference)


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"shape \(1, 2\) do not fit references of shape \(1,\)"):
        scores.accuracy([[0, 1]], [1])
    with pytest.raises(ValueError, match="sentence 1 has 1 predicted tags and 2 in the reference"):
        scores.span_f1([["O"], ["O"]], [["O"], ["O", "O"]])
    with pytest.raises(ValueError, match="one reference at least"):
        scores.bleu(["a"], [[]])


@pytest.mark.parametrize(
    ("name", "module", "arguments"),
    [
        ("f1", "sklearn.metrics", ([1], [1])),
        ("pearson", "scipy.stats", ([1, 2], [1, 2])),
        ("bleu", "sacrebleu", (["a"], ["a"])),
        ("rouge", "rouge_score.rouge_scorer", (["a"], ["a"])),
    ],
)
def test_a_missing_package_names_the_extra(name: str, module: str, arguments, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ValueError, match="not installed; it comes with make train EXTRAS=dev,metrics"):
        scores.SCORES[name](*arguments)
