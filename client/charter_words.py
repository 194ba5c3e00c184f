"""A charter in plain words: what leaves, how often, what is opened, what that gives and what it does not.

One sentence a line, and only what the charter itself makes true; what is new against an earlier charter comes as a list
of fields with both values.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from commonroot.client.policy import numbers_per_round
from commonroot.common.charter import Charter
from commonroot.common.roster import Roster
from commonroot.strategies import GATHERINGS, consent
from commonroot.strategies.evaluation import Evaluation
from commonroot.strategies.whole_roster import fewest_summed

#: Fields that say nothing by themselves: they follow from the others, or are named elsewhere.
_DERIVED: Final = ("terms", "broadcast")


def plain_words(charter: Charter, *, roster: Roster | None = None) -> list[str]:
    """What approving a charter means, under a roster where one is joined, one sentence a line."""
    if charter.method.name == Evaluation.name:
        lines = _of_evaluation(charter)
    elif charter.method.name in GATHERINGS:
        lines = _of_gathering(charter)
    else:
        lines = _of_training(charter)
    lines[-1:-1] = [*_numbers(charter), *_who(charter, roster)]
    return [*lines, *_not_given(charter)]


def differences(earlier: Charter, later: Charter) -> list[str]:
    """Every field in which two charters differ, as ``field: before → after``; none where only names of numbers do."""
    before, after = dict(_fields(earlier)), dict(_fields(later))
    lines = []
    for name in sorted(before.keys() | after.keys()):
        if before.get(name) != after.get(name):
            old, new = (_told(side[name]) if name in side else "not there" for side in (before, after))
            lines.append(f"{name}: {old} → {new}")
    return lines


def _fields(charter: Charter) -> Iterator[tuple[str, Any]]:
    written = {k: v for k, v in charter.model_dump(mode="json").items() if k not in _DERIVED}
    yield from _leaves("", written)
    yield "numbers sent each round", numbers_per_round(charter.manifest)


def _leaves(prefix: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping) and value:
        for name, inner in value.items():
            yield from _leaves(f"{prefix}.{name}" if prefix else str(name), inner)
    elif isinstance(value, list) and value and all(isinstance(one, Mapping) and "name" in one for one in value):
        for one in value:
            yield from _leaves(f"{prefix}.{one['name']}", {k: v for k, v in one.items() if k != "name"} or True)
    else:
        yield prefix, value


def _told(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else text[:57] + "…"


def _title(charter: Charter) -> str:
    return f"Charter {charter.name!r} of federation {charter.federation!r}, hash {charter.digest.hex()}."


def _of_training(charter: Charter) -> list[str]:
    manifest, training = charter.manifest, charter.training
    scalars = ", ".join(term.name for term in manifest.lane("fixed64"))
    start = (
        f"The first backbone is the file with SHA-256 {training.warm_start}."
        if training.warm_start
        else f"The first backbone is random numbers that follow from seed {training.seed}, built here alike."
    )
    weight = (
        "All departments count alike, so no sum depends on how many rows you have."
        if training.weight_cap == 1
        else f"Your weight in a sum grows with your rows, up to {training.weight_cap} of them."
    )
    return [
        _title(charter),
        f"Method {charter.method.name!r} for {charter.rounds} rounds.",
        start,
        (
            f"Each round this department adds {manifest.length('fixed16')} numbers of model update and the quantities "
            f"{scalars} to an encrypted sum."
        ),
        *(
            [f"Of these, held_out is 0 but in one of {training.held_out_every} rounds and in the last."]
            if training.held_out_every > 1
            else []
        ),
        "After each round central IT reads the sums of these over all departments in it, and no single one of them.",
        f"Your update is clipped to length {training.update_clip} before it is weighted and masked.",
        weight,
        *(
            f"Departments of family {family.name!r} share a head: {', '.join(family.departments) or 'all of them'}."
            for family in charter.families
        ),
        *consent(charter),
        *(
            [f"Columns are standardised with the statistics of charter {charter.statistics}."]
            if charter.statistics
            else []
        ),
        "Rows, labels, heads, counts and scores stay in your folder.",
    ]


def _of_gathering(charter: Charter) -> list[str]:
    sent = ", ".join(f"{term.name} ({term.size:,})" for term in charter.manifest.terms)
    lines = [
        _title(charter),
        f"Method {charter.method.name!r}, rounds: {charter.rounds}; no network is trained.",
        f"Each round this department adds exact sums over its rows to an encrypted sum: {sent}.",
        "After each round central IT reads these sums over all departments in it, exactly as they are.",
    ]
    if charter.columns:
        lines.append("Columns: " + ", ".join(f"{column.name} ({column.kind})" for column in charter.columns) + ".")
        lines.append("What few rows share, a rare label or word or a lonely bin, shows in such a sum; see SECURITY.md.")
    else:
        lines.append("What only one user rated shows in such a sum; see SECURITY.md.")
    return [*lines, "Rows, names and scores stay in your folder."]


def _of_evaluation(charter: Charter) -> list[str]:
    """Never more than the charter asks for: it says what is not asked for as well."""
    options = charter.method.options
    counted = (
        "What you keep is counted, and half the time a random answer stands in its place; "
        "`tell_choice = false` under [guard] says nothing."
        if options.get("counts")
        else "What you keep is not counted."
    )
    return [
        _title(charter),
        f"It evaluates the run of charter {options.get('of')}; nothing is trained.",
        "Once, this department adds its weight and weighted mean losses on validation rows to an encrypted sum:",
        "of its best model trained alone, of the federated one, and the squared standard error of their difference.",
        counted,
        "Test rows are not read. Rows, labels, heads and scores stay in your folder.",
    ]


def _numbers(charter: Charter) -> list[str]:
    return [
        (
            f"In all {numbers_per_round(charter.manifest):,} numbers leave in a round, under masks, and at most "
            f"{charter.rounds:,} different sets of them."
        ),
        (
            "A round that comes to nothing is tried again with the same numbers under fresh masks; after "
            f"{charter.timing.attempts} such rounds in a row the run stops."
        ),
    ]


def _who(charter: Charter, roster: Roster | None) -> list[str]:
    if roster is None:
        return [f"No sum over fewer than {charter.cohort.floor} departments is ever opened."]
    parameters, everybody = roster.parameters, len(roster.departments)
    fewest = fewest_summed(charter, roster)
    lines = [
        (
            f"No sum over fewer than {fewest} departments is ever opened; {everybody} are enrolled, and "
            f"{parameters.opening_quorum} must help to open one."
        )
    ]
    hidden = parameters.colluders
    lines.append(
        f"Your numbers stay hidden from central IT together with {hidden} other "
        f"{'department' if hidden == 1 else 'departments'}; more of them together could read what you sent."
        if hidden
        else "Your numbers stay hidden from central IT alone; with one other department it could read what you sent."
    )
    return lines


def _not_given(charter: Charter) -> list[str]:
    return [
        (
            "What this does not give: no noise is added to sums, and a sum over few departments still says something "
            "about each of them."
        ),
        "That you take part, when, and how long training took is seen by central IT; see SECURITY.md for the rest.",
    ]
