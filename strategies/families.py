"""Heads that some departments share beside their private ones, because their outputs mean the same.

    o_k = G_ψ(z) + H_φk(z)          ψ is the family's, φ_k the department's own

A label that all members know is learned by all of them, and what differs from department to department is left to the
private head.  Members' changes of ψ are averaged like the backbone's, with the members' weights alone: every other
department adds zeros to the family's terms, under the same masks, so the sum shows nobody as a member or not.  Who is
one stands in the charter; ``common.families`` says which families a roster permits.
"""

from __future__ import annotations

from dataclasses import dataclass

from commonroot.common.backbone import Shapes
from commonroot.common.charter import Draft, Family


@dataclass(frozen=True, slots=True)
class Group:
    """Tensors that are averaged together.

    share   the term with the sum of the weights of those who contribute to them
    shapes  the tensors by name and shape, in packing order
    """

    share: str
    shapes: Shapes


def family_group(draft: Draft, family: Family) -> Group:
    """The tensors of a family's head."""
    name, width = family_tensors(family.name), draft.network.outputs
    return Group(f"family/{family.name}/share", ((name[0], (family.outputs, width)), (name[1], (family.outputs,))))


def family_tensors(name: str) -> tuple[str, str]:
    """Names of the weight and bias of a family's head."""
    return f"family/{name}/weight", f"family/{name}/bias"


def family_of(draft: Draft, department: str) -> Family | None:
    """The family that a department belongs to; None for none, and for no department at all."""
    return next((family for family in draft.families if department and family.has(department)), None)
