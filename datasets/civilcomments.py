"""CivilComments: online comments; is one toxic (y = 1)? Which of eight identities it mentions are overlapping subsets.

Comments that mention an identity are more often toxic, so that a network takes the mention for the offence. A comment
may mention several identities or none; the worst accuracy over identities × labels is `worst_subset_accuracy`. Groups
are y × whether any identity is mentioned, or with `groups` others of the named ones; WILDS trains Group DRO on `black`.

Source: Borkan et al., "Nuanced Metrics for Measuring Unintended Bias", WWW 2019; splits, identities and protocol
(DistilBERT, 300 tokens, AdamW, batches of 16, 5 epochs) of Koh et al., "WILDS", ICML 2021, arXiv 2012.07421.
Licence: CC0.
Groups: 269,038 comments in training, 45,180 in validation, 133,782 in test.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from spurbench.bench.plugins.dataset import BadData, Training
from spurbench.bench.tabular.row_dataset import Known, PublishedTexts

FILE = "all_data_with_identities.csv"
IDENTITIES = ("male", "female", "LGBTQ", "christian", "muslim", "other_religions", "black", "white")
ANY = "identity_any"


@dataclass(frozen=True)
class CivilComments(PublishedTexts):
    provides: ClassVar[frozenset[str]] = frozenset({"groups", "subsets"})
    named: ClassVar[tuple[str, ...]] = (
        "identity_any", "male", "female", "LGBTQ", "christian", "muslim", "other_religions", "black", "white",
    )  # fmt: skip
    grouped_by: ClassVar[tuple[str, ...]] = ("identity_any",)
    headline: ClassVar[tuple[tuple[str, str], ...]] = (
        ("test", "worst_subset_accuracy"), ("test", "accuracy"), ("train", "accuracy"))  # fmt: skip
    splits: ClassVar[tuple[str, ...]] = ("validation", "test")
    training: ClassVar[Training] = Training(
        network="hf:distilbert-base-uncased", optimizer="adamw", lr=1e-5, weight_decay=0.01, weight_decay_of="matrices",
        lr_schedule="linear", clip_norm=1.0, steps=84_070, batch=16, evaluate=16_814)  # fmt: skip
    kinds: ClassVar[tuple[str, ...]] = (".csv",)
    source: ClassVar[str] = "FOLDER"
    defaults: ClassVar[Mapping[str, Any]] = {"tokenizer": "distilbert-base-uncased", "length": 300}
    published: ClassVar[dict[str, tuple[int, ...]]] = {"train": (269_038,), "validation": (45_180,), "test": (133_782,)}

    def find_file(self, source: Path) -> Path:
        places = [source / home / FILE for home in ("", "civilcomments_v1.0", "data")]
        found = next((place for place in places if place.is_file()), source)
        if found.is_dir():
            raise BadData(f"{source} has no {FILE}; expected it there or in civilcomments_v1.0/, as wilds downloads it")
        return super().find_file(found)

    def rows(self, file: Path) -> Any:
        from spurbench.bench.tabular import codes, encoding, tokens
        from spurbench.bench.tabular.reading import column, read_columns

        columns = read_columns(file, self.kinds)

        def at_least_half(name: str) -> Any:
            numbers = encoding.as_numbers(file, name, column(file, columns, name, self.called), self.called)
            if numbers is None:
                raise BadData(f"{file}: column '{name}' holds texts; expected shares from 0 to 1")
            return (numbers >= 0.5).astype("int64")

        named = {name: codes.Codes(at_least_half(name), ["no", "yes"]) for name in (ANY, *IDENTITIES)}
        label = codes.Codes(at_least_half("toxicity"), ["civil", "toxic"])
        split = codes.splits(file, "split", column(file, columns, "split", self.called))
        known = Known(label, named, split)
        self.check_counts(file, known)
        tokenizer = tokens.load_tokenizer(self.option("tokenizer"))
        rows = tokens.text_rows(file, columns, known, ["comment_text"], tokenizer, self.option("length"), self.called)
        rows.subsets = {name: named[name].of_row == 1 for name in IDENTITIES}
        return rows
