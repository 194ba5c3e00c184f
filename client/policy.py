"""``policy.toml``: what a department permits without asking a person, and what it never takes part in.

A charter within the policy may be approved by itself; one outside it is refused, with every rule that it breaks named
here and none of them told to the coordinator.  The policy is read anew for each charter, so a change needs no restart;
what was approved before stays approved, until it is withdrawn.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Final

from pydantic import BaseModel, ConfigDict, Field, field_validator

from commonroot.common.charter import Charter, Positive, model_from_toml
from commonroot.common.manifest import Manifest
from commonroot.common.roster import Roster
from commonroot.common.secure_sum.primitives import sha256
from commonroot.files import as_it_is, read_text
from commonroot.strategies import GATHERINGS, STRATEGIES
from commonroot.strategies.evaluation import Evaluation
from commonroot.strategies.whole_roster import fewest_summed

FILE: Final = "policy.toml"

TEMPLATE: Final = """\
# What this department permits without asking anybody, and what it never takes part in. Every line is optional: a rule
# that is not written forbids nothing, and without `automatic = true` a person approves each charter.
# A charter outside a rule is refused; `department charters DIR` names the rules, the coordinator gets a code.

#automatic = true                      # charters within all rules below are approved by themselves when they arrive

#methods = ["feddbe", "fedavg"]        # methods that train, by name
#gatherings = ["statistics"]           # methods that open exact sums; [] for none
#evaluations = true                    # sums of validation losses after a run
#counted_choices = false               # evaluations that also count, deniably, which model you keep
#columns = ["age", "amount"]           # columns that gatherings may sum over

#cohort_floor = 4                      # the fewest departments in any sum that is opened
#rounds = 100                          # the most rounds of a charter
#numbers = 2_000_000                   # the most numbers that leave in one round
#weight_cap = 1                        # the most rows that count for a department's weight; 1 keeps row counts out
#update_clip = 5.0                     # the longest update
#warm_starts = false                   # models that start from a file instead of from the charter's seed

