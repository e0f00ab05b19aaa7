"""What the worked tasks' data gives without a network: the majority, copying, looking up, and linear models.

    python -m tests.bench.baselines [DEMO ...]

It writes tests/bench/results/baselines.json and docs/baselines.md; with names, the rows of the others stay. Figures are
in percent, on the test split; linear models are scikit-learn's logistic regression, with its defaults but for C.
"""

import itertools
import json
import re
import statistics
import string
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import sacrebleu
from rouge_score.rouge_scorer import RougeScorer
from scipy.sparse import csr_matrix
from sklearn.feature_extraction import DictVectorizer, FeatureHasher
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, f1_score

from data.demos import DEMOS, Demo, Example
from data.demos.questions import WORDINGS
from tests.bench.results import ROOT, save

Scores = dict[str, float]
Rows = dict[str, Scores]  # the scores of each baseline

HEADER = """# The worked tasks without a network

The test split of each demo (see [demos.md](demos.md)) by the simplest means, in percent. `linear` is logistic
regression: on TF-IDF of words and pairs of words for `sentiment`, `sentences` and `topic`; on each token's word, shape,
ends and neighbours for `entities`; on the layout around each passage, crossed with the question's words, for
`questions`. `nearest` answers with what belongs to the training example whose TF-IDF is closest. BLEU and chrF are
sacrebleu's, ROUGE is rouge-score's (F measure, with stemming), exact match and F1 follow SQuAD's rules.
`python -m tests.bench.baselines` wrote this page.

| demo | baseline | scores |
|---|---|---|
"""


def linear(**settings: Any) -> LogisticRegression:
    """A logistic regression that says so if it did not get near its optimum: warnings are errors in the tests only."""
    return LogisticRegression(max_iter=300, tol=1e-3, **settings)


# ---- One label for a text.


def classify(demo: Demo) -> Rows:
    """The most frequent label, and a linear model of TF-IDF."""
    train, test = list(demo.train()), list(demo.test())
    labels = [example["label"] for example in test]
    most = Counter(example["label"] for example in train).most_common(1)[0][0]
    vectorizer = TfidfVectorizer(ngram_range=(1, 2), min_df=2, sublinear_tf=True, dtype=np.float32)
    features = vectorizer.fit_transform(example["text"] for example in train)
    model = linear(C=30).fit(features, [example["label"] for example in train])
    said = model.predict(vectorizer.transform(example["text"] for example in test))
    return {"majority": label_scores(labels, [most] * len(labels)), "linear": label_scores(labels, list(said))}


def label_scores(labels: list[str], said: list[str]) -> Scores:
    macro = f1_score(labels, said, average="macro", zero_division=0.0)
    return {"accuracy": 100 * accuracy_score(labels, said), "macro F1": 100 * macro}


# ---- One tag for a word.


def tag(demo: Demo) -> Rows:
    """Each word's most frequent tag in the training data, and a linear model of words and their neighbours."""
    train, test = list(demo.train()), list(demo.test())
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for example in train:
        for word, its_tag in zip(example["words"], example["tags"], strict=True):
            counts[word][its_tag] += 1
    looked_up = [[counts[word].most_common(1)[0][0] if word in counts else "O" for word in e["words"]] for e in test]
    vectorizer = DictVectorizer(dtype=np.float32)
    features = vectorizer.fit_transform([features for example in train for features in token_features(example)])
    model = linear(C=3).fit(features, [its_tag for example in train for its_tag in example["tags"]])
    said = [list(model.predict(vectorizer.transform(list(token_features(example))))) for example in test]
    tags = [example["tags"] for example in test]
    return {"most frequent tag": span_scores(tags, looked_up), "linear": span_scores(tags, said)}


def token_features(example: Example) -> Iterator[dict[str, float]]:
    words = ["<s>", "<s>", *example["words"], "</s>", "</s>"]
    for i in range(2, len(words) - 2):
        named = {f"shape={shape(words[i])}", f"prefix={words[i][:3].lower()}", f"suffix={words[i][-3:].lower()}"}
        named |= {f"{at}:{words[i + at].lower()}" for at in range(-2, 3)}
        named |= {f"shape {at}:{shape(words[i + at])}" for at in (-1, 1)}
        yield dict.fromkeys(named, 1.0)


def shape(word: str) -> str:
    """ "McDonald's" as "XxXx'x"."""
    kinds = ("X" if c.isupper() else "x" if c.islower() else "0" if c.isdigit() else c for c in word)
    return "".join(kind for kind, _ in itertools.groupby(kinds))


def spans(tags: list[str]) -> set[tuple[int, int, str]]:
    """Where entities begin and end, and their kinds; an I that continues nothing begins one."""
    found: list[tuple[int, int, str]] = []
    for i, its_tag in enumerate(tags):
        kind = its_tag[2:]
        if its_tag.startswith("I-") and found and found[-1][1:] == (i, kind):
            found[-1] = (found[-1][0], i + 1, kind)
        elif kind:
            found.append((i, i + 1, kind))
    return set(found)


