"""Looking for secrets in whatever a program writes or shows, however it may have spelled them.

Secrets are 8-byte needles (``federation.audit``).  Text is read back into bytes in every way in which Python or JSON
would have written bytes out: hexadecimal, base64 of both alphabets at any offset, ``repr`` of bytes, one large integer,
and lists of integers or decimals as ``repr`` of bytearrays, tuples and arrays shows them.  Then the needles are looked
for at every offset of all of it.  Counts are too short for that: they are looked for as decimal numbers of their own.
"""

from __future__ import annotations

import ast
import base64
import gc
import logging
import re
import traceback
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from federation.audit import Needles, Witness

from commonroot.common.secure_sum import department

_HEX = re.compile(rb"(?:[0-9a-fA-F]{2}[ :]?){8,}")
_BASE64 = re.compile(rb"[A-Za-z0-9+/_-]{11,}={0,2}")
_BYTES = re.compile(rb"""b(?P<q>['"])(?:\\.|(?!(?P=q)).)*?(?P=q)""", re.S)
_NUMBERS = re.compile(rb"-?\d+(?:[\s,]+-?\d+){3,}")
_LARGE = re.compile(rb"\d{18,}")
_DECIMALS = re.compile(rb"-?\d+\.\d*(?:e[+-]?\d+)?(?:[\s,]+-?\d+\.\d*(?:e[+-]?\d+)?)*")
_WHOLE = re.compile(rb"(?<![\w.])\d+(?![\w.])")


def spellings(text: bytes) -> Iterator[bytes]:
    """The text, and all bytes that it may spell."""
    yield text
    for run in _HEX.findall(text):
        digits = re.sub(rb"[ :]", b"", run)
        for start in (0, 1):
            yield bytes.fromhex(digits[start : start + (len(digits) - start) // 2 * 2].decode())
    for run in _BASE64.findall(text):
        letters = run.rstrip(b"=").translate(bytes.maketrans(b"-_", b"+/"))
        for start in range(4):
            part = letters[start:]
            yield base64.b64decode(part[: len(part) // 4 * 4])
            if len(part) % 4 > 1:
                yield base64.b64decode(part + b"=" * (-len(part) % 4))
    for found in _BYTES.finditer(text):
        try:
            yield ast.literal_eval(found.group().decode("latin-1"))
        except (SyntaxError, ValueError):
            continue
    for run in _NUMBERS.findall(text):
        values = [int(value) for value in re.split(rb"[\s,]+", run)]
        for bits in (8, 16, 32, 64):
            if all(0 <= value < 1 << bits for value in values):
                yield np.array(values, dtype=f"<u{bits // 8}").tobytes()
    for digits in _LARGE.findall(text):
        if len(digits) < 1000:
            value = int(digits)
            for order in ("big", "little"):
                yield value.to_bytes((value.bit_length() + 7) // 8, order)
    with np.errstate(over="ignore"):
        for run in _DECIMALS.findall(text):
            decimals = np.array([float(value) for value in re.split(rb"[\s,]+", run)])
            yield decimals.astype("<f8").tobytes()
            yield decimals.astype("<f4").tobytes()


class Secrets(Needles):
    """Needles without decimal texts, for a few digits do occur by chance; ``spellings`` reads decimals exactly.

    counts   whole numbers that are to be found nowhere
    """

    def __init__(self) -> None:
        super().__init__()
        self.counts_of_rows: set[int] = set()

    def numbers(self, what: str, values: Any) -> None:
        """Numbers as float32 and float64 in both byte orders."""
        flat = np.asarray(values, dtype=np.float64).ravel()
        for kind in ("<f4", ">f4", "<f8", ">f8"):
            self.add(what, flat[:4000].astype(kind).tobytes(), int(kind[2]))


def whole_numbers(text: bytes) -> set[int]:
    """Numbers that stand alone in a text, without a point or a letter beside them."""
    return {int(found) for found in _WHOLE.findall(text) if len(found) < 12}


class Ear:
    """Everything that a run shows: log records, events, errors, and the representations of its objects."""

    def __init__(self) -> None:
        #: What was heard, by where.
        self.heard: dict[str, set[bytes]] = {}
        #: How many of each sort of thing were heard, so that a test can see that the ear is not deaf.
        self.counts: dict[str, int] = {}
        #: Names of classes whose objects were looked at.
        self.kinds: set[str] = set()
        self._sorts: dict[type, str] = {}

    def note(self, sort: str, thing: Any) -> None:
        """A thing as text: as it prints, and as it is shown."""
        self.counts[sort] = self.counts.get(sort, 0) + 1
        for text in (str(thing), repr(thing)):
            self.heard.setdefault(sort, set()).add(text.encode("utf-8", "backslashreplace"))

    def raw(self, sort: str, data: bytes) -> None:
        """Bytes of a file, or of the wire."""
        self.counts[sort] = self.counts.get(sort, 0) + 1
        self.heard.setdefault(sort, set()).add(data)

    def objects(self) -> None:
        """Every living object of the program's own classes, and every living error with its traceback."""
        shown = np.get_printoptions()
        np.set_printoptions(threshold=2**31, floatmode="unique")
        try:
            for thing in gc.get_objects():
                kind = type(thing)  # isinstance() would wake lazy proxies
                if (sort := self._sorts.get(kind)) is None:
                    sort = self._sorts[kind] = self._sort(kind)
                if not sort:
                    continue
                self.note(sort, thing)
                if sort == "errors":
                    self.note(sort, "".join(traceback.format_exception(thing)))
                else:
                    self.kinds.add(kind.__name__)
        finally:
            np.set_printoptions(**shown)

    @staticmethod
    def _sort(kind: type) -> str:
        if issubclass(kind, BaseException):
            return "errors"
        return "objects" if str(getattr(kind, "__module__", "")).startswith("commonroot.") else ""

    def found(self, secrets: Needles) -> dict[str, set[str]]:
        """Which sorts of secrets were heard, and where.  Shares of survivors are sent: on the wire they are meant."""
        out: dict[str, set[str]] = {}
        for where, texts in self.heard.items():
            for what in secrets.found_in([spelled for text in texts for spelled in spellings(text)]):
                if (what, where) != ("shares", "wire"):
                    out.setdefault(what, set()).add(where)
            counts = getattr(secrets, "counts_of_rows", set())
            # Parcels are no text, and nothing in a parcel is written in decimals.
            if where != "wire" and counts and any(counts & whole_numbers(text) for text in texts):
                out.setdefault("counts of rows", set()).add(where)
        return out


class Listener(logging.Handler):
    """Every record of every logger, as any formatter would print it, its arguments and its traceback."""

    def __init__(self, ear: Ear) -> None:
        super().__init__(logging.DEBUG)
        self._ear = ear
        self._format = logging.Formatter("%(asctime)s %(name)s %(levelname)s %(message)s")

    def emit(self, record: logging.LogRecord) -> None:
        self._ear.note("log", self._format.format(record))
        self._ear.note("log arguments", record.args)


def watch_shares(witness: Witness, patch: pytest.MonkeyPatch) -> None:
    """Write down every share that is dealt: those of departments that drop out are never to be seen."""
    honest = department.split

    def split(*args: Any, **fields: Any) -> Any:
        made = honest(*args, **fields)
        witness.needles.add("shares", made.tobytes())
        return made

    patch.setattr(department, "split", split)
