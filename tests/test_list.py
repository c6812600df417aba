"""`list`: every kind of plug-in in rows, and of one plug-in all that can be set."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from spurbench.bench.api import catalogue
from spurbench.bench.plugin_files.discovery import FOLDERS
from spurbench.bench.plugins import registry
from tests.test_metrics import METRIC
from tests.test_rules import RULE


def rows(command: Any, *arguments: Any) -> Any:
    return json.loads(command("list", *arguments, "--json").stdout)


def test_every_kind_is_listed(command: Any) -> None:
    assert set(catalogue.COLUMNS) == {f"{kind}s" for kind in FOLDERS} | {"grids"}
    found = rows(command)
    assert list(found) == list(catalogue.COLUMNS)
    for kind in FOLDERS:
        assert [row["name"] for row in found[f"{kind}s"]] == list(registry.plugins(kind))
        assert all(row["summary"] and row["problem"] is None for row in found[f"{kind}s"])


def test_rules_and_metrics_say_what_they_are(command: Any) -> None:
    metrics = {row["name"]: row for row in rows(command, "metrics")["metrics"]}
    shown = [metrics[name][key] for name in ("ece", "accuracy") for key in ("unit", "better", "made_from", "settings")]
    assert shown == ["", "lower", "predictions", "bins=15", "%", "higher", "counts", ""]
    assert metrics["entropy"]["better"] == "" and metrics["auroc"]["needs"].startswith("predictions of two classes")
    rules = {row["name"]: row for row in rows(command, "rules")["rules"]}
    assert rules["worst_environment"]["uses"] == "training environments, test labels" and not rules["none"]["uses"]
    (optimizer,) = (row for row in rows(command, "optimizers")["optimizers"] if row["name"] == "sgd")
    assert optimizer["settings"] == "lr=0.01, weight_decay=0.0, weight_decay_of=None, momentum=0.0, nesterov=None"
    assert "what it chooses" in command("list", "rules").stdout


def test_a_plugin_by_its_name_shows_what_can_be_set(command: Any) -> None:
    (sd,) = rows(command, "sd")
    assert (
        (sd["kind"], sd["needs"]) == ("method", "nothing beyond labels.") and sd["differs"] and "2011" in sd["source"]
    )
    assert sd["options"][0] == {
        "name": "coef", "type": "float", "default": "0.01", "range": "1e-05 to 1, log", "symbol": "λ/2", "only": "",
    }  # fmt: skip
    (mlp,) = rows(command, "mlp")
    settings = {row["name"]: row for row in mlp["options"]}
    assert list(settings) == ["logits", "freeze", "width", "hidden_layers", "init", "dropout", "batch_norm"]
    assert (settings["width"]["only"], settings["init"]["range"]) == ("hidden_layers above 0", "torch, xavier")
    (rule,) = rows(command, "worst_group")
    assert rule["criteria"] == "worst group, then average accuracy, then lower loss" and rule["oracle"]
    (metric,) = rows(command, "nll")
    assert (metric["unit"], metric["better"], metric["limits"]) == ("nats", "lower", "0 and above")
    (data,) = rows(command, "two_moon")
    assert data["main columns"] and data["training"] and data["licence"]
    said = command("list", "timm:resnet18").stdout
    assert said.startswith("network timm: ") and "training: {network: timm:MODEL, pretrained: VALUE}" in said
    assert "set with --set sd.coef=VALUE" in command("list", "sd").stdout


@pytest.mark.parametrize("kind", list(FOLDERS))
def test_every_plugin_can_be_described(command: Any, kind: str) -> None:
    for name in registry.plugins(kind):
        assert [one["kind"] for one in rows(command, name)] == [kind]


def test_a_users_files_are_described(command: Any, tmp_path: Path) -> None:
    for name, text in (("sure", METRIC), ("lowest", RULE)):
        (tmp_path / f"{name}.py").write_text(text)
    given = ("--plugin", tmp_path / "sure.py", "--plugin", tmp_path / "lowest.py")
    assert "sure" in [row["name"] for row in rows(command, "metrics", *given)["metrics"]]
    (rule,) = rows(command, "lowest", *given)
    assert (rule["chosen by"], rule["criteria"]) == ("loss on validation", "lower loss, then many right")
    (metric,) = rows(command, "sure", *given)
    assert metric["options"][0]["range"] == "0 to 1"


def test_what_is_not_there_is_one_line(command: Any) -> None:
    for name, near in (
        ("rule", "did you mean rules?"),
        ("ecee", "did you mean ece?"),
        ("qqqq", "are methods, datasets"),
    ):
        said = command("list", name, code=2).stderr
        assert near in said and len(said.splitlines()) == 1


def test_rows_are_read_without_importing_a_plugin() -> None:
    program = "import sys; from spurbench.bench.api import catalogue; catalogue.list_rows(''); print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True).stdout.split()
    ours = ("spurbench.bench.evaluation.metrics.", "spurbench.bench.records.rules.", "spurbench.methods.")
    assert loaded and not [name for name in loaded if name.startswith(ours)]
