"""What a doctor found: the worst line about something, and what it says to type."""

from __future__ import annotations

import datetime
import hashlib
from pathlib import Path

from commonroot.common.findings import Finding

NOW = datetime.datetime.now(datetime.UTC).timestamp()
DAY = 86400.0


def seen(findings: list[Finding], what: str) -> Finding:
    """The worst line about something."""
    about = [finding for finding in findings if finding.what == what]
    assert about, [finding.what for finding in findings]
    return max(about, key=lambda finding: ["ok", "warn", "fail"].index(finding.state))


def fails(findings: list[Finding], what: str, told: str, fix: str) -> None:
    finding = seen(findings, what)
    assert finding.state == "fail", finding
    assert told in finding.told
    assert fix in finding.fix


def contents(root: Path) -> dict[str, str]:
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }
