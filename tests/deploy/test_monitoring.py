"""The dashboard and the alert rules ask for metrics and labels that the server has, with values that they can take."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml

from pipelines.messages import ModelState
from server.core import error_table
from server.core.observer import Ending
from server.metrics.table import TABLE, MetricRow
from server.routing.router import TargetState

ROOT = Path(__file__).resolve().parents[2]
DASHBOARD = json.loads((ROOT / "deploy" / "grafana" / "safelight.json").read_text())
RULES = yaml.safe_load((ROOT / "deploy" / "prometheus" / "alerts.yaml").read_text())
SCRAPES = yaml.safe_load((ROOT / "deploy" / "prometheus" / "prometheus.yaml").read_text())
# What Prometheus itself knows: whether a target answered, and which it is.
OF_PROMETHEUS, ADDED_LABELS = {"up"}, {"job", "instance"}
FUNCTIONS = {"histogram_quantile", "increase", "label_values", "max", "min", "rate", "sum"}
WORDS = {"by", "without", "on", "and", "or", "unless"}
VALUES = {
    "outcome": set(get_args(Ending)) | {"exported", "lost"},
    "code": {row.code for row in error_table.TABLE},
    "result": {"hit", "miss"},
    "state": {*get_args(ModelState), *get_args(TargetState), "waiting", "working"},
}


@dataclass(frozen=True, slots=True)
class Asked:
    """One expression. metrics: with the labels of their braces. grouped: labels that it sums by or joins on."""

    metrics: dict[str, set[str]]
    matchers: list[tuple[str, str, str]]
    grouped: set[str]


def asked_in(expression: str) -> Asked:
    matchers = re.findall(r'(\w+)\s*(=~|!~|!=|=)\s*"([^"]*)"', expression)
    plain = re.sub(r'"[^"]*"', "", expression)
    grouped = {
        label.strip()
        for inside in re.findall(r"\b(?:by|without|on)\s*\(([^)]*)\)", plain)
        for label in inside.split(",")
    }
    metrics: dict[str, set[str]] = {}
    for name, inside in re.findall(
        r"\b([a-zA-Z_:][\w:]*)(?:\{([^}]*)\})?", re.sub(r"\b(?:by|without|on)\s*\([^)]*\)", "", plain)
    ):
        if name in FUNCTIONS | WORDS | {"le"} or re.fullmatch(r"[smhd]", name):
            continue
        metrics.setdefault(name, set()).update(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", inside))
    return Asked(metrics, matchers, grouped - {""})


def names_of(row: MetricRow) -> dict[str, set[str]]:
    """What can be queried of it -> its labels."""
    if row.kind != "histogram":
        return {row.name: set(row.labels)}
    labels = set(row.labels)
    return {f"{row.name}_bucket": labels | {"le"}, f"{row.name}_sum": labels, f"{row.name}_count": labels}


KNOWN = {name: labels for row in TABLE for name, labels in names_of(row).items()}


def panels() -> list[dict[str, Any]]:
    return [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]


def expressions() -> Iterator[tuple[str, str]]:
    for rule in (rule for group in RULES["groups"] for rule in group["rules"]):
        yield rule["alert"], rule["expr"]
    for panel in panels():
        for target in panel["targets"]:
            yield panel["title"], re.sub(r"\[\$__rate_interval\]", "[5m]", target["expr"])


def variables() -> list[str]:
    listed = DASHBOARD["templating"]["list"]
    return [one["definition"] for one in listed if one["type"] == "query"]


@pytest.mark.parametrize(("where", "expression"), list(expressions()))
def test_every_metric_and_label_that_is_asked_for_exists(where: str, expression: str) -> None:
    asked = asked_in(expression)
    assert asked.metrics, where
    there = {label for name in asked.metrics for label in KNOWN.get(name, set())} | ADDED_LABELS
    for name, labels in asked.metrics.items():
        assert name in KNOWN or name in OF_PROMETHEUS, f"{where} asks for {name}"
        assert labels <= KNOWN.get(name, set()) | ADDED_LABELS, f"{where} asks for {labels} of {name}"
    assert asked.grouped <= there, f"{where} groups by {asked.grouped}"


@pytest.mark.parametrize(("where", "expression"), list(expressions()))
def test_every_value_that_is_asked_for_can_be_there(where: str, expression: str) -> None:
    for label, operator, value in asked_in(expression).matchers:
        if label in VALUES:
            values = set(value.split("|")) if "~" in operator else {value}
            assert values <= VALUES[label], f"{where} asks for {label} {value}"


def test_the_reading_of_expressions_finds_what_is_wrong() -> None:
    asked = asked_in('sum by (le, wrong) (rate(safelight_nothing_bucket{model="a", other!="b"}[5m])) / up{job="x"} > 3')
    assert asked.metrics == {"safelight_nothing_bucket": {"model", "other"}, "up": {"job"}}
    assert asked.grouped == {"le", "wrong"}
    assert ("other", "!=", "b") in asked.matchers


def test_every_metric_is_on_the_dashboard_but_those_that_only_say_who_somebody_is() -> None:
    shown = {name for _, expression in expressions() for name in asked_in(expression).metrics}
    shown |= {name for definition in variables() for name in re.findall(r"safelight_\w+", definition)}
    unseen = {row.name for row in TABLE if not set(names_of(row)) & shown}
    assert unseen == {
        "safelight_worker_up",
        "safelight_worker_info",
        "safelight_process_virtual_memory_bytes",
        "safelight_process_start_time_seconds",
    }


def test_the_dashboards_variables_are_labels_that_exist() -> None:
    for definition in variables():
        found = re.fullmatch(r"label_values\((\w+), (\w+)\)", definition)
        assert found is not None
        assert found[2] in KNOWN[found[1]] | ADDED_LABELS


def test_the_dashboard_is_one_that_grafana_takes() -> None:
    assert {"title", "uid", "schemaVersion", "panels", "templating", "time"} <= DASHBOARD.keys()
    assert DASHBOARD["id"] is None, "an id belongs to one Grafana alone"
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(ids) == len(set(ids))
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, f"{panel['title']} lies on another panel"
        taken |= cells
    for panel in panels():
        assert panel["datasource"]["uid"] == "${datasource}", "no data source of one Grafana alone"
        assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])
    rows = [panel["title"] for panel in DASHBOARD["panels"] if panel["type"] == "row"]
    assert rows == ["Traffic", "Queue", "Engine", "Devices and models", "Providers and money", "Health"]


def test_every_alert_says_how_bad_it_is_and_what_it_means() -> None:
    rules = [rule for group in RULES["groups"] for rule in group["rules"]]
    assert len({rule["alert"] for rule in rules}) == len(rules)
    for rule in rules:
        assert rule["labels"]["severity"] in ("warning", "critical")
        for label in re.findall(r"\$labels\.(\w+)", rule["annotations"]["summary"]):
            names = asked_in(rule["expr"]).metrics
            assert label in {one for name in names for one in KNOWN.get(name, set())} | ADDED_LABELS


def test_prometheus_is_told_of_the_rules_and_scrapes_the_job_that_they_name() -> None:
    assert SCRAPES["rule_files"] == ["alerts.yaml"]
    jobs = {job["job_name"] for job in SCRAPES["scrape_configs"]}
    named = {
        value for _, expression in expressions() for label, _, value in asked_in(expression).matchers if label == "job"
    }
    assert named - {"$job"} == jobs == {"safelight"}
