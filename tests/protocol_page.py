"""What ``docs/protocol.md`` takes from the code: parameters, labels, messages, sizes, checks, diagrams.

``python tests/protocol_page.py`` writes it; ``make docs`` does, and a test compares.
"""

from __future__ import annotations

import ast
import inspect
import re
import sys
from collections.abc import Callable, Iterator
from enum import StrEnum
from functools import partial
from typing import Any

from checks_in_order import Reader, first_sentence
from made_pages import ROOT, mermaid, table, write

from commonroot.client.session import Session
from commonroot.client.setup import join
from commonroot.common import greetings, messages, parcel, roster
from commonroot.common.errors import all_errors
from commonroot.common.messages import (
    Masked,
    Open,
    Previous,
    RoundOpen,
    Shares,
    box_bytes,
    consenting,
    ending,
    opening_round,
    opening_sum,
    survivors,
    training,
    upload,
)
from commonroot.common.roster import MOST_DEPARTMENTS, Parameters
from commonroot.common.secure_sum import epoch
from commonroot.common.secure_sum.agreement import CIPHERTEXT_BYTES
from commonroot.common.secure_sum.codec import SumCodec
from commonroot.common.secure_sum.coordinator import CoordinatorRound
from commonroot.common.secure_sum.department import DepartmentMachine
from commonroot.common.secure_sum.epoch import EpochSetup
from commonroot.common.secure_sum.states import DEPARTMENT, EPOCH, SUM, Table
from commonroot.server.states import ROUNDS, RUNS
from commonroot.strategies import averaging

PAGE = ROOT / "docs" / "protocol.md"

# -- parameters --------------------------------------------------------------------------------------------------------

#: Sizes shown, each with the numbers of colluders shown for it; None: what ``for_size`` chooses.
SIZES: list[tuple[int, tuple[int | None, ...]]] = [
    (3, (0, 1)), (4, (None,)), (5, (None,)), (10, (1, 2, 3)), (32, (4, 10)),
    (50, (None,)), (100, (None,)), (400, (None,)), (1000, (None,)),
]  # fmt: skip


def parameters() -> str:
    """n, t_c, committee, quorum, floor and degree, from the function that fills rosters."""
    rows = []
    for n, colluders in SIZES:
        if n > MOST_DEPARTMENTS:
            continue
        for t_c in colluders:
            p = Parameters.for_size(n, t_c)
            m = getattr(p, "committee", None) or n
            k = getattr(p, "degree", None) or n - 1
            rows.append((f"{n:,}", p.colluders, m, p.opening_quorum, m - p.opening_quorum, p.survivors_min, k))
    head = (
        "departments n",
        "colluders t_c",
        "committee m",
        "quorum tau",
        "may be absent",
        "survivors u_min",
        "degree k",
    )
    return table(head, rows)


# -- derivations -------------------------------------------------------------------------------------------------------

#: Every label of a derivation, a hash or a signature, and what it is for.  A label in the code that is not here, or one
#: here that is not in the code, fails the test of this page.
MEANING = {
    ("derive", "pair"): "root of a pair: from the X25519 and ML-KEM secrets; salt: roster digest; context: lo ‖ hi ‖ "
    "digest of the ciphertext",
    ("derive", "next block"): "key of the next 256 rounds: from a root, then from the key before",
    ("derive", "rounds"): "chain of a block's first round: from the root (round 0) or the block's key",
    ("derive", "next"): "chain of the next round: from the chain before",
    ("derive", "mask"): "s_ij: from the round's chain; context: T",
    ("derive", "box"): "key of one box: from the round's chain; salt: the box's 16 random bytes; context: T ‖ sender ‖ "
    "member",
    ("derive", "keystream …"): "AES-256 key of one secret's stream, of masks (`mask`) or of what rounds",
    ("derive", "rounding"): "stochastic rounding: from the training secret; context: charter digest ‖ version",
    ("hash", "roster"): "digest of a roster",
    ("hash", "charter"): "digest of a charter",
    ("hash", "manifest"): "digest of a manifest",
    ("hash", "catalogue"): "digest of a recommender's items, kept by a department beside its factors",
    ("hash", "ciphertext"): "what a greeting signs in the place of an ML-KEM ciphertext",
    ("hash", "transcript"): "T: everything in a round-open before its signature",
    ("hash", "asked"): "what a retry of a backbone version must repeat: broadcast and bounds",
    ("hash", "opened"): "H(T, U)",
    ("hash", "body"): "digest of an upload's body, over the digests of its pieces",
    ("hash", "b"): "commitment to b_i, over T ‖ i ‖ b_i",
    ("hash", "p"): "commitment to s_ij, over T ‖ s_ij",
    ("hash", "train"): "names a request to train in the answers to it",
    ("hash", "ring"): "order of the mask ring, by roster digest and number",
    ("hash", "committee"): "draw of the opening committee, by roster digest and number",
    ("hash", "ledger"): "chain of the ledger's entries",
    ("hash", "sealed"): "commitment to what a ledger's entry keeps to its department, over a salt",
    ("hash", "application"): "digest of an application, by which a token's one use is known again",
    ("hash", "fingerprint"): "of an identity, for people to compare",
    ("derive", "enrolment-token"): "signing key of a one-time token: from its secret; context: all the rest of it",
    (
        "derive",
        "at-rest",
    ): "key of one sealed key file: from what scrypt made of the passphrase; context: 16 bytes of the "
    "file's own ‖ its name",
    ("sign", "application"): "a token's key or a member's identity, an application to be in the next roster",
    ("sign", "roster-question"): "a member or applicant, that it asks for a newer roster",
    ("sign", "enrolment"): "a department, its entry in the roster",
    ("sign", "roster"): "the enrolment authority, the roster's digest",
    ("sign", "roster-countersignature"): "a department, the roster's digest",
    ("sign", "charter"): "the coordinator, the charter's digest",
}

