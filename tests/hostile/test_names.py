"""Topic names that would be paths, or too long, or not names at all."""

from __future__ import annotations

import time

import pytest

from tests.hostile.conftest import Target
from tests.support.kafka_bytes import (
    Batch,
    create_topics_v2,
    delete_topics_v1,
    fetch,
    fetch_v4,
    metadata_errors,
    metadata_v4,
    produce,
    produce_v7,
    topic_errors,
)
from trio_broker.errors import ErrorCode

ILLEGAL = [
    "../x",
    "../../../../tmp/x",
    "..",
    ".",
    "",
    "a" * 250,
    "a" * 32_000,
    "a/b",
    "/etc/passwd",
    "a\\b",
    "a\0b",
    "a\nb",
    "a b",
    "a:b",
    "a*",
    "naïve",
    "主题",
    "\u202etopic",
    "%2e%2e",
    "~",
    "$HOME",
]
INVALID_TOPIC = ErrorCode.INVALID_TOPIC_EXCEPTION


def ids(name: str) -> str:
    return ascii(name[:20])


@pytest.mark.parametrize("name", ILLEGAL, ids=ids)
def test_illegal_names_are_not_created(target: Target, name: str) -> None:
    before = target.directories()
    with target.connect() as connection:
        for validate_only in (False, True):
            request = create_topics_v2(name, validate_only=validate_only)
            codes = topic_errors(connection.require(request), messages=True)
            assert codes == {name: INVALID_TOPIC}
        codes = metadata_errors(connection.require(metadata_v4(name, auto_create=True)))
        assert codes == {name: INVALID_TOPIC}
    assert target.directories() == before


@pytest.mark.parametrize("name", ILLEGAL, ids=ids)
def test_illegal_names_are_not_written_read_or_deleted(target: Target, name: str) -> None:
    before = target.directories()
    with target.connect() as connection:
        produced = produce(connection, produce_v7(name, Batch().encode()))
        assert produced.error_code == ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
        fetched = fetch(connection, fetch_v4(name, 0))
        assert fetched.error_code == ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
        codes = topic_errors(connection.require(delete_topics_v1(name)), messages=False)
        assert codes == {name: ErrorCode.UNKNOWN_TOPIC_OR_PARTITION}
    assert target.directories() == before


def test_names_that_are_not_text_close_the_connection(target: Target) -> None:
    if target.server is None:
        pytest.skip("Apache Kafka replaces what it cannot decode")
    before = target.directories()
    for request in (create_topics_v2(b"\xff\xfe"), metadata_v4(b"\xc3", auto_create=True)):
        with target.connect() as connection:
            connection.send(request)
            assert connection.receive() is None
    assert target.directories() == before


def test_the_longest_legal_name_works(target: Target) -> None:
    name = f"{time.time_ns()}.".ljust(249, "n")
    target.create_topic(name)
    now_ms = time.time_ns() // 1_000_000
    with target.connect() as connection:
        batch = Batch(base_timestamp=now_ms, max_timestamp=now_ms).encode()
        assert produce(connection, produce_v7(name, batch)).error_code == 0
        codes = topic_errors(connection.require(delete_topics_v1(name)), messages=False)
        assert codes == {name: 0}


def test_names_that_differ_only_in_dot_and_underscore_collide(target: Target) -> None:
    stem = f"collide{time.time_ns()}"
    target.create_topic(f"{stem}.a")
    with target.connect() as connection:
        codes = topic_errors(connection.require(create_topics_v2(f"{stem}_a")), messages=True)
        assert codes == {f"{stem}_a": INVALID_TOPIC}


def test_one_bad_name_does_not_spoil_its_neighbours(target: Target) -> None:
    good, bad = f"good.{time.time_ns()}", "../bad"
    with target.connect() as connection:
        codes = topic_errors(connection.require(create_topics_v2(good, bad)), messages=True)
    assert codes == {good: 0, bad: INVALID_TOPIC}


def test_a_name_twice_in_one_request_is_refused(target: Target) -> None:
    name = f"twice.{time.time_ns()}"
    with target.connect() as connection:
        response = connection.require(create_topics_v2(name, name))
        assert topic_errors(response, messages=True) == {name: ErrorCode.INVALID_REQUEST}
    assert target.topic_error(name) == ErrorCode.UNKNOWN_TOPIC_OR_PARTITION


@pytest.mark.parametrize("partitions", [0, -2, -(2**31)])
def test_impossible_partition_counts_are_refused(target: Target, partitions: int) -> None:
    name = f"impossible.{time.time_ns()}"
    with target.connect() as connection:
        response = connection.require(create_topics_v2(name, partitions=partitions))
        assert topic_errors(response, messages=True) == {name: ErrorCode.INVALID_PARTITIONS}


@pytest.mark.parametrize("partitions", [1_001, 100_000, 2**31 - 1])
def test_too_many_partitions_are_refused(target: Target, partitions: int) -> None:
    if target.server is None:
        pytest.skip("Apache Kafka tries")
    name = f"many.{time.time_ns()}"
    before = target.directories()
    with target.connect() as connection:
        response = connection.require(create_topics_v2(name, partitions=partitions))
        (code,) = topic_errors(response, messages=True).values()
    assert code in {ErrorCode.INVALID_PARTITIONS, ErrorCode.POLICY_VIOLATION}
    assert target.directories() == before
