"""FedBN: everything is averaged but the normalisations.

Li, Jiang, Zhang, Kamp, Dou, 2021, arXiv:2102.07623: departments whose inputs are distributed differently keep their own
batch normalisation.  The backbones here normalise each row by itself and hold no statistics of batches, so what stays
private is the gains and shifts, which is where the paper's parameters γ and β are.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from commonroot.common.backbone import Shapes
from commonroot.common.charter import Draft
from commonroot.common.errors import ConfigError
from commonroot.strategies.averaging import norms_of
from commonroot.strategies.fedavg import FedAvgFineTune


class FedBN(FedAvgFineTune):
    """FedAvg with fine-tuning, norms kept private.

    Guarantees
    ----------
    * no gain and no shift is in any broadcast or term
    * a backbone without norms is refused, instead of running FedAvg under another name
    """

    name: ClassVar[str] = "fedbn"

    private_norms: Literal[True] = True

    def common(self, draft: Draft) -> Shapes:
        """What is left once norms are taken out.  Raises ConfigError where there are none."""
        if not norms_of(draft.network.shapes()):
            raise ConfigError(
                f"a backbone of family {draft.network.family!r} has no norms that could be kept private",
                hint="choose resmlp, rescnn, tcn or transformer, or another method",
            )
        return super().common(draft)
