"""The hand-written codecs of Produce and Fetch agree with the declared messages byte for byte."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest

from tests.wire.kio_pairs import kio_type, random_pair
from trio_broker.errors import ProtocolError
from trio_broker.names import ZERO_TOPIC_ID
from trio_broker.wire.api import APIS, ApiKey
from trio_broker.wire.fetch import (
    AbortedTransaction,
    EpochEndOffset,
    PartitionFetchResult,
    encode_fetch_response,
    parse_fetch,
)
from trio_broker.wire.headers import decode_request_header
from trio_broker.wire.message import encode_request, encode_response
from trio_broker.wire.messages import fetch as declared_fetch
from trio_broker.wire.messages import produce as declared_produce
from trio_broker.wire.produce import (
    LeaderIdAndEpoch,
    NodeEndpoint,
    PartitionProduceResult,
    encode_produce_response,
    parse_produce,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

PRODUCE_VERSIONS = range(APIS[ApiKey.PRODUCE].min_version, APIS[ApiKey.PRODUCE].max_version + 1)
FETCH_VERSIONS = range(APIS[ApiKey.FETCH].min_version, APIS[ApiKey.FETCH].max_version + 1)
ROUNDS = 20


def draw(rng: random.Random, message_type: type, version: int) -> Any:
    return random_pair(rng, message_type, kio_type(message_type, version), version)[0]


def topic_key(version: int, first_with_id: int, name: str, topic_id: UUID) -> tuple[Any, Any]:
    """What the hot path gives for the name and id of a topic in this version."""
    return (None, topic_id) if version >= first_with_id else (name, None)


def produce_view(frame: memoryview, start: int, version: int) -> Any:
    """What the hot path makes of a request, with spans replaced by their bytes."""
    request = parse_produce(frame, start, version)
    topics = [
        (
            topic.name,
            topic.topic_id,
            [(i, None if a == -1 else bytes(frame[a:b])) for i, a, b in topic.partitions],
        )
        for topic in request.topics
    ]
    return request.transactional_id, request.acks, request.timeout_ms, topics


def declared_produce_view(request: declared_produce.ProduceRequest, version: int) -> Any:
    topics = [
        (
            *topic_key(version, 13, topic.name, topic.topic_id),
            [
                (part.index, None if part.records is None else bytes(part.records))
                for part in topic.partition_data
            ],
        )
        for topic in request.topic_data
    ]
    return request.transactional_id, request.acks, request.timeout_ms, topics


def fetch_view(frame: memoryview, start: int, version: int) -> Any:
    return tuple(parse_fetch(frame, start, version))


def declared_fetch_view(request: declared_fetch.FetchRequest, version: int) -> Any:
    replica = request.replica_state or declared_fetch.ReplicaState()
    return (
        replica.replica_id if version >= 15 else request.replica_id,
        request.max_wait_ms,
        request.min_bytes,
        request.max_bytes,
        request.isolation_level,
        request.session_id,
        request.session_epoch,
        [
            (
                *topic_key(version, 13, topic.topic, topic.topic_id),
                [
                    (
                        part.partition,
                        part.current_leader_epoch,
                        part.fetch_offset,
                        part.last_fetched_epoch,
                        part.log_start_offset,
                        part.partition_max_bytes,
                    )
                    for part in topic.partitions
                ],
            )
            for topic in request.topics
        ],
        [
            (*topic_key(version, 13, topic.topic, topic.topic_id), list(topic.partitions))
            for topic in request.forgotten_topics_data
        ],
        request.rack_id,
        replica.replica_epoch,
    )


REQUESTS = [
    (declared_produce.ProduceRequest, produce_view, declared_produce_view),
    (declared_fetch.FetchRequest, fetch_view, declared_fetch_view),
]


@pytest.mark.parametrize("case", REQUESTS, ids=["Produce", "Fetch"])
def test_requests_are_read_as_declared(case: Any, seed: int) -> None:
    message_type, view, declared_view = case
    rng = random.Random(seed)
    for version in range(message_type.versions[0], message_type.versions[1] + 1):
        for _ in range(ROUNDS):
            request = draw(rng, message_type, version)
            framed = encode_request(message_type.api_key, version, 7, "client", request)
            frame = memoryview(framed)[4:]
            header = decode_request_header(frame)
            assert header[:4] == (message_type.api_key, version, 7, "client")
            assert view(frame, header.body_start, version) == declared_view(request, version)


@pytest.mark.parametrize("case", REQUESTS, ids=["Produce", "Fetch"])
def test_damaged_requests_are_judged_as_declared(case: Any, seed: int) -> None:
    """Both codecs refuse, or both accept and see the same."""
    message_type, view, declared_view = case
    rng = random.Random(seed)
    outcomes = set()
    for version in range(message_type.versions[0], message_type.versions[1] + 1):
        for _ in range(ROUNDS * 10):
            damaged = bytearray(draw(rng, message_type, version).encode(version))
            for _ in range(rng.choice((1, 1, 2))):
                if damaged:
                    position = rng.randrange(len(damaged))
                    damaged[position] = rng.choice((0, 1, 2, 0x7F, 0x80, 0xFF, rng.randrange(256)))
            if rng.random() < 0.1:
                del damaged[rng.randrange(len(damaged)) :]
            frame = memoryview(bytes(damaged))
            try:
                expected = declared_view(message_type.decode(frame, version), version)
            except ProtocolError:
                # Only of tagged fields that it does not need does the hot path know too little.
                if version < 17 or message_type is not declared_fetch.FetchRequest:
                    with pytest.raises(ProtocolError):
                        view(frame, 0, version)
                outcomes.add("refused")
            else:
                assert view(frame, 0, version) == expected
                outcomes.add("accepted")
    assert outcomes == {"refused", "accepted"}


def test_skips_unknown_tags_at_every_level_of_produce() -> None:
    tags = "02 05 00 c801 03 aabbcc"
    frame = bytes.fromhex(f"00 ffff 00000001 02 0261 02 00000007 03 beef {tags} {tags} {tags}")
    request = parse_produce(memoryview(frame), 0, 9)
    assert request.topics == [("a", None, [(7, 16, 18)])]
    assert frame[16:18] == b"\xbe\xef"


def random_leader(rng: random.Random) -> LeaderIdAndEpoch | None:
    return rng.choice((None, None, LeaderIdAndEpoch(3, 9), LeaderIdAndEpoch(-1, -1)))


ENDPOINTS = [NodeEndpoint(3, "b3.example", 9092, "rack"), NodeEndpoint(4, "b4", 9093)]


@pytest.mark.parametrize("version", PRODUCE_VERSIONS)
def test_produce_responses_are_written_as_declared(version: int, seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(ROUNDS):
        topics = [
            (
                rng.choice(("orders", "x" * 249)),
                UUID(int=rng.getrandbits(128)),
                [
                    PartitionProduceResult(
                        index,
                        rng.choice((0, 6, -1)),
                        rng.randrange(-1, 2**63),
                        rng.choice((-1, 1_700_000_000_000)),
                        rng.randrange(-1, 2**40),
                        rng.choice((None, None, "", "why")),
                        random_leader(rng),
                    )
                    for index in range(rng.choice((0, 1, 3, 200)))
                ],
            )
            for _ in range(rng.choice((0, 1, 2)))
        ]
        endpoints = rng.choice(([], ENDPOINTS))
        body = declared_produce.ProduceResponse(
            responses=[
                declared_produce.TopicProduceResponse(
                    name=name,
                    topic_id=topic_id,
                    partition_responses=[declared_partition(part) for part in results],
                )
                for name, topic_id, results in topics
            ],
            throttle_time_ms=11,
            node_endpoints=[
                declared_produce.NodeEndpoint(**endpoint._asdict()) for endpoint in endpoints
            ],
        )
        assert encode_produce_response(5, version, topics, 11, endpoints) == encode_response(
            ApiKey.PRODUCE, version, 5, body
        )


def declared_partition(part: PartitionProduceResult) -> declared_produce.PartitionProduceResponse:
    leader = part.current_leader
    return declared_produce.PartitionProduceResponse(
        index=part.index,
        error_code=part.error_code,
        base_offset=part.base_offset,
        log_append_time_ms=part.log_append_time_ms,
        log_start_offset=part.log_start_offset,
        error_message=part.error_message,
        current_leader=leader and declared_produce.LeaderIdAndEpoch(**leader._asdict()),
    )


@pytest.mark.parametrize("version", FETCH_VERSIONS)
def test_fetch_responses_are_written_as_declared(version: int, seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(ROUNDS):
        topics = [
            (
                "orders",
                rng.choice((None, UUID(int=rng.getrandbits(128)))),
                [random_fetch_result(rng, index) for index in range(rng.choice((0, 1, 3, 200)))],
            )
            for _ in range(rng.choice((0, 1, 2)))
        ]
        endpoints = rng.choice(([], ENDPOINTS))
        buffers = encode_fetch_response(
            5,
            version,
            topics=topics,
            throttle_time_ms=11,
            error_code=2,
            session_id=99,
            node_endpoints=endpoints,
        )
        assert b"".join(buffers) == encode_response(
            ApiKey.FETCH, version, 5, declared_fetch_response(topics, endpoints)
        )
        assert all(buffers)


def random_fetch_result(rng: random.Random, index: int) -> PartitionFetchResult:
    return PartitionFetchResult(
        index,
        rng.choice((0, 6)),
        rng.randrange(-1, 2**63),
        rng.randrange(-1, 2**63),
        rng.randrange(-1, 2**40),
        rng.choice(((), [b"one"], [b"two", memoryview(b"x" * 300)])),
        rng.choice((None, (), [AbortedTransaction(1, 2), AbortedTransaction(2**40, 2**50)])),
        rng.choice((-1, 3)),
        rng.choice((None, None, EpochEndOffset(4, 1000), EpochEndOffset(-1, -1))),
        random_leader(rng),
    )


def declared_fetch_response(
    topics: Sequence[tuple[str, UUID | None, list[PartitionFetchResult]]],
    endpoints: Sequence[NodeEndpoint],
) -> declared_fetch.FetchResponse:
    return declared_fetch.FetchResponse(
        throttle_time_ms=11,
        error_code=2,
        session_id=99,
        responses=[
            declared_fetch.FetchableTopicResponse(
                topic=name,
                topic_id=topic_id or ZERO_TOPIC_ID,
                partitions=[declared_fetch_partition(part) for part in results],
            )
            for name, topic_id, results in topics
        ],
        node_endpoints=[
            declared_fetch.NodeEndpoint(**endpoint._asdict()) for endpoint in endpoints
        ],
    )


def declared_fetch_partition(part: PartitionFetchResult) -> declared_fetch.PartitionData:
    aborted, diverging, leader = (
        part.aborted_transactions,
        part.diverging_epoch,
        part.current_leader,
    )
    return declared_fetch.PartitionData(
        partition_index=part.index,
        error_code=part.error_code,
        high_watermark=part.high_watermark,
        last_stable_offset=part.last_stable_offset,
        log_start_offset=part.log_start_offset,
        aborted_transactions=aborted
        if aborted is None
        else [declared_fetch.AbortedTransaction(**entry._asdict()) for entry in aborted],
        preferred_read_replica=part.preferred_read_replica,
        records=b"".join(part.records),
        diverging_epoch=diverging and declared_fetch.EpochEndOffset(**diverging._asdict()),
        current_leader=leader and declared_fetch.LeaderIdAndEpoch(**leader._asdict()),
    )


def test_records_of_a_fetch_response_are_passed_on_untouched() -> None:
    records = [memoryview(b"first"), b"second"]
    result = PartitionFetchResult(0, 0, records=records)
    buffers = encode_fetch_response(1, 17, topics=[(None, UUID(int=1), [result, result])])
    assert [type(part) for part in buffers] == [
        bytes,
        memoryview,
        bytes,
        bytes,
        memoryview,
        bytes,
        bytes,
    ]
    assert buffers[1] is records[0]
    assert buffers[2] is records[1]
