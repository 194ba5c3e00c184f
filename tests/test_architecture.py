"""The arrows between rooms, and what no room may ever do; see the ``RULES`` of each and ``docs/adr``.

    common ← strategies ← {server, client} ← simulations ← the command line

The source is parsed, never run.  The detector is itself tested on snippets that it must refuse.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

#: Which rooms a room may import.  ``commonroot`` is the public face and the command line.
ROOMS = {
    "common": {"common"},
    "strategies": {"common", "strategies"},
    "server": {"common", "strategies", "server"},
    "client": {"common", "strategies", "client"},
    "simulations": {"common", "strategies", "server", "client", "simulations", "commonroot"},
    "commonroot": {"common", "strategies", "server", "client", "simulations", "commonroot"},
}
#: What both sides may take from the face, which otherwise only simulations and the command line import.
FACE = {
    "__version__": "a word",
    "archive": "backups as one file, which both sides write and read",
    "cli_sides": "what both sides' commands have in common: doctor, services, backups, disks",
    "console": "how every command prints, and ends in one clear error",
    "files": "atomic writes and file modes for the two sides that have files",
    "machine": "what both sides' doctors ask of a machine",
    "service": "systemd units, alike for both sides",
    "logs": "how a daemon tells its events, alike on both sides",
    "flower": "how a parcel becomes a Flower message, which both ends must do alike and common may not know",
}
FACE_ROOMS = {"server", "client"}

NETWORK = {
    "aiohttp", "asyncio", "grpc", "http", "httpx", "requests", "select", "selectors", "smtplib", "socket",
    "socketserver", "ssl", "starlette", "urllib", "uvicorn",
}  # fmt: skip
CLOCKS = {"datetime", "sched", "time", "zoneinfo"}
FILES = {"fileinput", "glob", "io", "mmap", "os", "pathlib", "shelve", "shutil", "sqlalchemy", "sqlite3", "tempfile"}
PROCESSES = {"multiprocessing", "signal", "subprocess"}
DICE = {"random", "secrets", "uuid"}  # randomness is an argument of whoever needs it
FRAMEWORKS = {"flwr", "sklearn", "torch"}
#: Two questions about the machine that are not about its files; the mask streams ask them to choose a thread count.
OS_ALLOWED = {"cpu_count", "process_cpu_count", "sched_getaffinity"}

#: Modules a room may not import at all …
FORBIDDEN = {
    "common": NETWORK | CLOCKS | FILES | PROCESSES | DICE | FRAMEWORKS,
    "strategies": NETWORK | CLOCKS | FILES | PROCESSES | DICE | {"flwr", "sklearn"},
    "server": {"torch", "sklearn"},  # the coordinator handles vectors by manifest
}
#: … or only inside a function.
FORBIDDEN_AT_TOP = {"strategies": {"torch"}}

#: The one room with cryptography, and the files outside it that may import the package all the same.
CRYPTOGRAPHY_ROOM = "common/secure_sum/"
CRYPTOGRAPHY_ELSEWHERE = {
    "server/pki.py": "the federation's certificate authority and TLS certificates are X.509, no part of the sum",
    "client/node_key.py": "Flower knows a node by an OpenSSH P-384 key, no part of the sum",
    "server/node_keys.py": "the same node keys, between the PEM that Flower keeps and the OpenSSH line of a roster",
}
#: Flower's internals change with every minor version, so only these files know them.
FLOWER = {
    "commonroot/flower.py": "messages, alike on both sides",
    "client/node.py": "a department's link",
    "client/node_calls.py": "a department's requests to the hub",
    "server/admission.py": "which node signed a request",
    "server/belongings.py": "what a node may name in a request",
    "server/objects.py": "payloads, to and from nodes",
    "server/announcements.py": "what a department may announce to the hub",
    "server/flower_links.py": "the coordinator's links",
    "server/gate.py": "which of the hub's routes the public may reach",
    "server/superlink.py": "the hub, in the coordinator's process",
    "server/link_state.py": "what the hub keeps of Flower's",
    "simulations/bench_secure_sum_flower.py": "Flower's own paths, measured beside ours",
    "simulations/bench_simulation_flower.py": "Flower's own simulation, measured beside ours",
    "simulations/flower_app/client.py": "departments as Flower runs them in its own simulation",
    "simulations/flower_app/crews.py": "shares of departments as Flower's messages",
    "simulations/flower_app/here.py": "Flower's simulation, started here",
    "simulations/flower_app/server.py": "the rounds, started by Flower",
    "simulations/mortal.py": "a clock that is wrong must be wrong for Flower too, and a reply lost on its way to it",
}

#: Whatever can run code that came with data.
UNPICKLERS = {"_pickle", "cPickle", "cloudpickle", "dill", "joblib", "marshal", "pickle", "shelve"}
CALLS = {"__import__", "compile", "eval", "exec"}
ATTRIBUTES = {
    ("pandas", "read_pickle"), ("pandas", "to_pickle"), ("torch", "load"), ("torch", "save"), ("torch.hub", "load"),
    ("torch.jit", "load"), ("torch.jit", "save"), ("yaml", "load"), ("yaml", "unsafe_load"),
}  # fmt: skip


@dataclass(frozen=True)
class Import:
    """``module`` is dotted; ``name`` is what `from module import name` took, or empty; ``top`` when run at import."""

    module: str
    name: str
    line: int
    top: bool

    @property
    def package(self) -> str:
        return self.module.split(".")[0]

    @property
    def room(self) -> str | None:
        """The room of this project that is imported, or None for anything from outside."""
        parts = [*self.module.split("."), *([self.name] if self.name else [])]
        if parts[0] != "commonroot":
            return parts[0] if parts[0] in ROOMS else None
        return parts[1] if len(parts) > 1 and parts[1] in ROOMS else "commonroot"

    @property
    def of_shared_face(self) -> bool:
        """Is it ``from commonroot import __version__`` or ``from commonroot.files import …`` and the like?"""
        parts = [*self.module.split("."), self.name]
        return parts[0] == "commonroot" and parts[1] in FACE


def _for_types_only(node: ast.AST) -> bool:
    test = node.test if isinstance(node, ast.If) else None
    return (isinstance(test, ast.Name) and test.id == "TYPE_CHECKING") or (
        isinstance(test, ast.Attribute) and test.attr == "TYPE_CHECKING"
    )


def imports(node: ast.AST, *, top: bool = True) -> Iterator[Import]:
    """Every import below ``node``, also those by name through importlib."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from (Import(alias.name, "", child.lineno, top) for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            module = "." * child.level + (child.module or "")
            yield from (Import(module, alias.name, child.lineno, top) for alias in child.names)
        elif isinstance(child, ast.Call) and _dotted(child.func) in {"importlib.import_module", "import_module"}:
            literal = child.args[0] if child.args else None
            module = literal.value if isinstance(literal, ast.Constant) else "?"
            yield Import(str(module), "", child.lineno, top)
        inside = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) or _for_types_only(child)
        yield from imports(child, top=top and not inside)


