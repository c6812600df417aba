"""The README's tables of results, made from the committed records; `python tests/readme.py` writes them into it."""

from __future__ import annotations

import json
import textwrap
from itertools import zip_longest
from pathlib import Path
from typing import Any

from spurbench.bench.formats.render import render
from spurbench.bench.leaderboard.build import board
from spurbench.bench.store.store import Store

ROOT = Path(__file__).parent.parent
RECORDS = ROOT / "results" / "paper" / "records.jsonl.gz"
PRECISIONS = ("bf16", "float32")
Cells = dict[tuple[str, str], dict[tuple[str, str, str], dict[str, Any]]]
"""(dataset, label) → (precision, split, metric) → a row of the leaderboard."""
START, END = "<!-- results -->", "<!-- end of results -->"


def block() -> str:
    """The text between the README's two marks."""
    by_cell = cells("paper")
    parts = [colored_mnist(by_cell), two_moon(by_cell), cifar2(cells("cifar2")), celeba_twin(cells("celeba_twin"))]
    return "\n\n".join(parts)


def cells(grid: str) -> Cells:
    """The rows of a grid's leaderboard."""
    rows = json.loads(render(board(Store.open(RECORDS), grid=grid), "json"))
    by_cell: Cells = {}
    for row in rows:
        if row["n"] and not row["label"].startswith("figure 1"):
            cell = by_cell.setdefault((row["dataset"], row["label"]), {})
            cell[row["precision"], row["split"], row["metric"]] = row
    return by_cell


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
    return "\n".join([*lines, "", *searched(by_cell, "colored_mnist")])


def searched(by_cell: Cells, of: str) -> list[str]:
    """How the hyper-parameters of a dataset's searched rows were found."""
    found: dict[str, list[str]] = {}
    for (dataset, label), cell in by_cell.items():
        if dataset == of and (text := next(iter(cell.values()))["search"]):
            found.setdefault(text, []).append(label)
    return textwrap.wrap(". ".join(f"{'; '.join(labels)}: {text}" for text, labels in found.items()) + ".", 120)


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


def cifar2(by_cell: Cells) -> str:
    """How many training pictures a disturbance flips, ours and as read off the paper's Figure 2."""
    panel = json.loads((ROOT / "results" / "paper" / "figures" / "fig2.json").read_text())["panels"][0]["data"]
    sizes = (0.02, 0.03, 0.05, 0.1, 0.2, 0.3, 0.5, 0.9)
    lines = [
        "**CIFAR-2**, airplane against horse, pictures from JPEG files, batch size 1, 40 epochs: % of the training",
        "pictures that a disturbance of so much flips (L∞, pixels from −1 to 1):",
        "",
        f"| method | test accuracy | {' | '.join(map(str, sizes))} | runs |",
        f"| --- | ---: |{' ---: |' * len(sizes)} ---: |",
    ]
    for cell, one, theirs in zip_longest(by_cell.values(), panel["series"], panel["published"]):
        test = cell["float32", "test", "accuracy"]
        accuracy = spread(test["mean"], test["std_ddof0"] if test["n"] > 1 else None)
        rows = [(one["name"], accuracy, one, f"{test['n']}/{test['n_planned']}")]
        rows += [(theirs["name"], "", theirs, "1")] if theirs else []
        for name, accuracy, curve, runs in rows:
            shares = [f"{curve['y'][nearest(curve['x'], size)]:.1f}" for size in sizes]
            lines.append(f"| {name} | {accuracy} | {' | '.join(shares)} | {runs} |")
    missed = [100 - panel["series"][0][end][-1] for end in ("high", "low")]
    told = (
        f"The released search finds nothing for {missed[0]:.1f} to {missed[1]:.1f} % of ERM's training pictures: the "
        "loss of a network that is very sure has no gradient left. Along the gradient of the logits, for the seed that "
        f"misses most, it finds {panel['series'][2]['y'][-1]:.1f} %."
    )
    return "\n".join([*lines, "", *textwrap.wrap(told, 120)])


def nearest(values: list[float], wanted: float) -> int:
    return min(range(len(values)), key=lambda i: abs(values[i] - wanted))


def celeba_twin(by_cell: Cells) -> str:
    lines = [
        "**CelebA's synthetic twin**, blond or not on drawn pictures: test accuracy in %, and by how much the rarest",
        "group does better than under ERM, seed by seed, with a 95 % t interval:",
        "",
        "| method | worst group | Δ erm | average | runs |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for (_, label), cell in by_cell.items():
        worst, all_ = (cell["float32", "test", metric] for metric in ("worst_group_accuracy", "accuracy"))
        low, high = worst["baseline_ci95_low"], worst["baseline_ci95_high"]
        gain = "" if low is None else f"{worst['baseline_difference']:+.1f} [{low:.1f}, {high:.1f}]"
        numbers = (spread(worst["mean"], worst["std_ddof0"]), gain, spread(all_["mean"], all_["std_ddof0"]))
        lines.append(f"| {label} | {' | '.join(numbers)} | {worst['n']}/{worst['n_planned']} |")
    return "\n".join([*lines, "", *searched(by_cell, "celeba")])


def main() -> None:
    readme = ROOT / "README.md"
    before, _, rest = readme.read_text().partition(START)
    readme.write_text(f"{before}{START}\n{block()}\n{END}{rest.partition(END)[2]}")


if __name__ == "__main__":
    main()
