"""The README's tables of results, made from the committed records; `python tests/readme.py` writes them into it."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
RECORDS = ROOT / "results" / "paper" / "records.jsonl.gz"
PRECISIONS = ("bf16", "float32")
Cells = dict[tuple[str, str], dict[tuple[str, str, str], dict[str, Any]]]
"""(dataset, label) → (precision, split, metric) → a row of the leaderboard."""
START, END = "<!-- results -->", "<!-- end of results -->"


def block() -> str:
    """The text between the README's two marks."""
    from spurbench.bench import command

    rows = json.loads(command.leaderboard(RECORDS, "json", False, "paper", False))
    by_cell: Cells = {}
    for row in rows:
        if row["n"] and not row["label"].startswith("figure 1"):
            cell = by_cell.setdefault((row["dataset"], row["label"]), {})
            cell[row["precision"], row["split"], row["metric"]] = row
    return "\n\n".join([colored_mnist(by_cell), two_moon(by_cell)])


def colored_mnist(by_cell: Cells) -> str:
    lines = [
        "**Colored MNIST**, the paper's protocol, in bf16 and as published in float32 (accuracy in %, ± with ddof 0; "
        "runs of ten;",
        "† hyper-parameters chosen with a look at the test environment, here and in the papers; ‡ worse than chance in",
        "training, so no cue was learned, or one the wrong way round):",
        "",
        "| method | test, published | bf16 | float32 | training, published | bf16 | float32 | runs |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for (dataset, label), cell in by_cell.items():
        if dataset == "colored_mnist":
            columns = [published(cell, "test"), *ours(cell, "test"), published(cell, "train"), *ours(cell, "train")]
            mark = "†" * any(row["selection_oracle"] for row in cell.values())
            mark += "‡" * any(row["below_chance"] for row in cell.values())
            runs = ", ".join(
                str(cell[p, "test", "accuracy"]["n"]) for p in PRECISIONS if (p, "test", "accuracy") in cell
            )
            lines.append(f"| {label}{mark} | {' | '.join(columns)} | {runs} |")
    return "\n".join([*lines, "", *searched(by_cell)])


def searched(by_cell: Cells) -> list[str]:
    """How the hyper-parameters of the rows without a published number were found."""
    found: dict[str, list[str]] = {}
    for (dataset, label), cell in by_cell.items():
        if dataset == "colored_mnist" and (text := next(iter(cell.values()))["search"]):
            found.setdefault(text, []).append(label)
    return textwrap.wrap(". ".join(f"{', '.join(labels)}: {text}" for text, labels in found.items()) + ".", 120)


def published(cell: dict[Any, Any], split: str) -> str:
    """The published number beside any of a cell's rows of this split."""
    rows = [row for (_, where, metric), row in cell.items() if (where, metric) == (split, "accuracy")]
    return spread(rows[0]["published_mean"], rows[0]["published_std"])


def ours(cell: dict[Any, Any], split: str) -> list[str]:
    """Ours in each precision."""
    rows = [cell.get((precision, split, "accuracy")) for precision in PRECISIONS]
    return [spread(row["mean"], row["std_ddof0"] if row["n"] > 1 else None) if row else "" for row in rows]


def spread(mean: float | None, std: float | None) -> str:
    return "" if mean is None else f"{mean:.1f}" + (f" ± {std:.1f}" if std is not None else "")


def two_moon(by_cell: Cells) -> str:
    lines = [
        "**Two-Moon**, Δ = 0.1, 10,000 steps: smallest distance of a training point to the decision boundary, which "
        "starves",
        "where the network lives on the easy feature alone:",
        "",
        "| variant | median | mean, 95 % t interval | runs |",
        "| --- | ---: | ---: | ---: |",
    ]
    margins = [row["float32", "train", "min_margin"] for (dataset, _), row in by_cell.items() if dataset == "two_moon"]
    for one in sorted(margins, key=lambda row: -row["median"]):
        interval = f" [{one['ci95_low']:.3f}, {one['ci95_high']:.3f}]" if one["n"] > 1 else ""
        runs = f"{one['n']}/{one['n_planned']}"
        lines.append(f"| {one['label']} | {one['median']:.3f} | {one['mean']:.3f}{interval} | {runs} |")
    return "\n".join(lines)


def main() -> None:
    readme = ROOT / "README.md"
    before, _, rest = readme.read_text().partition(START)
    readme.write_text(f"{before}{START}\n{block()}\n{END}{rest.partition(END)[2]}")


if __name__ == "__main__":
    main()
