"""What a record and a plan look like: what is read from a file is compared with this before anything relies on it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from itertools import chain
from operator import le
from typing import Any

from spurbench.bench.records.record import Record, run_ids
from spurbench.bench.records.selection import RULES

Plan = dict[str, Any]
Fits = Callable[[Any], bool]
Fields = Mapping[str, tuple[Fits, str]]  # key → whether a value fits, what is expected in words

MISSING: Any = object()
NUMBERS = {int, float}
MOST = 1e100  # no number of a run is larger; its square and the sum of many can still be computed with
ID = re.compile(r"[0-9a-f]{16}")
PREDICTIONS = re.compile(r"predictions/[0-9a-f]{2}/[0-9a-f]{16}\.npz")
FILE_NAME = re.compile(r"[^\x00-\x1f\x7f/\\.][^\x00-\x1f\x7f/\\]*")
TEXT = 10_000  # characters of a label, description or note
NAME = 200  # of a name


def record_misfit(record: Record) -> str | None:
    """What is wrong with a record's fields, or None."""
    if wrong := misfit(record, RECORD):
        return wrong
    if record["status"] == "failed":
        return misfit(record, FAILED)
    return misfit(record, DONE) or disagreement(record)


def disagreement(record: Record) -> str | None:
    """Which parts of a finished record do not belong together, or None."""
    splits, looks = record["splits"], record.get("looks") or []
    if splits and record.get("groups") is None:
        return "it has splits and no groups"
    if max(record.get("conflicting") or [-1]) >= len(record.get("groups") or []):
        return "its conflicting groups are not among its groups"
    scored = looks[0]["splits"].keys() if looks else set()
    if any(look["splits"].keys() != scored for look in looks) or not scored <= splits.keys():
        return "its looks are at other splits than it has"
    return None


def plan_misfit(plan: Plan) -> str | None:
    """What is wrong with a plan, or None."""
    if wrong := misfit(plan, PLAN):
        return wrong
    for place, cell in enumerate(plan["cells"], 1):
        if wrong := cell_misfit(cell):
            return f"cell {place}: {wrong}"
    return None


def cell_misfit(cell: Any) -> str | None:
    if type(cell) is not dict:
        return f"it is {brief(cell)}; expected an object"
    if wrong := misfit(cell, CELL):
        return wrong
    draws = cell["search"]["draws"] if cell["search"] else []
    for part in [cell, *({**cell, **draw} for draw in draws)]:
        if part["ids"] != run_ids(part, part["seeds"])[: len(part["ids"])]:  # no ids: not known yet
            return "its ids are not those of the runs it describes"
    return None


def misfit(content: Mapping[str, Any], fields: Fields) -> str | None:
    """The first field that is not as it should be, in words."""
    for key, (fits, expected) in fields.items():
        value = content.get(key, MISSING)
        try:
            right = fits(value)
        except (AttributeError, KeyError, OverflowError, TypeError, ValueError):  # of parts that are of other types
            right = False
        if not right:
            return f"its {key} is {brief(value)}; expected {expected}"
    return None


def brief(value: Any) -> str:
    """A value in a few words, however large it is."""
    if value is MISSING:
        return "missing"
    if isinstance(value, str):
        return repr(value) if len(value) <= 40 else f"a text of {len(value):,} characters"
    if isinstance(value, list | dict):
        return f"{'a list' if isinstance(value, list) else 'an object'} of {len(value):,}"
    return json.dumps(value)[:40] if value is None or isinstance(value, bool) else repr(value)[:40]


def is_file_name(name: Any) -> bool:
    """Whether a text can be the name of a file, and of nothing outside its folder: plans are kept under theirs."""
    return type(name) is str and FILE_NAME.fullmatch(name) is not None and len(name.encode()) <= NAME


# ---- values -------------------------------------------------------------------------------------------------------


def text(most: int = TEXT) -> Fits:
    return lambda value: type(value) is str and len(value) <= most


def or_null(fits: Fits) -> Fits:
    return lambda value: value is None or fits(value)


def optional(fits: Fits) -> Fits:
    return lambda value: value is MISSING or fits(value)


def several(fits: Fits) -> Fits:
    return lambda values: type(values) is list and all(map(fits, values))


def is_name(value: Any) -> bool:
    return type(value) is str and 0 < len(value) <= NAME and value.isprintable()


def is_object(value: Any) -> bool:
    return type(value) is dict


def is_whole(value: Any) -> bool:
    return type(value) is int


def is_count(value: Any) -> bool:
    return type(value) is int and value >= 1


def are_numbers(values: Any) -> bool:
    return set(map(type, values)) <= NUMBERS and (not values or (-MOST <= min(values) and max(values) <= MOST))


def are_splits(splits: Any) -> bool:
    """Of each split: examples and right answers of each group, summed loss and entropy."""
    amounts, sums = [], []
    for counts in splits.values():
        n, right = counts["n"], counts["correct"]
        if type(n) is not list or type(right) is not list or len(n) != len(right) or not all(map(le, right, n)):
            return False
        amounts += n + right
        sums += [counts["loss_sum"], counts["entropy_sum"]]
    return are_numbers(amounts) and min(amounts, default=0) >= 0 and are_numbers(sums)


def are_points(points: Any) -> bool:
    """Of a curve over training: numbers by name."""
    return type(points) is list and are_numbers([*chain.from_iterable(map(dict.values, points))])


def are_measures(measures: Any) -> bool:
    return type(measures) is dict and all(map(are_named_numbers, measures.values()))


