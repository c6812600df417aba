"""Kill anything at any moment: nothing is lost, nothing done twice. The short form of tests/chaos.py."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
import chaos
import warm

GOOD = {"lost": 0, "records that differ": 0, "predictions that differ": 0, "left over": 0}


def good(found: dict[str, int]) -> bool:
    return found.items() >= GOOD.items()


def launch(line: list[str], folder: Path, environment: dict[str, str]) -> Any:
    """As `chaos.start_anew`, but torch is there, where it trains in a forked process."""
    if torch.cuda.is_available():
        return chaos.start_anew(line, folder, environment)
    said = folder / "said"
    return warm.Running(line, (said, said), environment=os.environ | environment, first=chaos.CUSTOM)


@pytest.mark.skipif(torch.cuda.is_available(), reason="torch does not train in a forked process where there is a GPU")
def test_a_worker_killed_before_an_operation_on_the_store(tmp_path: Path) -> None:
    found = chaos.kill_at_every_operation(tmp_path, every=6)
    assert good(found) and found["kills"] > 10, found


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    one = chaos.Chaos(tmp_path_factory.mktemp("unbroken"), seeds=1, jobs=1, launch=launch)
    one.finish()
    return one.store


@pytest.mark.parametrize("what", ["kills", "stop", "disk", "clock"])
def test_disturbed_and_unbroken_are_the_same(tmp_path: Path, unbroken: Path, what: str) -> None:
    one = chaos.Chaos(tmp_path, seeds=1, jobs=1, launch=launch)
    disturb = {"stop": one.stop_longer_than_a_claim, "disk": one.fill_the_disk, "clock": one.put_the_clock_ahead}
    if what in disturb:
        disturb[what]()
    else:
        for victim in ("launcher", "group", "worker"):  # after the last the launcher comes to its end
            one.kill(victim, 0.1, saved=True)
    assert not one.failures()
    one.finish()
    if what == "kills":
        assert any(record.cost.resumed for record in chaos.Store.open(one.store).records()[0])
    found = chaos.compare(one.store, unbroken)
    assert good(found) and found["records"] == 4 and not one.done_twice(), found