def _module_of(node: ast.Attribute, names: dict[str, str]) -> str:
    """The module whose attribute this is, as it is really called: ``np.x`` is of ``numpy``."""
    owner, _, rest = _dotted(node.value).partition(".")
    return ".".join(filter(None, (names.get(owner, ""), rest)))


def _dotted(node: ast.AST) -> str:
    if isinstance(node, ast.Name):
        return node.id
    return f"{_dotted(node.value)}.{node.attr}" if isinstance(node, ast.Attribute) else ""


def allowed_rooms(path: str) -> set[str]:
    """Which rooms a file may import: its room's, except that a shared part of the face may import only common."""
    room, _, rest = path.partition("/")
    return {"common"} if room == "commonroot" and rest.removesuffix(".py") in FACE else ROOMS[room]


def violations(source: str, path: str) -> list[str]:
    """What is wrong with a file at ``path`` (relative to the root), one line each."""
    tree = ast.parse(source)
    room = path.split("/")[0]
    found = list(imports(tree))
    #: what a bare name stands for: `import numpy as np` makes np → numpy
    names = {
        alias.asname or alias.name.split(".")[0]: alias.name if alias.asname else alias.name.split(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Import)
        for alias in node.names
    }
    out = [f"{path}:{at}: {why}" for at, why in _import_faults(found, room, path)]
    out += [f"{path}:{at}: {why}" for at, why in _use_faults(tree, names, room)]
    return out


