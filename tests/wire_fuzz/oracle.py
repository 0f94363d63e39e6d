"""Judges answers: kio must be able to read them, and error codes be ones that the API may have.

kio's readers come from Kafka's own schemas. They are fed answers of the broker only, never what
was made up here.
"""

from __future__ import annotations

import dataclasses
import struct
from functools import cache
from typing import TYPE_CHECKING, Any

import kio.index
import kio.schema.errors
from kio.serial import entity_reader

from trio_broker.errors import ErrorCode as E
from trio_broker.wire.api import APIS, ApiKey
from trio_broker.wire.headers import response_header_is_flexible

if TYPE_CHECKING:
    from collections.abc import Iterator

_TOPIC = {E.UNKNOWN_TOPIC_OR_PARTITION, E.UNKNOWN_TOPIC_ID}
_EPOCH = {E.FENCED_LEADER_EPOCH, E.UNKNOWN_LEADER_EPOCH}
_NAME = {E.INVALID_TOPIC_EXCEPTION}
_DISK = {E.KAFKA_STORAGE_ERROR}
_GROUP = {E.INVALID_GROUP_ID, E.COORDINATOR_NOT_AVAILABLE, E.NOT_COORDINATOR}
_MEMBER = {
    E.UNKNOWN_MEMBER_ID, E.ILLEGAL_GENERATION, E.REBALANCE_IN_PROGRESS, E.FENCED_INSTANCE_ID,
}  # fmt: skip
_CHANGE = {E.INVALID_REQUEST, E.REQUEST_TIMED_OUT, E.POLICY_VIOLATION, *_NAME, *_DISK}

#: What each API may answer besides NONE. UNKNOWN_SERVER_ERROR is never among it: it says that
#: something went wrong which nobody has thought of.
ALLOWED: dict[int, set[E]] = {
    ApiKey.PRODUCE: {
        *_TOPIC, *_NAME, *_DISK, E.INVALID_REQUIRED_ACKS, E.CORRUPT_MESSAGE, E.INVALID_RECORD,
        E.MESSAGE_TOO_LARGE, E.RECORD_LIST_TOO_LARGE, E.UNSUPPORTED_COMPRESSION_TYPE,
        E.INVALID_TIMESTAMP, E.OUT_OF_ORDER_SEQUENCE_NUMBER, E.INVALID_PRODUCER_EPOCH,
        E.NOT_ENOUGH_REPLICAS, E.REQUEST_TIMED_OUT, E.TRANSACTIONAL_ID_AUTHORIZATION_FAILED,
        E.POLICY_VIOLATION, E.NOT_LEADER_OR_FOLLOWER, E.LEADER_NOT_AVAILABLE,
        E.DUPLICATE_SEQUENCE_NUMBER,
    },
    ApiKey.FETCH: {
        *_TOPIC, *_EPOCH, *_DISK, E.OFFSET_OUT_OF_RANGE, E.FETCH_SESSION_ID_NOT_FOUND,
        E.CLUSTER_AUTHORIZATION_FAILED, E.NOT_LEADER_OR_FOLLOWER, E.LEADER_NOT_AVAILABLE,
    },
    ApiKey.LIST_OFFSETS: {
        *_TOPIC, *_EPOCH, *_DISK, E.INVALID_REQUEST, E.UNSUPPORTED_VERSION,
        E.NOT_LEADER_OR_FOLLOWER, E.LEADER_NOT_AVAILABLE,
    },
    ApiKey.METADATA: {*_TOPIC, *_NAME, E.LEADER_NOT_AVAILABLE, E.INVALID_REQUEST},
    ApiKey.OFFSET_COMMIT: {
        *_TOPIC, *_GROUP, *_MEMBER, E.OFFSET_METADATA_TOO_LARGE, E.INVALID_COMMIT_OFFSET_SIZE,
        E.POLICY_VIOLATION, E.GROUP_ID_NOT_FOUND,
    },
    ApiKey.OFFSET_FETCH: {*_TOPIC, *_GROUP},
    ApiKey.FIND_COORDINATOR: {E.INVALID_REQUEST, E.TRANSACTIONAL_ID_AUTHORIZATION_FAILED},
    ApiKey.JOIN_GROUP: {
        *_GROUP, *_MEMBER, E.INCONSISTENT_GROUP_PROTOCOL, E.INVALID_SESSION_TIMEOUT,
        E.MEMBER_ID_REQUIRED, E.GROUP_MAX_SIZE_REACHED, E.POLICY_VIOLATION, E.INVALID_REQUEST,
    },
    ApiKey.HEARTBEAT: {*_GROUP, *_MEMBER},
    ApiKey.LEAVE_GROUP: {*_GROUP, *_MEMBER},
    ApiKey.SYNC_GROUP: {*_GROUP, *_MEMBER, E.INCONSISTENT_GROUP_PROTOCOL, E.POLICY_VIOLATION},
    ApiKey.DESCRIBE_GROUPS: {*_GROUP, E.GROUP_ID_NOT_FOUND},
    ApiKey.LIST_GROUPS: set(),
    ApiKey.API_VERSIONS: {E.UNSUPPORTED_VERSION, E.INVALID_REQUEST},
    ApiKey.CREATE_TOPICS: {
        *_CHANGE, E.TOPIC_ALREADY_EXISTS, E.INVALID_PARTITIONS, E.INVALID_REPLICATION_FACTOR,
        E.INVALID_REPLICA_ASSIGNMENT, E.INVALID_CONFIG,
    },
    ApiKey.DELETE_TOPICS: {*_CHANGE, *_TOPIC},
    ApiKey.DELETE_RECORDS: {*_TOPIC, *_NAME, *_DISK, E.OFFSET_OUT_OF_RANGE, E.REQUEST_TIMED_OUT},
    ApiKey.INIT_PRODUCER_ID: {E.TRANSACTIONAL_ID_AUTHORIZATION_FAILED, E.INVALID_REQUEST},
    ApiKey.OFFSET_FOR_LEADER_EPOCH: {*_TOPIC, *_EPOCH},
    ApiKey.DESCRIBE_CONFIGS: {*_TOPIC, *_NAME, E.INVALID_REQUEST},
    ApiKey.ALTER_CONFIGS: {*_CHANGE, *_TOPIC, E.INVALID_CONFIG},
    ApiKey.DESCRIBE_LOG_DIRS: set(),
    ApiKey.CREATE_PARTITIONS: {
        *_CHANGE, *_TOPIC, E.INVALID_PARTITIONS, E.INVALID_REPLICA_ASSIGNMENT,
    },
    ApiKey.DELETE_GROUPS: {*_GROUP, E.GROUP_ID_NOT_FOUND, E.NON_EMPTY_GROUP},
    ApiKey.INCREMENTAL_ALTER_CONFIGS: {*_CHANGE, *_TOPIC, E.INVALID_CONFIG},
    ApiKey.OFFSET_DELETE: {
        *_TOPIC, *_GROUP, E.GROUP_ID_NOT_FOUND, E.NON_EMPTY_GROUP, E.GROUP_SUBSCRIBED_TO_TOPIC,
    },
    ApiKey.DESCRIBE_CLUSTER: {E.MISMATCHED_ENDPOINT_TYPE, E.UNSUPPORTED_ENDPOINT_TYPE},
    ApiKey.DESCRIBE_PRODUCERS: {*_TOPIC, *_NAME},
    ApiKey.LIST_CONFIG_RESOURCES: {E.UNSUPPORTED_VERSION},
    ApiKey.DESCRIBE_TOPIC_PARTITIONS: {*_TOPIC, *_NAME, E.INVALID_REQUEST},
}  # fmt: skip