def span_scores(tags: list[list[str]], said: list[list[str]]) -> Scores:
    pairs = [(spans(right), spans(answer)) for right, answer in zip(tags, said, strict=True)]
    hits = sum(len(right & answer) for right, answer in pairs)
    precision = hits / max(1, sum(len(answer) for _, answer in pairs))
    recall = hits / sum(len(right) for right, _ in pairs)
    f1 = 2 * hits / sum(len(right) + len(answer) for right, answer in pairs)
    return {"span F1": 100 * f1, "precision": 100 * precision, "recall": 100 * recall}


# ---- Text for a text.


def translate(demo: Demo) -> Rows:
    """The source as it is, and the translation of the training message that is most like it."""
    test = list(demo.test())
    sources = [example["source"] for example in test]
    rows = {"copy": sources, "nearest": nearest(list(demo.train()), sources, analyzer="char_wb", ngram_range=(2, 4))}
    return {name: text_scores(test, said) for name, said in rows.items()}


def text_scores(test: list[Example], said: list[str]) -> Scores:
    targets = [[example["target"] for example in test]]
    return {"BLEU": sacrebleu.corpus_bleu(said, targets).score, "chrF": sacrebleu.corpus_chrf(said, targets).score}


def summarise(demo: Demo) -> Rows:
    """The words of the function's name, and the summary of the training function that is most like it."""
    test = list(demo.test())
    sources = [example["source"] for example in test]
    rows = {"words of the name": list(map(name_words, sources)), "nearest": nearest(list(demo.train()), sources)}
    return {name: rouge_scores(test, said) for name, said in rows.items()}


def name_words(source: str) -> str:
    name = source.partition("def ")[2].partition("(")[0]
    return " ".join(re.findall(r"[A-Z]?[a-z0-9]+|[A-Z]+(?![a-z])", name)).capitalize()


def instruct(demo: Demo) -> Rows:
    """The last answer of a chat: what was said before it, and the answer where that is most similar."""
    train, test = (list(map(last_turn, split())) for split in (demo.train, demo.test))
    sources = [example["source"] for example in test]
    rows = {"copy": sources, "nearest": nearest(train, sources)}
    return {name: rouge_scores(test, said) for name, said in rows.items()}


def last_turn(example: Example) -> Example:
    *before, last = (message["content"] for message in example["messages"])
    return {"source": "\n".join(before), "target": last}


def rouge_scores(test: list[Example], said: list[str]) -> Scores:
    scorer = RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=True)
    scores = [scorer.score(example["target"], answer) for example, answer in zip(test, said, strict=True)]
    names = {"rouge1": "ROUGE-1", "rouge2": "ROUGE-2", "rougeL": "ROUGE-L"}
    return {name: 100 * statistics.mean(score[key].fmeasure for score in scores) for key, name in names.items()}


def nearest(train: list[Example], sources: list[str], **settings: Any) -> list[str]:
    """For each source the target of the training example whose TF-IDF has the smallest angle to it."""
    settings = {"token_pattern": r"[A-Za-z]+|\d+"} | settings
    if "analyzer" in settings:
        del settings["token_pattern"]
    vectorizer = TfidfVectorizer(sublinear_tf=True, dtype=np.float32, **settings)
    known = csr_matrix(vectorizer.fit_transform(example["source"] for example in train))
    asked = csr_matrix(vectorizer.transform(sources))
    chosen: list[int] = []
    for start in range(0, len(sources), 256):
        chosen.extend((asked[start : start + 256] @ known.T).toarray().argmax(axis=1).tolist())
    return [train[i]["target"] for i in chosen]


# ---- A passage for a question.


def answer(demo: Demo) -> Rows:
    """No answer at all; the line that has most of the question's words; and a linear ranker of passages."""
    test = list(demo.test())
    rows = {"no answer": [""] * len(test), "line with most words": [overlapping_line(example) for example in test]}
    rows["linear"] = rank(list(itertools.islice(shuffled(demo.train()), 2500)), test)
    return {name: squad_scores(test, said) for name, said in rows.items()}


def shuffled(examples: Iterator[Example]) -> Iterator[Example]:
    chosen = list(examples)
    return (chosen[i] for i in np.random.default_rng(0).permutation(len(chosen)))


def overlapping_line(example: Example) -> str:
    asked = set(re.findall(r"\w+", example["question"].lower()))
    return max(example["context"].splitlines(), key=lambda line: len(asked & set(re.findall(r"\w+", line.lower()))))


def passages(example: Example) -> list[tuple[str, list[str]]]:
    """Passages within a line or a sentence, and what is around them; the first is none, for "no answer"."""
    context, question = example["context"], example["question"]
    asked = set(re.findall(r"\w+", question))
    found: list[tuple[str, list[str]]] = [("", ["none", "asked for " + str(asked_for(question) in context)])]
    section = header = ""
    for block in re.finditer(r"[^\n]+(?:\n[ ]+[^\n]+)*", context):
        for part in re.finditer(r"^\S.*|(?:^[ ]+.*\n?)+", block[0], re.MULTILINE):
            indented = part[0].startswith(" ")
            if not indented:
                header = part[0]
            if re.match(r"(Parameters|Returns|Raises)$", part[0]):
                section = part[0]
            its_name = re.match(r"\*{0,2}\w+", header)
            around = [f"in {section}", f"indented {indented}", f"named {bool(its_name and its_name[0] in asked)}"]
            found += [(text, around + edges) for text, edges in substrings(part[0])]
    return found


