"""The facts as metrics for Prometheus.  ``METRICS`` lists them; docs/watching.md shows it, and a test compares.

Labels are few and bounded: states, kinds of messages, codes of errors.  No metric is of one department.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from commonroot.server.reports import closed, newest

#: Name as exported → (kind, labels, meaning).
METRICS: Final[Mapping[str, tuple[str, tuple[str, ...], str]]] = {
    "commonroot_info": ("gauge", ("federation", "version"), "Always 1; which federation, which version of the program"),
    "commonroot_up_since_seconds": ("gauge", (), "When this coordinator started, in seconds since 1970"),
    "commonroot_roster_epoch": ("gauge", (), "Epoch of the roster that stands"),
    "commonroot_roster_expires_seconds": ("gauge", (), "When that roster expires, in seconds since 1970"),
    "commonroot_departments": ("gauge", ("state",), "Departments of the roster by what they are doing now"),
    "commonroot_departments_online": ("gauge", (), "Departments that the hub has heard of within their heartbeat"),
    "commonroot_runs": ("gauge", ("state",), "Runs by state: queued, running, finished, stopped"),
    "commonroot_rounds_total": ("counter", ("state",), "Rounds that have ended: closed or lost"),
    "commonroot_rounds_in_progress": ("gauge", (), "Rounds that are open or whose survivors are fixed"),
    "commonroot_round_seconds": ("histogram", (), "How long closed rounds took"),
    "commonroot_sums_opened_total": ("counter", (), "Sums that were opened, in all runs"),
    "commonroot_received_parcels_total": ("counter", ("kind",), "Messages from departments by kind"),
    "commonroot_received_bytes_total": ("counter", ("kind",), "Their bytes"),
    "commonroot_faults_total": ("counter", ("code",), "Faults by code; link is a lost connection"),
    "commonroot_run_number": ("gauge", (), "The run that the metrics below are of: in progress, or else the newest"),
    "commonroot_run_version": ("gauge", (), "Newest version of its backbone"),
    "commonroot_run_rounds_wanted": ("gauge", (), "Rounds that its charter asks for"),
    "commonroot_run_loss": ("gauge", ("of",), "Newest mean loss from its sums: training, held_out"),
    "commonroot_run_clipped_share": ("gauge", (), "Share of numbers that were clipped in that round"),
    "commonroot_run_cohort": ("gauge", (), "Departments that were asked in that round"),
    "commonroot_run_survivors": ("gauge", (), "Departments in the sum of that round"),
}
#: Upper edges in seconds.
BUCKETS: Final = (0.5, 1, 2, 5, 10, 30, 60, 120, 300, 600, 1800)
_DOING: Final = ("absent", "declined", "asked", "answered", "waiting")
_RUN_STATES: Final = ("queued", "running", "finished", "stopped")


class FactsCollector(Collector):
    """Reads the facts whenever it is asked."""

    def __init__(self, facts: Callable[[], Mapping[str, Any]]) -> None:
        self._facts = facts

    def collect(self) -> Iterable[Metric]:
        """Every metric of :data:`METRICS` that has a value now."""
        facts = self._facts()
        yield from _of_house(facts)
        yield from _of_rounds(facts)
        run = next((one for one in facts["runs"] if one["run"] == facts["current"]), None)
        if run is not None:
            yield from _of_run(run)


def exporter(facts: Callable[[], Mapping[str, Any]]) -> Callable[[], tuple[bytes, str]]:
    """A function that makes the text for Prometheus, and its content type."""
    registry = CollectorRegistry(auto_describe=False)
    ProcessCollector(registry=registry)
    registry.register(_Quiet(FactsCollector(facts)))

    return lambda: (generate_latest(registry), CONTENT_TYPE_LATEST)


class _Quiet(Collector):
    """A registry asks a new collector for its names, at a time when there may be nothing to read yet."""

    def __init__(self, inner: Collector) -> None:
        self._inner = inner

    def collect(self) -> Iterable[Metric]:
        return self._inner.collect()

    def describe(self) -> Iterable[Metric]:
        return []


def _gauge(name: str, values: Mapping[tuple[str, ...], float]) -> Metric:
    _, labels, meaning = METRICS[name]
    family = GaugeMetricFamily(name, meaning, labels=labels)
    for label, value in values.items():
        family.add_metric(label, value)
    return family


def _counter(name: str, values: Mapping[tuple[str, ...], float]) -> Metric:
    _, labels, meaning = METRICS[name]
    family = CounterMetricFamily(name, meaning, labels=labels)
    for label, value in values.items():
        family.add_metric(label, value)
    return family


def _of_house(facts: Mapping[str, Any]) -> Iterator[Metric]:
    departments = facts["departments"]
    yield _gauge("commonroot_info", {(facts["federation"], facts["program"]): 1})
    yield _gauge("commonroot_up_since_seconds", {(): facts["up_since"]})
    yield _gauge("commonroot_roster_epoch", {(): facts["epoch"]})
    yield _gauge("commonroot_roster_expires_seconds", {(): facts["roster_expires"]})
    doing = [one["doing"] for one in departments]
    yield _gauge("commonroot_departments", {(word,): doing.count(word) for word in _DOING})
    yield _gauge("commonroot_departments_online", {(): sum(one["online"] for one in departments)})
    states = [run["state"] for run in facts["runs"]]
    yield _gauge("commonroot_runs", {(state,): states.count(state) for state in _RUN_STATES})
    received = facts["received"]
    yield _counter("commonroot_received_parcels_total", {(row["kind"],): row["parcels"] for row in received})
    yield _counter("commonroot_received_bytes_total", {(row["kind"],): row["bytes"] for row in received})
    yield _counter("commonroot_faults_total", {(code,): count for code, count in facts["fault_counts"].items()})


def _of_rounds(facts: Mapping[str, Any]) -> Iterator[Metric]:
    runs = facts["runs"]
    closed, lost = sum(run["closed"] for run in runs), sum(run["lost"] for run in runs)
    yield _counter("commonroot_rounds_total", {("closed",): closed, ("lost",): lost})
    yield _gauge("commonroot_rounds_in_progress", {(): sum(len(run["rounds"]) for run in runs) - closed - lost})
    yield _counter("commonroot_sums_opened_total", {(): sum(run["privacy"]["sums_opened"] for run in runs)})
    took = [one["report"]["seconds"] for run in runs for one in run["rounds"] if "seconds" in one["report"]]
    counts = [(str(float(edge)), float(sum(seconds <= edge for seconds in took))) for edge in BUCKETS]
    histogram = HistogramMetricFamily("commonroot_round_seconds", METRICS["commonroot_round_seconds"][2])
    histogram.add_metric((), [*counts, ("+Inf", float(len(took)))], sum_value=sum(took))
    yield histogram


def _of_run(run: Mapping[str, Any]) -> Iterator[Metric]:
    yield _gauge("commonroot_run_number", {(): run["run"]})
    yield _gauge("commonroot_run_version", {(): run["version"]})
    yield _gauge("commonroot_run_rounds_wanted", {(): run["rounds_wanted"]})
    reports = [one["report"] for one in closed(run)]
    if not reports:
        return
    report = reports[-1]
    losses = {("training",): newest(reports, "loss"), ("held_out",): newest(reports, "held_out")}
    yield _gauge("commonroot_run_loss", {label: value for label, value in losses.items() if value is not None})
    yield _gauge("commonroot_run_clipped_share", {(): report["clipped_share"]})
    yield _gauge("commonroot_run_cohort", {(): len(report["cohort"])})
    yield _gauge("commonroot_run_survivors", {(): len(report["survivors"])})
