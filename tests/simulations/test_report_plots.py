"""Pictures of test rows: every kind that a task draws, well-formed, escaped, and nothing where nothing can be drawn."""

import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest

from commonroot.client.drawing.plots import KINDS, picture
from commonroot.client.tasks import (
    Anomaly,
    Binary,
    Classification,
    Forecast,
    Multilabel,
    Regression,
    Tagging,
)
from commonroot.simulations.report import write_html

HOSTILE = '<script>&"x'
RANDOM = np.random.default_rng(3)


def plots():
    y = np.arange(12) % 2
    two = np.stack([1 - RANDOM.random(12), RANDOM.random(12)], axis=1)
    forecast = Forecast(3, (0.1, 0.5, 0.9), 0.0, 1.0, 1.0)
    return {
        "roc": Binary(("no", HOSTILE)).plot(two, y),
        "confusion": Classification((HOSTILE, "b")).plot(two, y),
        "scatter": Regression(0.0, 1.0).plot(RANDOM.normal(size=12), RANDOM.normal(size=12)),
        "bars": Multilabel((HOSTILE, "b")).plot(two, (two > 0.4).astype(float)),
        "bands": forecast.plot(np.sort(RANDOM.normal(size=(12, 3, 3)), axis=2), RANDOM.normal(size=(12, 3))),
        "histogram": Anomaly(width=1).plot(RANDOM.normal(size=12), np.arange(12) % 3 - 1),
        "tags": Tagging(("O", "B-" + HOSTILE)).plot(np.eye(2)[np.ones((2, 3), int)], np.ones((2, 3), int)),
    }


@pytest.mark.parametrize("name", plots())
def test_what_a_task_plots_is_drawn_as_well_formed_svg_with_its_words_escaped(name):
    drawn = picture(plots()[name], f"plot-{name}")
    root = ElementTree.fromstring(drawn)
    assert root.tag == "svg" and len(list(root)) > 5 and "<script" not in drawn


def test_every_kind_of_picture_is_drawn_by_some_task():
    assert {plot["kind"] for plot in plots().values()} == set(KINDS)


@pytest.mark.parametrize(
    "plot",
    [{}, {"kind": "hologram"}, {"kind": "roc"}, {"kind": "scatter", "true": [], "predicted": []},
     {"kind": "scatter", "true": [float("nan")], "predicted": [1.0]}, {"kind": "bars", "of": "F1", "names": ["a"]}],
    ids=str,
)  # fmt: skip
def test_what_cannot_be_drawn_is_left_out(plot):
    assert picture(plot, "x") == ""


def test_many_labels_show_the_most_frequent():
    counts = np.diag(np.arange(30))
    drawn = picture({"kind": "confusion", "labels": [f"l{at}" for at in range(30)], "counts": counts.tolist()}, "x")
    assert "10 of 30 labels" in drawn and ">l29<" in drawn and ">l3<" not in drawn


def test_the_page_shows_a_picture_for_each_department_that_has_one(tmp_path):
    row = {
        "name": "east", "task": "binary", "metric": "AUC", "better": "higher", "unit": "points", "n_train": 9,
        "n_test": 12, "alone": 0.7, "federated": 0.8, "chosen": 0.8, "gain": 10.0, "interval": [1.0, 20.0],
        "choice": "federated", "why": "it is better",
    }  # fmt: skip
    error = row | {"name": "west", "metric": "RMSE", "better": "lower", "unit": "%", "alone": 5000.0, "chosen": 4000.0}
    report = {
        "federation": "works", "charter": "ab" * 32, "rounds": 0, "seconds_per_round": 0.0,
        "bytes_per_department_per_round": 0, "coordinator_saw": [], "history": [],
        "departments": [row | {"details": {"plot": plots()["roc"]}}, error],
    }  # fmt: skip
    write_html(report, tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert page.count('id="plot-') == 2 and 'id="plot-0-t"' in page and "A closer look" in page
    assert "+10.0 %" in page and "mean gain, points, % where an error is the metric" in page
