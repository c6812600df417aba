"""One job: the runs of one cell that train together, from claim to record. Every launcher calls `run_job`."""

from __future__ import annotations

import ctypes
import errno
import io
import time
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch

from spurbench.bench import drawings, evaluate, provenance, registry
from spurbench.bench.dataset import Attack, Data, Dataset, Pgd, Score, Training
from spurbench.bench.engine import Engine, Seed, evaluating, prepare
from spurbench.bench.errors import UserError
from spurbench.bench.files import write_atomically
from spurbench.bench.inputs import stream
from spurbench.bench.job import Job
from spurbench.bench.method import Method
from spurbench.bench.record import SCHEMA, Record, Run, settled
from spurbench.bench.store import Store

CHECKPOINT = 3  # version of the checkpoint's layout


class Stopped(Exception):
    """The job was asked to stop; its checkpoint is written."""


Report = Callable[[int], None]
"""Called with the steps done, now and then."""


def run_job(job: Job, store: Store, report: Report, stop: Callable[[], bool], retry: bool = False) -> None:
    """Train, score and record the runs of a job that no one else has claimed or done.

    A run that raises or diverges leaves a failed record with its cause. Raises Stopped once `stop()` is true, with
    the state saved; the same job goes on from there.
    """
    mine = [run for run in job.runs if store.claims.take(run.id)]
    try:
        todo = [run for run in mine if not settled(store.record(run.id), retry)]
        if todo:
            for stack in stacks(todo):
                attempt(replace(job, runs=stack), store, report, stop)
    finally:
        for run in mine:
            store.claims.release(run.id)


def stacks(runs: list[Run]) -> list[list[Run]]:
    """The runs that may train as one stack: all, or one by one where a method cannot be lifted or dropout draws."""
    alone = not registry.load_method(runs[0].method).stackable or runs[0].training.get("dropout")
    return [[run] for run in runs] if alone else [runs]


def tune(threads: int) -> None:
    """Threads for this process, and an allocator that keeps its pages (1.2 × faster steps with glibc).

    Numbers below 1e-38 count as zero: Adam's averages fade into them on separable data, and steps get 5 × slower.
    """
    torch.set_num_threads(threads)
    torch.set_flush_denormal(True)
    with suppress(OSError, AttributeError):
        libc = ctypes.CDLL(None)
        for option, value in ((-3, 1 << 30), (-1, 2**31 - 1), (-2, 1 << 28)):  # mmap threshold, trim, top pad
            libc.mallopt(option, value)


def attempt(job: Job, store: Store, report: Report, stop: Callable[[], bool]) -> None:
    """One stack of runs, from its checkpoint if there is one; whatever goes wrong in it becomes its record."""
    begun = frame(job)
    try:
        for record in trained(job, begun, store, report, stop):
            store.write_record(record)
    except (Stopped, UserError, KeyboardInterrupt):
        raise
    except Exception as error:
        if isinstance(error, OSError) and refused_by_store(error, store):
            raise
        full = isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "can't allocate memory" in str(error)
        kind = "out_of_memory" if full else "exception"
        message = f"{type(error).__name__}: {error}".splitlines()[0] + (remedy(job) if full else "")
        for record in begun:
            store.write_record(failed(record, kind, message, traceback.format_exc()))
    checkpoint_path(store, job).unlink(missing_ok=True)


def refused_by_store(error: OSError, store: Store) -> bool:
    """Whether it is the store that cannot be read or written, rather than something of the run's own."""
    path = error.filename if isinstance(error.filename, str) else ""
    return error.errno in (errno.ENOSPC, errno.EDQUOT) or Path(path).is_relative_to(store.root)


def remedy(job: Job) -> str:
    """What to change after running out of memory."""
    batch = job.runs[0].training.get("batch")
    return f"; try training.batch {max(1, batch // 2)}" if batch else "; try a smaller training set or network"


def plugins(job: Job) -> tuple[Dataset, Method]:
    """The dataset and the method of a job's runs, made with their options and hyper-parameters."""
    run = job.runs[0]
    method = registry.load_method(run.method)(**run.hyper_parameters)
    return registry.load_dataset(run.dataset)(**run.dataset_options), method


def trained(job: Job, begun: list[Record], store: Store, report: Report, stop: Callable[[], bool]) -> list[Record]:
    """The records of a stack: trained, scored, complete."""
    dataset, method = plugins(job)
    training = Training(**job.runs[0].training)
    if not method.trains:
        return [guessed(record, prepare(dataset, method, training, record["seed"])) for record in begun]
    saved = load_checkpoint(job, store)
    if saved is not None:  # other threads or micro-batches would round differently
        kept = {name: saved[name] for name in ("threads", "micro_batch")}
        job = replace(job, options=replace(job.options, **kept))
    tune(job.options.threads)
    reset_peak_memory(job.options.device)
    seeds = [prepare(dataset, method, training, run.seed) for run in job.runs]
    engine = Engine(method, training, job.runs[0].precision, job.options, seeds)
    resumed = 0
    if saved is not None:
        try:
            engine.restore(saved["state"])
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise unreadable(checkpoint_path(store, job), type(error).__name__) from None
        resumed = int(saved["resumed"]) + 1
    engine.train(watcher(job, store, report, stop, resumed))
    report(training.steps)
    if dataset.attacks():  # they take long: training is not to be done again if they are interrupted
        save(engine, job, store, resumed)
    tick = ticker(job, store, stop, engine)
    return [
        scored(record | {"cost": cost(engine, job, resumed)}, engine, r, dataset, store, tick)
        for r, record in enumerate(begun)
    ]


