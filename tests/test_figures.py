"""Figures: drawn from a store and told in numbers; what a store lacks is said with the command that makes it."""

from __future__ import annotations

import json
import os
import runpy
import signal
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace

sys.path.insert(0, str(Path(__file__).parent))
from make_records import make_counts

from spurbench.bench.core import processes
from spurbench.bench.core.errors import UserError
from spurbench.bench.core.files import running as alive
from spurbench.bench.evaluation import theory
from spurbench.bench.figures import draw, sheet
from spurbench.bench.figures.figure_data import FigureData, Panel
from spurbench.bench.figures.panels.looks import Looks
from spurbench.bench.figures.panels.squares import colour_image
from spurbench.bench.grid.expand import expand
from spurbench.bench.grid.load import load_grid
from spurbench.bench.jobs import retrain
from spurbench.bench.jobs.job import Job
from spurbench.bench.jobs.recording import begin_record
from spurbench.bench.jobs.worker import run_job
from spurbench.bench.records.record import Cause, Curve, Look, Record
from spurbench.bench.store import artifacts
from spurbench.bench.store.store import Store
from spurbench.bench.training.execution import Options

ROOT = Path(__file__).parent.parent
BROWSER = runpy.run_path(str(ROOT / "tests" / "browser.py"))
GRID = """\
name: small
seeds: 0-2
datasets:
  - dataset: two_moon
    options: {examples: 40}
    training: {steps: 30, width: 16}
    methods: [erm, sd, {method: erm, label: longer, training: {steps: 60}}]
  - dataset: colored_mnist
    options: {train_size: 200}
    training: {steps: 3, width: 8}
    seeds: 1-2
    methods: [erm]
"""
FIGURES = """\
surfaces:
  title: Two surfaces
  grid: small.yaml
  columns: 2
  panels:
    - kind: surface
      title: plain
      cell: {dataset: two_moon, label: erm}
      number: {split: train, measure: min_margin, name: margin}
    - {kind: surface, title: decoupled, cell: {dataset: two_moon, label: sd}}
features:
  title: Responses and shares
  grid: small.yaml
  columns: 2
  panels:
    - {kind: responses, series: [{dataset: two_moon, label: erm}], features: [0, 1], probe: {features: 3, points: 5}}
    - {kind: shares, cell: {dataset: two_moon, label: erm}, probe: {features: 3, points: 5}}
pictures:
  title: Squares
  grid: small.yaml
  panels:
    - kind: squares
      marked_seed: 2
      columns: [{dataset: colored_mnist, label: erm}]
      rows: [{split: grey_digit, title: grey}, {split: coloured_blank, title: blank}]
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a grid, figures of it, and a store in which seeds 0 and 1 share a stack and `longer` is not run."""
    folder = tmp_path_factory.mktemp("figures")
    (folder / "small.yaml").write_text(GRID)
    (folder / "own.yaml").write_text(FIGURES)
    store = Store.open(folder / "store", create=True)
    plan = expand(load_grid(str(folder / "small.yaml")), {})
    store.write_plan(plan)
    cells: dict[str, list[Any]] = {}
    for run, cell in plan.runs():
        cells.setdefault(cell.label + cell.dataset, []).append(run)
    for name, some in cells.items():
        if not name.startswith("longer"):
            for stack in (some[:2], some[2:]):
                if stack:
                    run_job(Job(stack, name), store, lambda step: None, lambda: False)
    return folder


@pytest.fixture
def own(made: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, sheet.Figure]]:
    monkeypatch.chdir(made)
    yield {one.name: one for one in sheet.load("own.yaml")}


def source(made: Path) -> FigureData:
    return FigureData(Store.open(made / "store"))


