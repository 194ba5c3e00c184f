"""The signed contract of a federation's run: what is learned, how, and every number that may ever be sent.

Central IT writes a draft in TOML; ``strategies.seal`` adds the manifest that the method needs; the coordinator signs
the result.  A department approves a charter by its hash, and from then on refuses every request outside it.
"""

from __future__ import annotations

import itertools
import tomllib
from functools import cached_property
from typing import Annotated, Any, Final, Literal, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    SerializeAsAny,
    SerializerFunctionWrapHandler,
    Tag,
    ValidationError,
    field_validator,
    model_serializer,
)
from pydantic_core import ErrorDetails

from commonroot.common import canonical
from commonroot.common.backbone import BackboneSpec, Shapes
from commonroot.common.backbone.factors import FactorsSpec
from commonroot.common.enrolled import Enrolled
from commonroot.common.errors import ConfigError
from commonroot.common.manifest import PRIVATE, Lane, Manifest, Term
from commonroot.common.roster import FEWEST_DEPARTMENTS, NAME_PATTERN, Hex32, Hex64, Name, parse
from commonroot.common.schema import Column
from commonroot.common.secure_sum.lanes import LaneChoice
from commonroot.common.secure_sum.primitives import Identity, tagged_hash, verify
from commonroot.common.toml_text import to_toml


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Method(_Frozen):
    """Which strategy runs, by the name it is installed under, and its options (each strategy checks its own)."""

    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{0,40}$")]
    options: dict[str, bool | int | float | str] = {}


class Training(_Frozen):
    """How a department trains between two sums.

    batch          rows per step
    optimizer      ``sgd`` with momentum, or ``adam`` (Kingma, Ba, 2014, arXiv:1412.6980, with the weight decay of
                   Loshchilov, Hutter, 2017, arXiv:1711.05101), whose state lasts one round; for transformers
    learning_rate  of the optimizer; 0.05 for ``sgd``, about 0.003 for ``adam``
    momentum       of ``sgd``; ``adam`` takes 0.9 and 0.999 always
    gradient_clip  L2 bound on one step's gradient
    update_clip    L2 bound on what a department adds to the backbone in one round, before weighting
    weight_cap     rows beyond this many give a department no further weight; weights are √(rows / weight_cap)
    seed           of the first backbone; each department mixes in a secret of its own for everything else
    warm_start     SHA-256 of a safetensors file that the first backbone comes from instead of from the seed: a stored
                   version of an earlier run, or anybody's checkpoint with the backbone's tensors by name
    held_out_every versions from one whose loss on held-out rows is summed to the next; the first and the last always
                   are (``Draft.scores``).  It costs each department a pass over its held-out rows
    """

    batch: Annotated[int, Field(ge=1, le=65_536)] = 16
    optimizer: Literal["sgd", "adam"] = "sgd"
    learning_rate: Positive = 0.05
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    weight_decay: NotNegative = 1e-4
    gradient_clip: Positive = 5.0
    update_clip: Positive = 5.0
    weight_cap: Annotated[int, Field(ge=1)] = 10_000
    seed: Annotated[int, Field(ge=0, le=2**63 - 1)] = 1
    warm_start: Hex32 | None = None
    held_out_every: Annotated[int, Field(ge=1)] = 1

    @model_serializer(mode="wrap")
    def _without_what_is_not_used(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """A charter that uses none of these has the bytes it had before there were any."""
        unused = (("warm_start", None), ("held_out_every", 1))
        return {name: value for name, value in handler(self).items() if (name, value) not in unused}


class Family(_Frozen):
    """Departments whose tasks have the same outputs, meaning the same: they share a head beside their private ones.

    name         of the family; stands in the names of its tensors
    outputs      of its head: the number of classes, 1 for two classes or a value
    labels       those classes in order, which every member's task must then have; not checked where empty
    departments  its members, by their names in the roster; empty for all of them
    """

    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,30}$")]
    outputs: Annotated[int, Field(ge=1, le=100_000)]
    labels: tuple[str | int, ...] = ()
    departments: tuple[Name, ...] = ()

    @field_validator("name")
    @classmethod
    def _public(cls, name: str) -> str:
        if name in PRIVATE:
            raise ValueError(f"{name!r} names what is private; choose another word")
        return name

    def has(self, department: str) -> bool:
        """Whether a department is a member."""
        return not self.departments or department in self.departments


