"""What the formats make of hostile names, wide tables, many metrics and ten thousand records."""

from __future__ import annotations

import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from make_records import make_cell, make_counts, make_plan, make_record, make_search

from spurbench.bench.core.errors import UserError
from spurbench.bench.formats.html import Scale, strip
from spurbench.bench.formats.render import render
from spurbench.bench.leaderboard import build, published, wording
from spurbench.bench.leaderboard.cell_results import collect_results
from spurbench.bench.records.plan import Choice, Plan
from spurbench.bench.records.record import Record

EVIL = '<script>alert("1")</script>'
OWN = published.Comparison("plain", frozenset({"guess"}))
BASE = {"dataset": "pictures", "dataset_options": {"size": 9}, "training": {"steps": 5}}
THREE = [("test", "accuracy"), ("train", "accuracy"), ("test", "worst_group_accuracy")]


def record(method: str, seed: int, test: float, **fields: Any) -> Record:
    """A record with `test` percent of 10,000 right; keyword arguments replace fields of the run or the record."""
    learned = make_counts(8900, 900, n=(9000, 1000))
    rest = {
        "method": method, "seed": seed, "groups": ["y0", "y1"], "headline": [["test", "accuracy"]],
        "splits": {"test": make_counts(test * 90, test * 10, n=(9000, 1000)), "train": learned},
        "cost": {"seconds": 100.0, "peak_memory_mb": 2048.0},
        "provenance": {"commit": "abc", "finished": "2026-01-02"},
    }  # fmt: skip
    return make_record(**BASE | rest | fields)


def board(records: list[Record], **options: Any) -> build.Leaderboard:
    return build.build(records, comparison=OWN, **options)


def several(methods: dict[str, float], seeds: int = 4, **fields: Any) -> list[Record]:
    return [record(m, s, value + s % 3, **fields) for m, value in methods.items() for s in range(seeds)]


class Tags(HTMLParser):
    """Counts elements, and fails where they do not close in order."""

    VOID = {"meta", "input"}

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.count: dict[str, int] = {}

    def handle_starttag(self, tag: str, attributes: Any) -> None:
        self.count[tag] = self.count.get(tag, 0) + 1
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attributes: Any) -> None:
        self.count[tag] = self.count.get(tag, 0) + 1

    def handle_endtag(self, tag: str) -> None:
        while self.open[-1] in ("option", "li", "dt", "dd") and self.open[-1] != tag:
            self.open.pop()
        assert self.open.pop() == tag


def test_page_is_well_formed_shows_every_seed_and_runs_no_name() -> None:
    failed = record(EVIL, 9, 0, status="failed", splits={}, cause={"kind": "exception", "message": EVIL})
    page = render(board([*several({"plain": 20, EVIL: 60, "guess": 50}), failed]), "html")
    tags = Tags()
    tags.feed(page)
    assert tags.open == [] and tags.count["script"] == 1  # the page's own
    dots = tags.count["circle"] - 1  # one in the legend
    assert dots == 12 and page.count("seed 3: 60.00") == 1
    assert "4/5" in page and "1 failed" in page and "</svg>published</span>" not in page


def test_page_marks_the_published_value_and_says_the_strip_in_words() -> None:
    one = published.Published("pictures", "plain", "test", "accuracy", 21.5, "A paper", "none", "verified", 0.3, 0, 10)
    plan = planned("plain", [0, 1], published="plain")
    made = build.build(several({"plain": 20}, 2), [plan], comparison=published.Comparison("plain", frozenset(), (one,)))
    page = render(made, "html")
    assert "</svg>published</span>" in page, "in the legend"
    assert "published 21.5: A paper" in page and "2 seeds from 20.00 to 21.00, published 21.5 ± 0.3" in page


def planned(method: str, seeds: list[int], **fields: Any) -> Plan:
    """The plan of one cell."""
    rest = {"method": method, "seeds": seeds, "selection": Choice("none", text="as given")}
    return make_plan(grid="g", cells=[make_cell(**BASE | rest | fields)])


@pytest.mark.parametrize("status", ["third-party", "recalled"])
def test_unverified_numbers_are_never_printed(status: str) -> None:
    one = published.Published("pictures", "plain", "test", "accuracy", 77.7, "Hearsay", "none", status, 0.3, 0, 10)
    plan = planned("plain", [0], published="plain")
    made = build.build([], [plan], comparison=published.Comparison("plain", frozenset(), (one,)))
    assert all("77.7" not in render(made, format_) for format_ in ("table", "html", "json"))


