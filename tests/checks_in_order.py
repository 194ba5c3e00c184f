"""Reads from the source what a function refuses, in the order in which it looks.

The source is parsed, never run: calls are followed into functions of this project, and every ``raise`` of an error that
the other side can cause becomes one row, with the message that stands in the source.  So a page that lists the checks
of a message cannot list one that is not there, leave one out, or have them in another order.
"""

from __future__ import annotations

import ast
import inspect
import re
import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from commonroot.common import parcel
from commonroot.common.errors import CommonrootError, NotApproved, PeerError, RoundLost

#: What the other side can bring about; everything else is this side's own affair.
TOLD = (PeerError, RoundLost, NotApproved)


@dataclass(frozen=True)
class Step:
    """One row: ``check`` with codes and a reason, ``disk`` with what is made durable, ``sent`` with a kind."""

    what: str
    codes: str
    text: str


class Reader:
    """Follows one function and whatever it calls.

    Parameters  bindings: what an attribute stands for, by the words in the source: ``self._machine.review`` → (owner,
                name); None for what is not followed
    """

    def __init__(self, bindings: Mapping[str, tuple[type | Any, str] | None]) -> None:
        self._bindings = bindings
        self._active: list[Any] = []
        #: Sentences by the name of the variable that holds them.
        self._results: dict[str, list[str]] = {}

    def read(self, owner: Any, name: str) -> list[Step]:
        """Every step of ``owner.name``, in order; checks that are made twice stand where they are made first."""
        seen: set[Step] = set()
        steps = []
        for step in self._function(owner, getattr(owner, name)):
            if step.what != "check" or step not in seen:
                steps.append(step)
            seen.add(step)
        return steps

    def _function(self, owner: Any, function: Any) -> Iterator[Step]:
        function = inspect.unwrap(function)
        if function in self._active:
            return
        self._active.append(function)
        tree = ast.parse(textwrap.dedent(inspect.getsource(function))).body[0]
        module = sys.modules[function.__module__]
        yield from self._nodes(tree.body, owner, module)  # type: ignore[attr-defined]
        self._active.pop()

    def _nodes(self, nodes: list[Any], owner: Any, module: Any) -> Iterator[Step]:
        for node in nodes:
            yield from self._node(node, owner, module)

    def _node(self, node: Any, owner: Any, module: Any) -> Iterator[Step]:
        if isinstance(node, ast.FunctionDef | ast.Lambda):
            return
        if isinstance(node, ast.Raise):
            yield from self._raised(node, owner, module)
            return
        if isinstance(node, ast.Return) and isinstance(node.value, ast.Call) and _words(node.value.func) == "Parcel":
            yield from self._nodes(list(ast.iter_child_nodes(node.value)), owner, module)
            yield Step("sent", "", f"`{getattr(parcel, _words(node.value.args[0]).removeprefix('parcel.'))}`")
            return
        if isinstance(node, ast.NamedExpr) and isinstance(node.value, ast.Call):
            self._results[node.target.id] = self._result(node.value, owner, module)
        yield from self._nodes(list(ast.iter_child_nodes(node)), owner, module)
        if isinstance(node, ast.Call):
            yield from self._call(node, owner, module)

    def _call(self, node: ast.Call, owner: Any, module: Any) -> Iterator[Step]:
        words = _words(node.func)
        first, _, last = words.rpartition(".")
        if words in self._bindings:
            found = self._bindings[words]
            if found is not None:
                yield from self._function(found[0], getattr(*found))
        elif words == "verify":
            whose = next(_text(keyword.value) for keyword in node.keywords if keyword.arg == "who")
            yield Step("check", "CR21", f"a signature is not that of {whose}")
        elif last in ("decode", "from_json") and inspect.isclass(found := getattr(module, first, None)):
            codes = "CR20, CR22" if last == "decode" else "CR20"
            yield Step("check", codes, f"not the one encoding of a `{found.__name__}`, or of another protocol version")
        elif last in ("check", "check_countersignature") and first != "self._learner" and node.args:
            who = [_text(keyword.value) for keyword in node.keywords if keyword.arg == "who"]
            whose = who[0] if who and who[0] not in ("", "…") else "the sender" if who else "the coordinator"
            word = "countersignature" if "counter" in last else "signature"
            yield Step("check", "CR21", f"the {word} is not that of {whose}")
        elif first in ("self._store", "self._journal") and re.match(
            r"(commit|fix|open|close|begin|keep)_|record$", last
        ):
            yield Step("disk", "", f"`{last}`")
        elif first in ("self", "") and _is_ours(found := getattr(owner if first else module, last, None), module):
            yield from self._function(owner, found)

    def _raised(self, node: ast.Raise, owner: Any, module: Any) -> Iterator[Step]:
        if not isinstance(node.exc, ast.Call):
            return
        kind = getattr(module, _words(node.exc.func), None)
        if not (inspect.isclass(kind) and issubclass(kind, TOLD)):
            return
        argument = node.exc.args[0] if node.exc.args else ast.Constant("")
        found = self._results.get(argument.id, []) if isinstance(argument, ast.Name) else []
        for text in found or [_text(argument)]:
            yield Step("check", kind.code, text if re.search(r"\w{3}", text) else first_sentence(kind))

    def _result(self, node: Any, owner: Any, module: Any) -> list[str]:
        """The sentences that a function returns which says in words what is wrong."""
        words = _words(node.func)
        if self._bindings.get(words):
            owner, name = self._bindings[words]  # type: ignore[misc]
            function = getattr(owner, name)
        else:
            function = getattr(module, words, None)
        if not _is_ours(function, module):
            return []
        tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
        inside = sys.modules[function.__module__]
        texts = []
        returns = [step for step in ast.walk(tree) if isinstance(step, ast.Return)]
        for step in sorted(returns, key=lambda step: step.lineno):
            if isinstance(step.value, ast.JoinedStr | ast.Constant):
                texts.append(_text(step.value))
            elif isinstance(step.value, ast.Call):
                texts += self._result(step.value, owner, inside)
        return [text for text in texts if text != "…"]


def _is_ours(thing: Any, module: Any) -> bool:
    """A function of the same package as the module that calls it."""
    return inspect.isfunction(thing) and thing.__module__.partition(".")[0] == module.__name__.partition(".")[0]


def _words(node: ast.expr) -> str:
    """``a.b().c`` for attributes and calls of names; empty for anything else."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        before = _words(node.value)
        return f"{before}.{node.attr}" if before else node.attr
    if isinstance(node, ast.Call):
        return f"{_words(node.func)}()"
    return ""


def _text(node: ast.expr) -> str:
    """A message as it stands in the source, with dots where values go."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        parts = [part.value if isinstance(part, ast.Constant) else "…" for part in node.values]
        return re.sub("…+", "…", "".join(map(str, parts)))
    if isinstance(node, ast.BinOp):
        return _text(node.left)
    return "…"


def first_sentence(thing: Callable[..., Any] | type[CommonrootError]) -> str:
    """Of a docstring, without its full stop."""
    text = " ".join((thing.__doc__ or "").split())
    return re.split(r"\.(?:\s|$)", text)[0]
