"""``department report``: what joining brought this department, for its own eyes, in words that need no statistics.

Everything is read from the department's own folder: the report its last run wrote, and the ledger of what left.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from commonroot.client.folder import DepartmentFolder
from commonroot.client.learner import read_report
from commonroot.client.store import DepartmentStore
from commonroot.common import parcel
from commonroot.common.errors import ConfigError
from commonroot.common.ledger import Entry, verify

#: What a department learns, or gives away, with a message of each kind.
SENT_MEANS: Final[Mapping[str, str]] = {
    parcel.READY: "that it approved the charter and its data fits",
    parcel.GREETING: "a signature, and sealed keys for the other departments",
    parcel.INTRODUCED: "whom it has met, signed",
    parcel.TRAINED: "that it has trained and waits",
    parcel.MASKED: "what it learned, under masks; it opens only as part of a sum",
    parcel.CONFIRMED: "a signature under who is in the sum",
    parcel.SHARES: "what lets the sum be opened, and nothing but the sum",
    parcel.CLOSED: "that it took over the last backbone",
    parcel.REFUSAL: "that it refused, and why, as a code",
    parcel.GOODBYE: "that it has left for good, signed",
}
#: A calibration error up to this counts as small.
WELL_CALIBRATED: Final = 0.05
#: Fewer test rows than this settle little.
FEW_TEST_ROWS: Final = 50


def own_report(root: Path) -> dict[str, Any]:
    """The report of the last run (see ``learner.summary``), and besides:

    sent        list of {kind, messages, bytes, means}, in all, over all runs
    received    {versions: backbones taken into training, bytes_each: size of one, bytes: together}; sizes None where
                the charter is not here any more
    told        the same for people: list of {heading, text}

    Raises ConfigError where no run has ended yet, Malformed where the ledger was tampered with.
    """
    facts = read_report(root)
    entries = _ledger(root)
    verify(entries)
    facts["sent"] = sent(entries)
    facts["received"] = received(entries, _backbone_bytes(root, str(facts["charter"])), str(facts["charter"]))
    facts["told"] = told(facts)
    return facts


def _ledger(root: Path) -> list[Entry]:
    config = DepartmentFolder(root).config
    store = DepartmentStore(root, federation=config.federation, department=config.name)
    try:
        return store.ledger()
    finally:
        store.close()


def _backbone_bytes(root: Path, charter: str) -> int | None:
    """Size of one broadcast in float32, from the charter that this department approved."""
    from commonroot.strategies import build

    try:
        approved = DepartmentFolder(root).approved(bytes.fromhex(charter))
        if approved is None:
            return None
        state = build(approved).initial(approved)
    except (ConfigError, ValueError):
        return None
    return int(sum(array.nbytes for array in state.values()))


def sent(entries: Sequence[Entry]) -> list[dict[str, Any]]:
    """Messages and bytes by kind, the largest first."""
    found: dict[str, list[int]] = {}
    for entry in entries:
        size = entry.facts.get("bytes")
        if entry.kind == "sent" and isinstance(size, int):
            found.setdefault(str(entry.facts.get("what", "other")), []).append(size)
    rows = [
        {"kind": kind, "messages": len(sizes), "bytes": sum(sizes), "means": SENT_MEANS.get(kind, "–")}
        for kind, sizes in found.items()
    ]
    return sorted(rows, key=lambda row: -int(row["bytes"]))


def received(entries: Sequence[Entry], each: int | None, charter: str) -> dict[str, Any]:
    """Backbones that this department trained from or ended with under the charter."""
    those = [e for e in entries if e.facts.get("charter") == charter]
    rounds = {e.facts.get("round") for e in those if e.kind == "sent" and e.facts.get("what") == parcel.MASKED}
    closed = sum(entry.kind == "closed" for entry in those)
    versions = len(rounds) + closed
    return {"versions": versions, "bytes_each": each, "bytes": None if each is None else each * versions}


def told(facts: Mapping[str, Any]) -> list[dict[str, str]]:
    """The report in sentences."""
    parts = [
        ("Did it help?", _helped(facts)),
        ("Which model is in use, and why", _in_use(facts)),
        ("Can it be believed?", _believed(facts)),
        ("What left this department", _left(facts)),
        ("What came in", _came(facts)),
    ]
    return [{"heading": heading, "text": text} for heading, text in parts if text]


def _helped(facts: Mapping[str, Any]) -> str:
    if facts["interval"] is None:
        return (
            "It gave you a model, which without labels you could not have made. How good it is on your rows nobody can "
            "say: none of them has a label. A few dozen labelled rows, under `test_path`, would tell."
        )
    if facts["details"].get("labelled") is False:
        return (
            f"It gave you a model, which without labels you could not have made: {facts['metric']} "
            f"{facts['chosen']:.3f} on {facts['n_test']} test rows, where guessing has {facts['alone']:.3f}."
        )
    low, high = facts["interval"]
    rows, gain = facts["n_test"], _gain(facts, facts["gain"])
    span = f"somewhere between {_gain(facts, low)} and {_gain(facts, high)}"
    score = f"{facts['metric']} {facts['chosen']:.3f} against {facts['alone']:.3f}"
    few = f" {rows} test rows are few: more would settle it." if rows < FEW_TEST_ROWS else ""
    if facts["choice"] == "alone":
        text = (
            f"Joining changed nothing for you: the model in use was trained on your own rows alone ({score} on "
            f"{rows} test rows that no model had seen)."
        )
        shared = facts["details"].get("gain_federated")
        if shared is not None:
            text += f" The shared model would have been {_gain(facts, shared['points'])} on them."
        return text
    if low > 0:
        return f"Yes: the model in use is {gain} than the best one from your rows alone, {span} ({score})."
    if high < 0:
        return (
            f"No: on {rows} test rows the model in use is {gain} than the best one from your rows alone, {span} "
            f"({score}). It was chosen on other rows, which said otherwise; tell central IT, and use your own "
            f"model.{few}"
        )
    return (
        f"It cannot be told: on {rows} test rows the model in use is {gain} than the best one from your rows alone, "
        f"but the truth may lie {span} ({score}).{few}"
    )


def _gain(facts: Mapping[str, Any], gain: float) -> str:
    """1.5 points better, 3.0 % less wrong, or no different."""
    size = round(abs(gain), 1)
    if size == 0:
        return "no different"
    if facts.get("unit", _unit(facts)) == "%":
        return f"{size:.1f} % {'less' if gain > 0 else 'more'} wrong"
    return f"{size:.1f} points {'better' if gain > 0 else 'worse'}"


def _unit(facts: Mapping[str, Any]) -> str:
    return "%" if facts["details"].get("better") == "lower" else "points"


def _in_use(facts: Mapping[str, Any]) -> str:
    which = {
        "alone": f"Your own: {facts['alone_model']}, trained on your rows alone.",
        "federated": "The shared model, with your private head.",
        "family": "The shared model, with a head shared by departments with the same labels.",
        "both": f"The average of two: the shared model, and your own ({facts['alone_model']}).",
    }.get(facts["choice"], f"A mixture ({facts['choice']}) of the shared models and your own ({facts['alone_model']}).")
    if facts["details"].get("labelled") is False:
        return f"The shared model with the shared head: {facts['why']}."
    return f"{which} It was chosen on your own held-out rows, here, and nobody else knows of it: {facts['why']}."


def _believed(facts: Mapping[str, Any]) -> str:
    details = facts["details"]
    found, known = details.get("reliability"), details.get("facts") or {}
    if found is not None:
        error = found["error"]
        verdict = "so they can be taken at their word" if error <= WELL_CALIBRATED else "so do not take them literally"
        if facts["n_test"] < FEW_TEST_ROWS:
            verdict = f"though {facts['n_test']} test rows are too few to judge them by"
        sure = [row for row in found["bins"] if row["confidence"] >= 0.9]
        rows = sum(row["rows"] for row in sure)
        text = f"Its probabilities are off by {100 * error:.0f} percentage points on average, {verdict}."
        if rows:
            right = sum(row["right"] * row["rows"] for row in sure) / rows
            text += f" Where it was at least 90 % sure, on {rows} test rows, it was right on {100 * right:.0f} %."
        return text
    interval = known.get("interval")
    if isinstance(interval, Mapping):
        meant, held = 100 * interval["meant"], 100 * interval["held"]
        return f"Its intervals are meant to hold {meant:.0f} % of true values; on the test rows they held {held:.0f} %."
    below = known.get("below")
    if below:
        shares = ", ".join(f"{100 * one['held']:.0f} % lay below the {100 * one['quantile']:g} % mark" for one in below)
        return f"Of the true values on the test rows, {shares}."
    return ""


def _left(facts: Mapping[str, Any]) -> str:
    total = sum(row["bytes"] for row in facts["sent"])
    messages = sum(row["messages"] for row in facts["sent"])
    return (
        f"{amount(total)} in {messages} messages since you joined, all of them in your ledger, whose chain is intact. "
        "Your rows, labels, private head and this report are not among them; what was learned left only under masks, "
        "which open as a sum over several departments."
    )


def _came(facts: Mapping[str, Any]) -> str:
    found = facts["received"]
    size = "" if found["bytes"] is None else f", {amount(found['bytes_each'])} each, {amount(found['bytes'])} together"
    return f"{found['versions']} versions of the shared model{size}. Nothing that came in was executed."


def amount(count: int) -> str:
    """Bytes in units of 1,000."""
    from commonroot.client.drawing.parts import size

    return size(count)