#: Labels of other things than the secure sum: training randomness, which stays inside a department.
_TRAINING = {"client/trainer.py", "client/learner.py", "client/baselines.py", "client/finish.py", "client/alone.py"}


def labels() -> dict[tuple[str, str], str]:
    """Every (operation, label) of the protocol in the source, with the file it stands in."""
    found: dict[tuple[str, str], str] = {}
    for room in ("common", "client", "server", "strategies"):
        for path in sorted((ROOT / room).rglob("*.py")):
            file = path.relative_to(ROOT).as_posix()
            if file in _TRAINING:
                continue
            tree = ast.parse(path.read_text("utf-8"))
            constants = {
                node.targets[0].id: node.value
                for node in tree.body
                if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
            }
            for operation, node in _labelled(tree):
                node = constants.get(node.id, node) if isinstance(node, ast.Name) else node
                for word in _label(node):
                    found.setdefault((operation, word), file)
    return found


def _labelled(tree: ast.AST) -> Iterator[tuple[str, ast.expr]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.AnnAssign) and getattr(node.target, "id", "") == "label" and node.value is not None:
            yield "sign", node.value
        if not isinstance(node, ast.Call):
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        if name in ("derive", "_step") and len(node.args) > 1:
            yield "derive", node.args[1]
        elif name in ("tagged_hash", "shuffled") and node.args:
            yield "hash", node.args[0]
        elif name == "sign" and isinstance(node.func, ast.Attribute) and len(node.args) == 2:
            yield "sign", node.args[0]


def _label(node: ast.expr) -> list[str]:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return [node.value]
    if isinstance(node, ast.JoinedStr):
        return ["".join(str(part.value) if isinstance(part, ast.Constant) else "…" for part in node.values)]
    return []


def derivations() -> str:
    """Label by label."""
    whose = {kind.label: first_sentence(kind) for kind in signed_messages()}
    rows = []
    for operation, label in sorted(labels()):
        meaning = MEANING.get((operation, label)) or _words(whose[label])
        rows.append((operation, f"`{label}`", meaning, f"`{labels()[operation, label]}`"))
    return table(("operation", "label", "of what", "in"), rows)


# -- messages ----------------------------------------------------------------------------------------------------------


def signed_messages() -> list[Any]:
    """Every class of a signed message, in the order in which rounds use them."""
    kinds = []
    for module in (greetings, messages):
        for _, kind in inspect.getmembers(module, inspect.isclass):
            if kind.__module__.startswith(module.__name__) and isinstance(getattr(kind, "label", None), str):
                kinds.append(kind)
    stages = [
        module.__name__
        for module in (consenting, greetings, training, opening_round, upload, survivors, opening_sum, ending)
    ]
    return sorted(kinds, key=lambda kind: (stages.index(kind.__module__), inspect.getsourcelines(kind)[1]))


def wire(kind: Any) -> str:
    """The ``Wire`` paragraph of a message's docstring, in one line."""
    found = re.search(r"^ *Wire +(.*?)(?=^ *(?:Raises|Source) |\Z)", kind.__doc__ or "", re.M | re.S)
    if not found:
        raise ValueError(f"{kind.__name__} has no Wire paragraph")
    return " ".join(found[1].split())


def _words(text: str) -> str:
    """A docstring's words as Markdown."""
    return text.replace("``", "`")


def encodings() -> str:
    """Every message: who to whom, fields."""
    rows = [
        (f"`{kind.__name__}`", _words(first_sentence(kind)), wire(kind))
        for kind in (*signed_messages(), messages.Previous, messages.Refusal)
    ]
    return table(("message", "from, to, what for", "fields in order"), rows)


