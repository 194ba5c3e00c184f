"""Parts of the page as HTML: functions of the facts and of nothing else.  Whatever comes from outside is escaped."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any, Final

from commonroot.common.errors import all_errors
from commonroot.server.monitor import words
from commonroot.server.reports import closed, newest

Facts = Mapping[str, Any]
Run = Mapping[str, Any]

ROUNDS_SHOWN: Final = 30
VERSIONS_SHOWN: Final = 8
EVENTS_SHOWN: Final = 9
#: Events that are not worth a line of their own.
_DULL: Final = frozenset({"uploaded", "waiting", "trained", "page"})


def find(facts: Facts, number: int | None) -> Run | None:
    """The run of that number."""
    return next((run for run in facts["runs"] if run["run"] == number), None)


# -- small parts -------------------------------------------------------------------------------------------------------


def pill(state: str, word: str | None = None) -> str:
    """A state, as a word with a colour."""
    return f'<span class="pill {escape(state)}">{escape(word or state)}</span>'


def table(
    caption: str,
    heads: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    numbers: Iterable[int] = (),
    long: int | None = None,
) -> str:
    """A table of cells that are HTML already; ``numbers`` are the columns set to the right, ``long`` the one that
    may take several lines."""
    kinds = dict.fromkeys(numbers, " class=num") | ({} if long is None else {long: " class=long"})

    def cells(tag: str, row: Sequence[str]) -> str:
        scope = ' scope="col"' if tag == "th" else ""
        return "".join(f"<{tag}{scope}{kinds.get(at, '')}>{cell}</{tag}>" for at, cell in enumerate(row))

    body = "".join(f"<tr>{cells('td', row)}</tr>" for row in rows)
    return (
        f'<div class="scroll"><table><caption>{escape(caption)}</caption>'
        f"<thead><tr>{cells('th', [escape(head) for head in heads])}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def empty(what: str, *more: str) -> str:
    """What stands where there is nothing to show; ``more`` is HTML."""
    return f'<div class="empty"><p>{escape(what)}</p>{"".join(f"<p>{line}</p>" for line in more)}</div>'


def tiles(pairs: Iterable[tuple[str, str, str]]) -> str:
    """Label, value, remark."""
    parts = (
        f'<div class="tile"><dt>{escape(label)}</dt><dd>{escape(value)}<small>{escape(remark)}</small></dd></div>'
        for label, value, remark in pairs
    )
    return f'<dl class="tiles">{"".join(parts)}</dl>'


def _short(digest: str) -> str:
    return f'<code title="{escape(digest)}">{escape(digest[:12])}…</code>'


# -- the run -----------------------------------------------------------------------------------------------------------


def run_title(run: Run | None) -> str:
    """Name, state and how far it has come."""
    if run is None:
        return (
            "<h2>No run yet</h2><p class=soft>Sign a charter, have the departments approve it, and queue it: "
            "<code>commonroot coordinator run DIR CHARTER.json</code></p>"
        )
    done, wanted = run["version"], run["rounds_wanted"]
    share = 100 * done / max(1, wanted)
    return (
        f'<div class="title"><h2>Run {run["run"]} · {escape(run["name"])}</h2>{pill(run["state"])}</div>'
        f'<p class="soft">method {escape(run["method"])} · charter {_short(run["charter"])} · '
        f"no sum over fewer than {run['floor']} departments</p>"
        f'<div class="bar" role="progressbar" aria-label="rounds" aria-valuemin="0" aria-valuemax="{wanted}" '
        f'aria-valuenow="{done}"><i style="width:{share:.1f}%"></i></div>'
        f'<p class="soft under"><span>version {done} of {wanted}</span></p>{_stopped(run)}'
    )


def _stopped(run: Run) -> str:
    if run["state"] != "stopped":
        return ""
    return (
        f'<div class="callout" role="alert"><p><strong>Stopped.</strong> {escape(run["reason"])}</p>'
        f"<p><strong>What to do.</strong> {_code_spans(run['advice'])}</p></div>"
    )


def _code_spans(text: str) -> str:
    """Escaped text, with what stands in backticks as code."""
    parts = escape(text).split("`")
    return "".join(f"<code>{part}</code>" if at % 2 else part for at, part in enumerate(parts))


def stage(facts: Facts) -> str:
    """What is going on at this moment: what is waited for, and until when."""
    moment, now = facts["moment"], facts["now"]
    if not moment["stage"]:
        waiting = sum(run["state"] == "queued" for run in facts["runs"])
        running = any(run["state"] == "running" for run in facts["runs"])
        if running:
            return '<p class="stage">Between two rounds.</p>'
        return f'<p class="stage soft">{waiting} queued.</p>' if waiting else ""
    left = [name for name in moment["asked"] if name not in moment["done"]]
    about = f"Round {moment['round']}" if moment["round"] is not None else "Before the next round"
    line = f"<strong>{about}</strong>: {escape(words.STAGES[moment['stage']])}"
    if moment["asked"] and moment["stage"] not in ("confirming", "opening"):
        line += f" · {len(moment['done'])} of {len(moment['asked'])} have answered"
        if left:
            line += f' · <span class="soft">waiting for {escape(words.listed(left))}</span>'
    if moment["until"] is not None:
        until = words.clock(moment["until"], now)
        line += f' · <span class="soft">until {until} at the latest ({words.lasting(moment["until"] - now)})</span>'
    return f'<p class="stage">{line}</p>'


def run_tiles(facts: Facts, run: Run | None) -> str:
    """A run in six numbers."""
    if run is None:
        return ""
    reports = [one["report"] for one in closed(run)]
    last = reports[-1] if reports else {}
    took = [one["seconds"] for one in reports]
    loss, held_out = last.get("loss"), newest(reports, "held_out")
    received = sum(row["bytes"] for row in facts["received"])
    faults = sum(facts["fault_counts"].values())
    return tiles(
        [
            ("Rounds closed", f"{run['closed']}", f"{run['lost']} lost"),
            ("Loss", "–" if loss is None else f"{loss:.3f}", "mean, from the sum; 1 is chance"),
            ("Held out", "–" if held_out is None else f"{held_out:.3f}", "of a backbone as received"),
            ("In the last sum", f"{len(last['survivors'])} of {len(last['cohort'])}" if last else "–", "departments"),
            ("Clipped", f"{100 * last['clipped_share']:.1f} %" if last else "–", "of the numbers, last round"),
            ("A round", words.lasting(statistics.median(took)) if took else "–", "median"),
            ("Received", words.size(received), "in all runs"),
            ("Faults", f"{faults}", "in all runs"),
        ]
    )


# -- who is here -------------------------------------------------------------------------------------------------------


def departments(facts: Facts) -> str:
    """Who is here, since when, and what they are doing."""
    now = facts["now"]

    def row(one: Facts) -> list[str]:
        word = words.DOING[one["doing"]]
        if one["doing"] == "absent" and one["since"] is None:
            word = "never came"
        why = one["declined"]
        code = f"{why['code']} {why['name']}".strip() if why and one["online"] else ""
        remark = f'<br><small class="soft">{escape(code)}</small>' if code else ""
        since = "–" if one["since"] is None else f"{words.clock(one['since'], now)}"
        span = "" if one["since"] is None else words.lasting(now - one["since"])
        other = (
            '<br><small class="soft">another than here</small>' if one["version"] not in ("", facts["program"]) else ""
        )
        program = escape(one["version"] or "–") + other
        return [
            escape(one["name"]),
            pill(one["doing"], word) + remark,
            since,
            f'<span class="soft">{span}</span>',
            program,
        ]

    rows = [row(one) for one in facts["departments"]]
    online = sum(one["online"] for one in facts["departments"])
    if not rows:
        return '<div class="title"><h2>Departments</h2><span class="soft">no roster stands yet</span></div>'
    return (
        f'<div class="title"><h2>Departments</h2><span class="soft">{online} of {len(rows)} online · '
        f"epoch {facts['epoch']}, until {words.clock(facts['roster_expires'], now)}</span></div>"
        + table("Departments of the roster", ["Name", "Now", "Since (UTC)", "For", "Program"], rows)
    )


def received(facts: Facts) -> str:
    """What departments ever sent, by kind."""
    rows = [[escape(r["kind"]), f"{r['parcels']:,}", words.size(r["bytes"])] for r in facts["received"]]
    title = "<h2>Received</h2>"
    if not rows:
        return title + empty("Nothing yet.")
    return title + table("Received from departments", ["Kind", "Messages", "Bytes"], rows, numbers=(1, 2))


def privacy(facts: Facts, run: Run | None) -> str:
    """What was opened, and what there is no number for."""
    spent = ""
    if run is not None:
        opened, most = run["privacy"]["sums_opened"], run["privacy"]["sums_at_most"]
        spent = f"<p><strong>{opened}</strong> of at most <strong>{most}</strong> sums of this charter were opened.</p>"
    said = facts["privacy"][0].upper() + facts["privacy"][1:]
    return f'<h2>Privacy</h2>{spent}<p class="soft">{escape(said)}.</p>'


def events(facts: Facts) -> str:
    """What happened last, newest first."""
    shown = [one for one in reversed(facts["events"]) if one["event"] not in _DULL][:EVENTS_SHOWN]
    if not shown:
        return "<h2>Events</h2>" + empty("Nothing has happened yet.")
    rows = [
        [
            words.clock(one["at"], facts["now"]),
            f"<code>{escape(one['event'])}</code>",
            f'<span class="soft">{escape(_told(one["facts"]))}</span>',
        ]
        for one in shown
    ]
    return "<h2>Events</h2>" + table("Latest events", ["At (UTC)", "Event", "Facts"], rows, long=2)


def _told(facts: Facts) -> str:
    def short(value: Any) -> str:
        if isinstance(value, float):
            return f"{value:.4g}"
        if isinstance(value, list):
            return words.listed([str(part) for part in value])
        text = str(value)
        most = 90 if " " in text else 40
        return text if len(text) <= most else text[:most] + "…" if " " in text else text[:12] + "…"

    return " · ".join(f"{key} {short(value)}" for key, value in facts.items() if key not in ("url", "token"))


# -- a run's history ---------------------------------------------------------------------------------------------------


def runs(facts: Facts) -> str:
    """Every run, newest first."""
    if not facts["runs"]:
        return run_title(None)
    rows = [
        [
            f'<a href="/runs/{run["run"]}">Run {run["run"]}</a>',
            escape(run["name"]),
            escape(run["method"]),
            pill(run["state"]),
            f"{run['version']} of {run['rounds_wanted']}",
            f"{run['lost']}",
            words.clock(run["queued"], facts["now"]),
            _last_loss(run),
        ]
        for run in reversed(facts["runs"])
    ]
    heads = ["Run", "Charter", "Method", "State", "Version", "Lost rounds", "Queued (UTC)", "Held out"]
    return "<h2>Runs</h2>" + table("All runs", heads, rows, numbers=(4, 5, 7))


def _last_loss(run: Run) -> str:
    held_out = newest([one["report"] for one in closed(run)], "held_out")
    return "–" if held_out is None else f"{held_out:.3f}"


def rounds(facts: Facts, run: Run) -> str:
    """The newest rounds of a run."""
    newest = run["rounds"][-ROUNDS_SHOWN:][::-1]
    if not newest:
        return "<h2>Rounds</h2>" + empty("No round has begun.")

    def row(one: Facts) -> list[str]:
        report = one["report"]
        made = f"{one['version']} → {one['version'] + 1}" if one["state"] == "closed" else f"{one['version']}"
        took = report.get("seconds", None if one["ended"] is None else one["ended"] - one["began"])
        remark = escape(one["reason"])
        if report:
            missing = [name for name in report["cohort"] if name not in report["survivors"]]
            remark = f"without {escape(words.listed(missing))}" if missing else ""
        return [
            f"{one['round']}",
            pill(one["state"]),
            made,
            words.clock(one["began"], facts["now"]),
            "–" if took is None else words.lasting(took),
            f"{len(report['survivors'])} of {len(report['cohort'])}" if report else "–",
            *("–" if report.get(name) is None else f"{report[name]:.3f}" for name in ("loss", "held_out")),
            f'<span class="soft">{remark}</span>',
        ]

    heads = ["Round", "State", "Version", "Began (UTC)", "Took", "In the sum", "Loss", "Held out", "Remark"]
    more = len(run["rounds"]) - len(newest)
    older = f'<p class="soft">{more} earlier rounds: <code>commonroot coordinator status DIR --json</code></p>'
    return (
        "<h2>Rounds</h2>"
        + table("Rounds", heads, map(row, newest), numbers=(4, 6, 7), long=8)
        + (older if more else "")
    )


def versions(facts: Facts, run: Run) -> str:
    """The newest versions of a run's backbone."""
    newest = run["versions"][-VERSIONS_SHOWN:][::-1]
    if not newest:
        return "<h2>Backbone</h2>" + empty("No version yet.")
    rows = [
        [f"{one['version']}", words.clock(one["at"], facts["now"]), _short(one["sha256"]), escape(one["file"])]
        for one in newest
    ]
    more = len(run["versions"]) - len(newest)
    older = f'<p class="soft">{more} earlier versions: <code>commonroot coordinator models DIR</code></p>'
    shown = table("Versions of the backbone", ["Version", "Made (UTC)", "SHA-256", "File"], rows)
    taken = run["closed_departments"]
    who = f'<p class="soft">Final version taken over by {escape(words.listed(taken))}.</p>' if taken else ""
    return "<h2>Backbone</h2>" + shown + (older if more else "") + who


