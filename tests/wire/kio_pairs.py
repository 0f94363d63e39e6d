"""Random messages twice over: as ours and as those of kio, whose schema is generated from Kafka's.

kio is an oracle for development only: as a parser of network input it is unsafe, so that it is fed
nothing but its own or our valid bytes.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import types
import typing
from typing import TYPE_CHECKING, Any
from uuid import UUID

import kio.index
import kio.schema.errors
from kio.serial import entity_reader, entity_writer

from trio_broker.names import ZERO_TOPIC_ID
from trio_broker.wire.api import APIS
from trio_broker.wire.fields import Field, Kind
from trio_broker.wire.message import Message, Request, Struct

if TYPE_CHECKING:
    import random
    from collections.abc import Iterator

_EPOCH = dt.datetime.fromtimestamp(0, dt.UTC)
_ERRORS = list(kio.schema.errors.ErrorCode)
_WORDS = ("", "a", "orders", "grüße", "日本語", "x" * 126, "y" * 127, "z" * 128, "w" * 300)
_BLOBS = (b"", b"\x00", b"\xff" * 127, bytes(range(256)))


def message_versions() -> Iterator[tuple[type[Message], int]]:
    """Every declared message with each of its versions."""
    for api in APIS.values():
        for version in range(api.min_version, api.max_version + 1):
            yield api.request_type, version
            yield api.response_type, version


def kio_type(message_type: type[Message], version: int) -> type:
    """kio's class for one version of a message."""
    if issubclass(message_type, Request):
        return kio.index.load_request_schema(message_type.api_key, version)
    return kio.index.load_response_schema(message_type.api_key, version)


class Bytes:
    """What kio's writers write to."""

    def __init__(self) -> None:
        self.written = bytearray()

    def write(self, part: bytes) -> None:
        self.written += part


def kio_encode(entity: Any) -> bytes:
    sink = Bytes()
    entity_writer(type(entity))(sink, entity)
    return bytes(sink.written)


def kio_decode(entity_type: type, encoded: bytes) -> Any:
    entity, size = entity_reader(entity_type)(encoded, 0)
    assert size == len(encoded)
    return entity


def random_pair(
    rng: random.Random, struct_type: type[Struct], entity_type: type, version: int
) -> tuple[Struct, Any]:
    """Draw the same values into a structure of ours and one of kio's."""
    ours: dict[str, Any] = {}
    theirs: dict[str, Any] = {}
    declared = {
        name: field for name, field in struct_type.__kafka_fields__.items() if field.is_in(version)
    }
    names = {_kio_name(name): name for name in declared}
    for kio_field in dataclasses.fields(entity_type):
        name = names.pop(kio_field.name, None)
        if name is None:
            assert (struct_type.__name__, version) == ("ApiVersionsResponse", 3), kio_field.name
            continue
        field = declared[name]
        assert field.tag == kio_field.metadata.get("tag"), name
        ours[name], theirs[kio_field.name] = _random_field(rng, field, kio_field, version)
    assert not names, f"kio lacks {names}"
    return struct_type(**ours), entity_type(**theirs)


def _kio_name(name: str) -> str:
    return name.removesuffix("_ms")


def _random_field(
    rng: random.Random, field: Field, kio_field: dataclasses.Field[Any], version: int
) -> tuple[Any, Any]:
    element_type, optional = _unwrap(kio_field.type)
    kafka_type = kio_field.metadata.get("kafka_type")
    if field.tag is not None and rng.random() < 0.4:
        default = kio_field.default
        assert default is not dataclasses.MISSING
        ours = field.missing_value
        if (
            isinstance(field.element, Kind)
            and not field.is_array
            and field.element is not Kind.UUID
        ):
            assert ours == default or kafka_type.startswith(("time", "date")), kio_field.name
        return ours, default
    nullable = field.is_nullable_in(version)
    if nullable:
        assert optional, f"kio has {kio_field.name} not nullable in {version}"
    elif field.element is not Kind.UUID and kafka_type != "datetime_i64" and field.tag is None:
        assert not optional, f"kio has {kio_field.name} nullable in {version}"
    if nullable and rng.random() < 0.25:
        return None, None
    if not field.is_array:
        pair = _random_value(rng, field.element, element_type, kafka_type, version, optional)
        if isinstance(pair[0], Struct) and field.tag is not None and pair[0] == type(pair[0])():
            return None, kio_field.default  # a structure that says nothing is not sent
        return pair
    assert typing.get_origin(element_type) is tuple, kio_field.name
    inner = typing.get_args(element_type)[0]
    count = rng.choice((0, 1, 2, 3)) if rng.random() < 0.98 else 130
    pairs = [
        _random_value(rng, field.element, inner, kafka_type, version, False) for _ in range(count)
    ]
    return [ours for ours, _ in pairs], tuple(theirs for _, theirs in pairs)


def _unwrap(annotation: Any) -> tuple[Any, bool]:
    """Return the type without None, and whether None was there."""
    if typing.get_origin(annotation) in {types.UnionType, typing.Union}:
        others = [part for part in typing.get_args(annotation) if part is not types.NoneType]
        return others[0], True
    return annotation, False


def _random_value(
    rng: random.Random,
    element: Kind | type[Struct],
    kio_element: Any,
    kafka_type: str | None,
    version: int,
    optional: bool,
) -> tuple[Any, Any]:
    if not isinstance(element, Kind):
        return random_pair(rng, element, kio_element, version)
    match kafka_type:
        case "error_code":
            code = rng.choice(_ERRORS)
            return code.value, code
        case "timedelta_i32" | "timedelta_i64":
            milliseconds = _random_integer(rng, 32)
            return milliseconds, dt.timedelta(milliseconds=milliseconds)
        case "datetime_i64":
            milliseconds = rng.randrange(2**41)
            return milliseconds, _EPOCH + dt.timedelta(milliseconds=milliseconds)
    return _random_primitive(rng, element, optional)


_KIO_BITS = {Kind.INT8: 8, Kind.INT16: 16, Kind.INT32: 32, Kind.INT64: 64}


def _random_primitive(rng: random.Random, kind: Kind, optional: bool) -> tuple[Any, Any]:
    match kind:
        case Kind.BOOLEAN:
            value: Any = rng.random() < 0.5
        case Kind.UUID:
            value = rng.choice((ZERO_TOPIC_ID, UUID(int=rng.getrandbits(128))))
            return value, None if optional and value == ZERO_TOPIC_ID else value
        case Kind.STRING:
            value = rng.choice(_WORDS)
        case Kind.BYTES | Kind.RECORDS:
            value = rng.choice(_BLOBS)
        case Kind.UINT16:
            value = rng.randrange(2**16)
        case Kind.FLOAT64:
            value = rng.uniform(-1e9, 1e9)
        case _:
            value = _random_integer(rng, _KIO_BITS[kind])
    return value, value


def _random_integer(rng: random.Random, bits: int) -> int:
    low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    return rng.choice((low, -1, 0, 1, high, rng.randint(low, high)))
