"""Stores of several machines merged: which record of a run is kept, and what belongs to it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from spurbench.bench.core.errors import UserError, unknown
from spurbench.bench.core.terminal import plural
from spurbench.bench.provenance import edits
from spurbench.bench.records.parsing import Unusable
from spurbench.bench.records.plan import Plan
from spurbench.bench.records.plan_merge import merge_plans
from spurbench.bench.records.record import Summary, agree
from spurbench.bench.store import artifacts, weights
from spurbench.bench.store.store import Packed, Store

Kept = dict[str, tuple[Summary, Store]]  # run id → its record and the store that has it


def merge(
    store: Store, sources: Sequence[Store], keep: str = "ask", say: Callable[[str], None] = lambda line: None
) -> tuple[int, int]:
    """Copy other stores' plans, and their records with predictions and drawings; how many are new, how many are not.

    A failed record is replaced by a finished one. Two finished ones must agree; if not, `keep` decides: `ours`,
    `theirs`, or (`ask`) a UserError that names them, and nothing is merged. What is kept beside a record goes with it;
    one that stays gets the drawings that it lacks and an agreeing one has. `say` reports plans that got another name.
    """
    if keep not in ("ask", "ours", "theirs"):
        raise unknown("way to keep records", keep, ("ask", "ours", "theirs"))
    if isinstance(store, Packed):
        raise store.refusal()
    kept, seen = choose_records(store, sources, keep)
    add_plans(store, sources, say)
    new = [(summary, source) for summary, source in kept.values() if source is not store]
    for summary, source in new:
        store.withdraw_record(summary.id)  # the source has the one that takes its place
        replace_predictions(store, source, summary.id)
        artifacts.delete_arrays(store, summary.id)
        weights.forget(store, summary.id)
    for source in sources:
        alike = [one.id for one in source.records()[0] if agrees(one.id, source, kept[one.id][1])]
        artifacts.copy_missing(store, source, alike)
    for summary, source in new:  # last, so that an interrupted merge is simply repeated
        if record := source.record(summary.id):
            store.write_record(record)
    return len(new), seen - len(new)


def add_plans(store: Store, sources: Sequence[Store], say: Callable[[str], None]) -> None:
    """Copy plans; one of another grid whose name is taken gets a name of its own."""
    own = [(plan, str(store.root)) for plan in store.plans()]
    found, renamed = merge_plans([*own, *((plan, str(source.root)) for source in sources for plan in source.plans())])
    for line in [*(line for source in sources for line in source.renamed()), *renamed]:
        say(line)
    here = {plan.grid: plan for plan, _ in own}
    for plan in found:
        if here.get(plan.grid) != plan:
            store.write_plan(plan)


@dataclass(frozen=True)
class Joined:
    """Several stores, read as if they were merged; none is written to."""

    name: str
    summaries: list[Summary]
    unusable: list[Unusable]
    planned: list[Plan]
    renamed: list[str]  # which plans got another name, in words

    def records(self) -> tuple[list[Summary], list[Unusable]]:
        return self.summaries, self.unusable

    def plans(self) -> list[Plan]:
        return self.planned


def join(stores: Sequence[Store]) -> Joined:
    """Stores read together. Errors: UserError that names finished records which contradict each other."""
    first, *others = stores
    kept = choose_records(first, others, "ask", "`spurbench merge` with --keep makes one store of them")[0]
    plans, renamed = merge_plans((plan, store.name) for store in stores for plan in store.plans())
    unusable = [replace(one, path=f"{store.name}: {one.path}") for store in stores for one in store.records()[1]]
    read = [line for store in stores for line in store.renamed()]
    records = [kept[id][0] for id in sorted(kept)]
    return Joined(" and ".join(store.name for store in stores), records, unusable, plans, read + renamed)


def choose_records(
    store: Store,
    sources: Sequence[Store],
    keep: str,
    advice: str = "--keep ours or --keep theirs decides, nothing is merged",
) -> tuple[Kept, int]:
    """The record to keep of every run, and how many the sources have; raises UserError for undecided conflicts."""
    kept: Kept = {record.id: (record, store) for record in store.records()[0]}
    conflicts, seen = [], 0
    for source in sources:
        for record in source.records()[0]:
            seen += 1
            own, holder = kept.get(record.id, (None, store))
            if own is not None and own.status == record.status == "done" and not agrees(record.id, holder, source):
                conflicts.append(f"{record.id} of {holder.root} and {source.root}")
                better = keep == "theirs"
            else:
                better = own is None or (own.status == "failed" and record.status == "done")
            if better:
                kept[record.id] = record, source
    if conflicts and keep == "ask":
        raise UserError(
            f"{plural(len(conflicts), 'run')} with finished records that differ: {', '.join(conflicts[:3])}"
            f"{', …' if len(conflicts) > 3 else ''}; {advice}"
        )
    return kept, seen


def agrees(run_id: str, one: Store, other: Store) -> bool:
    """Whether two stores agree on the scientific content of a run's record."""
    records = one.record(run_id), other.record(run_id)
    return one is other or (records[0] is not None and records[1] is not None and agree(records[0], records[1]))


def replace_predictions(store: Store, source: Store, run_id: str) -> None:
    """Replace the predictions kept of a run by another store's, or delete them if that has none."""
    theirs, ours = (one.path("predictions", run_id, ".npz") for one in (source, store))
    if theirs.is_file():
        store.write(ours, theirs.read_bytes())
    else:
        ours.unlink(missing_ok=True)


def accept_edits(store: Store, files: Sequence[str]) -> int:
    """Let runs made before plug-in files were edited count as made by the current files; how many runs.

    Errors: UserError for a file of which no other version made a run of the store.
    """
    edited = {record.id: edits.find_edited_plugins(record) for record in store.records()[0]}
    for name in files:
        if name not in (known := {name for names in edited.values() for name in names}):
            raise unknown(f"file that was edited after it made runs of {store.root}", name, known)
    touched = (store.record(run_id) for run_id, names in edited.items() if set(names) & set(files))
    changed = [found for record in touched if record and (found := edits.accept_record(record, files))]
    for record in changed:
        store.write_record(record)
    return len(changed)
