"""The dashboard in deploy/grafana asks only for what the coordinator exports, and by labels that it has."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.process_collector import ProcessCollector

from commonroot.server.monitor.metrics import METRICS

ROOT = Path(__file__).resolve().parents[3]
DASHBOARD = json.loads((ROOT / "deploy" / "grafana" / "commonroot.json").read_text())
#: What Prometheus itself adds to everything that it scrapes.
ADDED = {"instance", "job"}
_METRIC = re.compile(r"\b(?:commonroot|process)_[a-z_]+")


def expressions() -> Iterator[tuple[str, str]]:
    """(whose, the expression), wherever one stands."""
    for panel in DASHBOARD["panels"]:
        for target in panel["targets"]:
            yield panel["title"], target["expr"]
    for each in DASHBOARD["templating"]["list"]:
        yield each["name"], each["definition"]
        assert each["definition"] == each["query"]["query"]
    for each in DASHBOARD["annotations"]["list"]:
        yield each["name"], each["expr"]


def exported() -> dict[str, set[str]]:
    """Every series by name, with its labels; a histogram is three of them."""
    found: dict[str, set[str]] = {}
    for name, (kind, labels, _) in METRICS.items():
        if kind == "histogram":
            found |= {f"{name}_bucket": {*labels, "le"}, f"{name}_sum": set(labels), f"{name}_count": set(labels)}
        else:
            found[name] = set(labels)
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    return found | {sample.name: set() for metric in registry.collect() for sample in metric.samples}


def labels_of(expression: str) -> set[str]:
    """Labels that an expression selects or groups by."""
    selected = {name for inner in re.findall(r"\{([^}]*)\}", expression) for name in re.findall(r"(\w+)\s*=", inner)}
    grouped = {name.strip() for inner in re.findall(r"\bby \(([^)]*)\)", expression) for name in inner.split(",")}
    return selected | grouped


def test_every_metric_and_label_that_is_asked_for_is_exported():
    series, asked = exported(), 0
    for whose, expression in expressions():
        names = _METRIC.findall(expression)
        assert names, f"{whose} asks for nothing of ours: {expression}"
        for name in names:
            asked += 1
            assert name in series, f"{whose} asks for {name}"
            assert labels_of(expression) <= series[name] | ADDED, f"{whose}: {expression}"
    assert asked > 15


def test_legends_name_labels_that_the_series_still_have():
    for panel in DASHBOARD["panels"]:
        for target in panel["targets"]:
            wanted = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
            grouped = re.findall(r"\bby \(([^)]*)\)", target["expr"])
            kept = {name.strip() for inner in grouped for name in inner.split(",")}
            (name,) = set(_METRIC.findall(target["expr"]))
            assert wanted <= (kept if grouped else exported()[name]), panel["title"]


def test_expressions_are_balanced_and_counters_are_never_shown_bare_but_for_the_total_of_sums():
    for whose, expression in expressions():
        for pair in ("()", "{}", "[]"):
            assert expression.count(pair[0]) == expression.count(pair[1]), whose
        bare = [name for name in _METRIC.findall(expression) if name.endswith("_total")]
        if bare and whose != "Sums opened":
            assert re.search(r"\b(rate|increase)\(", expression), whose


def test_panels_have_numbers_of_their_own_say_what_they_show_and_do_not_cover_one_another():
    panels: list[dict[str, Any]] = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    for panel in panels:
        assert panel["title"] and panel["description"]
        assert panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24
    for one, other in itertools.combinations([panel["gridPos"] for panel in panels], 2):
        beside = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        below = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
        assert beside or below


def test_it_can_be_imported_anywhere():
    """No address, no number of somebody's data source, no identifier of a server it was made on."""
    text = json.dumps(DASHBOARD)
    assert DASHBOARD["id"] is None
    assert {each["name"] for each in DASHBOARD["__inputs"]} == {"DS_PROMETHEUS"}
    assert set(re.findall(r'"uid": "([^"]+)"', text)) == {"commonroot", "${DS_PROMETHEUS}"}
    assert "http" not in text
