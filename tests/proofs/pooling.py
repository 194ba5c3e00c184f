"""What shares given for *different* survivor sets free when they are put together.

A share is the same whatever set it was given for, so nothing but a rule of the departments keeps a coordinator from
pooling the answers of members that were asked about different sets.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping

#: (dealer, of): of == dealer stands for the dealer's own secret, otherwise for the one it shares with ``of``.
Secret = tuple[int, int]


def secrets_of(
    survivors: Collection[int], cohort: Collection[int], neighbours: Callable[[int], Iterable[int]] | None = None
) -> list[Secret]:
    """Which shares one member gives for a survivor set, in the order of ``messages.Shares``; no neighbours: everyone"""
    inside, among = set(survivors), set(cohort)
    out = []
    for i in sorted(survivors):
        others = neighbours(i) if neighbours else among
        out += [(i, i), *((i, j) for j in sorted(others) if j in among and j != i and j not in inside)]
    return sorted(out, key=lambda one: (one[0], one[0] != one[1], one[1]))


def freed(
    honest: Collection[int],
    uploaded: Collection[int],
    given: Mapping[Secret, Collection[int]],
    quorum: int,
    neighbours: Callable[[int], Iterable[int]] | None = None,
) -> list[frozenset[int]]:
    """The smallest sets of honest departments whose sums follow from the shares that members gave.

    Parameters  honest: those of the cohort that do not collude; uploaded: whose masked vectors the coordinator has;
                given: members that gave a share, by secret; quorum: shares that give a secret away
    A secret between honest departments that is not known joins both ends: only what both add up to can be told.  A set
    is free if everyone in it has uploaded and every own secret in it is known.
    """

    def known(*keys: Secret) -> bool:
        return any(len(set(given.get(key, ()))) >= quorum for key in keys)

    left, out = set(honest), []
    while left:
        part, todo = set(), [min(left)]
        while todo:
            i = todo.pop()
            if i in part:
                continue
            part.add(i)
            others = neighbours(i) if neighbours else honest
            todo += [j for j in others if j in left and j not in part and j != i and not known((i, j), (j, i))]
        left -= part
        if part <= set(uploaded) and all(known((i, i)) for i in part):
            out.append(frozenset(part))
    return out
