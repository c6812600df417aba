"""The tables of results in README.md and docs/results.md, made from the committed records.

`python tests/readme.py` (or `make results`) writes them into both.
"""

from __future__ import annotations

import json
import runpy
import textwrap
from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path
from statistics import mean
from typing import Any

from spurbench.bench.formats.render import render
from spurbench.bench.leaderboard.build import build_from_store
from spurbench.bench.store.store import Store

ROOT = Path(__file__).parent.parent
SHARING = runpy.run_path(str(ROOT / "tests" / "perf" / "sharing.py"))
RECORDS = ROOT / "results" / "paper" / "records.jsonl.gz"
PRECISIONS = ("bf16", "float32")
Cells = dict[tuple[str, str], dict[tuple[str, str, str], dict[str, Any]]]
"""(dataset, label) → (precision, split, metric) → a row of the leaderboard."""
CORRUPTED = (
    "Which of ten kinds of things an image shows; 95 % of each kind are corrupted in the same way in training, 10 % in "
    "the test. A last layer on features of EfficientNet-lite0, which was trained on ImageNet. The average is the "
    "unbiased accuracy, since all hundred groups have equally many test images"
)
DOMINOES = (
    "A car or a truck of CIFAR-10, from JPEG files, below a digit of MNIST that says which: in 95 % of training, or "
    "always. A small network from pixels, and a last layer on features of EfficientNet-lite0, which was trained on "
    "ImageNet. Accuracy of the worst group in % where digits are drawn evenly, and the paired difference to ERM with "
    "its 95 % t interval, five seeds. Digits are drawn evenly in validation, too: where training has only two of the "
    "four groups, DFR, which is fitted to validation, is the one that can tell digit and photograph apart."
)
START, END = "<!-- results -->", "<!-- end of results -->"


def blocks() -> dict[str, str]:
    """File → the text between its two marks."""
    by_cell = cells("paper")
    parts = [
        colored_mnist(by_cell), environments(cells("colored_mnist")), two_moon(by_cell), cifar2(cells("cifar2")),
        worst_groups(cells("celeba_twin"), "CelebA's synthetic twin", "Blond or not, on drawn images"),
        twin_methods(),
        worst_groups(cells("adult"), "Adult", "More than 50,000 dollars a year or not; groups by sex"),
        worst_groups(cells("corrupted_cifar10_features"), "Corrupted CIFAR-10 on ImageNet features", CORRUPTED),
        dominoes(),
    ]  # fmt: skip
    return {"README.md": summary(by_cell), "docs/results.md": "\n\n".join(parts)}


def records(grid: str) -> Path:
    """Where the records of a grid are: in its own folder, or beside the paper's."""
    own = ROOT / "results" / grid / RECORDS.name
    return own if own.exists() else RECORDS


def cells(grid: str, columns: Sequence[tuple[str, str]] = (), **options: Any) -> Cells:
    """The rows of a grid's leaderboard that are of these options of a dataset."""
    rows = json.loads(render(build_from_store(Store.open(records(grid)), grid=grid, columns=columns), "json"))
    by_cell: Cells = {}
    for row in rows:
        if row["n"] and not row["label"].startswith("figure 1") and options.items() <= row["dataset_options"].items():
            cell = by_cell.setdefault((row["dataset"], row["label"]), {})
            cell[row["precision"], row["split"], row["metric"]] = row
    return by_cell


def summary(by_cell: Cells) -> str:
    """Colored MNIST's published numbers beside ours."""
    lines = ["| method | published | ours, bf16 | ours, float32 | runs |", "| --- | ---: | ---: | ---: | ---: |"]
    for (dataset, label), cell in by_cell.items():
        if dataset == "colored_mnist" and (theirs := published(cell, "test")):
            lines.append(f"| {label} | {theirs} | {' | '.join(ours(cell, 'test'))} | {runs(cell)} |")
    return "\n".join(lines)


def runs(cell: dict[Any, Any]) -> str:
    """How many runs there are in each precision."""
    return ", ".join(str(cell[p, "test", "accuracy"]["n"]) for p in PRECISIONS if (p, "test", "accuracy") in cell)


