"""Record batches that lie: the exact error code, and nothing stored.

The expected codes are what Apache Kafka 4.1 answers; where ours differs on purpose the case says
so and why. ``TRIO_BROKER_TEST_ADDRESS`` runs the same table against Kafka.
"""

from __future__ import annotations

import itertools
import time

import pytest
from attrs import frozen

from tests.hostile.conftest import Target
from tests.support.kafka_bytes import (
    OFFSET_COMMIT,
    Batch,
    array,
    frame,
    header,
    int16,
    int32,
    int64,
    message_set,
    produce,
    produce_v7,
    string,
)
from tests.support.waiting import wait_until
from trio_broker.errors import ErrorCode

NOW_MS = time.time_ns() // 1_000_000
TIMES = {"base_timestamp": NOW_MS, "max_timestamp": NOW_MS}
PRODUCER = {"producer_id": 5, "producer_epoch": 0, "base_sequence": 0}
GOOD = Batch(**TIMES).encode()


@frozen
class Case:
    """What is sent and what is answered.

    Attributes:
        records: the bytes for the partition.
        code: the answer.
        kafka: Apache Kafka's answer where it differs from ours; "skip" where it has none.
        why: the reason for the difference.
    """

    records: bytes | None
    code: ErrorCode
    kafka: ErrorCode | str | None = None
    why: str = ""


CORRUPT = ErrorCode.CORRUPT_MESSAGE
INVALID = ErrorCode.INVALID_RECORD
UNKNOWN = ErrorCode.UNKNOWN_SERVER_ERROR
TIMESTAMP = ErrorCode.INVALID_TIMESTAMP
NONE = ErrorCode.NONE
HEADER_ONLY = "we judge the header and the checksum only; Kafka looks at each record"

REFUSED = {
    "wrong checksum": Case(Batch(**TIMES, crc=0xDEADBEEF).encode(), CORRUPT),
    "checksum zero": Case(Batch(**TIMES, crc=0).encode(), CORRUPT),
    "one byte changed": Case(GOOD[:-3] + b"!" + GOOD[-2:], CORRUPT),
    "count too high": Case(Batch(**TIMES, count=2).encode(), INVALID),
    "count too low": Case(Batch(**TIMES, values=[b"a", b"b"], count=1).encode(), INVALID),
    "count zero": Case(Batch(**TIMES, values=[], count=0).encode(), INVALID),
    "count negative": Case(Batch(**TIMES, count=-1).encode(), INVALID),
    "count huge": Case(Batch(**TIMES, count=2**31 - 1).encode(), INVALID),
    # More records than its bytes can hold: accepted, each such batch would use up 2^31 offsets.
    "count and delta huge": Case(
        Batch(**TIMES, count=2**31 - 1, last_offset_delta=2**31 - 2).encode(), INVALID
    ),
    "last offset delta": Case(Batch(**TIMES, last_offset_delta=5).encode(), INVALID),
    "last offset delta negative": Case(Batch(**TIMES, last_offset_delta=-1).encode(), INVALID),
    "magic 0": Case(message_set(b"old", magic=0), INVALID),
    "magic 1": Case(message_set(b"old", magic=1), INVALID),
    "magic 3": Case(Batch(**TIMES, magic=3).encode(), CORRUPT),
    "magic -1": Case(Batch(**TIMES, magic=-1).encode(), CORRUPT),
    "cut by a byte": Case(GOOD[:-1], INVALID),
    "cut in the header": Case(GOOD[:40], INVALID),
    "cut to five bytes": Case(GOOD[:5], INVALID),
    "empty": Case(b"", INVALID),
    "null": Case(None, INVALID, "skip", "Apache Kafka 4.1 never answers"),
    "two batches": Case(GOOD + GOOD, INVALID),
    "bytes behind": Case(GOOD + bytes(8), INVALID, NONE, "Kafka stores them"),
    "length negative": Case(Batch(**TIMES, length=-1).encode(), CORRUPT),
    "length zero": Case(Batch(**TIMES, length=0).encode(), CORRUPT),
    "length below a header": Case(Batch(**TIMES, length=48).encode(), CORRUPT),
    "length huge": Case(
        Batch(**TIMES, length=2**31 - 1).encode(), CORRUPT, UNKNOWN, "Kafka's sum overflows"
    ),
    "base offset": Case(Batch(**TIMES, base_offset=5).encode(), INVALID),
    "control batch": Case(Batch(**TIMES, attributes=0x20).encode(), INVALID),
    "control batch in a transaction": Case(
        Batch(**TIMES, **PRODUCER, attributes=0x30).encode(),
        INVALID,
        ErrorCode.TRANSACTIONAL_ID_AUTHORIZATION_FAILED,
        "of two faults Kafka sees the other one first",
    ),
    "transactional batch": Case(
        Batch(**TIMES, **PRODUCER, attributes=0x10).encode(),
        ErrorCode.TRANSACTIONAL_ID_AUTHORIZATION_FAILED,
    ),
    "broker's timestamps": Case(
        Batch(**TIMES, attributes=0x08).encode(), TIMESTAMP, NONE, "Kafka stores the false claim"
    ),
    "unknown codec 5": Case(
        Batch(**TIMES, attributes=5).encode(),
        ErrorCode.UNSUPPORTED_COMPRESSION_TYPE,
        UNKNOWN,
        "Kafka trips over it",
    ),
    "unknown codec 7": Case(
        Batch(**TIMES, attributes=7).encode(),
        ErrorCode.UNSUPPORTED_COMPRESSION_TYPE,
        UNKNOWN,
        "Kafka trips over it",
    ),
    "producer without sequence": Case(
        Batch(**TIMES, producer_id=5, producer_epoch=0).encode(), INVALID
    ),
    "producer without epoch": Case(
        Batch(**TIMES, producer_id=5, base_sequence=0).encode(),
        INVALID,
        NONE,
        "Kafka takes epoch -1 for one",
    ),
    "far future": Case(
        Batch(base_timestamp=NOW_MS + 10**9, max_timestamp=NOW_MS + 10**9).encode(), TIMESTAMP
    ),
    "far future at the end": Case(
        Batch(base_timestamp=NOW_MS, max_timestamp=NOW_MS + 10**9).encode(),
        TIMESTAMP,
        NONE,
        HEADER_ONLY,
    ),
    "too large": Case(
        Batch(**TIMES, values=[b"x" * 1_048_588]).encode(), ErrorCode.MESSAGE_TOO_LARGE
    ),
}


