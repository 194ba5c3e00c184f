"""What a department adds to a sum: trained terms, encoded.  A function of charter, version and its own secret.

A session masks what comes out; a simulation without masks adds it up as it is.  Both get the same words.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from commonroot.common.charter import Charter
from commonroot.common.errors import DataError, ManifestError
from commonroot.common.secure_sum.codec import Bounds, SumCodec
from commonroot.common.secure_sum.lanes import Words, Words64
from commonroot.common.secure_sum.primitives import derive
from commonroot.strategies import repeats_itself

Tensors = Mapping[str, NDArray[np.float32]]
Local = Mapping[str, NDArray[np.generic]]
#: Told that something failed inside, and gives its code; whatever it does must not show outside.
OnFailure = Callable[[Exception], str]


@dataclass(frozen=True, slots=True)
class Trained:
    """What one round of local training gives: the terms to contribute and the private state to keep."""

    terms: Mapping[str, NDArray[np.floating]] = field(repr=False)
    local: Local = field(repr=False)
    #: Code of what kept this department from training, so that the terms are zeros; for its own eyes.
    abstained: str | None = field(default=None, repr=False)


class Trains(Protocol):
    """Whoever trains: see ``learner.DepartmentLearner``."""

    def train(self, charter: Charter, received: Tensors, version: int, local: Local | None) -> Trained:
        """Carry out the strategy's plan on the department's data."""


def train(
    learner: Trains, charter: Charter, received: Tensors, version: int, local: Local | None, on_failure: OnFailure
) -> Trained:
    """Train; where that fails, whatever the reason, add zeros to the sum and keep the head.

    A refusal here would answer a question about this department's rows, one that costs the asker no round.  Methods
    that sum the same rows in every round are the exception: what zeros leave out of one sum is the difference to
    the next, and whether such sums can be made does not depend on what is received.

    Raises DataError for those, whatever failed.
    """
    try:
        return learner.train(charter, received, version, local)
    except Exception as error:
        code = on_failure(error)
        if repeats_itself(charter):
            raise DataError("the rows cannot be summed now, and sums without them would show them") from error
        return Trained(zeros(charter), {} if local is None else local, code)


def encode(
    codec: SumCodec,
    charter: Charter,
    version: int,
    terms: Mapping[str, NDArray[np.floating]],
    bounds: Bounds,
    *,
    secret: bytes,
    on_failure: OnFailure,
) -> tuple[Words, Words64, str | None]:
    """The terms as words, and the code of what kept them from being encoded.

    Rounding is a function of the version, so a retried round gives the same words.

    secret  32 bytes that only this department holds

    Terms that cannot be encoded are as telling as a failure to train, and answered alike: with zeros.
    """
    rounding = derive(secret, "rounding", charter.digest + version.to_bytes(4, "big"))
    try:
        return *codec.encode(terms, bounds, rounding), None
    except ManifestError as error:
        code = on_failure(error)
        return *codec.encode(zeros(charter), bounds, rounding), code


def zeros(charter: Charter) -> dict[str, NDArray[np.floating]]:
    """A contribution that changes no sum."""
    return {term.name: np.zeros(term.shape) for term in charter.manifest.terms}
