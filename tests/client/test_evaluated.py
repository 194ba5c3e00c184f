"""What a department keeps of a run for an evaluation, and what of it it gives, once."""

import json
import math

import numpy as np
import pytest

from commonroot.client.evaluated import FOLDER, bind, figures, given, keep, keep_opened
from commonroot.client.setup import plain_words
from commonroot.client.tasks.regression import Regression
from commonroot.common.charter import Draft
from commonroot.common.errors import ConfigError
from commonroot.strategies import build, seal
from commonroot.strategies.averaging import department_weight
from commonroot.strategies.evaluation import CHOICES, evaluation_of

TRAINING = seal(
    Draft.model_validate(
        {
            "federation": "bank",
            "name": "demand",
            "rounds": 3,
            "method": {"name": "fedper"},
            "backbone": {"inputs": 2, "widths": [4]},
            "training": {"weight_cap": 400},
        }
    )
)
EVALUATION = seal(evaluation_of(TRAINING))
COUNTING = seal(evaluation_of(TRAINING, counts=True))
TASK = Regression(0.0, 1.0)


def report(**changes):
    validation = {"rows": 20, "alone": 0.5, "federated": 0.4, "error": 0.05}
    return {"rows": {"train": 100}, "kept": "alone", "validation": validation} | changes


def test_figures_worked_by_hand():
    """Squared errors of a value with variance 1: alone 1, 4 and federated 0, 1; differences 1 and 3: 2 ± √2/√2 = 1."""
    y, alone, far, near = (np.array(values) for values in ([0.0, 0.0], [1.0, 2.0], [9.0, 9.0], [0.0, 1.0]))
    found = figures(TASK, TASK.predictive(alone[:, None]), [TASK.predictive(o[:, None]) for o in (far, near)], y)
    chance = TASK.row_losses(TASK.predictive(alone[:, None]), y)[0]  # of an error of 1
    assert found["rows"] == 2
    assert (found["alone"], found["federated"]) == pytest.approx((2.5 * chance, 0.5 * chance))
    assert found["error"] == pytest.approx(chance)


def test_without_a_candidate_the_model_trained_alone_stands_for_it():
    y, alone = np.array([0.0, 1.0, 2.0]), TASK.predictive(np.array([[1.0], [1.0], [1.0]]))
    found = figures(TASK, alone, [], y)
    assert (found["federated"], found["error"]) == (found["alone"], 0.0)


def test_a_loss_that_is_no_number_is_kept_as_none_and_given_as_such(tmp_path):
    y, alone = np.array([0.0, 1.0]), TASK.predictive(np.array([[1.0], [1.0]]))
    found = figures(TASK, alone, [alone * np.nan], y)
    assert found["federated"] is None
    keep(TRAINING, tmp_path, report(validation=found), secret=1)
    data = given(EVALUATION, tmp_path, tells=True)
    assert math.isnan(data["federated"])
    terms = build(EVALUATION).gather(EVALUATION, {}, data, {}).terms
    assert terms["figures/federated"] == data["weight"] * 2.0


def test_the_weight_is_that_of_the_rounds(tmp_path):
    """√(100/400) = 1/2."""
    keep(TRAINING, tmp_path, report(), secret=1)
    assert given(EVALUATION, tmp_path, tells=True)["weight"] == department_weight(TRAINING, 100) == 0.5


@pytest.mark.parametrize("rows", [0, 1])
def test_too_few_validation_rows_add_nothing(tmp_path, rows):
    keep(TRAINING, tmp_path, report(validation=figures(TASK, np.zeros((rows, 1)), [], np.zeros(rows))), secret=1)
    data = given(EVALUATION, tmp_path, tells=False)
    assert {name: float(value) for name, value in data.items()} == {
        "alone": 0, "federated": 0, "error": 0, "weight": 0, "choice": -1
    }  # fmt: skip


def test_what_is_told_is_drawn_once_and_does_not_depend_on_who_asks(tmp_path):
    """Were it drawn anew for every evaluation, enough of them would average the randomness away."""
    keep(TRAINING, tmp_path, report(), secret=5)
    first = given(COUNTING, tmp_path, tells=True)["choice"]
    keep(TRAINING, tmp_path, report(), secret=5)
    assert given(seal(evaluation_of(TRAINING)), tmp_path, tells=True)["choice"] == first
    told = set()
    for secret in range(40):
        keep(TRAINING, tmp_path, report(), secret=secret)
        told.add(int(given(COUNTING, tmp_path, tells=True)["choice"]))
    assert told == set(range(len(CHOICES)))


def test_who_does_not_tell_is_counted_nowhere(tmp_path):
    keep(TRAINING, tmp_path, report(), secret=1)
    for tells, total in ((True, 1.0), (False, 0.0)):
        terms = build(COUNTING).gather(COUNTING, {}, given(COUNTING, tmp_path, tells=tells), {}).terms
        assert terms["choices"].sum() == total


def test_a_run_is_evaluated_under_one_charter_only(tmp_path):
    """The sums of two evaluations over different departments would differ by one department's losses."""
    keep(TRAINING, tmp_path, report(), secret=1)
    given(COUNTING, tmp_path, tells=True)  # to look whether it would fit binds nothing
    bind(EVALUATION, tmp_path)
    bind(COUNTING, tmp_path)  # too late
    keep(TRAINING, tmp_path, report(), secret=1)  # nor does the end of the run, done again after a crash, unbind it
    given(EVALUATION, tmp_path, tells=True)
    with pytest.raises(ConfigError, match="is evaluated under charter"):
        given(COUNTING, tmp_path, tells=True)


def test_a_run_that_did_not_end_here_is_not_evaluated_here(tmp_path):
    with pytest.raises(ConfigError, match="no run of that has ended here"):
        given(EVALUATION, tmp_path, tells=True)


def test_files_are_for_the_departments_eyes(tmp_path):
    keep(TRAINING, tmp_path, report(), secret=1)
    bind(EVALUATION, tmp_path)
    terms = build(EVALUATION).gather(EVALUATION, {}, given(EVALUATION, tmp_path, tells=True), {}).terms
    keep_opened(EVALUATION, tmp_path, {name: np.asarray(3 * term, np.float32) for name, term in terms.items()})
    found = sorted((tmp_path / FOLDER).iterdir())
    assert len(found) == 3
    assert {oct(path.stat().st_mode & 0o777) for path in found} == {"0o600"}
    said = json.loads((tmp_path / FOLDER / f"{TRAINING.digest.hex()}.opened.json").read_text())
    assert (said["gain"], said["error"]) == pytest.approx((0.1, 0.05 * math.sqrt(3) / 3), abs=1e-6)


def test_approving_says_what_is_given_and_what_is_not():
    said = " ".join(plain_words(EVALUATION))
    assert TRAINING.digest.hex() in said
    assert "What you keep is not counted." in said
    assert "Test rows are not read." in said
    assert "random answer" in " ".join(plain_words(COUNTING))
