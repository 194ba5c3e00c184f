"""What somebody has in a notebook as a scenario: charters and departments from files, mappings, frames and arrays.

Tables that are only in memory are written into a folder, each under a name with its hash, and from there on are files
like any others: nothing of an earlier simulation is ever written over.
"""

from __future__ import annotations

import hashlib
import io
import re
import tomllib
import zipfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import polars as pl
from pydantic import BaseModel

from commonroot.client.data import DataConfig
from commonroot.client.notebook import frame_of
from commonroot.common.charter import Draft, model_from_values
from commonroot.common.errors import ConfigError
from commonroot.files import atomic_write, read_text, storage_errors
from commonroot.simulations.scenario import Scenario, read_scenario

#: The array under which labels or values of ``(X, y)`` are written, where no target is named.
TARGET: Final = "y"
#: What a charter that is given as a mapping may leave out.
_NAMES: Final = {"federation": "simulated", "name": "tried"}

Values = dict[str, Any]


def scenario_of(
    charter: Any,
    departments: Mapping[str, Any] | None,
    *,
    common: Mapping[str, Any] | None,
    sections: Mapping[str, Any],
    tables: Callable[[], Path],
) -> Scenario:
    """A scenario whose paths are absolute.

    charter      a ``charter.toml``, a ``Draft`` or a mapping of its fields; without departments a whole scenario: a
                 ``federation.toml``, a ``Scenario`` or a mapping
    departments  by name: see ``simulations.notebook.simulate``
    common       fields that every department's section has unless it says otherwise
    sections     fields of the scenario that are given besides, and stand over its own; None is not given
    tables       the folder that tables in memory are written to; asked for only where there are some

    Raises ConfigError that names every wrong field at once.
    """
    given = {name: value for name, value in sections.items() if value is not None}
    if departments is None and ("world" not in given or _is_whole(charter)):
        values, where = _whole(charter)
        if "world" in given:  # it stands over departments as over another world
            values.pop("departments", None)
        if common:
            raise ConfigError("common says what departments have in common, and no departments were given")
    else:
        values, where = {"charter": _charter(charter)}, "the simulation"
        if departments is not None:
            values["departments"] = _departments(departments, dict(common or {}), tables)
    return absolute(scenario_from_values(values | given, path=where), Path())


def without_masks(scenario: Scenario) -> Scenario:
    """The same under ``ring`` where it does not say how it sums, and nothing in it needs the whole protocol."""
    if "sum" in scenario.model_fields_set or scenario.coordinator is not None:
        return scenario
    return scenario.summed("ring")


def scenario_from_values(values: Mapping[str, Any], *, path: str) -> Scenario:
    """A scenario from what its file would hold; departments are told of by their names.

    Raises ConfigError that names every wrong field at once, and for fragments to include, which lie beside a file.
    """
    if "include" in values:
        raise ConfigError(
            "include: only a file includes others",
            hint="give the path of a federation.toml with that line, or what the fragments hold: behaviour, events …",
        )
    try:
        return model_from_values(Scenario, dict(values), path=path)
    except ConfigError as error:
        listed = values.get("departments") or ()

        def named(found: re.Match[str]) -> str:
            at = int(found[1])
            one = listed[at] if at < len(listed) else {}
            return f"departments.{one['name']}" if isinstance(one, Mapping) and "name" in one else found[0]

        raise ConfigError(re.sub(r"departments\.(\d+)", named, str(error)), hint=error.advice) from error


def absolute(scenario: Scenario, beside: Path) -> Scenario:
    """The same with every path in it absolute; relative ones start at ``beside``."""
    found: Scenario = Scenario.model_validate(values_of(scenario, lambda path: (beside / path).resolve()))
    return found


def values_of(scenario: Scenario, of_path: Callable[[Path], Any] = str) -> Values:
    """What was written down of a scenario, as its file would hold it: the same scenario again, once validated."""
    found: Values = _plain(scenario.model_dump(exclude_unset=True, by_alias=True), of_path)
    return found


def _plain(value: Any, of_path: Callable[[Path], Any]) -> Any:
    if isinstance(value, Path):
        return of_path(value)
    if isinstance(value, Mapping):
        return {name: _plain(inner, of_path) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner, of_path) for inner in value]
    return value


# -- its parts ---------------------------------------------------------------------------------------------------------


def _is_whole(given: Any) -> bool:
    """Is this a scenario, rather than a charter alone?"""
    if isinstance(given, str | Path):
        return "charter" in _toml(Path(given), what="the charter")
    return isinstance(given, Scenario) or (isinstance(given, Mapping) and "charter" in given)


def _whole(given: Any) -> tuple[Values, str]:
    """A whole scenario's fields with absolute paths, and where they stand."""
    if isinstance(given, str | Path):
        path = Path(given)
        if "charter" not in _toml(path, what="the scenario"):
            raise ConfigError(
                f"{path} has no [charter], so it is no scenario", hint="beside a charter, give its departments"
            )
        return values_of(read_scenario(path), lambda one: str((path.resolve().parent / one).resolve())), str(path)
    if isinstance(given, Scenario):
        return values_of(given), "the scenario"
    if isinstance(given, Mapping) and "charter" in given:
        return dict(given), "the scenario"
    raise ConfigError(
        f"a charter alone ({type(given).__name__}) makes no federation",
        hint="give departments, by name, or a world, or the path of a federation.toml",
    )