def _import_faults(found: list[Import], room: str, path: str) -> Iterator[tuple[int, str]]:
    for one in found:
        if one.module.startswith("."):
            yield one.line, "relative import; write it out"
        if one.module in ROOMS and one.module != "commonroot":
            yield one.line, f"bare name {one.module!r}; write commonroot.{one.module}"
        shares = room in FACE_ROOMS or path.removeprefix("commonroot/").removesuffix(".py") in FACE
        if one.room and one.room not in allowed_rooms(path) and not (shares and one.of_shared_face):
            yield one.line, f"{room} may not import {one.room}"
        if one.package in FORBIDDEN.get(room, ()) and not (one.module == "os" and one.name in OS_ALLOWED):
            if one.module == "os" and not one.name:
                continue  # judged by what is used of it, below
            yield one.line, f"{room} may not import {one.module}"
        if one.top and one.package in FORBIDDEN_AT_TOP.get(room, ()):
            yield one.line, f"{room} may import {one.module} only inside a function"
        if (
            one.package == "cryptography"
            and not path.startswith(CRYPTOGRAPHY_ROOM)
            and path not in CRYPTOGRAPHY_ELSEWHERE
        ):
            yield one.line, f"cryptography belongs in {CRYPTOGRAPHY_ROOM}"
        if one.package == "flwr" and path not in FLOWER:
            yield one.line, "Flower belongs in its adapters"
        if (one.module, one.name) == ("numpy", "load"):
            yield one.line, "write numpy.load, so that its arguments can be judged"
        if one.package in UNPICKLERS or (one.module, one.name) in ATTRIBUTES:
            yield one.line, f"{one.module}.{one.name}".rstrip(".") + " can run code that comes with data"


def _use_faults(tree: ast.AST, names: dict[str, str], room: str) -> Iterator[tuple[int, str]]:
    strict = room in {"common", "strategies"}
    for node in ast.walk(tree):
        if isinstance(node, ast.Assert):
            yield node.lineno, "assert is for tests; an invariant raises"
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            if node.func.id in CALLS:
                yield node.lineno, f"{node.func.id}() can run code that comes with data"
            if strict and node.func.id in {"open", "input", "print"}:
                yield node.lineno, f"{room} has no files and no terminal: {node.func.id}()"
        if isinstance(node, ast.Call) and strict and not node.args and not node.keywords:
            called = _dotted(node.func)
            if called.endswith(("default_rng", "SeedSequence")):
                yield node.lineno, "randomness is an argument: this one takes its own from the machine"
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "load":
            module, refused = _module_of(node.func, names), {"allow_pickle": False}
            given = {k.arg: k.value.value for k in node.keywords if isinstance(k.value, ast.Constant)}
            if module == "numpy" and not refused.items() <= given.items():
                yield node.lineno, "numpy.load must say allow_pickle=False"
        if isinstance(node, ast.Attribute):
            module = _module_of(node, names)
            if (module, node.attr) in ATTRIBUTES:
                yield node.lineno, f"{module}.{node.attr} can run code that comes with data; use safetensors or JSON"
            if strict and module == "os" and node.attr not in OS_ALLOWED:
                yield node.lineno, f"{room} may not use os.{node.attr}"


def sources() -> list[Path]:
    return sorted(path for room in ROOMS for path in (ROOT / room).rglob("*.py"))


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_keeps_the_arrows_and_the_bans(path):
    assert violations(path.read_text(encoding="utf-8"), path.relative_to(ROOT).as_posix()) == []


