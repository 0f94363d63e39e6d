"""One legal request of every API and version that a server offers, as material for mutilation.

Written by kio, whose encoders come from Kafka's own schemas, so that what is cut, bent and blown up
here does not depend on the broker's own codec.
"""

from __future__ import annotations

import dataclasses
import functools
import io
import typing
import uuid
from collections.abc import Iterator
from datetime import timedelta

import attrs
import kio.index
from kio.serial import entity_writer

from tests.support.kafka_bytes import (
    Batch,
    RawConnection,
    api_versions_v0,
    header,
    tags,
)

#: Values for fields where an arbitrary number would be refused before anything else is looked at,
#: or would make the server wait.
_BY_NAME: dict[str, object] = {
    "acks": -1,
    "isolation_level": 0,
    "key_type": 0,
    "max_wait": timedelta(0),
    "num_partitions": 1,
    "replication_factor": 1,
    "session_epoch": -1,
    "session_id": 0,
    "assignments": (),
    "configs": (),
    "client_software_name": "hostile",
    "client_software_version": "1.0",
    "validate_only": True,
    "topic_id": uuid.UUID(int=0x5EED),
}
_BY_KAFKA_TYPE: dict[str, object] = {
    "bool": False,
    "bytes": b"zz",
    "float64": 1.0,
    "string": "zz",
    "uuid": uuid.UUID(int=0x5EED),
    "records": Batch().encode(),
    **dict.fromkeys(["timedelta_i32", "timedelta_i64"], timedelta(milliseconds=100)),
    **dict.fromkeys(["int8", "int16", "int32", "int64", "uint16", "uint32"], 1),
}


@attrs.frozen
class LegalRequest:
    """A request as a well-behaved client would send it.

    Attributes:
        name: API and version, for messages.
        api_key: its number.
        version: its version.
        flexible: whether it has tagged fields.
        head: its header.
        body: what follows.
    """

    name: str
    api_key: int
    version: int
    flexible: bool
    head: bytes
    body: bytes

    @property
    def content(self) -> bytes:
        """Return the request without its length."""
        return self.head + self.body

    def __str__(self) -> str:
        return self.name


def offered_versions(address: tuple[str, int]) -> dict[int, tuple[int, int]]:
    """Ask a server which APIs it serves, with the lowest and highest version of each."""
    with RawConnection.open(address) as connection:
        response = connection.require(api_versions_v0())
    assert response.int16() == 0
    offered = {}
    for _ in range(response.int32()):
        key = response.int16()
        offered[key] = (response.int16(), response.int16())
    assert response.at_end()
    return offered


def legal_requests(offered: dict[int, tuple[int, int]]) -> Iterator[LegalRequest]:
    """Yield one request for each API and version; Produce below 3 is offered, but not served."""
    for key, (lowest, highest) in sorted(offered.items()):
        for version in range(max(lowest, 3) if key == 0 else lowest, highest + 1):
            yield legal_request(key, version)


def ends_of_each_api(
    offered: dict[int, tuple[int, int]],
) -> list[tuple[LegalRequest, LegalRequest]]:
    """Return for each API its oldest version and its newest, which may be one and the same."""
    ends: dict[int, tuple[LegalRequest, LegalRequest]] = {}
    for request in legal_requests(offered):
        oldest, _ = ends.get(request.api_key, (request, request))
        ends[request.api_key] = (oldest, request)
    return list(ends.values())


def newest_and_oldest(offered: dict[int, tuple[int, int]]) -> list[LegalRequest]:
    """Return two requests for each API: its oldest version and its newest."""
    return [request for pair in ends_of_each_api(offered) for request in dict.fromkeys(pair)]


@functools.cache
def legal_request(api_key: int, version: int) -> LegalRequest:
    """Return a request of one API and version with one element in each array."""
    schema = kio.index.load_request_schema(api_key, version)
    flexible = bool(schema.__flexible__)
    with io.BytesIO() as buffer:
        entity_writer(schema)(buffer, _example(schema))
        body = buffer.getvalue()
    head = header(api_key, version, header_tags=tags() if flexible else None)
    name = f"{schema.__name__}-v{version}"
    return LegalRequest(name, api_key, version, flexible, head, body)


def _example(schema: type) -> object:
    hints = typing.get_type_hints(schema)
    values = {}
    for field in dataclasses.fields(schema):  # type: ignore[arg-type]
        if "tag" in field.metadata:
            continue  # all tagged fields have defaults
        values[field.name] = _example_field(field, hints[field.name])
    return schema(**values)


def _example_field(field: dataclasses.Field[object], hint: object) -> object:
    if field.name in _BY_NAME:
        return _BY_NAME[field.name]
    if field.name == "transactional_id":
        return None if field.default is None else "zz"
    arguments = [hint, *typing.get_args(hint)]
    for candidate in arguments:
        if typing.get_origin(candidate) is tuple:
            element = typing.get_args(candidate)[0]
            if dataclasses.is_dataclass(element):
                return (_example(typing.cast("type", element)),)
            return (_BY_KAFKA_TYPE[field.metadata["kafka_type"]],)
        if dataclasses.is_dataclass(candidate):
            return _example(typing.cast("type", candidate))
    return _BY_KAFKA_TYPE[field.metadata["kafka_type"]]