def test_shipped_published_numbers_are_the_papers_table() -> None:
    found = published.load()
    shown = [one for one in found.numbers if one.n != 1 and one.dataset == "colored_mnist"]
    table = {(one.method, one.split): (one.mean, one.std, one.ddof) for one in shown}
    assert table == {
        ("erm", "test"): (23.7, 0.8, 0), ("erm", "train"): (91.1, 0.4, 0), ("sd", "test"): (68.4, 1.2, 0),
        ("sd", "train"): (70.0, 0.9, 0), ("irm", "test"): (67.1, 1.4, 0), ("irm", "train"): (70.5, 0.6, 0),
        ("rex", "test"): (68.7, 0.9, 0), ("rex", "train"): (71.5, 1.0, 0), ("oracle", "test"): (73.0, 0.4, 0),
        ("oracle", "train"): (73.5, 0.2, 0), ("random", "test"): (50.0, None, None),
        ("random", "train"): (50.0, None, None),
        ("fishr", "test"): (69.5, 1.0, None), ("fishr", "train"): (71.0, 0.9, None),  # of another paper
    }  # fmt: skip
    figure = {(one.method, one.metric): one.mean for one in found.numbers if one.split == "coloured_blank"}
    assert figure["sd", "accuracy"] == 9.4 and figure["sd", "entropy"] == 0.41
    assert found.number("colored_mnist", {"train_size": 5000}, "erm", "test", "accuracy") is None


def test_published_numbers_of_pictures_stand_beside_the_published_data_alone() -> None:
    found = published.load()
    original = {"origin": "original", "size": 224}
    worst = found.number("celeba", original, "sd", "test", "worst_group_accuracy")
    assert worst is not None and (worst.mean, worst.std, worst.ddof) == (83.24, 2.01, None)
    assert found.number("celeba", original | {"origin": "twin"}, "sd", "test", "worst_group_accuracy") is None
    assert found.number("celeba", original, "lff", "test", "worst_group_accuracy") is None
    attacked = found.number("cifar10", original, "erm", "test", "pgd_as_released_accuracy")
    assert attacked is not None and attacked.mean == 30.1
    assert found.number("cifar10", {"origin": "jpeg"}, "erm", "test", "accuracy") is None


def test_a_wrong_published_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text("baseline: erm\nreferences: []\npublished: [{dataset: d, numbers: [{mean: 1}]}]\n")
    with pytest.raises(UserError, match="entry 1 of 'published'"):
        published.load(tmp_path / "p.yaml")


def test_terminal_table_fits_120_columns_and_says_what_it_left_out() -> None:
    records = several({f"a method with a very long name {i}": 60 + i for i in range(3)} | {"plain": 20})
    text = render(board([r.with_(headline=THREE) for r in records]), "table")
    assert max(map(len, text.splitlines())) <= 120
    assert "no room here for: " in text


def test_terminal_keeps_paths_whole() -> None:
    path = "records/ab/" + "0123456789abcdef" * 8 + ".json"
    problem = type("Problem", (), {"path": path, "reason": "truncated"})()
    assert path in render(board(several({"plain": 20}), problems=[problem]), "table")


def test_many_metrics_make_one_table_each() -> None:
    text = render(board(several({"plain": 20, "other": 60}), all_metrics=True), "markdown")
    assert text.count("### pictures") == 10  # five metrics of two splits
    assert "test worst group accuracy" in text


def test_tie_group_and_holm_are_over_competing_rows() -> None:
    records = several({"plain": 20, "near": 60, "best": 60.01, "guess": 99}, 6)
    rows = {row.label: row for row in board(records).rows}
    assert [rows[name].among_best for name in ("plain", "near", "best", "guess")] == [False, False, True, None]
    assert rows["near"].comparisons == 2 and rows["guess"].p_holm is None  # near is 0.01 below on every seed
    assert rows["near"].p_holm == pytest.approx(min(1, 2 * 2 / 2**6))


def test_a_lone_row_on_other_data_joins_the_table_uncompared() -> None:
    records = several({"plain": 20, "other": 60}) + several({"other": 40}, dataset_options={"size": 10})
    (section,) = board(records).sections
    last = section.lines[-1][0]
    assert last.label == "other [size=10]" and last.baseline is None and last.among_best is None


