"""What stages cost: features of a training set against an epoch of training, and DFR from a finished base.

    python tests/perf/stages.py                    60,000 images of 32 × 32, and 1,280 features

Images, labels and features are drawn at random: only their number and their shape matter here.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import torch

from spurbench.bench.jobs.bases import Look
from spurbench.bench.jobs.job import Job
from spurbench.bench.jobs.setup import set_up
from spurbench.bench.plugins import registry
from spurbench.bench.plugins.method import Finished, Seen
from spurbench.bench.records.run import Run
from spurbench.bench.store import weights
from spurbench.bench.store.store import Store
from spurbench.bench.training.execution import Options

DATASET = '''"""Random images. Source: none."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from spurbench.bench.plugins.dataset import Data, Dataset, Split, Training


@dataclass(frozen=True)
class Noise(Dataset):
    training: ClassVar[Training] = Training(network="small_conv", optimizer="sgd", batch=128)
    n: int = 60_000

    def load(self, seed, build):
        generator = torch.Generator().manual_seed(seed)
        x = torch.randint(0, 256, (self.n, 3, 32, 32), generator=generator).to(torch.uint8)
        split = Split(x, torch.arange(self.n) % 2)
        return Data(split, {"test": Split(x[:100], split.y[:100])}), build(x)
'''
VALIDATION = (8535, 8276, 2874, 182)  # CelebA's examples of each group


def time_features(n: int, folder: Path) -> dict[str, float]:
    """Seconds of one epoch of training, and of the features and logits of the same images."""
    (folder / "noise.py").write_text(DATASET)
    registry.add_plugin(folder / "noise.py")
    steps = n // 128
    training = {"network": "small_conv", "optimizer": "sgd", "batch": 128, "steps": steps}
    run = Run("noise", {"n": n}, 1, "erm", {}, training, "float32", 0)
    job = Job([run], "erm", Options(threads=torch.get_num_threads()))
    setup = set_up(job)
    engine = setup.make_engine([setup.draw(run)])
    engine.train()
    look = object.__new__(Look)  # of a run without a record
    vars(look).update(run=run, step=steps, options=job.options, store=Store.open(folder / "s", create=True))
    weights.save(look.store, run.id, steps, engine.networks(0))
    assert look.replica.networks  # drawn, as a method that starts from it draws its own
    started = time.perf_counter()
    look.outputs("train")
    return {"epoch": engine.seconds, "features": time.perf_counter() - started}


def time_dfr(features: int) -> float:
    """Seconds of DFR's whole `begin`: seven strengths, then twenty fits to balanced validation."""
    generator = torch.Generator().manual_seed(0)
    group = torch.repeat_interleave(torch.arange(4), torch.tensor(VALIDATION))
    y, n = group // 2, len(group)
    x = torch.randn(n, features, generator=generator)
    x[:, 0] += y
    x[:, 1] += group % 2
    seen = Seen(y, group, None, torch.zeros(n), x)
    finished = Finished(seen, seen, (torch.zeros(1, features), torch.zeros(1)))
    started = time.perf_counter()
    registry.load_method("dfr")().begin(finished, generator)
    return time.perf_counter() - started


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=60_000)
    parser.add_argument("--features", type=int, default=1_280)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = time_features(given.images, Path(folder))
    epoch, features = found["epoch"], found["features"]
    print(f"{given.images:,} images: an epoch {epoch:.1f} s, their features {features:.1f} s ({features / epoch:.2f})")
    seconds = time_dfr(given.features)
    print(f"DFR at {given.features:,} features of {sum(VALIDATION):,} examples: {seconds:.1f} s")