#hours = ["20:00-06:00"]               # this machine's local time; outside it nothing is trained or sent
"""

_HOURS: Final = re.compile(r"([01]\d|2[0-3]):([0-5]\d)-([01]\d|2[0-3]|24):([0-5]\d)")


class Policy(BaseModel):
    """The rules; None is no rule.  See ``TEMPLATE`` for what each means."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    automatic: bool = False
    methods: tuple[str, ...] | None = None
    gatherings: tuple[str, ...] | None = None
    evaluations: bool | None = None
    counted_choices: bool | None = None
    columns: tuple[str, ...] | None = None
    cohort_floor: Annotated[int, Field(ge=3)] | None = None
    rounds: Annotated[int, Field(ge=1)] | None = None
    numbers: Annotated[int, Field(ge=1)] | None = None
    weight_cap: Annotated[int, Field(ge=1)] | None = None
    update_clip: Positive | None = None
    warm_starts: bool | None = None
    hours: tuple[str, ...] | None = None

    @field_validator("methods")
    @classmethod
    def _methods_exist(cls, names: tuple[str, ...] | None) -> tuple[str, ...] | None:
        return _known(names, sorted(STRATEGIES))

    @field_validator("gatherings")
    @classmethod
    def _gatherings_exist(cls, names: tuple[str, ...] | None) -> tuple[str, ...] | None:
        return _known(names, sorted(set(GATHERINGS) - {Evaluation.name}))

    @field_validator("hours")
    @classmethod
    def _are_hours(cls, spans: tuple[str, ...] | None) -> tuple[str, ...] | None:
        for span in spans or ():
            if not _HOURS.fullmatch(span) or span.endswith(tuple(f"24:{m:02}" for m in range(1, 60))):
                raise ValueError(f'{span!r} is no span of hours; write "20:00-06:00"')
        return spans

    def broken(self, charter: Charter, roster: Roster) -> list[tuple[str, str]]:
        """Every rule that a charter is outside of, as its name and a sentence; none where it is within all."""
        return list(self._broken(charter, roster))

    def open_at(self, now: float) -> bool:
        """Does this moment (seconds since 1970) lie within the hours, in local time?"""
        if self.hours is None:
            return True
        local = time.localtime(now)
        minute = 60 * local.tm_hour + local.tm_min
        return any(_within(minute, span) for span in self.hours)

    def _broken(self, charter: Charter, roster: Roster) -> Iterator[tuple[str, str]]:
        method, training = charter.method.name, charter.training
        trains = method in STRATEGIES
        if trains and self.methods is not None and method not in self.methods:
            yield "methods", f"method {method!r}; permitted: {_listed(self.methods)}"
        if method == Evaluation.name:
            if self.evaluations is False:
                yield "evaluations", "an evaluation, and none is permitted"
            if self.counted_choices is False and charter.method.options.get("counts"):
                yield "counted_choices", "an evaluation that counts which models departments keep"
        elif not trains and self.gatherings is not None and method not in self.gatherings:
            yield "gatherings", f"gathering {method!r}; permitted: {_listed(self.gatherings)}"
        if self.columns is not None and not trains:
            strange = sorted({column.name for column in charter.columns} - set(self.columns))
            if strange:
                yield "columns", f"sums over {_listed(strange)}; permitted: {_listed(self.columns)}"
        fewest = fewest_summed(charter, roster)
        if self.cohort_floor is not None and fewest < self.cohort_floor:
            yield "cohort_floor", f"a sum may be over {fewest} departments; at least {self.cohort_floor} are demanded"
        if self.rounds is not None and charter.rounds > self.rounds:
            yield "rounds", f"{charter.rounds} rounds; at most {self.rounds} are permitted"
        numbers = numbers_per_round(charter.manifest)
        if self.numbers is not None and numbers > self.numbers:
            yield "numbers", f"{numbers} numbers a round; at most {self.numbers} are permitted"
        if trains and self.weight_cap is not None and training.weight_cap > self.weight_cap:
            yield (
                "weight_cap",
                f"weights grow up to {training.weight_cap} rows; at most {self.weight_cap} are permitted",
            )
        if trains and self.update_clip is not None and training.update_clip > self.update_clip:
            yield "update_clip", f"updates up to length {training.update_clip:g}; at most {self.update_clip:g}"
        if self.warm_starts is False and training.warm_start is not None:
            yield "warm_starts", "the model starts from a file, and none is permitted"


@dataclass(frozen=True, slots=True)
class StoredPolicy:
    """A policy as it was read, and the SHA-256 of its file, hex: the reason that the ledger gives."""

    policy: Policy
    digest: str


def read_policy(root: Path) -> StoredPolicy | None:
    """The policy of a department's folder; None where there is none.  ConfigError names every wrong field."""
    path = root / FILE
    found = as_it_is(path)
    return None if found is None else _stored(path, found)


@lru_cache(maxsize=1024)
def _stored(path: Path, _as_it_is: tuple[int, ...]) -> StoredPolicy:
    """Read once as long as the file stays as it is: its hours are asked for with every request."""
    text = read_text(path, what="the policy")
    return StoredPolicy(model_from_toml(Policy, text, path=str(path)), sha256(text.encode()).hex())


def numbers_per_round(manifest: Manifest) -> int:
    """How many numbers a department sends in one round."""
    return sum(term.size for term in manifest.terms)


def _known(names: tuple[str, ...] | None, known: list[str]) -> tuple[str, ...] | None:
    strange = [name for name in names or () if name not in known]
    if strange:
        raise ValueError(f"{_listed(strange)} is not installed; there are {', '.join(known)}")
    return names


def _listed(names: Any) -> str:
    return ", ".join(repr(name) for name in names) or "none"


def _within(minute: int, span: str) -> bool:
    first_hour, first_minute, last_hour, last_minute = map(int, _HOURS.fullmatch(span).groups())  # type: ignore[union-attr]
    first, last = 60 * first_hour + first_minute, 60 * last_hour + last_minute
    return first <= minute < last if first <= last else minute >= first or minute < last
