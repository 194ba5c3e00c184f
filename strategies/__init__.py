"""Every installed method by name, and the step from a draft to a sealed charter.

A charter names its method; what runs is the code that each side installed.  ``seal`` derives the manifest from it, and
``check_sealed`` lets a department derive the same manifest again before it approves anything.
"""

from __future__ import annotations

import difflib
import json
from functools import lru_cache
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from pydantic import BaseModel, ValidationError

from commonroot.common.charter import Charter, Draft, TermSpec
from commonroot.common.enrolled import Enrolled
from commonroot.common.errors import ConfigError, OutsideCharter
from commonroot.common.families import check_families
from commonroot.strategies.als import ALS
from commonroot.strategies.base import Form, Gathered, Gathering, LocalResult, MindsRoster, Phase, Strategy
from commonroot.strategies.booster import Boosting
from commonroot.strategies.clustered import Clustered
from commonroot.strategies.dann import DANN
from commonroot.strategies.ditto import Ditto
from commonroot.strategies.evaluation import Evaluation
from commonroot.strategies.fedavg import FedAvg, FedAvgFineTune
from commonroot.strategies.feddbe import FedDBE
from commonroot.strategies.linear import SharedLinear
from commonroot.strategies.local import Local, Structure
from commonroot.strategies.norms import FedBN
from commonroot.strategies.personal import FedPer, FedRep
from commonroot.strategies.proximal import FedProx
from commonroot.strategies.reptile import Reptile
from commonroot.strategies.self_training import SelfTraining
from commonroot.strategies.shared_words import SharedWords
from commonroot.strategies.statistics import Statistics

if TYPE_CHECKING:
    from typing_extensions import TypeIs

__all__ = [
    "GATHERINGS",
    "STRATEGIES",
    "Form",
    "Gathered",
    "Gathering",
    "LocalResult",
    "Phase",
    "Strategy",
    "build",
    "build_trained",
    "check_roster",
    "check_sealed",
    "consent",
    "gathers",
    "repeats_itself",
    "seal",
]

#: Methods that average what departments train.
STRATEGIES: Final = MappingProxyType(
    {
        kind.name: kind
        for kind in (
            FedDBE,
            FedAvg,
            FedAvgFineTune,
            FedProx,
            FedPer,
            FedRep,
            FedBN,
            Ditto,
            Reptile,
            Clustered,
            SelfTraining,
            DANN,
            Structure,
            Local,
        )
    },
)
#: Methods that add up exact arithmetic.
GATHERINGS: Final = MappingProxyType(
    {kind.name: kind for kind in (Statistics, ALS, Boosting, SharedLinear, SharedWords, Evaluation)}
)


#: Names of those that look at the roster; of others the protocol is not asked for, which takes long.
_MIND_ROSTER: Final = frozenset(
    name for name, kind in {**STRATEGIES, **GATHERINGS}.items() if issubclass(kind, MindsRoster)
)


def build(draft: Draft) -> Strategy | Gathering:
    """The draft's method with its options checked.

    Raises ConfigError for a method that is not installed, or naming every wrong option at once.
    """
    return _built(draft.method.name, json.dumps(draft.method.options, sort_keys=True))


@lru_cache(maxsize=64)
def _built(name: str, options: str) -> Strategy | Gathering:
    """A method by its name and its options as JSON; frozen, so that every caller may have the same one."""
    kinds: dict[str, type[BaseModel]] = {**STRATEGIES, **GATHERINGS}
    kind = kinds.get(name)
    if kind is None:
        raise ConfigError(f"no method {name!r}; {_nearest(name, kinds)}")
    try:
        strategy = kind.model_validate(json.loads(options))
    except ValidationError as error:
        lines = []
        for problem in error.errors():
            option = ".".join(map(str, problem["loc"])) or "options"
            unknown = problem["type"] == "extra_forbidden"
            lines.append(f"  {option}: {_nearest(option, kind.model_fields) if unknown else problem['msg']}")
        raise ConfigError(f"method {name!r} has {len(lines)} wrong option(s):\n" + "\n".join(lines)) from error
    if not isinstance(
        strategy, Strategy | Gathering
    ):  # a registry of this module's making: a defect, no user's mistake
        raise TypeError(f"{kind.__name__} is not a strategy")
    return strategy


def gathers(method: Strategy | Gathering) -> TypeIs[Gathering]:
    """Does it add up exact arithmetic instead of training?  (Asking for the protocol takes a hundred times as long.)"""
    return method.name in GATHERINGS


def build_trained(draft: Draft) -> Strategy:
    """The same for what only methods that train can do.  Raises ConfigError for a gathering."""
    strategy = build(draft)
    if gathers(strategy):
        raise ConfigError(f"method {draft.method.name!r} trains nothing", hint=f"one of {', '.join(STRATEGIES)} does")
    return strategy


def seal(draft: Draft) -> Charter:
    """The draft with everything that its method may ever send or broadcast."""
    strategy = build(draft)
    terms = tuple(TermSpec(name=t.name, shape=t.shape, lane=t.lane, bound=t.bound) for t in strategy.terms(draft))
    fields = {name: getattr(draft, name) for name in Draft.model_fields}
    return Charter(**fields, terms=terms, broadcast=strategy.broadcast(draft))


def check_sealed(charter: Charter) -> None:
    """Raise OutsideCharter unless the method installed here derives exactly this charter from its own draft.

    A coordinator could otherwise add a term, widen a bound or broadcast a tensor that the named method does not need.
    """
    derived = seal(charter)
    if derived.terms != charter.terms:
        raise OutsideCharter(f"the charter's terms are not those of method {charter.method.name!r} as installed here")
    if derived.broadcast != charter.broadcast:
        raise OutsideCharter(f"the charter's broadcast is not that of method {charter.method.name!r} as installed here")


def check_roster(charter: Draft, roster: Enrolled) -> None:
    """Raise ConfigError or TooFewDepartments where some sum could be opened over too few departments of this roster.

    Departments check it when they approve and under whatever roster a request comes; the coordinator when a run opens.
    """
    check_families(charter, roster)
    method = build(charter)
    if method.name in _MIND_ROSTER and isinstance(method, MindsRoster):
        method.check_roster(charter, roster)


def consent(charter: Draft) -> tuple[str, ...]:
    """What approving the charter's method means besides averaging, one sentence a line."""
    method = build(charter)
    return method.consent() if isinstance(method, Clustered) else ()


def repeats_itself(charter: Draft) -> bool:
    """Does the method sum the same rows exactly, round after round, so that zeros in one of them would show whose are
    missing from it?"""
    method = build(charter)
    return gathers(method) and method.name in _MIND_ROSTER


def _nearest(word: str, known: object) -> str:
    names = sorted(map(str, known))  # type: ignore[call-overload]
    close = difflib.get_close_matches(word, names, n=1)
    return f"did you mean {close[0]!r}?" if close else f"known: {', '.join(names) or 'none'}"
