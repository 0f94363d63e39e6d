"""How a message's fields are declared: type, versions, nullability, tag and default.

A declaration reads like the class it becomes::

    class ListOffsetsPartition(Struct):
        partition_index: int = int32()
        current_leader_epoch: int = int32(since=4, default=-1)
        timestamp: int = int64()

Every function here takes the same keywords: `since` and `until` (first and last version with the
field), `nullable_since` (first version in which it may be null), `tag` (number, if the field
travels in the section of tagged fields) and `default` (what the field is where nobody says
otherwise; without one the constructor asks for it).
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Any, NamedTuple

from trio_broker.names import ZERO_TOPIC_ID

if TYPE_CHECKING:
    from trio_broker.wire.message import Struct

VERSION_MAX = 0x7FFF
#: Stands for "no default was declared", since None is one.
REQUIRED: Any = object()


class Kind(Enum):
    """Types of Kafka's protocol that are not structures; the value names the `struct` code."""

    BOOLEAN = "?"
    INT8 = "b"
    INT16 = "h"
    UINT16 = "H"
    INT32 = "i"
    INT64 = "q"
    FLOAT64 = "d"
    UUID = "16s"
    STRING = "string"
    BYTES = "bytes"
    RECORDS = "records"

    @property
    def is_fixed_size(self) -> bool:
        """Whether every value takes the same number of bytes."""
        return self not in {Kind.STRING, Kind.BYTES, Kind.RECORDS}

    @property
    def zero(self) -> Any:
        """What Kafka takes a value for that is neither sent nor given a default."""
        return _ZEROS.get(self, 0)


_ZEROS: dict[Kind, Any] = {
    Kind.BOOLEAN: False,
    Kind.FLOAT64: 0.0,
    Kind.UUID: ZERO_TOPIC_ID,
    Kind.STRING: "",
    Kind.BYTES: b"",
    Kind.RECORDS: None,
}


class Field(NamedTuple):
    """The declaration of one field, in all versions of its message."""

    element: Kind | type[Struct]
    is_array: bool
    since: int
    until: int
    nullable_since: int
    tag: int | None
    default: Any

    def is_in(self, version: int) -> bool:
        """Say whether this version has the field."""
        return self.since <= version <= self.until

    def is_nullable_in(self, version: int) -> bool:
        """Say whether the field may be null in this version."""
        return version >= self.nullable_since

    @property
    def missing_value(self) -> Any:
        """What the field is in a decoded message whose version does not have it."""
        if self.default is not REQUIRED:
            return self.default
        if self.is_array:
            return ()
        return self.element.zero if isinstance(self.element, Kind) else None


def _declare(
    element: Kind | type[Struct],
    *,
    is_array: bool = False,
    since: int = 0,
    until: int = VERSION_MAX,
    nullable_since: int = VERSION_MAX + 1,
    tag: int | None = None,
    default: Any = REQUIRED,
) -> Any:
    return Field(element, is_array, since, until, nullable_since, tag, default)


def boolean(**options: Any) -> Any:
    """Declare a flag."""
    return _declare(Kind.BOOLEAN, **options)


def int8(**options: Any) -> Any:
    """Declare a signed number of 8 bits."""
    return _declare(Kind.INT8, **options)


def int16(**options: Any) -> Any:
    """Declare a signed number of 16 bits."""
    return _declare(Kind.INT16, **options)


def uint16(**options: Any) -> Any:
    """Declare an unsigned number of 16 bits."""
    return _declare(Kind.UINT16, **options)


def int32(**options: Any) -> Any:
    """Declare a signed number of 32 bits."""
    return _declare(Kind.INT32, **options)


def int64(**options: Any) -> Any:
    """Declare a signed number of 64 bits."""
    return _declare(Kind.INT64, **options)


def float64(**options: Any) -> Any:
    """Declare a floating-point number of 64 bits."""
    return _declare(Kind.FLOAT64, **options)


def uuid(**options: Any) -> Any:
    """Declare an id of 16 bytes; "none" is the id of zeros."""
    return _declare(Kind.UUID, **options)


def string(**options: Any) -> Any:
    """Declare a text of at most 32767 bytes of UTF-8."""
    return _declare(Kind.STRING, **options)


def binary(**options: Any) -> Any:
    """Declare bytes that the protocol does not look into."""
    return _declare(Kind.BYTES, **options)


def records(**options: Any) -> Any:
    """Declare record batches: decoded to a view of the frame, never copied."""
    return _declare(Kind.RECORDS, **options)


def array(element: Kind | type[Struct], **options: Any) -> Any:
    """Declare a sequence: decoded to a list, or to an empty tuple where the version lacks it."""
    return _declare(element, is_array=True, **options)


def struct(element: type[Struct], **options: Any) -> Any:
    """Declare a nested structure. One that is tagged is None where it is not sent."""
    return _declare(element, **options)