def ticker(job: Job, store: Store, stop: Callable[[], bool], engine: Engine) -> Callable[[], None]:
    """Called during long scoring: keeps the claims, and stops when asked."""
    keep = keeper(job, store)

    def tick() -> None:
        if stop():
            raise Stopped
        keep(engine)

    return tick


def keeper(job: Job, store: Store) -> Callable[[Engine], None]:
    """Gives a sign of life for the claims of a job, every ten seconds at most."""
    last = [0.0]

    def keep(engine: Engine) -> None:
        if time.monotonic() - last[0] > 10:
            last[0] = time.monotonic()
            for run in job.runs:
                store.claims.keep(run.id, engine.step, engine.training.steps)

    return keep


def watcher(job: Job, store: Store, report: Report, stop: Callable[[], bool], resumed: int) -> Callable[[Engine], None]:
    """Called before every step: reports, saves at intervals, and stops when asked."""
    last, keep = {"report": 0.0, "save": time.monotonic()}, keeper(job, store)

    def watch(engine: Engine) -> None:
        now = time.monotonic()
        if now - last["report"] > 0.5:
            last["report"] = now
            report(engine.step)
        keep(engine)
        stopping = stop()
        if stopping or now - last["save"] > job.options.checkpoint_seconds:
            last["save"] = now
            save(engine, job, store, resumed)
        if stopping:
            raise Stopped

    return watch


def checkpoint_path(store: Store, job: Job) -> Path:
    return store.root / "checkpoints" / f"{job.name}.pt"


def save(engine: Engine, job: Job, store: Store, resumed: int) -> None:
    buffer = io.BytesIO()
    head = {"version": CHECKPOINT, "runs": [run.id for run in job.runs], "resumed": resumed}
    head |= {"threads": job.options.threads, "micro_batch": job.options.micro_batch}
    torch.save(head | {"state": engine.state()}, buffer)
    write_atomically(checkpoint_path(store, job), buffer.getvalue())


def load_checkpoint(job: Job, store: Store) -> dict[str, Any] | None:
    """The job's checkpoint, if there is one."""
    path = checkpoint_path(store, job)
    if not path.exists():
        return None
    try:
        saved: dict[str, Any] = torch.load(path, weights_only=True, map_location=job.options.device)
        version = saved["version"]
    except Exception as error:
        raise unreadable(path, type(error).__name__) from None
    if version != CHECKPOINT:
        raise UserError(
            f"the checkpoint {path} has layout {version}, this spurbench reads {CHECKPOINT}: finish the run with the "
            "version that began it, or delete the file to start over"
        )
    if missing := {"threads", "micro_batch", "resumed", "state"} - set(saved):
        raise unreadable(path, f"no {', '.join(sorted(missing))}")
    return saved


def unreadable(path: Path, why: str) -> UserError:
    return UserError(f"cannot read the checkpoint {path} ({why}): delete it to start over")


# ---- records ----------------------------------------------------------------------------------------------------


def frame(job: Job) -> list[Record]:
    """Everything that is known of a job's runs before they are done; usable even where a plug-in is not."""
    started = datetime.now(UTC).isoformat(timespec="seconds")
    method, dataset = registry.methods().get(job.runs[0].method), registry.datasets().get(job.runs[0].dataset)
    common = {
        "schema": SCHEMA,
        "needs": sorted(method.needs) if method else [],
        "headline": [list(pair) for pair in dataset.headline] if dataset else [],
        "cause": None,
        "splits": {},
        "measures": {},
        "history": [],
        "predictions": None,
        "cost": {"seconds": 0.0, "seconds_per_step": 0.0, "peak_memory_mb": 0.0, "replicas": len(job.runs),
                 "threads": job.options.threads, "resumed": 0},
    }  # fmt: skip
    files = {"method": method.path if method else None, "dataset": dataset.path if dataset else None}
    source = provenance.code() | {
        "plugins": {kind: provenance.content(path) for kind, path in files.items()},
        "versions": provenance.versions(),
        "hardware": provenance.hardware(job.options.device),
        "device": job.options.device,
        "started": started,
    }
    return [{"id": run.id, **run.to_dict(), **common, "provenance": source} for run in job.runs]


def now_stamped(record: Record) -> Record:
    finished_at = datetime.now(UTC).isoformat(timespec="seconds")
    return record | {"provenance": record["provenance"] | {"finished": finished_at}}


def failed(record: Record, kind: str, message: str, detail: str = "") -> Record:
    return now_stamped(record | {"status": "failed", "cause": {"kind": kind, "message": message, "detail": detail}})


