"""The committed results are what this code makes of the committed records, and the README tells them."""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from typing import Any

import pytest

from spurbench.bench import command
from spurbench.bench.store import Store

ROOT = Path(__file__).parent.parent
README = runpy.run_path(str(ROOT / "tests" / "readme.py"))
FIELDS = (
    "dataset",
    "label",
    "split",
    "metric",
    "n",
    "n_planned",
    "mean",
    "std",
    "ci95_low",
    "published_mean",
    "p_holm",
)


def essence(text: str) -> list[dict[str, Any]]:
    return [{name: row[name] for name in FIELDS} for row in json.loads(text)]


def test_the_leaderboard_comes_from_the_records() -> None:
    made = essence(command.leaderboard(README["RECORDS"], "json", False, "paper", False))
    kept = essence((ROOT / "results" / "paper" / "leaderboard.json").read_text())
    assert len(made) == len(kept) > 20
    for one, other in zip(made, kept, strict=True):
        assert one == pytest.approx(other, nan_ok=True), "run `make results`"


def test_no_committed_record_is_damaged_or_from_other_code() -> None:
    records, unusable = Store.open(README["RECORDS"]).records()
    assert records and not unusable
    for record in records:
        assert record["provenance"]["commit"] and record["provenance"]["diff"] is None


def test_the_readme_tells_the_results() -> None:
    assert README["block"]() in (ROOT / "README.md").read_text(), "run `make results`"