class Cohort(_Frozen):
    """Who must take part.

    floor  the fewest departments this charter accepts in an opened sum; never below the roster's ``survivors_min``
    """

    floor: Annotated[int, Field(ge=FEWEST_DEPARTMENTS)] = FEWEST_DEPARTMENTS


class Timing(_Frozen):
    """Every wait of a round is bounded by one of these; all in seconds.

    gather   for enough departments to be present before a round opens
    upload   from a round's opening until late uploads are left out
    opening  from the survivor set's fixing until the round is given up
    absence  a department that the hub has not seen for this long is not waited for any longer
    closing  from the last round until departments that have not taken the final backbone are left to fetch it later
    attempts rounds in a row that may come to nothing before the run stops
    """

    gather: Positive = 120.0
    upload: Positive = 120.0
    opening: Positive = 60.0
    absence: Positive = 10.0
    closing: Positive = 600.0
    attempts: Annotated[int, Field(ge=1)] = 5


def _kind_of_backbone(value: Any) -> str:
    """``factors``, or a network, which is what a backbone without a family is."""
    family = value.get("family") if isinstance(value, dict) else getattr(value, "family", None)
    return "factors" if family == "factors" else "network"


_KINDS: Final = ("network", "factors")
#: Everything that ``[backbone]`` may describe.
Backbone = Annotated[
    Annotated[SerializeAsAny[BackboneSpec], Tag("network")] | Annotated[FactorsSpec, Tag("factors")],
    Discriminator(_kind_of_backbone),
]


class Draft(_Frozen):
    """A charter as a person writes it.

    backbone    what is shared: a network, or the factors of a catalogue; absent where nothing is but statistics
    lanes       how bulk terms travel (``secure_sum.lanes``): ``uint16``, ``3x21`` or ``uint32``; ``auto`` is the
                smallest meant for the roster's size, so it never changes within an epoch
    ready       whether departments train before a round opens, so that only those who are done mask with each other:
                ``on``, ``off``, or ``auto``: where the roster's mask graph is not complete, beyond 32 departments
    columns     what departments' tables have in common (``schema``); the method ``statistics`` sums over them
    statistics  hash of the charter whose opened statistics every department standardises its columns with
    families    departments that share a head beside their private ones, for methods that train with private heads
    """

    federation: Name
    name: Name
    rounds: Annotated[int, Field(ge=1, le=100_000)]
    method: Method = Method(name="feddbe")
    backbone: Backbone | None = None
    training: Training = Training()
    cohort: Cohort = Cohort()
    timing: Timing = Timing()
    lanes: LaneChoice = "auto"
    ready: Literal["auto", "on", "off"] = "auto"
    columns: Annotated[tuple[Column, ...], Field(max_length=10_000)] = ()
    statistics: Hex32 | None = None
    families: Annotated[tuple[Family, ...], Field(max_length=100)] = ()

    @model_serializer(mode="wrap")
    def _without_what_is_not_used(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """A charter without families has the bytes, and so the hash, that it had before there were any."""
        return {name: value for name, value in handler(self).items() if name != "families" or value}

    @field_validator("families")
    @classmethod
    def _apart(cls, families: tuple[Family, ...]) -> tuple[Family, ...]:
        everyone = [family.name for family in families if not family.departments]
        if everyone and len(families) > 1:
            raise ValueError(f"family {everyone[0]!r} lists no departments, so it holds all, and must be the only one")
        for what, names in (
            ("family", [family.name for family in families]),
            ("department", [name for family in families for name in family.departments]),
        ):
            twice = sorted({name for name in names if names.count(name) > 1})
            if twice:
                raise ValueError(f"{what} {twice[0]!r} is listed twice")
        return families

    @field_validator("columns")
    @classmethod
    def _names(cls, columns: tuple[Column, ...]) -> tuple[Column, ...]:
        names = [column.name for column in columns]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"{', '.join(map(repr, twice))}: a column is listed twice")
        return columns

    @property
    def network(self) -> BackboneSpec:
        """The backbone of methods that train one.  Raises ConfigError where the charter has none of that kind."""
        if not isinstance(self.backbone, BackboneSpec):
            raise ConfigError(
                f"method {self.method.name!r} trains a network, and the charter's [backbone] describes none",
                hint="give inputs and widths, or choose another method",
            )
        return self.backbone

    @property
    def factors(self) -> FactorsSpec:
        """The catalogue of methods that factorise.  Raises ConfigError where the charter has none."""
        if not isinstance(self.backbone, FactorsSpec):
            raise ConfigError(
                f"method {self.method.name!r} needs item factors, and the charter's [backbone] describes none",
                hint='give family = "factors", items and width',
            )
        return self.backbone

    def scores(self, version: int) -> bool:
        """Do departments score this version on their held-out rows when they receive it for a round?

        Where not, ``held_out`` is 0 in what they add, and reports have none.
        """
        return version % self.training.held_out_every == 0 or version == self.rounds - 1

    @classmethod
    def from_toml(cls, text: str, *, path: str = "the charter") -> Draft:
        """Parse TOML.  Raises ConfigError that names the file and every wrong field at once."""
        return model_from_toml(cls, text, path=path)

    def to_toml(self) -> str:
        """The same as a person could have written it: ``from_toml`` gives it back."""
        written = self.model_dump(mode="json", exclude_none=True)  # a sealed charter has more fields, which are derived
        return to_toml({name: value for name, value in written.items() if name in Draft.model_fields})


