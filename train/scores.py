"""Scores of predictions beside references, by name: what a task's figures are computed with.

Each is a pure function (predictions, references) -> {name: figure}, over the whole of a split: a mean of scores of
batches would be another figure. Where a library is the field's own measure it does the work, from the extra [metrics].
"""

import collections
import importlib
import re
import string
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np


def accuracy(predictions: Sequence[Any], references: Sequence[Any]) -> dict[str, float]:
    """Share of predictions that equal their reference; rows of several labels must be equal in all.

    Args:
        predictions: classes, or rows of 0 and 1 (n, labels).
        references: of the same shape.

    Returns:
        "accuracy", from 0 to 1.

    Raises:
        ValueError: there are none, or not as many of both; so do all scores.

    Example:
        accuracy([1, 0, 2], [1, 0, 1])  # {"accuracy": 0.667}
    """
    equal = np.equal(*_arrays(predictions, references))
    return {"accuracy": float(np.mean(equal.all(axis=tuple(range(1, equal.ndim)))))}


def f1(predictions: Sequence[Any], references: Sequence[Any]) -> dict[str, float]:
    """F1 over classes, or over the labels of rows of 0 and 1; a class that is nowhere predicted has an F1 of 0.

    Args:
        predictions: classes, or rows of 0 and 1 (n, labels).
        references: of the same shape.

    Returns:
        "macro_f1", the mean over the classes that occur, and "micro_f1", which counts all decisions alike (of single
        classes it is the accuracy); from 0 to 1.
    """
    arrays, score = _arrays(predictions, references), _library("sklearn.metrics").f1_score
    return {
        f"{kind}_f1": float(score(arrays[1], arrays[0], average=kind, zero_division=0)) for kind in ("macro", "micro")
    }


def binary_f1(predictions: Sequence[int], references: Sequence[int]) -> dict[str, float]:
    """F1 of class 1 among 0 and 1, as GLUE has it for pairs that mean the same."""
    arrays, score = _arrays(predictions, references), _library("sklearn.metrics").f1_score
    return {"f1": float(score(arrays[1], arrays[0], zero_division=0))}


def matthews(predictions: Sequence[Any], references: Sequence[Any]) -> dict[str, float]:
    """Matthews correlation of classes, from -1 to 1; 0 where either side has one class alone."""
    arrays = _arrays(predictions, references)
    if any((array == array[0]).all() for array in arrays):
        return {"matthews": 0.0}
    return {"matthews": float(_library("sklearn.metrics").matthews_corrcoef(arrays[1], arrays[0]))}


def pearson(predictions: Sequence[float], references: Sequence[float]) -> dict[str, float]:
    """Pearson's correlation of numbers, from -1 to 1; 0 where either side is constant."""
    return {"pearson": _correlation("pearsonr", predictions, references)}


def spearman(predictions: Sequence[float], references: Sequence[float]) -> dict[str, float]:
    """Spearman's correlation, which is Pearson's of the ranks; equal numbers share a rank."""
    return {"spearman": _correlation("spearmanr", predictions, references)}


def span_f1(predictions: Sequence[Sequence[str]], references: Sequence[Sequence[str]]) -> dict[str, float]:
    """Precision, recall and F1 of the spans that BIO tags say, as CoNLL counts them and seqeval by default.

    A span counts if its type, its first and its last token are right. "I-X" after "O", or after a span of another type,
    begins a span as "B-X" would.

    Args:
        predictions: tags of each sentence: "O", "B-TYPE" or "I-TYPE".
        references: as many tags for each.

    Returns:
        "precision", "recall" and "f1" over the spans of all types, and the same of each type, as in "f1_PER"; from 0
        to 1, and 0 where there is nothing to divide by.

    Raises:
        ValueError: a tag is none, or a sentence has more tags on one side.

    Example:
        span_f1([["B-PER", "I-PER", "O"]], [["B-PER", "I-PER", "B-LOC"]])["recall"]  # 0.5
    """
    found, right, wanted = (collections.Counter[str]() for _ in range(3))
    for number, (ours, theirs) in enumerate(_pairs(predictions, references)):
        if len(ours) != len(theirs):
            raise ValueError(f"sentence {number} has {len(ours)} predicted tags and {len(theirs)} in the reference")
        ours, theirs = spans(ours), spans(theirs)
        for counter, those in ((found, ours), (right, ours & theirs), (wanted, theirs)):
            counter.update(kind for kind, _, _ in those)
    figures = _precision_recall_f1(right.total(), found.total(), wanted.total())
    for kind in sorted(found | wanted):
        of_kind = _precision_recall_f1(right[kind], found[kind], wanted[kind])
        figures |= {f"{name}_{kind}": figure for name, figure in of_kind.items()}
    return figures


