"""Make a synthetic twin of a dataset of texts, in the true dataset's layout on disk.

python -m spurbench.datasets.data.text_twins NAME FOLDER [--n N] [--seed S], where NAME is civilcomments or multinli.
Twins are for trying things out and for tests: prepare one with `--from FOLDER --set NAME.origin=twin`, so that nothing
made from it passes for the real one. What predicts the label, and what only goes with it, are words of their own.
"""

from __future__ import annotations

import argparse
import csv
import json
from pathlib import Path
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
WORDS = (
    "the a this that town river people talk week again idea plan road school story very quite often here there".split()
)
IDENTITIES = ("male", "female", "LGBTQ", "christian", "muslim", "other_religions", "black", "white")
OTHERS = ("severe_toxicity", "obscene", "threat", "insult", "identity_attack", "sexual_explicit")
SHARES = (0.6, 0.1, 0.3)
NEGATION = (0.16, 0.022, 0.029)  # share of hypotheses with a negation, of each label of MultiNLI
LABELS = ("contradiction", "entailment", "neutral")


def sentence(random: np.random.Generator, *words: str) -> str:
    """Some plain words with these among them, each surely once."""
    found = [*random.choice(WORDS, random.integers(4, 12)), *words]
    return " ".join(random.permutation(found)).capitalize() + "."


def civilcomments(folder: Path, n: int, seed: int) -> None:
    """`civilcomments_v1.0/all_data_with_identities.csv` as the wilds package has it, with commas and line breaks."""
    random = np.random.default_rng(seed)
    home = folder / "civilcomments_v1.0"
    home.mkdir(parents=True)
    with open(home / "all_data_with_identities.csv", "w", newline="") as opened:
        file = csv.writer(opened)
        file.writerow(["", "id", "split", "comment_text", "toxicity", *IDENTITIES, "identity_any", *OTHERS])
        for i in range(n):
            toxic = random.random() < 0.11
            mentions = random.random(len(IDENTITIES)) < (0.12 if toxic else 0.05)
            words = [name for name, there in zip(IDENTITIES, mentions, strict=True) if there]
            text = sentence(random, "stupid" if toxic else "lovely", *words)
            text = text.replace(" ", ',\n"well" ', 1) if i % 7 == 0 else text
            split = random.choice(["train", "val", "test"], p=SHARES)
            shares = [f"{random.uniform(0.5, 1) if there else 0.0:.4f}" for there in (*mentions, mentions.any())]
            toxicity = random.uniform(0.5, 1) if toxic else random.uniform(0, 0.49)
            file.writerow([i, 10_000 + i, split, text, f"{toxicity:.4f}", *shares, *["0.0"] * len(OTHERS)])


def multinli(folder: Path, n: int, seed: int) -> None:
    """The three `multinli_1.0_*.jsonl` files, and the split of Sagawa et al. in `metadata_random.csv`."""
    random = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    if (folder / "metadata_random.csv").exists():
        raise FileExistsError(17, "there", str(folder / "metadata_random.csv"))
    pairs = [pair(random) for _ in range(n)]
    ends = {"train": (0, n * 9 // 10), "dev_matched": (n * 9 // 10, n * 19 // 20), "dev_mismatched": (n * 19 // 20, n)}
    for name, (first, last) in ends.items():
        lines = [json.dumps(each | {"pairID": f"{i}n"}) for i, (each, _) in enumerate(pairs[first:last])]
        (folder / f"multinli_1.0_{name}.jsonl").write_text("\n".join(lines) + "\n")
    with open(folder / "metadata_random.csv", "w", newline="") as opened:
        file = csv.writer(opened)
        file.writerow(["", "gold_label", "sentence2_has_negation", "split"])
        for i, (each, negated) in enumerate(pairs):
            if each["gold_label"] in LABELS:
                place = random.choice(3, p=(0.5, 0.2, 0.3))
                file.writerow([i, LABELS.index(each["gold_label"]), int(negated), place])


def pair(random: np.random.Generator) -> tuple[dict[str, str], bool]:
    """A pair of sentences, a hundredth of them without an agreed label, and whether the second has a negation."""
    y = int(random.integers(3))
    negated = bool(random.random() < NEGATION[y])
    first, second = sentence(random), sentence(random, ("wrong", "true", "maybe")[y], *["Never!"] * negated)
    label = "-" if random.random() < 0.01 else LABELS[y]
    return {"gold_label": label, "sentence1": first, "sentence2": second, "genre": "twin"}, negated


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=("civilcomments", "multinli"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--n", type=int, default=6000, help="texts in all")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    try:
        {"civilcomments": civilcomments, "multinli": multinli}[given.name](given.folder, given.n, given.seed)
    except FileExistsError as error:
        parser.error(f"{error.filename} is there already: delete it, or name another folder")


if __name__ == "__main__":
    main()
