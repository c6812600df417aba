"""Texts of your own: a CSV, JSON lines or Parquet file with a text per row, tokenised once, no code needed.

`spurbench data prepare own_text --from FILE --set own_text.name=mine --set own_text.tokenizer=FOLDER`, then run it with
`--set own_text.name=mine`. The tokenizer is a folder, as `save_pretrained` writes it, or a name on the Hugging Face
hub. Two columns, "premise,hypothesis", are read as pairs.

Source: yours.
Licence: yours.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from spurbench.bench.core.errors import UserError
from spurbench.bench.plugins.dataset import Training
from spurbench.bench.tabular.own_rows import OwnRows
from spurbench.bench.tabular.row_dataset import Known


@dataclass(frozen=True)
class OwnText(OwnRows):
    provides: ClassVar[frozenset[str]] = frozenset({"groups"})
    headline: ClassVar[tuple[tuple[str, str], ...]] = (
        ("test", "worst_group_accuracy"), ("test", "accuracy"), ("train", "accuracy"))  # fmt: skip
    training: ClassVar[Training] = Training(network="bag_of_words", optimizer="adam", lr=0.001, steps=2000, batch=32)
    kinds: ClassVar[tuple[str, ...]] = (".csv", ".jsonl", ".ndjson", ".parquet")
    defaults: ClassVar[Mapping[str, Any]] = {**OwnRows.defaults, "text": "text", "length": 128}

    text: str | None = None  # the column of the texts, or two of pairs, "premise,hypothesis"; None: text
    tokenizer: str | None = None  # a folder, or a name on the hub
    length: int | None = None  # tokens of a text that are kept, at most; None: 128

    def inputs(self, file: Path, columns: Any, known: Known) -> Any:
        from spurbench.bench.tabular.tokens import load_tokenizer, text_rows

        names, length = self.option("text").split(","), self.option("length")
        if len(names) > 2 or not 2 <= length <= 100_000:
            raise UserError(f"{self.called}: expected one column of texts or two, and 2 to 100,000 tokens of each")
        if not self.tokenizer:
            raise UserError(f"which tokenizer? --set {self.called}.tokenizer=FOLDER, or a name on the hub")
        tokenizer = load_tokenizer(self.tokenizer)
        return text_rows(file, columns, known, names, tokenizer, length, f"{self.called}.text")
