"""What a look at an installation found: one line each, whether it is in order, and what to type where it is not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

State = Literal["ok", "warn", "fail"]
_ORDER: dict[State, int] = {"ok": 0, "warn": 1, "fail": 2}


@dataclass(frozen=True, slots=True)
class Finding:
    """``what`` was looked at, how it is, what was seen (``told``), and the ``fix`` to type or do."""

    what: str
    state: State
    told: str
    fix: str = ""


def worst(findings: Sequence[Finding]) -> State:
    """The worst state among findings; ok where there are none."""
    return max((f.state for f in findings), key=_ORDER.__getitem__, default="ok")


def record(findings: Sequence[Finding]) -> dict[str, Any]:
    """For machines: ``worst`` and every finding."""
    return {"worst": worst(findings), "findings": [asdict(finding) for finding in findings]}


def lines(findings: Sequence[Finding]) -> list[str]:
    """For people: a line each, and below what is not in order how to mend it."""
    wide = max((len(finding.what) for finding in findings), default=0)
    out = []
    for finding in findings:
        out.append(f"{finding.state:<4}  {finding.what:<{wide}}  {finding.told}")
        if finding.state != "ok" and finding.fix:
            out.append(f"      {'':<{wide}}  → {finding.fix}")
    bad = {state: sum(f.state == state for f in findings) for state in ("fail", "warn")}
    out.append(f"{len(findings)} looked at, {bad['fail']} to mend, {bad['warn']} to watch")
    return out


def days_left(expires: float, now: float, *, soon: float) -> tuple[State, str]:
    """How an expiry is to be judged: past is a failure, fewer than ``soon`` days a warning.  Seconds since 1970."""
    days = (expires - now) / 86400
    if days <= 0:
        return "fail", f"expired {-days:.0f} days ago"
    return ("warn" if days < soon else "ok"), f"{days:.0f} days left"


def clocks_apart(ahead: float) -> tuple[State, str]:
    """How far this clock may be ahead of the other side's, in seconds: nodes sign the time, and 5 s into the hub's
    future is refused, as is 305 s into its past."""
    told = f"{abs(ahead):.1f} s {'ahead of' if ahead > 0 else 'behind'} the other side"
    if ahead > 5.0 or ahead < -300.0:
        return "fail", told
    return ("warn" if ahead > 3.0 or ahead < -60.0 else "ok"), told if abs(ahead) >= 3.0 else "within 3 s"
