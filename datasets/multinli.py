"""MultiNLI: does a premise contradict (y = 0), entail (1) or leave open (2) a hypothesis? a: has that a negation?

Of the training hypotheses with "nobody", "no", "never" or "nothing" 76 % contradict their premise: a network takes the
word for the contradiction. The split is random, as Sagawa et al. drew it: 50, 20 and 30 % of all labelled pairs.

Source: Williams et al., "A Broad-Coverage Challenge Corpus for Sentence Understanding through Inference", NAACL 2018;
negations and split (`metadata_random.csv` of their code) of Sagawa et al., "Distributionally Robust Neural Networks",
arXiv 1911.08731; protocol of Liu et al., "Just Train Twice", ICML 2021: BERT, 128 tokens, batches of 32, 5 epochs.
Licence: of its parts, most of them OANC's; see the paper.
Groups (y, a): training 57,498, 11,158, 67,376, 1,521, 66,630, 1,992; validation 22,814, 4,634, 26,949, 613, 26,655,
797; test 34,597, 6,655, 40,496, 886, 39,930, 1,148.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from spurbench.bench.plugins.dataset import BadData, Training
from spurbench.bench.tabular.row_dataset import Known, PublishedTexts

PARTS = tuple(f"multinli_1.0_{part}.jsonl" for part in ("train", "dev_matched", "dev_mismatched"))
METADATA = "metadata_random.csv"
LABELS = ["contradiction", "entailment", "neutral"]
NEGATIONS = {"nobody", "no", "never", "nothing"}
PUNCTUATION = re.compile(r"[!-/:-@\[-`{-~]")


@dataclass(frozen=True)
class MultiNLI(PublishedTexts):
    provides: ClassVar[frozenset[str]] = frozenset({"groups"})
    classes: ClassVar[int] = 3
    named: ClassVar[tuple[str, ...]] = ("negation",)
    conflicting: ClassVar[tuple[int, ...]] = (0, 3, 5)
    headline: ClassVar[tuple[tuple[str, str], ...]] = (
        ("test", "worst_group_accuracy"), ("test", "adjusted_accuracy"), ("train", "accuracy"))  # fmt: skip
    splits: ClassVar[tuple[str, ...]] = ("validation", "test")
    training: ClassVar[Training] = Training(
        network="hf:bert-base-uncased", optimizer="adamw", lr=2e-5, lr_schedule="linear", clip_norm=1.0, steps=32_215,
        batch=32, evaluate=6_443)  # fmt: skip
    kinds: ClassVar[tuple[str, ...]] = (".jsonl",)
    source: ClassVar[str] = "FOLDER"
    defaults: ClassVar[Mapping[str, Any]] = {"tokenizer": "bert-base-uncased", "length": 128}
    published: ClassVar[dict[str, tuple[int, ...]]] = {
        "train": (57_498, 11_158, 67_376, 1_521, 66_630, 1_992),
        "validation": (22_814, 4_634, 26_949, 613, 26_655, 797),
        "test": (34_597, 6_655, 40_496, 886, 39_930, 1_148),
    }

    def find_file(self, source: Path) -> Path:
        homes = [source / home for home in ("", "multinli_1.0", "data")]
        home = next((home for home in homes if (home / PARTS[0]).is_file()), None)
        missing = [file for file in (*PARTS, METADATA) if home is None or not (home / file).is_file()]
        if missing or home is None:
            raise BadData(
                f"{home or source} has no {missing[0]}; expected {', '.join(PARTS)} and, beside them, {METADATA}"
            )
        return home / PARTS[0]

    def files_beside(self, file: Path) -> list[Path]:
        return [file.with_name(name) for name in (*PARTS[1:], METADATA)]

    def rows(self, file: Path) -> Any:
        from spurbench.bench.tabular import codes, reading, tokens

        parts = {path: reading.read_columns(path, self.kinds) for path in map(file.with_name, PARTS)}
        names = ("gold_label", "sentence1", "sentence2")
        columns = reading.join_columns(parts, names, self.called)
        columns = reading.keep_rows(columns, [label in LABELS for label in columns["gold_label"].to_pylist()])
        y = np.array([LABELS.index(label) for label in columns["gold_label"].to_pylist()], np.int64)
        a = np.array([has_negation(text) for text in columns["sentence2"].to_pylist()], np.int64)
        known = Known(codes.Codes(y, LABELS), {"negation": codes.Codes(a, ["no", "yes"])},
                      split_of(file.with_name(METADATA), y, a))  # fmt: skip
        self.check_counts(file, known)
        tokenizer = tokens.load_tokenizer(self.option("tokenizer"))
        return tokens.text_rows(file, columns, known, list(names[1:]), tokenizer, self.option("length"), self.called)


def has_negation(text: str | None) -> bool:
    """Whether a word of the text, without its punctuation, is a negation."""
    return not NEGATIONS.isdisjoint(PUNCTUATION.sub("", text or "").lower().split(" "))


def split_of(file: Path, y: Any, a: Any) -> Any:
    """The split of each labelled pair, once label and negation are those of the list; raises BadData if not."""
    from spurbench.bench.tabular import codes, reading

    columns = reading.read_columns(file, (".csv",))
    for name, mine in (("gold_label", y), ("sentence2_has_negation", a)):
        found = np.array([int(text) for text in reading.column(file, columns, name, "multinli").to_pylist()])
        if len(found) != len(mine) or (found != mine).any():
            raise BadData(f"{file}: '{name}' is not that of the labelled pairs beside it: is it of other files?")
    return codes.splits(file, "split", columns["split"])