class Unreadable(AssertionError):
    """An answer is not what Kafka's schemas say, or has a code that the API does not have."""


@cache
def _reader(api_key: int, version: int) -> Any:
    return entity_reader(kio.index.load_response_schema(api_key, version))


def load_readers() -> None:
    """Import every schema, since files cannot be read in a simulation."""
    for key in ALLOWED:
        for version in range(APIS[key].min_version, APIS[key].max_version + 1):
            _reader(key, version)


def read_answer(api_key: int, version: int, frame: bytes) -> tuple[int, Any]:
    """Return an answer's correlation id and its body as kio has it.

    Raises:
        Unreadable: there is something wrong with it.
    """
    (correlation_id,) = struct.unpack_from(">i", frame)
    start = 4
    if response_header_is_flexible(api_key, version):
        if frame[4] != 0:
            raise Unreadable(f"tags in the header of an answer: {frame[:40].hex()}")
        start = 5
    try:
        body, size = _reader(api_key, version)(frame, start)
    except Exception as error:
        what = f"kio cannot read {frame[:2000].hex()}"
        raise Unreadable(f"{APIS[api_key].name} {version}: {error!r}: {what}") from error
    if size != len(frame) - start and size != len(frame):
        raise Unreadable(f"{APIS[api_key].name} {version}: {len(frame)} bytes, {size} read")
    allowed = ALLOWED[api_key]
    for where, code in error_codes(body):
        if code and code not in allowed:
            raise Unreadable(f"{APIS[api_key].name} {version} answers {code.name} at {where}")
    return correlation_id, body


def error_codes(entity: Any, path: str = "") -> Iterator[tuple[str, E]]:
    """Yield every error code in an answer with its place."""
    if isinstance(entity, kio.schema.errors.ErrorCode):
        yield path, E(entity.value)
    elif dataclasses.is_dataclass(entity):
        for field in dataclasses.fields(entity):
            yield from error_codes(getattr(entity, field.name), f"{path}.{field.name}")
    elif isinstance(entity, tuple):
        for number, inner in enumerate(entity):
            yield from error_codes(inner, f"{path}[{number}]")