def colored_mnist(by_cell: Cells) -> str:
    lines = [
        "## Colored MNIST",
        "",
        "The paper's protocol, in bf16 and, as published, in float32. Accuracy in %, ± with ddof 0; runs out of ten.",
        "† hyper-parameters chosen using the test environment, here and in the papers; ‡ worse than chance in",
        "training: no cue was learned, or an inverted one.",
        "",
        "| method | test, published | bf16 | float32 | training, published | bf16 | float32 | runs |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for (dataset, label), cell in by_cell.items():
        if dataset == "colored_mnist":
            columns = [published(cell, "test"), *ours(cell, "test"), published(cell, "train"), *ours(cell, "train")]
            mark = "†" * any(row["selection_oracle"] for row in cell.values())
            mark += "‡" * any(row["below_chance"] for row in cell.values())
            lines.append(f"| {label}{mark} | {' | '.join(columns)} | {runs(cell)} |")
    return "\n".join([*lines, "", *searched(by_cell, "colored_mnist")])


def environments(by_cell: Cells) -> str:
    """Methods that use the environments of Colored MNIST, or infer them."""
    lines = [
        "## Environments of Colored MNIST",
        "",
        "Fishr with IRM's hyper-parameters, as its authors ran it, beside IRM and REx; float32, ± with ddof 0.",
        "",
        "| method | test, published | ours | training, published | ours | runs |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for (_, label), cell in by_cell.items():
        columns = [part for split in ("test", "train") for part in (published(cell, split), ours(cell, split)[1])]
        lines.append(f"| {label} | {' | '.join(columns)} | {runs(cell)} |")
    return "\n".join([*lines, "", marked("colored_mnist")])


def searched(by_cell: Cells, of: str) -> list[str]:
    """How the hyper-parameters of a dataset's searched rows were found."""
    found: dict[str, list[str]] = {}
    for (dataset, label), cell in by_cell.items():
        if dataset == of and (text := next(iter(cell.values()))["search"]):
            found.setdefault(text, []).append(label)
    return textwrap.wrap(". ".join(f"{'; '.join(labels)}: {text}" for text, labels in found.items()) + ".", 120)


def twin_methods() -> str:
    """The rows chosen by the worst group and without any attribute, and what examples they mark."""
    grid = "celeba_twin_methods"
    shared, apart = SHARING["seconds_of"](records(grid), grid)
    told = (
        "The same drawn images. Rows are chosen by the worst group on validation; others without any attribute, by the "
        "worst class or by the worst of the groups that XRM infers, and compared with ERM chosen without one. Runs "
        f"that others start from are trained once for all of them, {100 * shared / apart:.0f} % of the time that it "
        "would take each row by itself"
    )
    rows = worst_groups(cells(grid), "More methods on CelebA's synthetic twin", told)
    return f"{rows}\n\n{marked(grid)}"


def marked(grid: str) -> str:
    """How rightly the rows of a grid that mark examples as of minorities do so."""
    store = Store.open(records(grid))
    (plan,) = [plan for plan in store.plans() if plan.grid == grid]
    told = []
    for cell in plan.cells:
        found = [record.measures.get("train", {}) for id in cell.ids if (record := store.record(id))]
        found = [one for one in found if "marked" in one]
        shares = [mean(one[f"marked_{name}"] for one in found) for name in ("precision", "recall") if found]
        told += [f"{cell.label} {shares[0]:.0%}, {shares[1]:.0%}"] if shares else []
    text = (
        "Precision and recall of the training examples that a row marks as of a minority, a group whose attribute "
        f"misleads about the label: {'; '.join(told)}."
    )
    return "\n".join(textwrap.wrap(text, 120))


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
        "## Two-Moon",
        "",
        "Δ = 0.1, 10,000 steps: the smallest distance from a training point to the decision boundary. It is small",
        "where the network relies on the easy feature alone.",
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
        "## CIFAR-2",
        "",
        "Airplane against horse, images from JPEG files, batch size 1, 40 epochs: % of the training images that a",
        "perturbation of at most the given size flips (L∞, pixels from −1 to 1).",
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
        f"The released search finds nothing for {missed[0]:.1f} to {missed[1]:.1f} % of ERM's training images: the "
        "loss of a very confident network has no gradient left. Along the gradient of the logits, for the seed that "
        f"misses most, it finds {panel['series'][2]['y'][-1]:.1f} %."
    )
    return "\n".join([*lines, "", *textwrap.wrap(told, 120)])


def nearest(values: list[float], wanted: float) -> int:
    return min(range(len(values)), key=lambda i: abs(values[i] - wanted))


def dominoes() -> str:
    """A table for digits that agree in 95 % of training, and one for those that always do."""
    columns = [("random_digit", "worst_group_accuracy")]
    parts = ["## Dominoes, from pixels and on ImageNet features", "\n".join(textwrap.wrap(DOMINOES, 110))]
    for agreement, name, title in (
        (0.95, "dominoes95_lite0", "Digits that agree in 95 % of training"),
        (1.0, "dominoes100_lite0", "Digits that always agree"),
    ):
        ways = cells("dominoes", columns, agreement=agreement), cells("dominoes_features", columns, name=name)
        parts += [f"### {title}", side_by_side(ways), *below_chance(ways[0])]
    return "\n\n".join([*parts, "\n".join(searched(ways[0], "dominoes"))])


def side_by_side(ways: Sequence[Cells]) -> str:
    """The worst group from pixels and on features, a line for each label."""
    found = [{label: cell["float32", "random_digit", "worst_group_accuracy"] for (_, label), cell in of.items()}
             for of in ways]  # fmt: skip
    lines = ["| method | pixels | Δ erm | features | Δ erm |", "| --- | ---: | ---: | ---: | ---: |"]
    for label in found[0] | found[1]:
        shown = [
            (spread(row["mean"], row["std_ddof0"]), gain(row)) if (row := of.get(label)) else ("", "") for of in found
        ]
        lines.append(f"| {label} | {' | '.join(text for pair in shown for text in pair)} |")
    return "\n".join(lines)


def below_chance(by_cell: Cells) -> list[str]:
    """The rows that are worse than chance in training."""
    inverted = [label for (_, label), cell in by_cell.items() if next(iter(cell.values()))["below_chance"]]
    told = (
        f"From pixels, {' and '.join(inverted)} did worse than chance in training: no cue learned, or an inverted one."
    )
    return ["\n".join(textwrap.wrap(told, 110))] if inverted else []


def gain(row: dict[str, Any]) -> str:
    """The paired difference to the baseline and its interval."""
    low, high = row["baseline_ci95_low"], row["baseline_ci95_high"]
    return "" if low is None else f"{row['baseline_difference']:+z.1f} [{low:z.1f}, {high:z.1f}]"


def worst_groups(by_cell: Cells, title: str, what: str) -> str:
    """The worst group and the average of each row, and what is gained over ERM."""
    told = f"{what}: test accuracy in %, and the paired difference of the worst group to ERM with its 95 % t interval."
    lines = [
        f"## {title}",
        "",
        *textwrap.wrap(told, 110),
        "",
        "| method | worst group | Δ erm | average | runs |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for (_, label), cell in by_cell.items():
        worst, all_ = (cell["float32", "test", metric] for metric in ("worst_group_accuracy", "accuracy"))
        numbers = (spread(worst["mean"], worst["std_ddof0"]), gain(worst), spread(all_["mean"], all_["std_ddof0"]))
        lines.append(f"| {label} | {' | '.join(numbers)} | {worst['n']}/{worst['n_planned']} |")
    (dataset,) = {dataset for dataset, _ in by_cell}
    return "\n".join([*lines, "", *searched(by_cell, dataset)])


def main() -> None:
    for name, block in blocks().items():
        page = ROOT / name
        before, _, rest = page.read_text().partition(START)
        page.write_text(f"{before}{START}\n\n{block}\n\n{END}{rest.partition(END)[2]}")


if __name__ == "__main__":
    main()