def _charter(given: Any) -> Any:
    if isinstance(given, Draft):
        return given
    if isinstance(given, Mapping):
        return _NAMES | dict(given)
    if isinstance(given, str | Path):
        return Draft.from_toml(read_text(Path(given), what="the charter"), path=str(given))
    raise ConfigError(
        f"a charter of type {type(given).__name__} cannot be read", hint="give a path, a Draft or a mapping"
    )


def _departments(given: Mapping[str, Any], common: Values, tables: Callable[[], Path]) -> list[Values]:
    """Each department's name and data section; what cannot be read is told all at once."""
    if not isinstance(given, Mapping):
        raise ConfigError("departments come by their names", hint='{"sales": …, "service": …}')
    found, problems = [], []
    for name, one in given.items():
        try:
            found.append({"name": name, "data": _section(str(name), one, common, tables)})
        except ConfigError as error:
            problems.append((str(error), error.advice))
    if problems:
        raise ConfigError("\n".join(text for text, _ in problems), hint=problems[0][1])
    return found


def _section(name: str, given: Any, common: Values, tables: Callable[[], Path]) -> Any:
    if isinstance(given, DataConfig):
        return given
    if isinstance(given, BaseModel):
        raise ConfigError(f"department {name!r} is a {type(given).__name__}", hint="a DataConfig, or its fields")
    if isinstance(given, str | Path):
        return _from_file(name, Path(given), common)
    if isinstance(given, Mapping) and not _is_table(given):
        fields = common | dict(given)
        rows = fields.pop("rows", None)
        if rows is None:
            return fields
        if "path" in fields or "url" in fields:
            raise ConfigError(f"department {name!r} has rows and {'path' if 'path' in fields else 'url'}: give one")
    else:
        fields, rows = dict(common), given
    return _written(name, rows, fields, tables)


def _is_table(given: Mapping[str, Any]) -> bool:
    """Is it a dict of lists, rather than the fields of a section?"""
    return bool(given) and all(isinstance(value, list | np.ndarray | pl.Series) for value in given.values())


def _from_file(name: str, path: Path, common: Values) -> Any:
    """``department.toml`` with its section, or a table itself."""
    if path.suffix != ".toml":
        return common | {"path": str(path)}
    found = _toml(path, what=f"the file of department {name!r},")
    if not isinstance(found.get("data"), Mapping):
        raise ConfigError(f"{path} has no [data]", hint="a department.toml says under [data] where its rows are")
    section = model_from_values(DataConfig, common | found["data"], path=f"[data] of {path}")
    changed = {
        field: path.resolve().parent / value
        for field in ("path", "test_path", "catalogue")
        if (value := getattr(section, field)) is not None
    }
    return section.model_copy(update=changed)


def _written(name: str, rows: Any, fields: Values, tables: Callable[[], Path]) -> Values:
    """The fields of a department whose rows are in memory, with the path they were written to."""
    if isinstance(rows, tuple):
        fields = {"target": TARGET} | fields
        content, suffix = _archive(name, rows, fields["target"]), "npz"
    else:
        content, suffix = _parquet(name, rows), "parquet"
    if "task" not in fields:
        raise ConfigError(
            f"department {name!r} does not say what is to be predicted",
            hint='{"rows": …, "target": "demand", "task": "regression"}, or common={…} for all departments',
        )
    folder = tables()
    words = re.sub(r"[^A-Za-z0-9_-]+", "-", name)[:40]
    path = folder / f"{words}-{hashlib.sha256(content).hexdigest()[:16]}.{suffix}"
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    if not path.is_file():
        atomic_write(path, content)
    return fields | {"path": str(path)}


def _parquet(name: str, rows: Any) -> bytes:
    try:
        frame = frame_of(rows)
    except ConfigError as error:
        raise ConfigError(f"department {name!r}: {error}", hint=error.advice) from error
    out = io.BytesIO()
    try:
        frame.write_parquet(out)
    except (pl.exceptions.PolarsError, ValueError) as error:
        raise ConfigError(f"department {name!r}: its frame cannot be written as Parquet: {error}") from error
    return out.getvalue()


def _archive(name: str, rows: tuple[Any, ...], target: Any) -> bytes:
    """``X`` and the target as an .npz, the same bytes for the same arrays."""
    if len(rows) != 2 or not isinstance(target, str):
        raise ConfigError(f"department {name!r}: a tuple of rows is (X, y) with one target", hint="or give a frame")
    arrays = {"X": np.asarray(rows[0]), target: np.asarray(rows[1])}
    if arrays[target].dtype == object and all(isinstance(one, str) for one in arrays[target].ravel()):
        arrays[target] = arrays[target].astype(str)
    objects = [key for key, array in arrays.items() if array.dtype == object]
    if objects:
        raise ConfigError(
            f"department {name!r}: {objects[0]} holds Python objects, not numbers or text", hint="or give a frame"
        )
    return _zipped(arrays.items())


def _zipped(arrays: Iterable[tuple[str, np.ndarray[Any, Any]]]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, array in arrays:
            inner = io.BytesIO()
            np.lib.format.write_array(inner, np.ascontiguousarray(array), allow_pickle=False)
            archive.writestr(zipfile.ZipInfo(f"{name}.npy"), inner.getvalue())  # a ZipInfo has no date of its own
    return out.getvalue()


def _toml(path: Path, *, what: str) -> Values:
    try:
        return tomllib.loads(read_text(path, what=what))
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path} is not valid TOML: {error}") from error
