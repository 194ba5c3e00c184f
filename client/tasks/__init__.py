"""What a department predicts: plug-ins that differ in target, head, loss, score and columns, and mix freely.

Each kind is one file; ``base`` says what a task answers, ``registry`` which there are.
"""

from commonroot.client.tasks.anomaly import Anomaly
from commonroot.client.tasks.base import (
    LEAST_PROBABILITY,
    POINTS,
    Array,
    Floats,
    Task,
    TaskConfig,
    score,
    sigmoid,
    softmax,
)
from commonroot.client.tasks.binary import Binary
from commonroot.client.tasks.classes import Classes, Classification, sort_labels
from commonroot.client.tasks.columns import Problem, Target, Where
from commonroot.client.tasks.fault import Fault
from commonroot.client.tasks.forecast import Forecast
from commonroot.client.tasks.inventory import Inventory
from commonroot.client.tasks.life import Life
from commonroot.client.tasks.multilabel import Multilabel
from commonroot.client.tasks.rating import Rating
from commonroot.client.tasks.recommendation import Recommendation
from commonroot.client.tasks.registry import TASKS, kinds, task_class, task_config, task_from_json
from commonroot.client.tasks.regression import Regression
from commonroot.client.tasks.tagging import Tagging

__all__ = [
    "LEAST_PROBABILITY",
    "POINTS",
    "TASKS",
    "Anomaly",
    "Array",
    "Binary",
    "Classes",
    "Classification",
    "Fault",
    "Floats",
    "Forecast",
    "Inventory",
    "Life",
    "Multilabel",
    "Problem",
    "Rating",
    "Recommendation",
    "Regression",
    "Tagging",
    "Target",
    "Task",
    "TaskConfig",
    "Where",
    "kinds",
    "score",
    "sigmoid",
    "softmax",
    "sort_labels",
    "task_class",
    "task_config",
    "task_from_json",
]
