"""``include``: a scenario put together from files.

A fragment holds ``[network]``, ``[[events]]``, ``[[behaviour]]``, ``[coordinator]`` and further includes.  A name is
a path that starts at the file it stands in; one without a folder that is not there is looked for among those that
come with the program (``ready/``).  Lists are put one after the other, the including file's own last; a key that
stands in two files is refused, as is a file that includes itself or stands twice.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeVar

from pydantic import BaseModel, ValidationError

from commonroot.common.charter import field_of, plainly
from commonroot.common.errors import ConfigError
from commonroot.files import read_text

#: Fragments that come with the program.
READY: Final = Path(__file__).parent / "ready"
Model = TypeVar("Model", bound=BaseModel)
_TABLES: Final = ("network", "coordinator")
_LISTS: Final = ("events", "behaviour")


@dataclass(slots=True)
class _Gathered:
    """What stands in a scenario's files, and where each part of it does."""

    value: dict[str, Any]
    tables: dict[tuple[str, str], Path] = field(default_factory=dict)
    items: dict[tuple[str, int], tuple[Path, int]] = field(default_factory=dict)
    problems: dict[Path, list[str]] = field(default_factory=dict)

    def wrong(self, path: Path, text: str) -> None:
        self.problems.setdefault(path, []).append(text)


def read_with_includes(kind: type[Model], path: Path) -> Model:
    """A scenario and its fragments as ``kind``.  Raises ConfigError that names every file and every wrong field."""
    main = _parsed(path)
    includes = main.pop("include", [])
    own: dict[str, Any] = {name: main.pop(name) for name in (*_TABLES, *_LISTS) if name in main}
    found = _Gathered(main)
    _include(found, includes, path, (path.resolve(),), set())
    _add(found, own, path)
    try:
        made = kind.model_validate(found.value)
    except ValidationError as error:
        for one in error.errors():
            where, place = _origin(found, one["loc"], path)
            found.wrong(where, f"{field_of(place)}: {plainly(one)}")
        raise _refusal(found.problems) from error
    if found.problems:
        raise _refusal(found.problems)
    return made


def _include(found: _Gathered, includes: Any, path: Path, above: tuple[Path, ...], seen: set[Path]) -> None:
    if not isinstance(includes, list) or not all(isinstance(one, str) for one in includes):
        found.wrong(path, 'include: a list of files, as in include = ["dropout-30.toml"]')
        return
    for name in includes:
        fragment = _located(name, path)
        if fragment is None:
            known = ", ".join(sorted(one.name for one in READY.glob("*.toml")))
            found.wrong(path, f"include: there is no {name!r} beside it; those that come with the program are {known}")
            continue
        resolved = fragment.resolve()
        if resolved in above:
            found.wrong(path, f"include: {name!r} leads back to {fragment}")
        elif resolved in seen:
            found.wrong(path, f"include: {name!r} is included twice")
        else:
            seen.add(resolved)
            value = _parsed(fragment)
            _include(found, value.pop("include", []), fragment, (*above, resolved), seen)
            for other in sorted(value.keys() - {*_TABLES, *_LISTS}):
                found.wrong(fragment, f"{other}: a fragment holds {', '.join((*_TABLES, *_LISTS))} and include alone")
                del value[other]
            _add(found, value, fragment)


def _located(name: str, path: Path) -> Path | None:
    beside = path.parent / name
    if beside.is_file():
        return beside
    ready = READY / name
    return ready if Path(name).name == name and ready.is_file() else None


def _add(found: _Gathered, value: Mapping[str, Any], path: Path) -> None:
    for table in _TABLES:
        given = value.get(table, {})
        if not isinstance(given, dict):
            found.wrong(path, f"{table}: a table, as in [{table}]")
            continue
        if table in value:
            found.value.setdefault(table, {})
        for key, one in given.items():
            if (table, key) in found.tables:
                found.wrong(path, f"{table}.{key}: stands in {found.tables[table, key]} too")
                continue
            found.tables[table, key] = path
            found.value[table][key] = one
    for name in _LISTS:
        given = value.get(name, [])
        if not isinstance(given, list):
            found.wrong(path, f"{name}: a list of tables, as in [[{name}]]")
            continue
        for at, one in enumerate(given):
            into = found.value.setdefault(name, [])
            found.items[name, len(into)] = (path, at)
            into.append(one)


def _origin(found: _Gathered, place: tuple[int | str, ...], path: Path) -> tuple[Path, tuple[int | str, ...]]:
    """The file that a wrong field stands in, and its place there; which kind was tried stands in no file."""
    name = place[0] if place else ""
    if len(place) > 1 and name in _TABLES:
        return found.tables.get((str(name), str(place[1])), path), place
    if len(place) > 1 and name in _LISTS and isinstance(place[1], int):
        where, at = found.items[str(name), place[1]]
        rest = place[3:] if name == "behaviour" else place[2:]
        return where, (str(name), at, *rest)
    return path, place


def _parsed(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(read_text(path, what="the scenario"))
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path} is not valid TOML: {error}") from error


def _refusal(problems: Mapping[Path, list[str]]) -> ConfigError:
    lines = [
        f"{path} has {len(found)} wrong field(s):\n" + "\n".join(f"  {line}" for line in found)
        for path, found in problems.items()
    ]
    return ConfigError("\n".join(lines), hint="`commonroot scenarios copy` writes a commented example")
