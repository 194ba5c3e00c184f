"""Small federations on which the guard is measured: scikit-learn's digits dealt out in six ways, and two tables.

    het   six departments, six label spaces, one of them a regression
    tiny  two departments of 250 rows and six of 20
    skew  every department knows three of the ten digits
    dom   eight ways of looking at the same digits (turned, inverted, blurred …)
    bad   six ordinary departments, one with permuted labels, one with random ones
    dir   label frequencies drawn from a Dirichlet(0.3)
    heart, school   as in ``datasets``; six of the schools

No two departments hold the same image, and which rows test is drawn before anything is trained.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from commonroot.client.data import DataConfig
from commonroot.common.errors import ConfigError
from commonroot.simulations.datasets import find, get
from commonroot.simulations.datasets.tables import section, write_npz

Array = NDArray[Any]
TEN: Final = tuple(str(digit) for digit in range(10))
#: Schools of the 139 that a seed draws: enough to be alike and unlike, few enough to be quick.
SCHOOLS: Final = 6


@dataclass(frozen=True, slots=True)
class GuardWorld:
    """Departments' ``[data]`` sections and the backbone's fields.

    labels  how many outputs a head shared by all would have; None where their labels differ
    """

    departments: Mapping[str, DataConfig] = field(repr=False)
    backbone: Mapping[str, Any]
    labels: int | None


@dataclass(frozen=True, slots=True)
class _Share:
    """What one department holds: which rows of the digits, how they look and what is asked of them."""

    name: str
    learn: Array
    test: Array
    task: str = "classification"
    labels: tuple[str, ...] | None = TEN
    look: Callable[[Array], Array] = lambda images: images
    ask: Callable[[Array], Array] = lambda digits: digits.astype(str)


class _Deck:
    """Rows of the digits in a random order, each dealt once."""

    def __init__(self, seed: int) -> None:
        from sklearn.datasets import load_digits

        self.images, self.digits = load_digits(return_X_y=True)
        self.random = np.random.default_rng([0x6775617264, seed])
        self._free = self.random.permutation(len(self.digits))

    def deal(self, learn: int, test: int, *, weights: Array | None = None) -> tuple[Array, Array]:
        """Rows by label frequencies (10,), as far as the deck still holds them; even ones where not given."""
        share = np.full(10, 0.1) if weights is None else weights / weights.sum()
        wanted = self.random.multinomial(learn + test, share)
        taken = self.random.permutation(np.concatenate([self._of(digit)[: wanted[digit]] for digit in range(10)]))
        self._free = self._free[~np.isin(self._free, taken)]
        cut = len(taken) - round(len(taken) * test / (learn + test))
        return taken[:cut], taken[cut:]

    def _of(self, digit: int) -> Array:
        found: Array = self._free[self.digits[self._free] == digit]
        return found


def _het(deck: _Deck) -> list[_Share]:
    def some(name: str, digits: range, rows: int) -> _Share:
        weights = np.isin(np.arange(10), list(digits)).astype(float)
        learn, test = deck.deal(rows, 110, weights=weights)
        return _Share(name, learn, test, labels=tuple(str(digit) for digit in digits))

    shares = [some("all", range(10), 200), some("low", range(5), 120), some("high", range(5, 10), 120)]
    asked: tuple[tuple[str, str, tuple[str, ...] | None, Callable[[Array], Array]], ...] = (
        ("parity", "binary", ("even", "odd"), lambda d: np.where(d % 2 == 0, "even", "odd")),
        ("thirds", "classification", ("a", "b", "c"), lambda d: np.array(["a", "b", "c"])[d % 3]),
        ("value", "regression", None, lambda d: d.astype(np.float64)),
    )
    for name, task, labels, ask in asked:
        learn, test = deck.deal(120, 110)
        shares.append(_Share(name, learn, test, task=task, labels=labels, ask=ask))
    return shares


def _tiny(deck: _Deck) -> list[_Share]:
    sizes = [250] * 2 + [20] * 6
    return [_Share(f"d{at}", *deck.deal(size, 110)) for at, size in enumerate(sizes)]


def _skew(deck: _Deck) -> list[_Share]:
    shares = []
    for at in range(8):
        known = (np.arange(3) * 3 + at) % 10
        learn, test = deck.deal(90, 90, weights=np.isin(np.arange(10), known).astype(float))
        labels = tuple(str(digit) for digit in sorted(known))
        shares.append(_Share(f"d{at}", learn, test, labels=labels))
    return shares


def _looks(random: np.random.Generator) -> dict[str, Callable[[Array], Array]]:
    def square(images: Array) -> Array:
        return images.reshape(-1, 8, 8)

    def noisy(images: Array) -> Array:
        return images + random.normal(0, 4, images.shape)

    def blurred(images: Array) -> Array:
        wide = np.pad(square(images), ((0, 0), (1, 1), (1, 1)), mode="edge")
        found: Array = (wide[:, 1:-1, 1:-1] * 2 + wide[:, :-2, 1:-1] + wide[:, 2:, 1:-1] + wide[:, 1:-1, :-2]) / 5
        return found

    looks: dict[str, Callable[[Array], Array]] = {
        "plain": lambda images: images,
        "inverted": lambda images: 16 - images,
        "turned": lambda images: np.rot90(square(images), axes=(1, 2)),
        "mirrored": lambda images: square(images)[:, :, ::-1],
        "noisy": noisy,
        "blurred": blurred,
        "shifted": lambda images: np.roll(square(images), 2, axis=2),
        "faint": lambda images: images * 0.3 + 6,
    }
    return {name: partial(_flat, look) for name, look in looks.items()}


def _flat(look: Callable[[Array], Array], images: Array) -> Array:
    return look(images).reshape(len(images), 64)


def _dom(deck: _Deck) -> list[_Share]:
    return [_Share(name, *deck.deal(110, 100), look=look) for name, look in _looks(deck.random).items()]


def _bad(deck: _Deck) -> list[_Share]:
    turn = np.roll(np.arange(10), 3)
    shares = [_Share(f"good{at}", *deck.deal(100, 100)) for at in range(6)]
    shares.append(_Share("permuted", *deck.deal(180, 60), ask=lambda digits: turn[digits].astype(str)))
    guess = deck.random.integers(0, 10, 1000)
    shares.append(_Share("random", *deck.deal(180, 60), ask=lambda digits: guess[: len(digits)].astype(str)))
    return shares


def _dir(deck: _Deck) -> list[_Share]:
    return [_Share(f"d{at}", *deck.deal(100, 100, weights=deck.random.dirichlet(np.full(10, 0.3)))) for at in range(8)]


_DIGITS: Final[Mapping[str, Callable[[_Deck], list[_Share]]]] = MappingProxyType(
    {"het": _het, "tiny": _tiny, "skew": _skew, "dom": _dom, "bad": _bad, "dir": _dir}
)
NAMES: Final = (*_DIGITS, "heart", "school")


def write(name: str, target: Path, *, seed: int, data: Path | None = None) -> GuardWorld:
    """Write a world's tables into ``target``.  Raises ConfigError for an unknown one or where files are missing."""
    target.mkdir(parents=True, exist_ok=True)
    if name in _DIGITS:
        return _write_digits(name, target, seed)
    if name not in NAMES:
        raise ConfigError(f"no world {name!r}", hint=f"known: {', '.join(NAMES)}")
    dataset = get(name)
    source = find(dataset.folder, data)
    if source is None:
        raise ConfigError(f"the files of {name} are not here", hint=f"commonroot download {name}")
    world = dataset.write(source, target, seed=seed)
    names = list(world.departments)
    if len(names) > SCHOOLS:
        names = sorted(np.random.default_rng([0x7363686F6F6C, seed]).choice(names, SCHOOLS, replace=False).tolist())
    sections = {one: DataConfig.model_validate(world.departments[one]) for one in names}
    return GuardWorld(sections, world.charter["backbone"], labels=1 if name == "school" else None)


def _write_digits(name: str, target: Path, seed: int) -> GuardWorld:
    deck = _Deck(seed)
    departments = {}
    shares = _DIGITS[name](deck)
    for share in shares:
        for part, rows in (("learn", share.learn), ("test", share.test)):
            x = share.look(deck.images[rows])
            write_npz(target / f"{share.name}-{part}.npz", x, share.ask(deck.digits[rows]))
        fields: dict[str, Any] = {"labels": share.labels} if share.labels else {}
        raw = section(target, share.name, target_column="y", task=share.task, scaling="table", seed=seed, **fields)
        departments[share.name] = DataConfig.model_validate(raw)
    alike = all(share.labels == TEN for share in shares)
    backbone = {"family": "mlp", "inputs": 64, "widths": [64, 32]}
    return GuardWorld(departments, backbone, labels=10 if alike else None)