# -- faults ------------------------------------------------------------------------------------------------------------


def fault_counts(facts: Facts) -> str:
    """How many of each code, and what to do about it."""
    title = "<h2>Faults by code</h2>"
    if not facts["fault_counts"]:
        return title + empty("No faults.")
    kinds = all_errors()

    def row(code: str, count: int) -> list[str]:
        kind = kinds.get(code)
        meaning = " ".join((kind.__doc__ or "").split()) if kind else ""
        if code == "link":
            meaning = "A connection was lost, or a message could not be delivered; it is tried again."
        hint = "" if kind is None or not kind.hint else f'<br><span class="soft">{_code_spans(kind.hint)}</span>'
        return [
            f"<code>{escape(code)}</code>",
            f"{count}",
            escape(kind.__name__ if kind else ""),
            escape(meaning) + hint,
        ]

    ranked = sorted(facts["fault_counts"].items(), key=lambda item: (-item[1], item[0]))
    rows = [row(code, count) for code, count in ranked]
    return title + table("Faults by code", ["Code", "Times", "Name", "Meaning"], rows, numbers=(1,), long=3)


def faults(facts: Facts) -> str:
    """The newest faults."""
    title = "<h2>Latest faults</h2>"
    if not facts["faults"]:
        return title + empty("Nothing has gone wrong so far.")
    rows = [
        [
            words.clock(one["at"], facts["now"]),
            escape(one["department"] or "the sum"),
            f"<code>{escape(one['code'])}</code>",
            "–" if one["run"] is None else f'<a href="/runs/{one["run"]}">{one["run"]}</a>',
            "–" if one["round"] is None else f"{one['round']}",
            escape(one["what"]),
        ]
        for one in reversed(facts["faults"])
    ]
    note = '<p class="soft">A fault names what was seen, not who lied.</p>'
    return (
        title + note + table("Latest faults", ["At (UTC)", "Department", "Code", "Run", "Round", "What"], rows, long=5)
    )
