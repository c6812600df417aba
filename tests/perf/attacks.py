"""The search for margins: ours on a batch against Foolbox picture by picture, seconds a picture, in turn.

python tests/perf/attacks.py, or with the rest by `make perf`. Both search as the paper's Figure 2 did: attacks of 40
sign steps, eps growing by half until one succeeds, then 20 bisections; ours also as it is by default, until the margin
is known to 1e-4. Foolbox has one thread or torch's default, whichever is faster. The network is the paper's, trained
for a moment on pictures drawn here.
"""

from __future__ import annotations

import statistics
import time

import torch
from torch import Tensor
from turns import ROUNDS

from spurbench.bench.evaluation.attacks import Target, find_margins
from spurbench.bench.plugins.dataset import Margins, Training
from spurbench.bench.training.batching import Preprocessing, prefers_channels_last
from spurbench.bench.training.replica import build_network

PICTURES, ALONE = 200, 1


def network() -> tuple[Target, Tensor, Tensor]:
    """The CIFAR-2 net after 100 steps on noise with a bright corner for one class."""
    torch.manual_seed(0)
    y = torch.arange(PICTURES) % 2
    x = torch.rand(PICTURES, 3, 32, 32)
    x[y == 1, :, :12, :12] = (x[y == 1, :, :12, :12] + 0.15).clamp(max=1)
    made = build_network((3, 32, 32), 2, Training(network="small_conv"))
    side_by_side = prefers_channels_last(made, torch.device("cpu"))
    preprocessing = Preprocessing(lambda u: u, (0.5,) * 3, (0.5,) * 3, side_by_side)
    optimizer = torch.optim.SGD(made.parameters(), lr=0.02, momentum=0.9)
    for step in range(100):
        rows = torch.arange(100) + 100 * (step % 2)
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(made(preprocessing.normalize(x[rows])), y[rows]).backward()
        optimizer.step()
    return Target(made.eval(), preprocessing), x, y


def by_foolbox(target: Target, x: Tensor, y: Tensor) -> Tensor:
    """Margins by Foolbox 3's attack, one picture after another, inf where the search fails."""
    import foolbox

    scale = {"mean": target.preprocessing.mean, "std": target.preprocessing.std, "axis": -3}
    model = foolbox.PyTorchModel(target.network, bounds=(0, 1), preprocessing=scale)
    found = []
    for u, label in zip(x.split(1), y.split(1), strict=True):

        def flips(eps: float, u: Tensor = u, label: Tensor = label) -> tuple[bool, float]:
            attack = foolbox.attacks.LinfBasicIterativeAttack(abs_stepsize=eps / 30, steps=40, random_start=False)
            _, (x_eps,), success = attack(model, u, label, epsilons=[eps])
            return bool(success), float((x_eps - u).abs().max())

        eps, tries = 0.3, 0
        able, best = flips(eps)
        while not able and tries < 20:
            eps, tries = eps * 1.5, tries + 1
            able, best = flips(eps)
        low, high = 0.0, eps
        for _ in range(20):
            middle = (low + high) / 2
            able, size = flips(middle)
            low, high, best = (low, middle, min(best, size)) if able else (middle, high, best)
        found.append(best)
    return torch.tensor(found)


def measure() -> dict[str, float]:
    """Seconds a picture of each way, medians, and how far the margins are apart on the pictures both did."""
    default = torch.get_num_threads()
    torch.set_num_threads(1)
    target, x, y = network()
    ways = {"foolbox": (1, None), f"foolbox, {default} threads": (default, None)}
    ways |= {"released": (default, 0.0), "released, 1 thread": (1, 0.0), "default": (default, Margins().resolution)}
    took: dict[str, list[float]] = {name: [] for name in ways}
    apart = 0.0
    for turn in range(ROUNDS):
        some = slice(turn * ALONE, (turn + 1) * ALONE)
        found = {}
        for name, (threads, resolution) in ways.items():
            torch.set_num_threads(threads)
            begun = time.perf_counter()
            if resolution is None:
                found[name] = by_foolbox(target, x[some], y[some])
                took[name].append((time.perf_counter() - begun) / ALONE)
            else:
                found[name] = find_margins(target, x, y, Margins(resolution=resolution), lambda: None)[some]
                took[name].append((time.perf_counter() - begun) / len(x))
        apart = max(apart, float((found["released"] - found["foolbox"]).abs().max()))
    torch.set_num_threads(default)
    return {name: statistics.median(values) for name, values in took.items()} | {"apart": apart, "threads": default}


def rows(found: dict[str, float]) -> list[tuple[str, str]]:
    """What was measured and found, in words."""
    theirs, threads = min(found["foolbox"], found[f"foolbox, {found['threads']} threads"]), found["threads"]

    def row(what: str, way: str) -> tuple[str, str]:
        return f"margin search, {what}", f"{found[way]:.3g} s a picture, {theirs / found[way]:.1f} ×"

    return [
        ("margin search, Foolbox picture by picture", f"{theirs:.3g} s a picture, 1.0 ×"),
        row("ours on batches, 1 thread, 20 bisections", "released, 1 thread"),
        row(f"ours on batches, {threads} threads, 20 bisections; at most {found['apart']:.1g} apart", "released"),
        row(f"ours on batches, {threads} threads, to 1e-4 (the default)", "default"),
    ]


if __name__ == "__main__":
    for what, value in rows(measure()):
        print(f"{what}: {value}")