def sizes() -> str:
    """Heads in bytes for a few cohorts, measured on messages made for the purpose."""
    zero, signature = bytes(32), bytes(64)
    rows = []
    for n, b, c in ((3, 3, 3), (5, 5, 5), (10, 10, 10), (32, 32, 32), (100, 40, 37), (1000, 96, 105)):
        if n > MOST_DEPARTMENTS:
            continue
        cohort, lost = tuple(range(n)), max(1, n // 5)
        left = cohort[lost:]
        opening = RoundOpen(zero, zero, 1, 1, 0, cohort, zero, zero, (1.0,) * 8, 60, Previous(), signature)
        box = bytes(box_bytes(c))
        masked = Masked(zero, 0, zero, (box,) * b, (zero,) * c, signature)
        quorum = Parameters.for_size(n).opening_quorum
        asked = Open(zero, 1, left, (box,) * len(left), tuple(range(quorum)), (signature,) * quorum, signature)
        # In the complete graph each survivor's share of b, and one of s_ij for each of the lost; on a ring, on average.
        shares = round(len(left) * (1 + (c - 1) * lost / (n - 1)))
        answer = Shares(zero, 0, zero, (zero,) * shares, signature)
        to = c - 1 if n <= 32 else n - 1
        greeting = greetings.Greeting(zero, 1, 0, signature, tuple(range(1, 1 + to)), (zero,) * to, signature)
        rows.append(
            (f"{n:,}", *(f"{len(one.encode()):,}" for one in (greeting, opening, masked, asked, answer)),
             f"{to * CIPHERTEXT_BYTES:,}")
        )  # fmt: skip
    head = ("n", "`Greeting`, of the lowest number", "`RoundOpen`, 8 bounds", "`Masked`", "`Open`, a fifth lost",
            "`Shares`, a fifth lost", "ciphertexts of that greeting")  # fmt: skip
    return table(head, rows)


# -- checks ------------------------------------------------------------------------------------------------------------

_graph = sys.modules.get("commonroot.common.secure_sum.graph")
_thin = (_graph.MaskGraph, "thin") if _graph else None

_READER = Reader(
    {
        "SignedRoster.from_json().check": (roster.SignedRoster, "check"),
        "member.check": (roster.Member, "check"),
        "self._machine.review": (DepartmentMachine, "review"),
        "self._machine.review_train": (DepartmentMachine, "review_train"),
        "self._machine.confirm": (DepartmentMachine, "confirm"),
        "self._machine.answer": (DepartmentMachine, "answer"),
        "self._machine.review_close": (DepartmentMachine, "review_close"),
        "self._setup.greet": (EpochSetup, "greet"),
        "self._setup.introduce": (EpochSetup, "introduce"),
        "self._setup.require_begun": (EpochSetup, "require_begun"),
        "after._meet": (EpochSetup, "_meet"),
        "codec.check_bounds": (SumCodec, "check_bounds"),
        "strategy.check_received": (averaging, "check_step"),
        "MaskGraph.of().thin": _thin,
        "self.check_bounds": None,  # of a round's own bounds, when its sum is decoded
        "self._tell_failure": None,  # a department's own trouble with its data, which is answered with zeros
    }
)


def listed(*starts: tuple[Any, str]) -> str:
    """The steps of some functions, one after the other."""
    rows: list[tuple[object, ...]] = []
    for owner, name in starts:
        for step in _READER.read(owner, name):
            if step.what == "disk":
                rows.append(("*on disk*", f"{step.text}: durable before anything below happens"))
            elif step.what == "sent":
                rows.append(("*answered*", step.text))
            else:
                names = " ".join(f"`{all_errors()[code].__name__}`" for code in step.codes.split(", "))
                rows.append((f"{step.codes} {names}", step.text))
    once = dict.fromkeys(row for row in rows if row[0] != "*answered*")
    kept = [row for at, row in enumerate(rows) if row[0] == "*answered*" or (row in once and row not in rows[:at])]
    return table(("", "refused with", "because, as the code says it"), [(at, *row) for at, row in enumerate(kept, 1)])


def handlers() -> dict[str, str]:
    """Kind of request → method, as ``client/session.py`` dispatches them."""
    kinds = {name: value for name, value in vars(parcel).items() if name.isupper() and isinstance(value, str)}
    pattern = r"request\.kind == parcel\.(\w+):\s+return self\.(\w+)\("
    return {kinds[name]: method for name, method in re.findall(pattern, inspect.getsource(Session))}


def _by_session(kind: str) -> str:
    if kind not in handlers():
        return "This version, which sums over at most 32 departments, has no such message."
    return listed((Session, handlers()[kind]))


# -- diagrams ----------------------------------------------------------------------------------------------------------


def states(machine: Table[Any, Any]) -> str:
    """A state diagram: one arrow for each pair of states, with every event that leads along it."""
    names = {state: re.sub(r"\W", "_", state.value) for state in type(machine.start)}
    lines = ["stateDiagram-v2"]
    lines += [f'    state "{state.value}" as {name}' for state, name in names.items() if name != state.value]
    lines.append(f"    [*] --> {names[machine.start]}")
    for state, steps in machine.steps.items():
        arrows: dict[StrEnum, list[str]] = {}
        for event, after in steps.items():
            arrows.setdefault(after, []).append(event.value)
        lines += [f"    {names[state]} --> {names[after]}: {', '.join(words)}" for after, words in arrows.items()]
        if not set(steps.values()) - {state}:
            lines.append(f"    {names[state]} --> [*]")
    return mermaid(*lines)


#: The order of an honest coordinator's requests; ``test_protocol_page`` holds real runs to it.
ORDER = ("charter", "greet", "introduce", "train", "round-open", "confirm", "open", "run-close")
#: The part of ``ORDER`` that is repeated, once a round.
ROUND = ("train", "round-open", "confirm", "open")


def replies() -> dict[str, str]:
    """Request → reply, as the session's methods return them."""
    kinds = {name: value for name, value in vars(parcel).items() if name.isupper() and isinstance(value, str)}
    found = {}
    for kind, method in handlers().items():
        answers = set(re.findall(r"return Parcel\(parcel\.(\w+)", inspect.getsource(getattr(Session, method))))
        if len(answers) != 1:
            raise ValueError(f"{method} answers with {sorted(answers)}")
        found[kind] = kinds[answers.pop()]
    return {kind: found[kind] for kind in sorted(found, key=ORDER.index)}


def _heads() -> dict[str, tuple[str, str]]:
    """Kind of parcel → (head, body), from the comments beside the kinds."""
    found = {}
    for kind, comment in re.findall(r': Final = "([\w-]+)"  # (.*)', inspect.getsource(parcel)):
        head = re.search(r"head: (?:\w+\.)*([\w ]+)", comment)
        body = re.search(r"body: ([^;]*)", comment)
        found[kind] = (head[1] if head else "", body[1] if body else "")
    return found


def sequence() -> str:
    """One run: who sends what to whom, in order."""
    heads = _heads()
    lines = ["sequenceDiagram", "    participant C as coordinator", "    participant D as each department"]

    def arrow(start: str, arrow: str, end: str, kind: str) -> str:
        head, body = heads[kind]
        inside = " + ".join(part for part in (head, body) if part)
        return f"    {start}{arrow}{end}: {kind}{f' ({inside})' if inside else ''}"

    within = False
    for kind, reply in replies().items():
        if (kind in ROUND) != within:
            within = not within
            lines.append("    loop each round" if within else "    end")
        lines += [arrow("C", "->>", "D", kind), arrow("D", "-->>", "C", reply)]
    return mermaid(*lines)


def codes() -> str:
    """Codes that the page's lists use, with what they mean."""
    used = sorted({code for name, make in MAKERS.items() if "checks" in name for code in re.findall("CR..", make())})
    return table(("code", "meaning"), [(code, first_sentence(all_errors()[code])) for code in used])


class _Functions:
    """Functions of modules, where a list of checks begins."""

    join = staticmethod(join)
    check_letter = staticmethod(epoch.check_letter)
    add_average = staticmethod(averaging.add_average)


MAKERS: dict[str, Callable[[], str]] = {
    "parameters": parameters,
    "derivations": derivations,
    "encodings": encodings,
    "sizes": sizes,
    "codes": codes,
    "sequence": sequence,
    "states-epoch": lambda: states(EPOCH),
    "states-department": lambda: states(DEPARTMENT),
    "states-sum": lambda: states(SUM),
    "states-rounds": lambda: states(ROUNDS),
    "states-runs": lambda: states(RUNS),
    "checks-join": lambda: listed((_Functions, "join")),
    "checks-greeting": lambda: listed((_Functions, "check_letter")),
    "checks-confirmed": lambda: listed((CoordinatorRound, "confirmation")),
    "checks-masked": lambda: listed((CoordinatorRound, "upload"), (CoordinatorRound, "fix")),
    "checks-shares": lambda: listed(
        (CoordinatorRound, "shares"), (CoordinatorRound, "finish"), (SumCodec, "decode"), (_Functions, "add_average")
    ),
    **{f"checks-{kind}": partial(_by_session, kind) for kind in ORDER},
}

if __name__ == "__main__":
    write(PAGE, MAKERS)