def guessed(record: Record, seed: Seed) -> Record:
    """The record of a reference row that predicts uniformly at random."""
    found = evaluate.parts("train", seed.data.train, seed.data)
    splits = {name: split for name, (split, _) in found.items()} | seed.data.tests
    counts = {name: evaluate.guess(split, seed.data) for name, split in splits.items()}
    return now_stamped(record | {"status": "done", "groups": seed.data.groups, "splits": counts})


def scored(record: Record, engine: Engine, r: int, dataset: Dataset, store: Store, tick: Callable[[], None]) -> Record:
    """The complete record of replica `r`: counts of every split, further measures, predictions kept."""
    seed, data = engine.seeds[r].seed, engine.seeds[r].data
    record["provenance"]["data"] = dataset.checksum()
    record = record | {"history": own(engine.history, seed), "groups": data.groups}
    record |= {"looks": own(engine.looks, seed)} if engine.looks else {}
    record |= {"conflicting": list(dataset.conflicting)} if dataset.conflicting else {}
    if seed in engine.diverged:
        return failed(record, "diverged", f"loss or weights not finite at step {engine.diverged[seed]}")
    score = engine.score(r)
    logits = {name: score(split.x) for name, split in ({"train": data.train} | data.tests).items()}
    counts = evaluate.by_environment("train", logits["train"], data.train, data)
    counts |= {name: evaluate.count(logits[name], split, data) for name, split in data.tests.items()}
    measures = dataset.measures(score, data)
    if attacks := dataset.attacks():
        found, record["curves"] = attacked(engine, r, attacks, tick)
        for split, values in found.items():
            measures[split] = measures.get(split, {}) | values
    drawings.keep(store, record["id"], drawable(dataset, score, data))
    return now_stamped(
        record
        | {
            "status": "done",
            "splits": counts,
            "measures": measures,
            "predictions": keep_predictions(record["id"], logits, store),
        }
    )


def attacked(
    engine: Engine, r: int, attacks: Mapping[str, Attack], tick: Callable[[], None]
) -> tuple[dict[str, dict[str, float]], dict[str, Any]]:
    """How replica `r` stands up to the dataset's attacks: split → measure → value, and the margins' curves.

    A curve gives how many pictures are flipped by disturbances of at most each thousandth of the pixels' scale.
    """
    from spurbench.bench import attack

    target = attack.Target(engine.function(r), engine.pixels[r], engine.device)
    data, measures, curves = engine.seeds[r].data, dict[str, dict[str, float]](), {}
    with evaluating(engine.networks[r][0]):
        for name, how in attacks.items():
            split = data.train if how.split == "train" else data.tests[how.split]
            if isinstance(how, Pgd):
                right = attack.right_after_pgd(target, split.x, split.y, how, stream(engine.seeds[r].seed, name), tick)
                value = right.double().mean().item()
            else:
                sizes = attack.margins(target, split.x, split.y, how, tick)
                value = sizes.median().item()
                flipped = [(sizes <= at / 1000).sum().item() for at in range(1001)]
                curves[name] = {"split": how.split, "n": len(sizes), "flipped": flipped}
            measures.setdefault(how.split, {})[name] = value
    return measures, curves


def own(points: list[dict[str, Any]], seed: int) -> list[dict[str, Any]]:
    """The points of a seed's curve, without its name."""
    return [
        {name: value for name, value in point.items() if name != "seed"} for point in points if point["seed"] == seed
    ]


def drawable(dataset: Dataset, score: Score, data: Data) -> dict[str, Any]:
    """The dataset's drawings of a trained network, in half precision."""
    return {name: value.half().numpy() for name, value in dataset.drawings(score, data).items()}


def keep_predictions(run_id: str, logits: dict[str, torch.Tensor], store: Store) -> str:
    """Logits of every split, so that a new metric or selection rule needs no retraining; their path in the store."""
    buffer = io.BytesIO()
    arrays: dict[str, Any] = {name: value.numpy() for name, value in logits.items()}
    np.savez_compressed(buffer, **arrays)
    path = store.path("predictions", run_id, ".npz")
    write_atomically(path, buffer.getvalue())
    return str(path.relative_to(store.root))


def cost(engine: Engine, job: Job, resumed: int) -> dict[str, Any]:
    """What a run cost: its share of the stack's training time, and the peak memory of the stack."""
    seconds = engine.seconds / len(job.runs)
    return {
        "seconds": round(seconds, 3),
        "seconds_per_step": round(seconds / max(engine.step, 1), 6),
        "peak_memory_mb": round(peak_memory(job.options.device) / 2**20, 1),
        "replicas": len(job.runs),
        "threads": job.options.threads,
        "compiled": job.options.compile,
        "resumed": resumed,
    }


def reset_peak_memory(device: str) -> None:
    """Begin to measure anew: pages kept from earlier jobs are given back, the peak so far is forgotten."""
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats(device)
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")


def peak_memory(device: str) -> int:
    """Bytes: of the GPU where there is one, else of this process since the job began."""
    if device.startswith("cuda"):
        return int(torch.cuda.max_memory_allocated(device))
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM"):
                return int(line.split()[1]) * 1024
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
