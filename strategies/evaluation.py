"""How a charter's run came out, on private validation rows: one sum that closes it.

Under a training charter every department ends with a federated candidate, held against its best model trained alone on
rows that fitted neither (docs/adr/0014).  An evaluation is a charter of its own that names the training charter by its
hash and sums, over departments, with w_k = √(rows_k / cap) on the grid of 1/64 that the rounds used,

    weight     Σ w_k
    alone      Σ w_k·L_k(best model trained alone)
    federated  Σ w_k·L_k(federated candidate, fine-tuned, before the choice)
    error      Σ w_k²·se_k²     of L_k(alone) - L_k(federated)
    choices    how many say that they keep: the model trained alone, the federated one, a mixture (only if asked)

L_k is the mean loss in multiples of the chance loss, in [0, limit]; se_k the standard error of the mean difference over
the department's validation rows.  From these, gains and their standard errors for exactly these departments:

    gain = (alone - federated) / weight,    se = √error / weight

Test rows are in none of it.  A sum of choices would say what everybody chose wherever all chose alike, so each
department names its true choice only with probability 1/2 and a random one of the three otherwise (Warner, 1965):
whatever the counts, a true choice is at most four times as likely to have led to them as another one.  The loss of what
departments keep is not summed at all: it would equal the sum for ``alone`` exactly where all keep their own models, and
it flatters every method, since each department chose on these very rows.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Final

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from commonroot.common.backbone import Shapes
from commonroot.common.charter import Charter, Draft, Method
from commonroot.common.errors import ConfigError, DataError, OutsideCharter, SumRejected
from commonroot.common.manifest import Term
from commonroot.common.roster import MOST_DEPARTMENTS, Hex32
from commonroot.strategies.averaging import LEAST_WEIGHT
from commonroot.strategies.base import Gathered, Sums, Tensors

#: What is summed with the weight; the squared standard error is summed with its square.
LOSSES: Final = ("alone", "federated")
#: What a department may keep, as it is counted.
CHOICES: Final = ("alone", "federated", "mixture")
#: A department names its true choice with this probability, and else any of the three, the true one among them.
HONESTY: Final = 0.5
_PREFIX: Final = "figures/"
_SLACK: Final = 1e-5
#: 32 bytes in whole numbers that float32 holds.
_DIGITS: Final = 11
_LONGEST_NAME: Final = 63


class Evaluation(BaseModel):
    """Weighted validation losses of what a training charter led to.

    of      hash of the training charter
    limit   a loss beyond this many chance losses counts as this many; 1 is guessing
    counts  also count what departments kept, deniably

    ``gather`` reads ``data``: ``weight``, ``alone``, ``federated`` and ``error``, numbers; a
    weight of 0 says that there were too few validation rows.  ``choice`` is the position in ``CHOICES`` that is told,
    and -1 where the department does not say.

    Guarantees
    ----------
    * equal to the same weighted means over all departments' figures in one place
    * what a department contributes does not depend on what it received, so a made-up broadcast asks it nothing
    * no department moves a mean loss by more than its share of the weight times ``limit``
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    name: ClassVar[str] = "evaluation"

    of: Hex32
    limit: Annotated[float, Field(ge=1, le=100)] = 2.0
    counts: bool = False

    def terms(self, draft: Draft) -> tuple[Term, ...]:
        """Four numbers, and three more where choices are counted."""
        if draft.rounds != 1:
            raise ConfigError("an evaluation takes one round; a second would repeat the first", hint="rounds = 1")
        bounds = {"weight": 1.0} | dict.fromkeys(LOSSES, self.limit) | {"error": self.limit**2}
        found = tuple(Term(_PREFIX + name, (), "fixed64", bound) for name, bound in bounds.items())
        return (*found, Term("choices", (len(CHOICES),), "fixed64", 1.0)) if self.counts else found

    def broadcast(self, draft: Draft) -> Shapes:
        """The sums, and beside them the hash ``of`` in digits of 24 bits, the lowest first.

        One broadcast is opened for one set of departments ever, so no two evaluations may begin with the same.
        """
        return (("of", (_DIGITS,)), *((term.name, term.shape) for term in self.terms(draft)))

    def initial(self, draft: Draft) -> dict[str, NDArray[np.float32]]:
        """Nothing summed yet."""
        return {term.name: np.zeros(term.shape, dtype=np.float32) for term in self.terms(draft)} | {"of": self._hash}

    def check_received(
        self, draft: Draft, received: Tensors, version: int, earlier: Tensors, earlier_version: int
    ) -> None:
        """Raise OutsideCharter unless the numbers can be sums over departments.

        A coordinator may make up others that can.  It learns nothing by that, for nothing depends on them but what a
        department's people read.
        """
        if not np.array_equal(received["of"], self._hash):
            raise OutsideCharter("what was received belongs to another evaluation")
        if version == 0:
            if any(array.any() for name, array in received.items() if name != "of"):
                raise OutsideCharter("version 0 of an evaluation is not empty")
        elif problem := self._impossible({name: array for name, array in received.items() if name != "of"}):
            raise OutsideCharter(f"what was received are no sums of validation losses: {problem}")

    def gather(
        self,
        draft: Draft,
        state: Tensors,
        data: Mapping[str, NDArray[np.generic]],
        private: Mapping[str, NDArray[np.generic]],
    ) -> Gathered:
        """One department's weighted figures.  Raises DataError for a weight outside [0, 1]."""
        weight = float(data["weight"])
        if not 0 <= weight <= 1:
            raise DataError("the weight of a department's figures is not between 0 and 1")
        found = {"weight": weight}
        found |= {name: weight * self._within(data[name]) for name in LOSSES}
        found["error"] = (weight * self._within(data["error"])) ** 2
        terms: dict[str, NDArray[np.floating]] = {_PREFIX + n: np.asarray(v, np.float64) for n, v in found.items()}
        if self.counts:
            terms["choices"] = (np.arange(len(CHOICES)) == int(data["choice"])).astype(np.float64)
        return Gathered(terms, {})

    def combine(self, draft: Draft, state: Tensors, sums: Sums) -> dict[str, NDArray[np.float32]]:
        """The opened sums as float32; nobody there leaves the state as it was.

        Raises SumRejected for numbers that no departments' figures add up to.
        """
        if not any(np.any(array) for array in sums.values()):
            return {name: np.array(tensor, dtype=np.float32) for name, tensor in state.items()}
        if problem := self._impossible(sums):
            raise SumRejected(f"the opened sums are not those of any departments' losses: {problem}")
        opened = {term.name: np.asarray(sums[term.name], dtype=np.float32) for term in self.terms(draft)}
        return opened | {"of": self._hash}

    @property
    def _hash(self) -> NDArray[np.float32]:
        number = int(self.of, 16)
        return np.array([number >> 24 * at & 0xFFFFFF for at in range(_DIGITS)], dtype=np.float32)

    def _within(self, loss: NDArray[np.generic]) -> float:
        """A loss or error in [0, limit]; one that is no number is as bad as can be."""
        value = float(loss)
        return self.limit if math.isnan(value) else min(max(value, 0.0), self.limit)

    def _impossible(self, sums: Mapping[str, NDArray[np.floating]]) -> str:
        """Why these are no sums; empty where they could be."""
        found = {name: np.asarray(array, dtype=np.float64) for name, array in sums.items()}
        if not all(np.isfinite(array).all() for array in found.values()):
            return "they are not finite"
        if any((array < -_SLACK).any() or (array > MOST_DEPARTMENTS * self.limit**2).any() for array in found.values()):
            return "one is negative, or larger than all departments together can make it"
        weight = float(found[_PREFIX + "weight"])
        if not (weight == 0 or LEAST_WEIGHT <= weight <= MOST_DEPARTMENTS):
            return "their weight is not that of any departments"
        most = dict.fromkeys(LOSSES, weight * self.limit) | {"error": weight * self.limit**2}
        over = [name for name, bound in most.items() if float(found[_PREFIX + name]) > bound * (1 + _SLACK) + _SLACK]
        return f"{over[0]!r} is beyond its limit" if over else ""