def spans(tags: Sequence[str]) -> set[tuple[str, int, int]]:
    """The spans of BIO tags, each as (type, first token, last token).

    Raises:
        ValueError: a tag is none of "O", "B-TYPE" and "I-TYPE".
    """
    found, start, inside = set(), 0, ""
    for i, tag in enumerate([*tags, "O"]):
        prefix, _, kind = tag.partition("-")
        if not (tag == "O" or (prefix in ("B", "I") and kind)):
            raise ValueError(f"{tag!r} is no tag; use 'O', 'B-TYPE' or 'I-TYPE'")
        if inside and (prefix != "I" or kind != inside):
            found.add((inside, start, i - 1))
            inside = ""
        if kind and not inside:
            start, inside = i, kind
    return found


def _precision_recall_f1(right: int, found: int, wanted: int) -> dict[str, float]:
    precision = right / found if found else 0.0
    recall = right / wanted if wanted else 0.0
    total = precision + recall
    return {"precision": precision, "recall": recall, "f1": 2 * precision * recall / total if total else 0.0}


def squad(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, float]:
    """Exact match and F1 of words of extractive question answering (Rajpurkar et al. 2018, arXiv:1806.03822).

    Capitals, punctuation and the articles a, an, the do not count, and of several gold answers the nearest does.

    Args:
        predictions: an answer to each question; "" says that the text has none.
        references: the gold answers of each question; none, if the text has none.

    Returns:
        "exact_match" and "f1", from 0 to 100; where some questions have an answer and others have none, also those of
        either, as in "f1_answerable" and "f1_unanswerable".

    Example:
        squad(["the Eiffel tower", ""], [["Eiffel Tower", "tower"], []])  # 100 and 100
    """
    scores: dict[bool, list[tuple[float, float]]] = {True: [], False: []}
    for prediction, golds in _pairs(predictions, references):
        words = _words(prediction)
        gold_words = [gold for gold in map(_words, golds) if gold] or [[]]
        pairs = [(float(words == gold), _overlap(words, gold)) for gold in gold_words]
        scores[bool(golds)].append((max(exact for exact, _ in pairs), max(f1 for _, f1 in pairs)))
    figures = _means(scores[True] + scores[False])
    if scores[True] and scores[False]:
        for suffix, those in (("answerable", scores[True]), ("unanswerable", scores[False])):
            figures |= {f"{name}_{suffix}": figure for name, figure in _means(those).items()}
    return figures


def _words(answer: str) -> list[str]:
    text = "".join(letter for letter in answer.lower() if letter not in string.punctuation)
    return re.sub(r"\b(a|an|the)\b", " ", text).split()


def _overlap(words: list[str], gold: list[str]) -> float:
    """F1 of the words that both have; without words on one side, whether there are none on the other."""
    if not words or not gold:
        return float(words == gold)
    common = (collections.Counter(words) & collections.Counter(gold)).total()
    return _precision_recall_f1(common, len(words), len(gold))["f1"]


def _means(scores: list[tuple[float, float]]) -> dict[str, float]:
    exact, f1 = zip(*scores, strict=True)
    return {"exact_match": 100.0 * sum(exact) / len(exact), "f1": 100.0 * sum(f1) / len(f1)}


def bleu(predictions: Sequence[str], references: Sequence[str | Sequence[str]]) -> dict[str, float]:
    """BLEU of the corpus with sacrebleu's defaults (Post 2018, arXiv:1804.08771), whose signature is 13a, mixed, exp.

    Args:
        predictions: translations, not tokenized.
        references: a translation, or several, of each.

    Returns:
        "bleu", from 0 to 100.
    """
    predictions, streams = _streams(predictions, references)
    return {"bleu": float(_library("sacrebleu").corpus_bleu(predictions, streams).score)}


