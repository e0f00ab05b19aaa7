"""Writes tests/golden/squad.json: random questions, and what the SQuAD script in `transformers` says of the answers.

python -m tests.reference.make_squad, with transformers 4: version 5 no longer has that script.
"""

import json
import random
import types
from pathlib import Path

GOLDEN = Path(__file__).parents[1] / "golden" / "squad.json"
WORDS = "the a an The palmette tree, lattice wall U.S. don't 1,066 A. flat-trained Ärger über naïve « — ... and and of"
WORDS = [*WORDS.split(), "pear", "pears"]


def text(rng: random.Random, least: int, most: int) -> str:
    """Words with the spaces, articles and punctuation that do not count."""
    return rng.choice([" ", "  ", " \n"]).join(rng.choice(WORDS) for _ in range(rng.randint(least, most)))


def answer(rng: random.Random, golds: list[str]) -> str:
    """None, another one, or a gold answer in capitals or with words that are lost or added."""
    kind = rng.random()
    if kind < 0.15:
        return ""
    if not golds or kind < 0.35:
        return text(rng, 0, 5)
    words = rng.choice(golds).split()
    if kind < 0.55:
        return " ".join(words).upper() + rng.choice(["", ".", "!"])
    for _ in range(rng.randint(0, 2)):
        if words and rng.random() < 0.5:
            words.pop(rng.randrange(len(words)))
        else:
            words.insert(rng.randint(0, len(words)), rng.choice(WORDS))
    return " ".join(words)


def main() -> None:
    """The command."""
    from transformers.data.metrics.squad_metrics import squad_evaluate  # pyright: ignore[reportMissingImports]

    rng, cases = random.Random(5), []
    for number in range(200):  # all with answers, none, or some
        shares = [1.0, 0.0, 0.6, 0.6][number % 4]
        golds = [
            [text(rng, 1, 6) for _ in range(rng.randint(1, 3))] if rng.random() < shares else []
            for _ in range(rng.randint(1, 4))
        ]
        predictions = [answer(rng, those) for those in golds]
        examples = [
            types.SimpleNamespace(qas_id=str(i), answers=[{"text": gold} for gold in those])
            for i, those in enumerate(golds)
        ]
        found = squad_evaluate(examples, {str(i): prediction for i, prediction in enumerate(predictions)})
        names = [name for name in found if name.endswith(("exact", "f1")) and not name.startswith("best")]
        cases.append({"predictions": predictions, "references": golds, "scores": {name: found[name] for name in names}})
    GOLDEN.write_text(json.dumps(cases, ensure_ascii=False, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
