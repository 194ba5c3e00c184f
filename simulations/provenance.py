"""What decides a result: the program as far as it takes part, the libraries, and the files it reads, each as a hash.

Comments and docstrings do not count, so that a corrected sentence costs nothing that is kept.
"""

from __future__ import annotations

import ast
import hashlib
import json
from collections.abc import Iterable, Iterator
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import commonroot.client
import commonroot.common
import commonroot.server
import commonroot.simulations
import commonroot.strategies
from commonroot.files import read_text

LIBRARIES: Final = ("numpy", "polars", "scikit-learn", "torch")
#: Parts of the rooms that no result depends on.
IDLE: Final = frozenset(
    {
        "client/cli.py", "client/checking.py", "client/daemon.py", "client/node.py", "client/node_calls.py",
        "client/node_key.py", "client/node_session.py", "client/notebook.py", "client/own_page.py",
        "client/own_report.py", "client/predicting.py",
        "server/cli.py", "server/doorbell.py", "server/flower_links.py", "server/gate.py", "server/superlink.py",
        "server/announcements.py", "server/link_state.py", "server/listener.py",
    }
)  # fmt: skip
_IDLE_FOLDERS: Final = ("client/drawing/", "client/out/")
#: Beginnings of names of simulations' files that show, measure or break, and decide nothing that is learned.
_SHOWING: Final = (
    "bench", "cell_", "cli", "comparison", "crash_", "demo", "deployment", "faults", "flower", "guard_", "mortal",
    "notebook", "pictures", "processes", "progress", "provenance", "relay", "report", "search", "soak_",
    "statistics_of_gain", "sweeps/", "tracking", "transfer_", "usage",
)  # fmt: skip

Sources = Iterable[tuple[str, Path]]


def libraries() -> dict[str, str]:
    """The version of each library that results depend on."""
    return {name: version(name) for name in LIBRARIES}


def rooms() -> Iterator[tuple[str, Path]]:
    """Every source of the four rooms that a result may depend on, by name."""
    for room in (commonroot.client, commonroot.common, commonroot.server, commonroot.strategies):
        root = Path(next(iter(room.__path__)))
        for path in root.rglob("*.py"):
            name = f"{root.name}/{path.relative_to(root).as_posix()}"
            if name not in IDLE and not name.startswith(_IDLE_FOLDERS):
                yield name, path


def simulated() -> Iterator[tuple[str, Path]]:
    """Every source of the simulations that some scenario's result may depend on, by name."""
    root = Path(next(iter(commonroot.simulations.__path__)))
    for path in root.rglob("*.py"):
        name = path.relative_to(root).as_posix()
        if not name.startswith(_SHOWING):
            yield f"simulations/{name}", path


def sources_digest(sources: Sources) -> str:
    """SHA-256 over sources and their names, without comments and docstrings."""
    digest = hashlib.sha256()
    for name, path in sorted(sources):
        digest.update(f"{name} {_digest_of(path)}\n".encode())
    return digest.hexdigest()


@cache
def program_digest() -> str:
    """The same over all that any scenario's result may depend on."""
    return sources_digest((*rooms(), *simulated()))


@cache
def _digest_of(path: Path) -> str:
    return hashlib.sha256(meaning(path.read_text("utf-8")).encode()).hexdigest()


def content_digest(path: Path) -> str:
    """SHA-256 over a file; over names and contents of all files below a folder."""
    if path.is_file():
        return _file_digest(path)
    digest = hashlib.sha256()
    for one in sorted(one for one in path.rglob("*") if one.is_file()):
        digest.update(f"{one.relative_to(path).as_posix()} {_file_digest(one)}\n".encode())
    return digest.hexdigest()


def _file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def meaning(source: str) -> str:
    """A module as Python reads it, without its docstrings."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and ast.get_docstring(
            node
        ):
            node.body = node.body[1:]
    return ast.dump(tree)


def kept_result(path: Path) -> dict[str, Any] | None:
    """A result that is kept under the hash of what decided it; a file that cannot be read is as good as none."""
    if not path.is_file():
        return None
    try:
        found: dict[str, Any] = json.loads(read_text(path, what="a cell's result"))
    except ValueError:
        return None
    return found
