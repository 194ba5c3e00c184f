"""Which kinds of task there are: those built in, and those of installed packages.

A package offers a task of its own as an entry point of the group ``commonroot.tasks`` whose name is the task's kind and
whose value is a subclass of ``Task``.  Only code that was installed on a machine is ever looked at; what a coordinator
sends names no task.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from importlib.metadata import entry_points
from types import MappingProxyType
from typing import Any, Final

from pydantic import ValidationError

from commonroot.client.tasks.anomaly import Anomaly
from commonroot.client.tasks.base import Task, TaskConfig
from commonroot.client.tasks.binary import Binary
from commonroot.client.tasks.classes import Classification
from commonroot.client.tasks.fault import Fault
from commonroot.client.tasks.forecast import Forecast
from commonroot.client.tasks.life import Life
from commonroot.client.tasks.multilabel import Multilabel
from commonroot.client.tasks.rating import Rating
from commonroot.client.tasks.recommendation import Recommendation
from commonroot.client.tasks.regression import Regression
from commonroot.client.tasks.tagging import Tagging
from commonroot.common.errors import ConfigError, ForeignState

GROUP: Final = "commonroot.tasks"

#: The tasks built in, by kind.
TASKS: Final[MappingProxyType[str, type[Task]]] = MappingProxyType(
    {
        task.kind: task
        for task in (
            Anomaly,
            Binary,
            Classification,
            Fault,
            Forecast,
            Life,
            Multilabel,
            Rating,
            Recommendation,
            Regression,
            Tagging,
        )
    }
)


def task_class(kind: str) -> type[Task]:
    """The task of that kind.  Raises ConfigError for an unknown one, or an installed one that is no task."""
    if kind in TASKS:
        return TASKS[kind]
    for point in entry_points(group=GROUP):
        if point.name != kind:
            continue
        found = point.load()
        if not (inspect.isclass(found) and issubclass(found, Task) and getattr(found, "kind", None) == kind):
            raise ConfigError(f"the installed task {kind!r} ({point.value}) is no subclass of Task of that kind")
        return found
    raise ConfigError(f"no task is called {kind[:32]!r}", hint=f"there are: {', '.join(kinds())}")


def kinds() -> tuple[str, ...]:
    """Every kind, built in or installed."""
    return tuple(sorted({*TASKS, *(point.name for point in entry_points(group=GROUP))}))


def task_config(value: str | Mapping[str, Any] | TaskConfig) -> TaskConfig:
    """``task = "KIND"`` or a ``[data.task]`` table as the configuration of that kind.

    Raises ConfigError that names every wrong field.
    """
    if isinstance(value, TaskConfig):
        return value
    fields: dict[str, Any] = {"kind": value} if isinstance(value, str) else dict(value)
    kind = fields.get("kind")
    if not isinstance(kind, str):
        raise ConfigError('a [data.task] table needs its kind, such as kind = "regression"')
    try:
        return task_class(kind).Config.model_validate(fields)
    except ValidationError as error:
        wrong = "; ".join(
            f"{'.'.join(map(str, one['loc'])) or kind}: {one['msg'].removeprefix('Value error, ')}"
            for one in error.errors(include_url=False, include_input=False, include_context=False)
        )
        raise ConfigError(f"[data.task] of kind {kind!r}: {wrong}") from error


def task_from_json(value: dict[str, Any]) -> Task:
    """A stored task.  Raises ForeignState for a record that no version of this program wrote."""
    try:
        return task_class(str(value["kind"])).from_json(value)
    except (KeyError, TypeError, ValueError, IndexError, ConfigError) as error:
        raise ForeignState("the stored task cannot be read") from error