Model = TypeVar("Model", bound=BaseModel)


def model_from_toml(kind: type[Model], text: str, *, path: str) -> Model:
    """A pydantic model from TOML; ConfigError names the file and every wrong field at once."""
    try:
        return model_from_values(kind, tomllib.loads(text), path=path)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path} is not valid TOML: {error}") from error


def model_from_values(kind: type[Model], values: Any, *, path: str) -> Model:
    """The same from what TOML holds; ``path`` says where it stands."""
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        lines = [f"  {field_of(e['loc'])}: {plainly(e)}" for e in error.errors()]
        raise ConfigError(f"{path} has {len(lines)} wrong field(s):\n" + "\n".join(lines)) from error


def plainly(error: ErrorDetails) -> str:
    """What is wrong, in words; patterns say little to whoever mistyped a name."""
    if error["type"] == "string_pattern_mismatch" and error.get("ctx", {}).get("pattern") == NAME_PATTERN:
        return f"{error['input']!r} is no name: letters, digits, spaces and . _ - after a letter or digit, 63 at most"
    return error["msg"].removeprefix("Value error, ")


def field_of(place: tuple[int | str, ...]) -> str:
    """A field as its file names it: which kind of backbone was tried stands in no file."""
    return ".".join(
        str(part) for before, part in itertools.pairwise((None, *place)) if before != "backbone" or part not in _KINDS
    )


class TermSpec(_Frozen):
    """One row of the manifest, as it stands in the charter."""

    name: str
    shape: tuple[int, ...]
    lane: Lane
    bound: Positive

    def term(self) -> Term:
        """The checked term; ManifestError for private names and impossible shapes."""
        return Term(self.name, self.shape, self.lane, self.bound)


class Charter(Draft):
    """A sealed charter: the draft plus everything that travels.

    terms      what each department contributes to each round's sum
    broadcast  the tensors that the coordinator sends to every department, in order
    """

    terms: Annotated[tuple[TermSpec, ...], Field(min_length=1)]
    broadcast: Shapes

    def trains_first(self, roster: Enrolled) -> bool:
        """Do rounds under this charter and roster have a ready stage?  See docs/adr/0008."""
        return roster.parameters.degree is not None if self.ready == "auto" else self.ready == "on"

    @cached_property
    def manifest(self) -> Manifest:
        """The terms, checked."""
        return Manifest(tuple(spec.term() for spec in self.terms))

    @cached_property
    def digest(self) -> bytes:
        """32 bytes that name this charter; what a department approves."""
        return tagged_hash("charter", canonical.dumps(self.model_dump(mode="json")))


class SignedCharter(_Frozen):
    """A charter under the coordinator's signature; what is exchanged as a file and over the link."""

    charter: Charter
    signature: Hex64

    @classmethod
    def sign(cls, charter: Charter, coordinator: Identity) -> SignedCharter:
        """Sign with the coordinator's identity, the one the roster names."""
        return cls(charter=charter, signature=coordinator.sign("charter", charter.digest).hex())

    def check(self, coordinator: bytes) -> Charter:
        """The charter, once the signature holds; BadSignature otherwise."""
        verify(coordinator, "charter", self.charter.digest, bytes.fromhex(self.signature), who="the coordinator")
        return self.charter

    def to_json(self) -> bytes:
        """Canonical JSON."""
        return canonical.dumps(self.model_dump(mode="json"))

    @classmethod
    def from_json(cls, data: bytes) -> SignedCharter:
        """Parse canonical JSON; Malformed for anything else."""
        return parse(cls, data, what="the charter")