def told_choice(chosen: str, random: np.random.Generator) -> int:
    """The position in ``CHOICES`` that a department which keeps ``chosen`` tells: true with probability 2/3."""
    kept = CHOICES.index({"alone": "alone", "federated": "federated", "family": "federated"}.get(chosen, "mixture"))
    honest, any_of_them = random.random() < HONESTY, int(random.integers(len(CHOICES)))
    return kept if honest else any_of_them


def outcome_of(sums: Mapping[str, NDArray[np.floating]]) -> dict[str, Any]:
    """What opened sums say, as JSON values; empty where no department had figures.

    weight            Σ w
    alone, federated  weighted mean validation losses, in multiples of the chance loss
    gain, error       of the federated candidate over the model trained alone, and its standard error
    choices           where counted: by choice, the estimated number of departments and its standard error
    """
    weight = float(sums[_PREFIX + "weight"])
    if weight <= 0:
        return {}
    alone, federated = (float(sums[_PREFIX + name]) / weight for name in LOSSES)
    error = math.sqrt(max(float(sums[_PREFIX + "error"]), 0.0)) / weight
    found = {"weight": weight, "alone": alone, "federated": federated, "gain": alone - federated, "error": error}
    return found | ({"choices": counted_choices(sums["choices"])} if "choices" in sums else {})


def counted_choices(told: NDArray[np.floating]) -> dict[str, list[float]]:
    """How many departments keep what, from how many say so: [estimate, standard error] by choice.

    told_j = HONESTY·true_j + (1 - HONESTY)·n/3 in the mean, solved for true_j and cut to what is possible.
    """
    n, strays = float(np.sum(told)), (1 - HONESTY) / len(CHOICES)
    out = {}
    for name, count in zip(CHOICES, np.asarray(told, np.float64).tolist(), strict=True):
        true = min(max((count - strays * n) / HONESTY, 0.0), n)
        p, q = HONESTY + strays, strays
        out[name] = [true, math.sqrt(true * p * (1 - p) + (n - true) * q * (1 - q)) / HONESTY]
    return out


def evaluation_of(charter: Charter, *, counts: bool = False) -> Draft:
    """The draft of a charter that evaluates what the runs of another one led to, under the same floor and timing."""
    method = Method(name=Evaluation.name, options={"of": charter.digest.hex(), "counts": counts})
    return Draft(
        federation=charter.federation,
        name=f"evaluation of {charter.name}"[:_LONGEST_NAME].rstrip(),
        rounds=1,
        method=method,
        cohort=charter.cohort,
        timing=charter.timing,
        lanes=charter.lanes,
    )
