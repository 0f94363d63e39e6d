"""Injected errors: every served API carries one in every version, for what was asked for."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest

from trio_broker.broker.handlers.table import SERVED
from trio_broker.errors import ErrorCode
from trio_broker.testing.error_replies import decode_request, error_reply, spoil_metadata
from trio_broker.wire.api import APIS, ApiKey
from trio_broker.wire.fields import Kind
from trio_broker.wire.headers import decode_request_header
from trio_broker.wire.message import (
    Message,
    Struct,
    decode_response,
    encode_request,
    encode_response,
)

TOPIC_ID = UUID("11111111-2222-3333-4444-555555555555")
CODE = ErrorCode.COORDINATOR_NOT_AVAILABLE
#: Values for fields of requests, by name.
VALUES: dict[str, Any] = {
    "topic_id": TOPIC_ID,
    "name": "orders",
    "topic": "orders",
    "topic_names": ["orders"],
    "topic_name": "orders",
    "group_id": "kitchen",
    "groups_names": ["kitchen"],
    "coordinator_keys": ["kitchen"],
    "key": "kitchen",
    "resource_type": 2,
    "resource_name": "orders",
    "index": 3,
    "partition": 3,
    "partition_index": 3,
    "partition_indexes": [3],
    "partitions": [3],
    "member_id": "cook-1",
}
#: What says in a response what an error is about.
IDENTITIES = frozenset(
    {"name", "topic", "topic_id", "group_id", "key", "resource_name", "resource_type", "index"}
    | {"partition", "partition_index"}
)


def sample(kind: type[Struct], version: int) -> Any:
    """Return a request that names one of everything."""
    values: dict[str, Any] = {}
    for name, field in kind.__kafka_fields__.items():
        if not field.is_in(version):
            values[name] = field.missing_value
        elif field.is_array and not isinstance(field.element, Kind):
            values[name] = [sample(field.element, version)]
        elif not isinstance(field.element, Kind):
            values[name] = None
        elif name in VALUES:
            values[name] = VALUES[name]
        elif name == "groups":
            values[name] = ["kitchen"]
        elif field.is_array:
            values[name] = []
        else:
            values[name] = field.element.zero
    return kind(**values)


def found(structure: Struct, version: int) -> list[tuple[str, Any]]:
    """Return every (field, value) that a version of a message has, at whatever depth."""
    pairs: list[tuple[str, Any]] = []
    for name, field in type(structure).__kafka_fields__.items():
        value = getattr(structure, name)
        if not field.is_in(version):
            continue
        if field.is_array and not isinstance(field.element, Kind):
            for element in value or ():
                pairs += found(element, version)
        else:
            pairs.append((name, value))
    return pairs


def refused(request: Message, version: int, code: ErrorCode = CODE) -> Any:
    """Return the decoded error reply to a request, which has come over the wire."""
    key = type(request).api_key
    frame = memoryview(encode_request(key, version, 77, "test", request))[4:]
    header = decode_request_header(frame)
    reply = error_reply(header, decode_request(header, frame), code)
    if reply is None:
        return None
    response_type: Any = APIS[key].response_type
    correlation_id, response = decode_response(response_type, version, memoryview(reply)[4:])
    assert correlation_id == 77
    return response


EVERY_VERSION = [
    (ApiKey(key), version)
    for key, api in SERVED.items()
    for version in range(api.min_version, api.max_version + 1)
    if key != ApiKey.METADATA  # made from the real answer
    and not (key == ApiKey.DESCRIBE_LOG_DIRS and version < 3)  # nothing asked for is at fault
]


@pytest.mark.parametrize("key,version", EVERY_VERSION, ids=lambda value: str(value))
def test_every_api_in_every_version(key: ApiKey, version: int) -> None:
    request = sample(APIS[key].request_type, version)
    response = refused(request, version)
    pairs = found(response, version)
    assert [value for name, value in pairs if name == "error_code" and value] == [CODE]
    named = {name: value for name, value in pairs if name in IDENTITIES}
    if key in {ApiKey.CREATE_TOPICS, ApiKey.DESCRIBE_TOPIC_PARTITIONS}:
        named.pop("topic_id", None)  # these ask by name only
    assert named == {name: VALUES[name] for name in named}
    assert named or "error_code" in type(response).__kafka_fields__


def test_what_names_nothing_cannot_be_refused() -> None:
    request_type: Any = APIS[ApiKey.DESCRIBE_LOG_DIRS].request_type
    assert refused(request_type(topics=None), 1) is None
    assert refused(request_type(topics=None), 4).error_code == CODE


def test_a_fetch_is_refused_by_partition_unless_the_session_is_meant() -> None:
    request = sample(APIS[ApiKey.FETCH].request_type, 12)
    response = refused(request, 12, ErrorCode.NOT_LEADER_OR_FOLLOWER)
    assert response.error_code == 0
    [topic] = response.responses
    assert topic.topic == "orders"
    [partition] = topic.partitions
    assert partition.partition_index == 3
    assert partition.error_code == ErrorCode.NOT_LEADER_OR_FOLLOWER
    assert partition.high_watermark == -1
    response = refused(request, 12, ErrorCode.FETCH_SESSION_ID_NOT_FOUND)
    assert response.error_code == ErrorCode.FETCH_SESSION_ID_NOT_FOUND
    assert list(response.responses) == []


def test_offset_fetch_is_refused_by_group_as_kafka_does_it() -> None:
    request = sample(APIS[ApiKey.OFFSET_FETCH].request_type, 8)
    [group] = refused(request, 8).groups
    assert (group.group_id, group.error_code, list(group.topics)) == ("kitchen", CODE, [])
    request = sample(APIS[ApiKey.OFFSET_FETCH].request_type, 1)
    [topic] = refused(request, 1).topics
    [partition] = topic.partitions
    assert (topic.name, partition.partition_index, partition.error_code) == ("orders", 3, CODE)


@pytest.mark.parametrize("version", range(14))
def test_metadata_keeps_the_brokers(version: int) -> None:
    key = ApiKey.METADATA
    response_type: Any = APIS[key].response_type
    fields = response_type.__kafka_fields__
    topic_type, broker_type = fields["topics"].element, fields["brokers"].element
    partition_type = topic_type.__kafka_fields__["partitions"].element
    partition = partition_type(
        error_code=0, partition_index=0, leader_id=1, replica_nodes=[1], isr_nodes=[1]
    )
    real = response_type(
        brokers=[broker_type(node_id=1, host="localhost", port=9092)],
        topics=[
            topic_type(error_code=0, name=name, topic_id=TOPIC_ID, partitions=[partition])
            for name in ("orders", "bills")
        ],
    )
    reply = [encode_response(key, version, 77, real)]
    request_type: Any = APIS[key].request_type
    asked = request_type(topics=[])
    header = decode_request_header(memoryview(encode_request(key, version, 77, "test", asked))[4:])
    spoilt = spoil_metadata(header, reply, ErrorCode.LEADER_NOT_AVAILABLE, "orders")
    assert spoilt is not None
    _, response = decode_response(response_type, version, memoryview(spoilt)[4:])
    assert len(response.brokers) == 1
    assert [(topic.error_code, len(topic.partitions)) for topic in response.topics] == [
        (ErrorCode.LEADER_NOT_AVAILABLE, 0),
        (0, 1),
    ]
    assert spoil_metadata(header, reply, ErrorCode.LEADER_NOT_AVAILABLE, "unheard-of") is None