def are_named_numbers(values: Any) -> bool:
    return type(values) is dict and are_numbers(values.values())


def is_origin(origin: Any) -> bool:
    """Where a plan's grid is from; nothing if that is not known."""
    return type(origin) is dict and (not origin or (is_name(origin["place"]) and is_name(origin["content"])))


def are_pairs(pairs: Any) -> bool:
    return type(pairs) is list and all(len(pair) == 2 and all(map(is_name, pair)) for pair in pairs)


def are_looks(looks: Any) -> bool:
    return all(is_whole(look["step"]) and are_splits(look["splits"]) for look in looks)


def are_curves(curves: Any) -> bool:
    """Of a search for margins: how many of `n` pictures are flipped by disturbances of each size."""
    return type(curves) is dict and all(
        is_name(one["split"]) and is_count(one["n"]) and len(one["flipped"]) > 1 and are_numbers(one["flipped"])
        for one in curves.values()
    )


def is_cost(cost: Any) -> bool:
    numbers = are_numbers([cost["seconds"], cost["peak_memory_mb"]])
    return numbers and is_count(cost["replicas"]) and is_count(cost["threads"])


def is_cause(cause: Any) -> bool:
    return is_name(cause["kind"]) and type(cause["message"]) is str


def is_provenance(found: Any) -> bool:
    """Every part may be missing; those that are there are of these types."""
    texts = all(type(found.get(name)) in (str, type(None)) for name in ("commit", "diff", "data", "device"))
    parts = all(type(found.get(name)) in (dict, type(None)) for name in PARTS)
    return texts and parts and all(type(found.get(name, "")) is str for name in ("started", "finished"))


def is_selection(rule: Any) -> bool:
    return type(rule) is dict and (not rule or (rule["rule"] in RULES and type(rule["text"]) is str))


def is_search(search: Any) -> bool:
    """A search is not over while `chosen` is null."""
    draws, chosen = search["draws"], search["chosen"]
    if not (search["rule"] in RULES and type(search["text"]) is str and type(draws) is list):
        return False
    there = chosen is None or (is_whole(chosen) and 0 <= chosen < len(draws))
    return there and all(misfit(draw, DRAW) is None for draw in draws)


are_names = several(is_name)
are_ids = several(lambda value: type(value) is str and ID.fullmatch(value) is not None)
PARTS = ("hardware", "versions", "plugins", "code", "paths", "files")  # of what made a record


# ---- records and plans --------------------------------------------------------------------------------------------

RECORD: Fields = {
    "dataset": (is_name, "a name"),
    "dataset_options": (is_object, "an object"),
    "protocol_version": (is_whole, "a whole number"),
    "method": (is_name, "a name"),
    "hyper_parameters": (is_object, "an object"),
    "training": (is_object, "an object"),
    "precision": (is_name, "a name"),
    "seed": (is_whole, "a whole number"),
    "status": (lambda value: value in ("done", "failed"), "done or failed"),
    "needs": (are_names, "a list of names"),
    "headline": (are_pairs, "a list of pairs of a split and a metric"),
    "groups": (optional(are_names), "a list of names"),
    "conflicting": (optional(several(lambda value: is_whole(value) and value >= 0)), "a list of groups by number"),
    "splits": (are_splits, "n, correct (at most n each), loss_sum and entropy_sum of each split"),
    "measures": (are_measures, f"numbers up to {MOST:g} by split and name"),
    "history": (are_points, f"a list of points, numbers up to {MOST:g} by name"),
    "looks": (optional(are_looks), "a step and its splits for each look"),
    "curves": (optional(are_curves), "split, n and flipped by name"),
    "predictions": (or_null(lambda value: PREDICTIONS.fullmatch(value) is not None), "predictions/ID/ID.npz or null"),
    "cost": (is_cost, "seconds, peak_memory_mb, replicas and threads"),
    "provenance": (is_provenance, "commit, versions, hardware and times"),
}
DONE: Fields = {"cause": (lambda value: value is None, "null, as the run is done")}
FAILED: Fields = {"cause": (is_cause, "kind and message, as the run failed")}
PART: Fields = {
    "dataset_options": (is_object, "an object"),
    "training": (is_object, "an object"),
    "seeds": (several(is_whole), "a list of whole numbers"),
    "ids": (are_ids, "a list of ids of 16 hex digits"),
}
DRAW: Fields = {**PART, "hyper_parameters": (is_object, "an object")}
CELL: Fields = {
    **PART,
    "dataset": (is_name, "a name"),
    "protocol_version": (is_whole, "a whole number"),
    "method": (is_name, "a name"),
    "label": (text(), f"a text of up to {TEXT:,} characters"),
    "published": (or_null(is_name), "a name or null"),
    "hyper_parameters": (or_null(is_object), "an object, or null while they are searched"),
    "precision": (is_name, "a name"),
    "selection": (is_selection, "a known rule and its text"),
    "na": (or_null(text()), "a reason or null"),
    "search": (or_null(is_search), "a known rule, its text, draws and the chosen one, or null"),
}
PLAN: Fields = {
    "grid": (is_file_name, "a name that a file can have"),
    "description": (text(), f"a text of up to {TEXT:,} characters"),
    "selection": (lambda rule: is_selection(rule) and rule, "a known rule and its text"),
    "origin": (optional(is_origin), "place and content"),
    "superseded": (optional(are_ids), "a list of ids of 16 hex digits"),
    "notes": (several(text()), f"a list of texts of up to {TEXT:,} characters"),
    "cells": (lambda cells: type(cells) is list, "a list of cells"),
}