def asked_for(question: str) -> str:
    named = re.search(r"(\S+) of ", question)
    return named[1] if named else "\0"


def substrings(part: str) -> Iterator[tuple[str, list[str]]]:
    """What lies between two marks of punctuation, the first five of them."""
    marks = [0, *(mark.end() for mark in re.finditer(r" : |: |, |=|\(|[Dd]efault (?:is )?", part))][:6]
    ends = [mark.start() for mark in re.finditer(r" : |[,.:;)](?=\s|$)|$|, default|\(", part)][:6]
    for (i, start), (j, end) in itertools.product(enumerate(marks), enumerate(ends)):
        text = part[start:end].strip("`* \n")
        if start < end and text and len(text.split()) <= 30:
            before, after = part[:start][-9:].strip(), part[end:][:9].strip()
            length = min(len(text.split()), 4)
            edges = [f"before {before[-7:]}", f"after {after[:2]}", f"mark {i}", f"end {j}", f"length {length}"]
            yield text, [*edges, f"mark {i} end {j}"]


def rank(train: list[Example], test: list[Example]) -> list[str]:
    """The passage that logistic regression finds likeliest; each feature is also crossed with the question's words."""
    hasher = FeatureHasher(2**18, input_type="string", dtype=np.float32)

    def features(example: Example) -> tuple[list[str], list[list[str]]]:
        kind = kind_of(example["question"])
        texts, named = zip(*passages(example), strict=True)
        return list(texts), [[*names, *(f"{kind}: {name}" for name in names)] for names in named]

    rows, right = [], []
    for example in train:
        answers = [normalised(text) for text in example["answers"] or [""]]
        for text, names in zip(*features(example), strict=True):
            rows.append(names)
            right.append(normalised(text) in answers)
    model = linear(C=3).fit(hasher.transform(rows), right)
    said = []
    for example in test:
        texts, named = features(example)
        said.append(texts[int(model.decision_function(hasher.transform(named)).argmax())])
    return said


KNOWN = set(re.findall(r"\w+", " ".join(itertools.chain(*WORDINGS.values()))))


def kind_of(question: str) -> str:
    """The question without the names in it."""
    return " ".join(
        word for word in question.rstrip("?").split() if re.fullmatch("[A-Z]?[a-z]+", word) and word in KNOWN
    )


def normalised(text: str) -> str:
    """As SQuAD's script: lower case, without punctuation, articles and more than one space."""
    text = "".join(c for c in text.lower() if c not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


def squad_scores(test: list[Example], said: list[str]) -> Scores:
    exact, overlap = [], []
    for example, text in zip(test, said, strict=True):
        words = normalised(text).split()
        options = [normalised(right).split() for right in example["answers"] or [""]]
        exact.append(words in options)
        overlap.append(max(word_f1(right, words) for right in options))
    return {"exact match": 100 * statistics.mean(exact), "F1": 100 * statistics.mean(overlap)}


def word_f1(right: list[str], words: list[str]) -> float:
    if not right or not words:
        return float(right == words)
    return 2 * sum((Counter(right) & Counter(words)).values()) / (len(right) + len(words))


BASELINES: dict[str, Callable[[Demo], Rows]] = {
    "sentiment": classify,
    "sentences": classify,
    "topic": classify,
    "entities": tag,
    "translation": translate,
    "summarisation": summarise,
    "questions": answer,
    "instructions": instruct,
}


def score(name: str) -> dict[str, Any]:
    """A demo's baselines, its sizes, and the seconds that reading and scoring took."""
    start = time.perf_counter()
    demo = DEMOS[name]()
    read = time.perf_counter()
    row = {"scores": BASELINES[name](demo), "repeated": demo.repeated, "leaked": demo.leaked}
    row |= {split: sum(1 for _ in getattr(demo, split)()) for split in ("train", "valid", "test")}
    return row | {"read_s": round(read - start, 1), "scored_s": round(time.perf_counter() - read, 1)}


def main(names: list[str]) -> None:
    """Scores those named, or all, and writes the page."""
    file = ROOT / "tests" / "bench" / "results" / "baselines.json"
    rows = json.loads(file.read_text())["rows"] if file.exists() else {}
    rows |= {name: score(name) for name in names or BASELINES}
    table = ""
    for name in BASELINES:
        for baseline, scores in rows[name]["scores"].items() if name in rows else ():
            said = ", ".join(f"{metric} {figure:.1f}" for metric, figure in scores.items())
            table += f"| {name} | {baseline} | {said} |\n"
    save("baselines", rows, HEADER + table)


if __name__ == "__main__":
    main(sys.argv[1:])
