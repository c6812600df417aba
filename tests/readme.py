"""The README's tables of results, made from the committed records; `python tests/readme.py` writes them into it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
RECORDS = ROOT / "results" / "paper" / "records.jsonl.gz"
START, END = "<!-- results -->", "<!-- end of results -->"


def block() -> str:
    """The text between the README's two marks."""
    from spurbench.bench import command

    rows = json.loads(command.leaderboard(RECORDS, "json", False, "paper", False))
    by_cell: dict[tuple[str, str], dict[str, Any]] = {}
    for row in rows:
        if row["n"] and not row["label"].startswith("figure 1"):
            by_cell.setdefault((row["dataset"], row["label"]), {})[row["split"], row["metric"]] = row
    return "\n\n".join([colored_mnist(by_cell), two_moon(by_cell)])


def colored_mnist(by_cell: dict[tuple[str, str], dict[Any, Any]]) -> str:
    lines = [
        "**Colored MNIST**, the paper's protocol in float32 (accuracy in %; ± with ddof 0, as published; † "
        "hyper-parameters",
        "chosen with a look at the test environment, here and in the papers):",
        "",
        "| method | test, published | test, ours | training, published | training, ours | runs |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for (dataset, label), row in by_cell.items():
        if dataset == "colored_mnist":
            test, train = row["test", "accuracy"], row["train", "accuracy"]
            cells = [f(one) for one in (test, train) for f in (published, ours)]
            mark = "†" if test["selection_oracle"] else ""
            lines.append(f"| {label}{mark} | {' | '.join(cells)} | {test['n']}/{test['n_planned']} |")
    return "\n".join(lines)


def published(row: dict[str, Any]) -> str:
    return spread(row["published_mean"], row["published_std"])


def ours(row: dict[str, Any]) -> str:
    return spread(row["mean"], row["std_ddof0"] if row["n"] > 1 else None)


def spread(mean: float | None, std: float | None) -> str:
    return "" if mean is None else f"{mean:.1f}" + (f" ± {std:.1f}" if std is not None else "")


def two_moon(by_cell: dict[tuple[str, str], dict[Any, Any]]) -> str:
    lines = [
        "**Two-Moon**, Δ = 0.1, 10,000 steps: smallest distance of a training point to the decision boundary, which "
        "starves",
        "where the network lives on the easy feature alone:",
        "",
        "| variant | median | mean, 95 % t interval | runs |",
        "| --- | ---: | ---: | ---: |",
    ]
    margins = [row["train", "min_margin"] for (dataset, _), row in by_cell.items() if dataset == "two_moon"]
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
