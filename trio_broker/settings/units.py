"""Durations and sizes as people write them: ``7d``, ``1h30m``, ``250ms``, ``64MiB``.

No library: those for durations are years old or speak of other things as well, and none names the
mistake. Numbers are kept exact (`fractions.Fraction`), so nothing is lost on the way.
"""

from __future__ import annotations

import re
from enum import Enum
from fractions import Fraction
from itertools import pairwise

#: Longer texts are no quantities.
_CHARACTERS_MAX = 100
_PART = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z]+)\s*")

_SECOND = Fraction(1)
_MINUTE = 60 * _SECOND
_HOUR = 60 * _MINUTE
_DAY = 24 * _HOUR
_WEEK = 7 * _DAY
_MILLISECOND = _SECOND / 1000

#: Units of a duration in seconds; the first name of each is the one written.
_DURATION_NAMES: tuple[tuple[Fraction, tuple[str, ...]], ...] = (
    (_WEEK, ("w", "week", "weeks")),
    (_DAY, ("d", "day", "days")),
    (_HOUR, ("h", "hour", "hours")),
    (_MINUTE, ("m", "min", "minute", "minutes")),
    (_SECOND, ("s", "sec", "second", "seconds")),
    (_MILLISECOND, ("ms", "millisecond", "milliseconds")),
)
_DURATIONS = {name: size for size, names in _DURATION_NAMES for name in names}
_WRITTEN_DURATIONS = [(size, names[0]) for size, names in _DURATION_NAMES if size != _WEEK]

_BINARY_SIZES = [("TiB", 1024**4), ("GiB", 1024**3), ("MiB", 1024**2), ("KiB", 1024)]
#: In lower case: nobody means a mere fraction of a byte by 'mib'.
_SIZES = {
    "b": 1,
    **{name.lower(): size for name, size in _BINARY_SIZES},
    "kb": 1000,
    "mb": 1000**2,
    "gb": 1000**3,
    "tb": 1000**4,
}
_AMBIGUOUS_SIZES = {"k", "m", "g", "t"}


class Unit(Enum):
    """What a number counts."""

    MILLISECONDS = "milliseconds"
    SECONDS = "seconds"
    BYTES = "bytes"

    @property
    def size(self) -> Fraction:
        """One of it, in seconds or in bytes."""
        return _MILLISECOND if self is Unit.MILLISECONDS else Fraction(1)

    @property
    def examples(self) -> str:
        """How to write some of it."""
        return "'64MiB' or '1 GiB'" if self is Unit.BYTES else "'7d', '1h30m' or '250ms'"


_WORDS = {"ms": Unit.MILLISECONDS, "seconds": Unit.SECONDS, "bytes": Unit.BYTES}


def unit_of(name: str) -> Unit | None:
    """Return the unit that a field's name says it has: `retention_ms`, `frame_bytes_max`."""
    return next((_WORDS[word] for word in name.split("_") if word in _WORDS), None)


def parse_quantity(text: str, unit: Unit) -> Fraction:
    """Read a text with units in it; the result is in `unit`.

    Raises:
        ValueError: says what is wrong with it and how it is written.
    """
    kind = "size" if unit is Unit.BYTES else "duration"
    wrong = ValueError(f"{text[:_CHARACTERS_MAX]!r} is not a {kind} like {unit.examples}")
    if len(text) > _CHARACTERS_MAX or not text.strip():
        raise wrong
    known = _SIZES if unit is Unit.BYTES else _DURATIONS
    total, position, sizes = Fraction(0), 0, []
    while position < len(text):
        part = _PART.match(text, position)
        if part is None:
            raise wrong
        amount, name = part.groups()
        if unit is Unit.BYTES:
            if name.lower() in _AMBIGUOUS_SIZES:
                letter = name.upper()
                raise ValueError(
                    f"{text!r} may mean two things: write '{amount}{letter}iB' (times 1024) or "
                    f"'{amount}{letter}B' (times 1000)"
                )
            name = name.lower()
        size = known.get(name)
        if size is None:
            raise wrong
        sizes.append(size)
        total += Fraction(amount) * size
        position = part.end()
    if any(after >= before for before, after in pairwise(sizes)):
        raise ValueError(f"{text!r}: write the larger units first, and each once, like '1h30m'")
    return total / unit.size


def quantity_text(amount: float, unit: Unit) -> str | None:
    """Write an amount the short way people do, exactly; None where a plain number is shorter."""
    exact = Fraction(repr(amount))
    if exact <= 0:
        return None
    total = exact * unit.size
    if unit is Unit.BYTES:
        return next(
            (f"{total // size}{name}" for name, size in _BINARY_SIZES if total % size == 0), None
        )
    parts = []
    for size, name in _WRITTEN_DURATIONS:
        count, total = divmod(total, size)
        if count:
            parts.append(f"{count}{name}")
    if total or len(parts) > 2:
        return None
    return "".join(parts)
