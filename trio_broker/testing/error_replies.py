"""Answers with an error, for any request: what Kafka's own `getErrorResponse` builds for each API.

One walk over the declarations does it for all of them: the response repeats what the request names
(topics, partitions, groups, ...), and the error stands at the outermost place that the version has
for it. Two APIs differ, as in Kafka: a Fetch error belongs to partitions unless it is about the
session, and the topics of Metadata are those that exist, so its answer is made from the real one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from trio_broker.errors import ErrorCode
from trio_broker.wire.api import APIS, ApiKey
from trio_broker.wire.fields import REQUIRED, Kind
from trio_broker.wire.message import decode_response, encode_response

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trio_broker.host.interface import Buffer
    from trio_broker.wire.fields import Field
    from trio_broker.wire.headers import RequestHeader
    from trio_broker.wire.message import Message, Struct

MESSAGE = "injected by a test"
#: Fields of requests that a list in a response is made from, where the names differ.
_SOURCES: dict[str, tuple[str, ...]] = {
    "coordinators": ("coordinator_keys",),
    "partition_responses": ("partition_data",),
    "partitions": ("partitions", "partition_indexes"),
    "responses": ("topic_data", "topics", "topic_names", "resources"),
    "results": ("resources", "groups_names", "topics"),
}
#: Single values that say what an error is about: they are taken from the request, and what else it
#: may call them.
_IDENTITIES: dict[str, tuple[str, ...]] = {
    **{
        name: (name,)
        for name in (
            "group_id",
            "group_instance_id",
            "index",
            "key",
            "member_id",
            "name",
            "partition",
            "resource_name",
            "resource_type",
            "topic",
            "topic_id",
        )
    },
    "partition_index": ("partition_index", "partition"),
}
#: Errors of a whole Fetch, not of a partition.
_SESSION_ERRORS = frozenset(
    {
        ErrorCode.FETCH_SESSION_ID_NOT_FOUND,
        ErrorCode.INVALID_FETCH_SESSION_EPOCH,
        ErrorCode.FETCH_SESSION_TOPIC_ID_ERROR,
    }
)


def decode_request(header: RequestHeader, frame: memoryview) -> Message:
    """Decode the body of a request.

    Raises:
        ProtocolError: the bytes are not a legal request.
    """
    request_type = APIS[header.api_key].request_type
    return request_type.decode(frame, header.api_version, header.body_start)


def error_reply(header: RequestHeader, request: Message, code: ErrorCode) -> bytes | None:
    """Return the frame of a response that refuses a request.

    Returns:
        None if the response has no place for an error, because the request names nothing that
        could have failed.
    """
    builder = _Builder(header.api_version, code)
    if header.api_key == ApiKey.FETCH and code not in _SESSION_ERRORS:
        builder.skipped = APIS[ApiKey.FETCH].response_type
    response = builder.build(APIS[header.api_key].response_type, request)
    if not builder.has_placed:
        return None
    return encode_response(header.api_key, header.api_version, header.correlation_id, response)


def spoil_metadata(
    header: RequestHeader, reply: Sequence[Buffer], code: ErrorCode, topic: str | None
) -> bytes | None:
    """Return a Metadata answer whose topics have an error and no partitions.

    Args:
        header: of the request.
        reply: the real answer.
        code: the error.
        topic: the only topic to spoil; None: all that were asked for.

    Returns:
        None if it is about no topic.
    """
    frame = b"".join(reply)[4:]
    response_type: Any = APIS[ApiKey.METADATA].response_type
    _, response = decode_response(response_type, header.api_version, frame)
    spoilt = [found for found in response.topics if topic in {None, found.name}]
    for found in spoilt:
        found.error_code = code
        found.partitions = []
    if not spoilt:
        return None
    return encode_response(header.api_key, header.api_version, header.correlation_id, response)


class _Builder:
    """Builds one response.

    Attributes:
        skipped: a structure whose own place for the error stays 0.
        has_placed: the error stands somewhere.
    """

    def __init__(self, version: int, code: ErrorCode) -> None:
        self.skipped: type[Struct] | None = None
        self.has_placed = False
        self._version = version
        self._code = code

    def build(self, kind: type[Struct], source: object) -> Any:
        """Build a structure from what corresponds to it in the request."""
        fields = {
            name: field
            for name, field in kind.__kafka_fields__.items()
            if field.is_in(self._version)
        }
        is_place = "error_code" in fields and kind is not self.skipped
        self.has_placed = self.has_placed or is_place
        values: dict[str, Any] = {}
        for name, field in kind.__kafka_fields__.items():
            if name == "error_code":
                values[name] = self._code if is_place else 0
            elif name == "error_message":
                values[name] = MESSAGE if is_place else None
            elif field.is_array:
                values[name] = () if is_place else self._list(name, field, source)
            else:
                values[name] = _value(name, field, source)
        return kind(**values)

    def _list(self, name: str, field: Field, source: object) -> list[Any]:
        """Build a list of structures with an error, one for each thing that the request names."""
        if isinstance(field.element, Kind) or not _has_error(field.element):
            return []
        for candidate in _SOURCES.get(name, (name,)):
            elements = getattr(source, candidate, None)
            if elements:
                return [self.build(field.element, element) for element in elements]
        return []


def _has_error(kind: type[Struct]) -> bool:
    """Tell whether a structure has a place for an error, in itself or further in."""
    fields = kind.__kafka_fields__
    return "error_code" in fields or any(
        _has_error(field.element)
        for field in fields.values()
        if field.is_array and not isinstance(field.element, Kind)
    )


def _value(name: str, field: Field, source: object) -> object:
    """Return a value as the request has it, or what stands for "none"."""
    if not isinstance(field.element, Kind):
        return None
    names = _IDENTITIES.get(name, ())
    if isinstance(source, str | int):  # the request lists bare names or numbers
        fits = isinstance(source, str) == (field.element is Kind.STRING)
        return source if names and fits else _none(field)
    for attribute in names:
        found = getattr(source, attribute, None)
        if found is not None:
            return found
    return _none(field)


def _none(field: Field) -> object:
    if field.default is not REQUIRED:
        return field.default
    assert isinstance(field.element, Kind)
    if field.element in {Kind.INT8, Kind.INT16, Kind.INT32, Kind.INT64}:
        return -1
    return b"" if field.element in {Kind.RECORDS, Kind.BYTES} else field.element.zero