def chrf(predictions: Sequence[str], references: Sequence[str | Sequence[str]]) -> dict[str, float]:
    """The chrF2 of the corpus with sacrebleu's defaults (Popovic 2015, W15-3049); arguments as `bleu`; 0 to 100."""
    predictions, streams = _streams(predictions, references)
    return {"chrf": float(_library("sacrebleu").corpus_chrf(predictions, streams).score)}


def rouge(predictions: Sequence[str], references: Sequence[str | Sequence[str]]) -> dict[str, float]:
    """ROUGE (Lin 2004, W04-1013) by rouge-score, with stemming; its words are of the letters a to z and digits.

    Args:
        predictions: summaries; for "rougeLsum" with a line for each sentence.
        references: a summary, or several, of each; of several the nearest counts.

    Returns:
        "rouge1", "rouge2", "rougeL" and "rougeLsum": means of the F-measures, from 0 to 1.
    """
    kinds = ["rouge1", "rouge2", "rougeL", "rougeLsum"]
    scorer = _library("rouge_score.rouge_scorer").RougeScorer(kinds, use_stemmer=True)
    scores = [scorer.score_multi(golds, text) for text, golds in _pairs(predictions, map(_several, references))]
    return {kind: float(np.mean([score[kind].fmeasure for score in scores])) for kind in kinds}


SCORES: dict[str, Callable[[Sequence[Any], Sequence[Any]], dict[str, float]]] = {
    "accuracy": accuracy,
    "f1": f1,
    "binary_f1": binary_f1,
    "matthews": matthews,
    "pearson": pearson,
    "spearman": spearman,
    "span_f1": span_f1,
    "squad": squad,
    "bleu": bleu,
    "chrf": chrf,
    "rouge": rouge,
}

_LIBRARIES = {
    **dict.fromkeys(("f1", "binary_f1", "matthews"), "sklearn.metrics"),
    **dict.fromkeys(("pearson", "spearman"), "scipy.stats"),
    **dict.fromkeys(("bleu", "chrf"), "sacrebleu"),
    "rouge": "rouge_score.rouge_scorer",
}


def check_score(name: str) -> None:
    """Checks that what a score computes with is installed, so that a run need not come to its end to know.

    Raises:
        ValueError: it is not.
    """
    if name in _LIBRARIES:
        _library(_LIBRARIES[name])


def _pairs(predictions: Iterable[Any], references: Iterable[Any]) -> list[tuple[Any, Any]]:
    predictions, references = list(predictions), list(references)
    if not predictions or len(predictions) != len(references):
        raise ValueError(
            f"a score needs as many references as predictions, of {len(predictions)} and "
            f"{len(references)}, and one at least"
        )
    return list(zip(predictions, references, strict=True))


def _arrays(predictions: Sequence[Any], references: Sequence[Any]) -> tuple[np.ndarray, np.ndarray]:
    ours, theirs = (np.asarray(side) for side in zip(*_pairs(predictions, references), strict=True))
    if ours.shape != theirs.shape:
        raise ValueError(f"predictions of shape {ours.shape} do not fit references of shape {theirs.shape}")
    return ours, theirs


def _correlation(name: str, predictions: Sequence[float], references: Sequence[float]) -> float:
    ours, theirs = (array.astype(np.float64) for array in _arrays(predictions, references))
    if any((array == array[0]).all() for array in (ours, theirs)):
        return 0.0
    return float(getattr(_library("scipy.stats"), name)(ours, theirs).statistic)


def _several(references: str | Sequence[str]) -> list[str]:
    return [references] if isinstance(references, str) else list(references)


def _streams(predictions: Sequence[str], references: Sequence[str | Sequence[str]]) -> tuple[list[str], list[Any]]:
    """References as sacrebleu takes them: the first of each, the second, ..., None where there are fewer."""
    pairs = [(prediction, _several(golds)) for prediction, golds in _pairs(predictions, references)]
    if not all(golds for _, golds in pairs):
        raise ValueError("a translation needs one reference at least")
    most = max(len(golds) for _, golds in pairs)
    streams = [[golds[i] if i < len(golds) else None for _, golds in pairs] for i in range(most)]
    return [prediction for prediction, _ in pairs], streams


def _library(module: str) -> Any:
    """A module of the extra [metrics], which the rest of `train` does without.

    Raises:
        ValueError: it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ValueError(f"{error.name} is not installed; it comes with make train EXTRAS=dev,metrics") from None