def test_search_draws_are_no_rows_and_an_open_search_is_named() -> None:
    draws = several({"other": 40}, 1, hyper_parameters={"c": 1})
    absent = record("other", 0, 40, hyper_parameters={"c": 2})
    search = make_search(draws[0].run, absent.run, chosen=None)
    made = board(draws, plans=[planned("other", [0, 1], search=search, hyper_parameters=None)])
    (row,) = made.rows
    assert (row.n, row.n_planned) == (0, 2) and row.note == "search going on, 1 of 2 runs ended"
    assert "search going on" in render(made, "table")


def test_only_the_planned_records_on_request() -> None:
    plan = planned("plain", [0, 1])
    found = several({"plain": 20}) + several({"other": 60}, provenance={"finished": "2999-01-01"})
    assert [one.method for one in collect_results(found, [plan], planned_only=True)] == ["plain"]
    made = board(found, plans=[plan], planned_only=True)
    assert [row.n for row in made.rows] == [2] and made.finished != "2999-01-01"
    assert board(found, plans=[plan]).finished == "2999-01-01"


def test_lack_of_a_metric_and_collapse_are_said() -> None:
    records = [record("plain", s, value, measures={}) for s, value in enumerate([70, 71, 69.5, 70.5, 10, 11])]
    records.append(record("plain", 6, 70, splits={}))
    text = render(board(records), "table")
    assert "1 finished run without test accuracy" in text and "2 of 6 far from the others" in text


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [(68.404, "%", "68.40"), (-0.004, "%", "0.00"), (0.1284, "", "0.128"), (879.36, "", "879.4"), (None, "%", "–")],
)
def test_numbers(value: float | None, unit: str, text: str) -> None:
    assert wording.number(value, unit) == text


def test_latex_is_balanced_and_escaped() -> None:
    text = render(board(several({"plain": 20, "a_b & 100% {x} ^~\\ #$": 60})), "latex")
    stripped = re.sub(r"\\[\\{}$&#%_]", "", text)
    assert stripped.count("{") == stripped.count("}") and stripped.count("$") % 2 == 0
    assert text.count(r"\begin{") == text.count(r"\end{")
    assert r"a\_b \& 100\% \{x\} \textasciicircum{}\textasciitilde{}\textbackslash{} \#\$" in text


def test_ten_thousand_records() -> None:
    records = [record(f"m{m}" if m else "plain", s, 50 + m % 7 + s % 3) for m in range(1000) for s in range(10)]
    assert len(board(records).rows) == 1000


def test_an_axis_stays_within_what_is_possible_and_is_not_flattened_by_one_interval() -> None:
    records = several({"plain": 90, "other": 94}, 8) + [record("wild", s, value) for s, value in enumerate((60, 99))]
    rows = {line[0].label: line[0] for line in board(records).sections[0].lines}
    assert (rows["wild"].ci95_low, rows["wild"].ci95_high) == (0.0, 100.0)
    scale = Scale.over(list(rows.values()))
    assert 35 <= scale.low < 60 and scale.high == 100.0
    wide = strip(rows["wild"], scale)
    assert wide["beyond"] and wide["interval"] == (scale(scale.low), scale(100.0))
    assert not strip(rows["plain"], scale)["beyond"]
    page = render(board(records), "html")
    assert page.count("ci beyond") == 1 and "−" not in page.partition("every seed")[0].rpartition("<th")[2]


@pytest.mark.parametrize("values", [(0.0, 0.0), (100.0, 100.0), (0.0, 100.0)])
def test_an_axis_of_numbers_at_the_limits_has_a_length(values: tuple[float, float]) -> None:
    scale = Scale.over(
        [line[0] for line in board([record("plain", s, v) for s, v in enumerate(values)]).sections[0].lines]
    )
    assert 0.0 <= scale.low < scale.high <= 100.0


def test_a_terminal_without_room_says_below_what_rows_used() -> None:
    records = several({f"a method with a very long name {i}": 60 + i for i in range(2)}, needs=["groups"])
    text = render(board([r.with_(headline=THREE) for r in records + several({"plain": 20})]), "table")
    assert "sees, train: labels + groups: a method with a very long name 0; a method with" in " ".join(text.split())
    assert "sees, train: labels: plain" in text