def with_curves(record: Record, seed: int) -> Record:
    """A record as if its pictures had been attacked and its held-out splits scored on the way."""
    flipped: list[float] = [min(10, i // (50 * (1 + seed))) for i in range(1001)]
    counts = [make_counts(i, 5 - i, n=5) for i in range(3)]
    looks = [Look(10 * i, {"validation": count}) for i, count in enumerate(counts)]
    curves = {"margin": Curve("train", 10, flipped)}
    splits = record.splits | {"validation": counts[-1]}
    return record.with_(curves=curves, looks=looks, splits=splits)


def test_curves_are_means_and_ranges_over_seeds(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(made)
    store = Store.open(tmp_path / "s", create=True)
    for record in Store.open(made / "store").whole_records():
        store.write_record(with_curves(record, record.seed))
    (tmp_path / "own.yaml").write_text(
        f"both: {{title: Curves, grid: {made / 'small.yaml'}, columns: 2, panels: ["
        "{kind: flipped, range: 2, series: [{dataset: two_moon, label: erm}], published: [{name: p, x: [1], y: [2]}]}, "
        "{kind: looks, series: [{dataset: two_moon, label: sd}]}]}\n"
    )
    drawing = draw.prepare(sheet.load(str(tmp_path / "own.yaml"))[0], FigureData(store))
    flipped, looks = (part["series"][0] for part in drawing.parts if part)
    at = flipped["x"].index(1.0)
    assert (flipped["low"][at], flipped["high"][at]) == (30.0, 100.0)  # seeds 2 and 0; 500 thousandths of a range of 2
    assert flipped["y"][at] == pytest.approx((100 + 50 + 30) / 3, rel=1e-3) and flipped["n"] == 3
    assert looks["x"] == [0, 10, 20] and looks["y"] == [0, 20, 40]
    record = with_curves(next(store.whole_records()), 0)
    absent = Looks(series=[], split="test")
    assert Looks(series=[]).is_kept(FigureData(store), record)
    assert not absent.is_kept(FigureData(store), record), "a split that was not scored has no share, not one of 0"
    assert [path.suffix for path in draw.save(drawing, tmp_path / "both")] == [".svg", ".pdf", ".png", ".json"]


def test_a_surface_is_the_mean_of_what_scoring_kept(made: Path, own: dict[str, sheet.Figure]) -> None:
    store = Store.open(made / "store")
    drawing = draw.prepare(own["surfaces"], source(made))
    part = drawing.parts[0]
    ids = [r.id for r in store.records()[0] if (r.dataset, r.method) == ("two_moon", "erm")]
    kept = [artifacts.load_arrays(store, id)["surface"] for id in ids]
    assert part and part["n"] == part["planned"] == 3 and kept[0].shape == (100, 100) and kept[0].dtype == np.float16
    assert np.allclose(part["logit"], np.mean([one.astype(float) for one in kept], 0), rtol=1e-3)
    assert np.ptp(part["logit"]) > 0.1 and len(part["points"]["x"]) == 40
    margins = sorted(store.record(id).measures["train"]["min_margin"] for id in ids)  # type: ignore[union-attr]
    assert part["number"]["value"] == pytest.approx(margins[1], rel=1e-3)


def test_files_are_the_same_each_time_and_the_numbers_are_beside(
    made: Path, own: dict[str, sheet.Figure], tmp_path: Path
) -> None:
    for folder in ("a", "b"):
        paths = draw.save(draw.prepare(own["surfaces"], source(made)), tmp_path / folder / "f.x")
        assert [path.name for path in paths] == ["f.x.svg", "f.x.pdf", "f.x.png", "f.x.json"]
    for name in ("f.x.svg", "f.x.pdf", "f.x.json", "f.x.png"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    numbers = json.loads((tmp_path / "a" / "f.x.json").read_text())
    assert numbers["title"] == "Two surfaces" and len(numbers["panels"][1]["data"]["logit"]) == 100


def test_trained_again_bit_for_bit(made: Path, own: dict[str, sheet.Figure], tmp_path: Path) -> None:
    """Of runs whose drawings are gone the figure says so; trained again they are what they were."""
    store = Store.open(tmp_path / "copy", create=True)
    for record in Store.open(made / "store").whole_records():
        store.write_record(record)
    bare = FigureData(store)
    with pytest.raises(
        UserError, match=r"surfaces: what this is drawn from was not kept of 6 runs \(erm, sd\), .* --train$"
    ):
        draw.prepare(own["surfaces"], bare)
    said: list[bool] = []
    tasks = draw.find_retrainings([own["surfaces"]], bare)
    assert sorted(len(task.records) for task in tasks) == [1, 1, 2, 2]  # in stacks as high as they were
    retrain.retrain_all(tasks, 1, lambda task, same: said.extend(same))
    assert said == [True] * 6
    for id, record in bare.records.items():
        if record.dataset == "two_moon":
            before, after = (artifacts.load_arrays(Store.open(p), id)["surface"] for p in (made / "store", store.root))
            assert (before == after).all()
    assert draw.prepare(own["surfaces"], bare).missing == [] and draw.find_retrainings([own["surfaces"]], bare) == []


def test_nothing_to_train_again_is_no_mistake(
    made: Path, own: Any, tmp_path: Path, command: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = processes.ProcessPoolExecutor
    monkeypatch.setattr(processes, "ProcessPoolExecutor", lambda jobs, *more: pool(1, *more))  # one to import torch
    line = ("figure", "own.yaml", made / "store", "--train", "--partial", "--jobs", 2, "--out", tmp_path)
    said = command(*line, code=0)
    assert "retraining" in said.stderr  # the first time the probe's features are looked for
    again_ = command("figure", "own.yaml", made / "store", "--train", "--out", tmp_path, code=0)
    assert "retraining" not in again_.stderr and (tmp_path / "surfaces.svg").exists()
    command("figure", "fig5", "--train", "--out", tmp_path / "fig5.svg", code=0)


ENDLESS = """\
name: endless
datasets:
  - {dataset: two_moon, seeds: 0-2, training: {steps: 1000000000, width: 16}, methods: [erm]}
"""
ENDED = {signal.SIGTERM: 130, signal.SIGINT: 130, signal.SIGKILL: -signal.SIGKILL}


@pytest.mark.parametrize("number", ENDED)
def test_no_process_outlives_training_again(started: Any, until: Any, tmp_path: Path, number: signal.Signals) -> None:
    """The signal comes to the command alone while two processes train and a third run waits."""
    (tmp_path / "small.yaml").write_text(ENDLESS)
    (tmp_path / "own.yaml").write_text(FIGURES.partition("features:")[0].partition("    - {kind")[0])
    store = Store.open(tmp_path / "store", create=True)
    for run, _ in expand(load_grid(str(tmp_path / "small.yaml")), {}).runs():
        record = begin_record(run, Options())
        store.write_record(record.with_(status="done", cause=None, groups=["y0", "y1"]))
    running = started("figure", "own.yaml", "store", "--train", "--jobs", 2, cwd=tmp_path)
    try:
        until(lambda: sum(map(trains, family(running.pid))) == 2)
        below = family(running.pid)
        running.send_signal(number)
        said = running.communicate(timeout=30)[1]
        assert running.returncode == ENDED[number], said
        assert number == signal.SIGKILL or said.endswith("again to continue\n") and "Traceback" not in said
        until(lambda: not any(map(alive, below)), 30)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(running.pid, signal.SIGKILL)


def family(pid: int) -> list[int]:
    """The processes below one, as Linux knows them."""
    try:
        tasks = Path(f"/proc/{pid}/task").glob("*/children")
        children = [int(child) for each in tasks for child in each.read_text().split()]
    except FileNotFoundError:
        return []
    return children + [below for child in children for below in family(child)]


def trains(pid: int) -> bool:
    """Whether a process has loaded torch."""
    try:
        return "libtorch" in Path(f"/proc/{pid}/maps").read_text()
    except OSError:
        return False


def test_a_run_that_came_out_otherwise_is_noticed(made: Path) -> None:
    store = Store.open(made / "store")
    record = next(r for r in store.records()[0] if r.dataset == "two_moon")
    engine = retrain.engine_before([record], store)
    engine.train()
    assert retrain.as_recorded(record, engine.model(0))
    counts = replace(record.splits["train"], loss_sum=record.splits["train"].loss_sum * 1.001)
    assert not retrain.as_recorded(replace(record, splits={"train": counts}), engine.model(0))


def test_packed_drawings_are_read_back(made: Path, own: dict[str, sheet.Figure], command: Any, tmp_path: Path) -> None:
    said = command("pack", made / "store", tmp_path / "r.jsonl.gz", "--drawings").stdout
    assert "the drawings of 6 runs" in said and (tmp_path / "r.drawings.npz").exists()
    packed = FigureData(Store.open(tmp_path / "r.jsonl.gz"))
    assert draw.prepare(own["surfaces"], packed).to_json() == draw.prepare(own["surfaces"], source(made)).to_json()
    command("merge", tmp_path / "again", tmp_path / "r.jsonl.gz")
    assert draw.prepare(own["surfaces"], FigureData(Store.open(tmp_path / "again"))).missing == []
    whole = (tmp_path / "r.drawings.npz").read_bytes()
    for content in (b"PK but no more", whole[: len(whole) // 2], b""):
        (tmp_path / "r.drawings.npz").write_bytes(content)
        with pytest.raises(UserError, match="what this is drawn from was not kept of 6 runs"):
            draw.prepare(own["surfaces"], packed)
        complaints = packed.store.complaints()  # type: ignore[union-attr]
        assert complaints and all("r.drawings.npz" in one.path and "damaged" in one.reason for one in complaints)


def test_squares_have_means_the_marked_seed_and_published_values_only_of_the_paper(
    made: Path, own: dict[str, sheet.Figure]
) -> None:
    part = draw.prepare(own["pictures"], source(made)).parts[0]
    assert part
    square = part["squares"][0][0]["accuracy"]
    assert square["mean"] == pytest.approx(sum(square["values"].values()) / 2, rel=1e-3)
    assert square["marked"] == square["values"]["2"] and square["published"] is None
    assert np.array(part["examples"][1]).shape == (14, 14, 3)


def test_the_papers_squares_stand_beside_the_published_ones() -> None:
    (figure,) = sheet.load("fig3")
    part = draw.prepare(figure, FigureData(Store.open(ROOT / "results" / "paper" / "records.jsonl.gz"))).parts[0]
    assert part
    published = [[square["accuracy"]["published"] for square in row] for row in part["squares"]]
    assert published == [[63.3, 68.3, 66.9], [23.9, 67.2, 66.6], [49.9, 50.0, 49.7], [9.4, 9.4, 49.6]]
    ours = np.array([[square["accuracy"]["mean"] for square in row] for row in part["squares"]])
    assert np.abs(ours[:3] - np.array(published)[:3]).max() < 4
    marked = np.array([[square["accuracy"]["marked"] for square in row] for row in part["squares"]])
    assert np.abs(marked - np.array(published)).max() < 1  # the same seed


def test_every_file_of_panels_holds_the_kind_it_is_called_after() -> None:
    assert {"dynamics", "looks", "surface"} <= set(sheet.panel_kinds())
    for name in sheet.panel_kinds():
        kind = sheet.load_panel_class(name)
        assert issubclass(kind, Panel) and kind.__module__.endswith(f".panels.{name}")


def test_a_grey_picture_is_grey() -> None:
    grey = colour_image(np.full((2, 3, 3), 0.2))
    assert np.ptp(grey, axis=-1).max() < 1e-9 and grey.max() == pytest.approx(0.85)
    assert np.ptp(colour_image(np.stack([np.ones((3, 3)), np.zeros((3, 3))])), axis=-1).min() > 0.5
    assert colour_image(np.zeros(5)) == []


def test_the_theory_needs_no_store(command: Any, tmp_path: Path) -> None:
    command("figure", "fig5", "--out", tmp_path / "theory.svg")
    left, right = json.loads((tmp_path / "theory.json").read_text())["panels"]
    ends = {"dual": left, "primal": right, "decoupled": right}
    for name, panel in ends.items():
        wanted = [path[-1] for path in theory.figure_5()["paths"][name]]
        assert np.allclose(panel["data"]["ends"][name], wanted, rtol=1e-6)
    assert np.allclose(right["data"]["ends"]["decoupled"], (6.37266, 1.7075), rtol=1e-4)


def test_what_is_lacking_is_one_line_with_the_command(
    command: Any, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    said = command("figure", "fig6", made / "store", code=2).stderr
    assert said.startswith("spurbench: fig6: no runs of two_moon/erm") and len(said.strip().splitlines()) == 1
    only = "--only two_moon/erm --only 'two_moon/weight decay 0.01'"
    assert f"spurbench run paper --store {made / 'store'} {only}" in said
    assert "fig6: no runs" in command("figure", "fig6", made / "store", "--partial", code=2).stderr
    assert "--store STORE" in command("figure", "fig3", code=2).stderr
    assert "did you mean fig6?" in command("figure", "fig66", made / "store", code=2).stderr
    assert "no store at" in command("figure", "fig6", tmp_path / "none", code=2).stderr
    (tmp_path / "file").write_text("")
    said = command("figure", "fig5", "--out", "x.jpg", code=2).stderr
    assert "x.jpg: expected a folder, or a name ending in svg" in said
    said = command("figure", "fig5", "--out", tmp_path / "file" / "f.svg", code=2).stderr
    assert said.startswith("spurbench: cannot write") and len(said.strip().splitlines()) == 1
    said = command("report", made / "store", "--out", tmp_path / "file", code=2).stderr
    assert said.startswith("spurbench: cannot write") and len(said.strip().splitlines()) == 1
    assert not list(tmp_path.glob("*fig*"))
    said = command("figure", "paper", made / "store", "--partial", "--out", tmp_path)  # of all, what there is
    assert "fig5.svg" in said.stdout and "fig6: no runs" in said.stderr
    assert "fig6: no runs" in command("figure", "paper", made / "store", "--out", tmp_path, code=2).stderr


def test_missing_seeds_are_counted_and_missing_panels_on_request(made: Path, own: dict[str, sheet.Figure]) -> None:
    every = source(made)
    gone = next(r for r in every.records.values() if (r.method, r.seed, r.dataset) == ("sd", 2, "two_moon"))
    every.records[gone.id] = replace(gone, status="failed", cause=Cause("killed", ""))
    part = draw.prepare(own["surfaces"], every).parts[1]
    assert part and (part["n"], part["planned"]) == (2, 3)
    lacking = (
        own["surfaces"]
        .panels[0]
        .model_copy(update={"cell": own["surfaces"].panels[0].cells()[0].model_copy(update={"label": "longer"})})
    )
    figure = sheet.Figure("half", own["surfaces"].sheet, [lacking, own["surfaces"].panels[1]])
    with pytest.raises(
        UserError, match=r"half: no runs of two_moon/longer .grid 'small.yaml'.; next: spurbench run small"
    ):
        draw.prepare(figure, every)
    assert draw.prepare(figure, every, partial=True).parts[0] is None


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("kind: surface", "kind: surfaces", r"own.yaml:6: .*did you mean surface\?"),
        ("title: plain", "titel: plain", r"own.yaml:7: unknown key 'titel' .*did you mean title\?"),
        ("columns: 2", "columns: two", r"own.yaml:4: columns in surfaces should be"),
        ("label: sd", "label: sdd", r"did you mean sd\?"),
        ("grid: small.yaml", "grid: smal.yaml", r"smal.yaml"),
    ],
)
def test_mistakes_in_a_figure_file(made: Path, tmp_path: Path, old: str, new: str, words: str) -> None:
    (tmp_path / "small.yaml").write_text(GRID)
    (tmp_path / "own.yaml").write_text(FIGURES.replace(old, new, 1))
    with pytest.raises(UserError, match=words):
        draw.prepare(sheet.load(str(tmp_path / "own.yaml"))[0], source(made))


def test_every_figure_of_the_paper_names_rows_of_the_grid() -> None:
    nothing = FigureData(None)
    for figure in sheet.load("paper"):
        assert figure.sheet.width <= 7 and len(figure.panels) > 0
        for panel in figure.panels:
            assert {lack.what for lack in panel.find_missing(nothing)} <= {"runs"}


# ---- the report -----------------------------------------------------------------------------------------------------


@pytest.fixture
def report(made: Path, command: Any) -> Path:
    said = command("report", made / "store", "--out", made / "report").stdout
    assert "figure: fig5" in said and "not drawn: fig6: no runs of" in said
    return made / "report"


def test_the_report_says_what_is_lacking(report: Path) -> None:
    text = (report / "index.html").read_text()
    assert "spurbench run paper" in text and 'src="figures/fig5.svg"' in text and 'src="figures/fig6' not in text


def test_the_report_in_a_browser(report: Path, tmp_path: Path) -> None:
    if BROWSER["chromium"]() is None:
        assert not os.environ.get("SPURBENCH_CHROMIUM"), "no Chromium here, and SPURBENCH_CHROMIUM asks for one"
        pytest.skip("no Chromium here")
    browser = BROWSER["Browser"](tmp_path / "profile")
    try:
        browser.open(report / "index.html")
        widths = browser.ask("[...document.images].map(image => image.naturalWidth)")
        assert len(widths) == 1 and min(widths) > 0
        links = browser.ask("[...document.links].map(link => link.href)")
        assert all(Path(link.removeprefix("file://").partition("#")[0]).exists() for link in links) and len(links) > 5
        browser.open(report / "leaderboard.html")
        names = "[...document.querySelector('section').querySelectorAll('tbody.method .name')].map(n => n.textContent)"
        orders = [browser.ask(names)]
        for _ in range(2):
            browser.ask("document.querySelector('section thead button').click()")
            orders.append(browser.ask(names))
        browser.call("Emulation.setDeviceMetricsOverride", width=390, height=800, deviceScaleFactor=1, mobile=False)
        ends = "[...document.querySelectorAll('section .main')].map(n => n.getBoundingClientRect().right)"
        assert 0 < max(browser.ask(ends)) < 390, "on a phone the main numbers are seen without scrolling"
        assert orders[1] == sorted(orders[0]) and orders[2] == orders[1][::-1] and len(orders[0]) > 1
        assert browser.requests and not [url for url in browser.requests if not url.startswith(("file:", "data:"))]
    finally:
        browser.close()


def test_what_only_other_runs_would_have_is_not_trained_for(command: Any, made: Path, tmp_path: Path) -> None:
    """No scores during training are in these records, and training the runs again would put none there."""
    panel = "{kind: looks, series: [{dataset: two_moon, label: sd}]}"
    (made / "looks.yaml").write_text(f"late:\n  title: Late\n  grid: small.yaml\n  panels: [{panel}]\n")
    for more in ((), ("--train",)):
        said = command("figure", "looks.yaml", made / "store", *more, "--out", tmp_path, code=2, cwd=made).stderr
        assert "the records of 3 runs (sd) have no scores of validation during training: training.evaluate" in said
        assert "retraining" not in said