@pytest.mark.parametrize("case", REFUSED.values(), ids=list(REFUSED))
def test_lying_batches_are_refused_with_kafkas_code(
    target: Target, victim: str, case: Case
) -> None:
    expected: object = case.code
    if target.server is None and case.kafka is not None:
        if case.kafka == "skip":
            pytest.skip(case.why)
        expected = case.kafka
    with target.connect() as connection:
        before = target.log_bytes(victim)
        produced = produce(connection, produce_v7(victim, case.records))
        assert produced.error_code == expected
        if expected is NONE:
            return
        assert produced.base_offset == -1
        assert target.end_offset(victim) == 0
        assert target.log_bytes(victim) == before
        # The same connection goes on, and offsets begin where they would have.
        assert produce(connection, produce_v7(victim, GOOD)).base_offset == 0


@pytest.mark.parametrize("acks", [2, -2, 127, 32767])
def test_unknown_acks_are_refused(target: Target, victim: str, acks: int) -> None:
    with target.connect() as connection:
        produced = produce(connection, produce_v7(victim, GOOD, acks=acks))
        assert produced.error_code == ErrorCode.INVALID_REQUIRED_ACKS
        assert target.end_offset(victim) == 0


@pytest.mark.parametrize("partition", [1, -1, 2**31 - 1, -(2**31)])
def test_unknown_partitions_are_refused(target: Target, victim: str, partition: int) -> None:
    with target.connect() as connection:
        produced = produce(connection, produce_v7(victim, GOOD, partition=partition))
        assert produced.error_code == ErrorCode.UNKNOWN_TOPIC_OR_PARTITION


def test_errors_of_acks_0_close_the_connection(target: Target, victim: str) -> None:
    """There is no answer to carry the code."""
    with target.connect() as connection:
        connection.send(produce_v7(victim, Batch(**TIMES, crc=1).encode(), acks=0))
        assert connection.receive() is None
    assert target.end_offset(victim) == 0


def test_internal_topics_are_not_for_clients(target: Target, victim: str) -> None:
    """The topic of committed offsets is there once somebody has committed one."""
    offset = int32(0) + int64(0) + string(None)
    commit = frame(
        header(OFFSET_COMMIT, 2)
        + (string("some-group") + int32(-1) + string("") + int64(-1))
        + array([string(victim) + array([offset])])
    )
    with target.connect() as connection:

        def committed() -> bool:
            return connection.require(commit).data.endswith(int32(0) + int16(0))

        wait_until(committed, seconds=20, what="a committed offset")
        produced = produce(connection, produce_v7("__consumer_offsets", GOOD))
        assert produced.error_code == ErrorCode.INVALID_TOPIC_EXCEPTION


def sequenced(
    base_sequence: int, *, epoch: int = 0, count: int = 1, producer_id: int = 77
) -> bytes:
    return Batch(
        **TIMES,
        values=[b"v"] * count,
        producer_id=producer_id,
        producer_epoch=epoch,
        base_sequence=base_sequence,
    ).encode()


def test_sequences_out_of_order_are_refused_and_duplicates_answered(
    target: Target, victim: str
) -> None:
    producer_id = next(_producer_ids)
    steps = [
        (sequenced(0, producer_id=producer_id), (0, 0)),
        (sequenced(1, count=3, producer_id=producer_id), (0, 1)),
        (sequenced(0, producer_id=producer_id), (0, 0)),
        (sequenced(1, count=3, producer_id=producer_id), (0, 1)),
        (sequenced(5, producer_id=producer_id), (45, -1)),
        (sequenced(2, producer_id=producer_id), (45, -1)),
        (sequenced(4, producer_id=producer_id), (0, 4)),
        (sequenced(7, epoch=1, producer_id=producer_id), (45, -1)),
        (sequenced(0, epoch=1, producer_id=producer_id), (0, 5)),
        (sequenced(5, epoch=0, producer_id=producer_id), (47, -1)),
    ]
    with target.connect() as connection:
        for number, (batch, expected) in enumerate(steps):
            produced = produce(connection, produce_v7(victim, batch))
            assert (produced.error_code, produced.base_offset) == expected, f"step {number}"
    assert target.end_offset(victim) == 6


_producer_ids = itertools.count(1_000_000 + NOW_MS % 1_000_000_000)


@pytest.mark.parametrize("cut", [1, 16, 17, 57, 60])
def test_random_beginnings_of_batches(target: Target, victim: str, cut: int) -> None:
    with target.connect() as connection:
        produced = produce(connection, produce_v7(victim, GOOD[:cut]))
        assert produced.error_code == INVALID
    assert target.end_offset(victim) == 0
