"""The saved state of a run in progress: one file per run, which says whose it is and with what code it was started."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from spurbench.bench.core.errors import StoreTrouble, UserError
from spurbench.bench.provenance.data_files import Files
from spurbench.bench.provenance.edits import Version
from spurbench.bench.records.run import Run
from spurbench.bench.store.store import Store, checkpoint_of

LAYOUT = 6  # version of what is in the file


@dataclass(frozen=True)
class Checkpoint:
    """What a run continues from. Other threads or micro-batches would round differently, so it continues with these."""

    run: str  # id
    made: Version  # code and data it was started with
    files: Files  # data files it had read
    threads: int
    micro_batch: int
    resumed: int  # times it had been resumed when this was saved
    state: dict[str, Any]  # of the engine
    accumulate: bool = False  # whether minibatches are cut into micro-batches

    @property
    def computed(self) -> dict[str, Any]:
        """The options that round: by name."""
        return {"threads": self.threads, "micro_batch": self.micro_batch, "accumulate": self.accumulate}

    @property
    def step(self) -> int:
        return int(self.state["step"])


def save(checkpoint: Checkpoint, store: Store) -> None:
    buffer = io.BytesIO()
    torch.save({"version": LAYOUT, **vars(checkpoint)}, buffer)
    store.write(checkpoint_of(store, checkpoint.run), buffer.getvalue())


def load(run: Run, store: Store) -> Checkpoint | None:
    """The checkpoint of a run, its tensors on the CPU, if there is one.

    Errors: UserError for one that is damaged, of another layout, of another run, or of a step the run does not have.
    """
    file = checkpoint_of(store, run.id)
    if not file.exists():
        return None
    try:
        saved: dict[str, Any] = torch.load(file, weights_only=True, map_location="cpu")
        layout = saved.pop("version")
    except (OSError, MemoryError) as error:  # of the machine, not of the file
        raise StoreTrouble(f"cannot read {file}: {error}: run the same command again") from None
    except Exception as error:
        raise unreadable(file, type(error).__name__) from None
    if layout != LAYOUT:
        raise UserError(
            f"the checkpoint {file} has layout {layout}, this spurbench reads {LAYOUT}: finish the run with the "
            "version that started it, or delete the file to start over"
        )
    try:
        found = Checkpoint(**saved)
        whose, step = found.run, found.step
    except (TypeError, KeyError, ValueError) as error:
        raise unreadable(file, str(error)) from None
    if whose != run.id:
        raise UserError(f"the checkpoint {file} is of another run, {whose} (copied?): delete it to start over")
    if not 0 <= step <= int(run.training.get("steps", 0)):
        raise UserError(f"the checkpoint {file} is of step {step:,} of a run with fewer: delete it to start over")
    return found


def delete(run_id: str, store: Store) -> None:
    checkpoint_of(store, run_id).unlink(missing_ok=True)


def unreadable(file: Path, why: str) -> UserError:
    return UserError(f"cannot read the checkpoint {file} ({why}): delete it to start over")
