"""A million rows: reading a table or texts once, and starting a run on them.

python tests/perf/million.py, or with the rest by `make perf`. Each command runs in a process of its own, its start
included. A run has started when its first step is done; importing torch does not count.
"""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pandas as pd
from commands import command_seconds, seconds

N, NUMBERS = 1_000_000, 18  # rows, and numeric columns beside two of words
WORDS = np.array("the a film play is was not very good bad dull fine long short and but it so never again".split())
TEXT = 12  # words of a text
FIRST_STEP = """
import sys
from spurbench.bench.plugins import registry
from spurbench.bench.training.engine import Engine
from spurbench.bench.training.execution import Options
from spurbench.bench.training.replica import prepare
dataset, method = registry.load_dataset(sys.argv[1])(name="million"), registry.load_method("erm")()
engine = Engine(method, dataset.training, "float32", Options(), [prepare(dataset, method, dataset.training, 0)])
engine.update()
"""


def labels(random: np.random.Generator) -> dict[str, np.ndarray]:
    return {
        "y": random.integers(0, 2, N),
        "a": random.integers(0, 2, N),
        "split": random.choice(3, N, p=(0.8, 0.1, 0.1)),
    }


def table(random: np.random.Generator) -> pd.DataFrame:
    """18 columns of numbers, two of words, and label, attribute and split."""
    numbers = pd.DataFrame(random.normal(size=(N, NUMBERS)).round(6), columns=[f"x{i}" for i in range(NUMBERS)])
    words = {name: random.choice(WORDS, N) for name in ("kind", "place")}
    return numbers.assign(**words, **labels(random))


def texts(random: np.random.Generator, file: Path) -> None:
    """JSON lines with a text of 12 words each; its number makes it unlike the others."""
    known = labels(random)
    with file.open("w") as out:
        for i, picked in enumerate(random.choice(WORDS, (N, TEXT))):
            row = {"text": f"{i} {' '.join(picked)}"} | {name: int(values[i]) for name, values in known.items()}
            out.write(json.dumps(row) + "\n")


def time_rows(dataset: str, file: Path, *options: str) -> dict[str, float]:
    """Seconds of preparing a file and of a run's start on it, without importing torch."""
    sets = [word for option in ("name=million", *options) for word in ("--set", f"{dataset}.{option}")]
    prepared = command_seconds("data", "prepare", dataset, "--from", str(file), *sets)
    return {"prepare": prepared, "start": seconds(FIRST_STEP, dataset) - seconds("import torch")}


def measure() -> dict[str, dict[str, float]]:
    """Seconds by kind of file."""
    random = np.random.default_rng(0)
    found = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        frame = table(random)
        frame.to_csv(folder / "rows.csv", index=False)
        frame.to_parquet(folder / "rows.parquet")
        texts(random, folder / "texts.jsonl")
        text_options = ("tokenizer=wordllama", "length=32")
        for kind, given in {
            "table of 20 columns, CSV": ("own_table", folder / "rows.csv"),
            "table of 20 columns, Parquet": ("own_table", folder / "rows.parquet"),
            "texts of 12 words and a number, JSON lines": ("own_text", folder / "texts.jsonl", *text_options),
        }.items():
            with patch.dict(os.environ, SPURBENCH_DATA=str(folder / kind)):
                found[kind] = time_rows(*given)
    return found


def rows(found: dict[str, dict[str, float]]) -> list[tuple[str, str]]:
    words = "prepared in {prepare:.1f} s, a run's first step after {start:.1f} s"
    return [(f"1,000,000 rows, {kind}", words.format(**took)) for kind, took in found.items()]


if __name__ == "__main__":
    for what, value in rows(measure()):
        print(f"{what}: {value}")