def test_every_room_is_looked_at():
    assert {path.relative_to(ROOT).parts[0] for path in sources()} == set(ROOMS)


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("common/x.py", "from commonroot.strategies import base"),
        ("common/x.py", "import commonroot.client.session"),
        ("common/x.py", "from commonroot import server"),
        ("common/x.py", "from commonroot.cli import main"),
        ("common/x.py", "import strategies"),
        ("common/x.py", "from . import manifest"),
        ("common/x.py", "import torch"),
        ("common/x.py", "def f():\n    import flwr.app"),
        ("common/x.py", "import socket"),
        ("common/x.py", "from time import monotonic"),
        ("common/x.py", "from pathlib import Path"),
        ("common/x.py", "import os\nseed = os.urandom(32)"),
        ("common/x.py", "from os import urandom"),
        ("common/x.py", "import os.path"),
        ("common/x.py", "import secrets"),
        ("common/x.py", "text = open('x').read()"),
        ("common/x.py", "import numpy as np\nrng = np.random.default_rng()"),
        ("common/x.py", "import importlib\nimportlib.import_module('torch')"),
        ("common/x.py", "from cryptography.hazmat.primitives import hashes"),
        ("strategies/x.py", "import torch"),
        ("strategies/x.py", "class A:\n    import torch.nn"),
        ("strategies/x.py", "from commonroot.server import round"),
        ("strategies/x.py", "import random"),
        ("server/x.py", "from commonroot.client.session import Session"),
        ("server/x.py", "def f():\n    from commonroot import client"),
        ("server/x.py", "import commonroot.simulations"),
        ("server/x.py", "import torch"),
        ("server/x.py", "from cryptography import x509"),
        ("server/x.py", "from commonroot.cli import main"),
        ("common/x.py", "from commonroot.files import read_text"),
        ("commonroot/files.py", "from commonroot.client import store"),
        ("client/x.py", "import commonroot.server.journal"),
        ("client/x.py", "import cryptography"),
        ("client/x.py", "import pickle"),
        ("client/x.py", "from joblib import load"),
        ("client/x.py", "import torch\nmodel = torch.load('x')"),
        ("client/x.py", "import torch as t\nmodel = t.jit.load('x')"),
        ("client/x.py", "from torch import load"),
        ("client/x.py", "import numpy as np\nnp.load('x')"),
        ("client/x.py", "import numpy as np\nnp.load('x', allow_pickle=True)"),
        ("client/x.py", "import numpy as np\nnp.load('x', allow_pickle=maybe)"),
        ("client/x.py", "from numpy import load"),
        ("client/x.py", "from flwr.app import Message"),
        ("commonroot/cli.py", "import flwr"),
        ("client/x.py", "eval('1')"),
        ("client/x.py", "exec('1')"),
        ("client/x.py", "assert True"),
    ],
)
def test_the_detector_refuses(path, line):
    assert len(violations(line, path)) >= 1


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("common/x.py", "import os\nthreads = os.cpu_count()"),
        ("common/x.py", "import numpy as np\nrng = np.random.default_rng(7)"),
        ("common/x.py", "from commonroot.common.errors import Malformed"),
        ("common/secure_sum/x.py", "from cryptography.hazmat.primitives import hashes"),
        ("server/pki.py", "from cryptography import x509"),
        ("server/x.py", "from commonroot import __version__"),
        ("client/x.py", "from commonroot.files import read_text"),
        ("commonroot/files.py", "from commonroot.common.errors import KeyFileError"),
        ("commonroot/cli.py", "from commonroot.client import session"),
        ("strategies/x.py", "def loss():\n    import torch"),
        ("strategies/x.py", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import torch"),
        ("client/x.py", "import re\nre.compile('x')"),
        ("client/x.py", "model.eval()"),
        ("client/x.py", "import numpy as np\nnp.load('x', allow_pickle=False)"),
        ("client/node.py", "from flwr.proto.node_pb2 import Node"),
        ("client/x.py", "from safetensors.numpy import load"),
        ("simulations/x.py", "from commonroot.server import round\nfrom commonroot.client import session"),
    ],
)
def test_the_detector_lets_pass(path, line):
    assert violations(line, path) == []


@pytest.mark.parametrize(
    ("package", "path"), [("cryptography", p) for p in CRYPTOGRAPHY_ELSEWHERE] + [("flwr", p) for p in FLOWER]
)
def test_an_exception_is_used(package, path):
    """An exception that nothing needs any more is a door left open."""
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    assert any(one.package == package for one in imports(tree))


def test_a_test_file_is_named_once_in_the_whole_tree():
    """pytest imports test files by their bare names here, so two of one name would be one."""
    names = [path.name for path in (ROOT / "tests").rglob("test_*.py")]
    assert sorted(names) == sorted(set(names))
    assert list((ROOT / "tests").rglob("__init__.py")) == []
