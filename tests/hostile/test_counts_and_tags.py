"""Counts of things that are not there, and tagged fields by the million."""

from __future__ import annotations

import struct

import pytest

from tests.hostile.conftest import Target
from tests.hostile.frames import LegalRequest, newest_and_oldest
from tests.support.kafka_bytes import (
    API_VERSIONS,
    CREATE_TOPICS,
    DELETE_TOPICS,
    FETCH,
    METADATA,
    PRODUCE,
    RawConnection,
    api_versions_v0,
    compact_string,
    frame,
    header,
    int8,
    int16,
    int32,
    string,
    tags,
    uvarint,
)

MIB = 1 << 20
PROBE = 0x0BADCAFE

HUGE_COUNTS = [2**31 - 1, 100_000_000, 1_000_001, -2, -(2**31)]


def answered_or_closed(connection: RawConnection) -> bool:
    """Wait until the server has dealt with all that was sent.

    A request may be answered, ignored (acks=0) or refused by closing; a probe behind it tells.

    Returns:
        Whether the connection is still open.
    """
    connection.send(api_versions_v0(PROBE))
    while (response := connection.receive()) is not None:
        if response.int32() == PROBE:
            return True
    return False


def classic_bodies(count: int) -> dict[str, bytes]:
    """Requests whose first array claims `count` elements and holds none."""
    return {
        "produce": header(PRODUCE, 7) + string(None) + int16(-1) + int32(1000) + int32(count),
        "produce partitions": (
            header(PRODUCE, 7)
            + string(None)
            + int16(-1)
            + int32(1000)
            + int32(1)
            + string("zz")
            + int32(count)
        ),
        "fetch": header(FETCH, 4) + struct.pack(">iiiib", -1, 0, 0, 1000, 0) + int32(count),
        "metadata": header(METADATA, 4) + int32(count) + int8(0),
        "create topics": header(CREATE_TOPICS, 2) + int32(count),
        "delete topics": header(DELETE_TOPICS, 1) + int32(count) + int32(1000),
    }


@pytest.mark.parametrize("count", HUGE_COUNTS)
def test_huge_array_counts_close_the_connection(target: Target, count: int) -> None:
    for name, content in classic_bodies(count).items():
        if target.server is None and name == "metadata" and count < 0:
            continue  # Apache Kafka takes every negative count for null
        with target.connect() as connection:
            connection.send(frame(content))
            assert connection.receive() is None, name


@pytest.mark.parametrize("count", [2**32 - 1, 2**31, 100_000_001, 1_000_001])
def test_huge_compact_counts_close_the_connection(target: Target, count: int) -> None:
    if target.server is None and count == 2**32 - 1:
        pytest.skip("Apache Kafka takes it for null")
    for api_key, version in ((METADATA, 12), (CREATE_TOPICS, 7), (DELETE_TOPICS, 6)):
        with target.connect() as connection:
            content = header(api_key, version, header_tags=tags()) + uvarint(count)
            connection.send(frame(content + bytes(8)))
            assert connection.receive() is None, f"api {api_key}"


def test_arrays_as_long_as_the_frame_allows_are_bounded(target: Target) -> None:
    """A count that the bytes do cover, one byte an element, must not become a million objects."""
    with target.connect() as connection:
        topics = b"\1" * MIB  # compact strings of length 0
        content = header(METADATA, 9, header_tags=tags()) + uvarint(MIB + 1) + topics + bytes(4)
        connection.send(frame(content))
        answered_or_closed(connection)


def test_every_count_of_every_request_may_lie(
    target: Target, offered: dict[int, tuple[int, int]]
) -> None:
    """Huge, negative and odd numbers at every position of every request: each is survived."""
    patterns = [int32(2**31 - 1), int32(-(2**31)), int32(-1), uvarint(2**32 - 1), uvarint(2**63)]
    for request in newest_and_oldest(offered):
        connection = target.connect()
        for position in range(len(request.body)):
            for pattern in patterns:
                connection.send(frame(bent(request, position, pattern)))
                if not answered_or_closed(connection):
                    connection.__exit__()
                    connection = target.connect()
        connection.__exit__()


def bent(request: LegalRequest, position: int, pattern: bytes) -> bytes:
    """Return a request with some bytes of its body replaced (fixed size) or one (varints)."""
    replaced = 4 if len(pattern) == 4 else 1
    body = request.body
    return request.head + body[:position] + pattern + body[position + replaced :]


# ------------------------------------------------------------------------------------------- tags
def api_versions_v3(header_tags: bytes, body_tags: bytes) -> bytes:
    names = compact_string("client") + compact_string("1.0")
    return frame(header(API_VERSIONS, 3, header_tags=header_tags) + names + body_tags)


@pytest.mark.parametrize(
    "unknown",
    [tags((9, b"")), tags((0, b"x"), (1, b"yy"), (2**31 - 1, b"z" * 1000))],
    ids=["one", "three"],
)
def test_unknown_tags_are_skipped_in_header_and_body(target: Target, unknown: bytes) -> None:
    with target.connect() as connection:
        for header_tags, body_tags in ((unknown, tags()), (tags(), unknown), (unknown, unknown)):
            assert connection.require(api_versions_v3(header_tags, body_tags)).int16() == 0


def test_unknown_tags_are_skipped_at_every_level(target: Target) -> None:
    """Metadata v12 of one topic: in the header, in the topic, in the request."""
    unknown = tags((77, b"some future field"))
    topic = bytes(16) + compact_string("no-such-topic") + unknown
    content = (
        header(METADATA, 12, header_tags=unknown) + uvarint(2) + topic + int8(0) + int8(0) + unknown
    )
    with target.connect() as connection:
        response = connection.require(frame(content))
        assert b"no-such-topic" in response.data


BROKEN_TAGS = {
    "a field longer than the frame": uvarint(1) + uvarint(5) + uvarint(1000) + b"x",
    "a count without fields": uvarint(5),
    "a huge count": uvarint(2**32 - 1),
    "a huge field": uvarint(1) + uvarint(5) + uvarint(2**32 - 1),
    "a tag that never ends": uvarint(1) + b"\xff" * 20,
    "a count that never ends": b"\xff" * 20,
}


@pytest.mark.parametrize("broken", BROKEN_TAGS.values(), ids=list(BROKEN_TAGS))
def test_broken_tags_close_the_connection(target: Target, broken: bytes) -> None:
    if target.server is None and broken == BROKEN_TAGS["a huge count"]:
        pytest.skip("Apache Kafka takes it for none")
    for content in (api_versions_v3(broken, b""), api_versions_v3(tags(), broken)):
        with target.connect() as connection:
            connection.send(content)
            assert connection.receive() is None


def test_a_flood_of_tags_is_cheap(target: Target) -> None:
    """Two MiB of empty tagged fields in header and body (CVE-2026-111115); memory: see fixture."""
    count = MIB // 2
    flood = uvarint(count) + b"".join(uvarint(tag) + b"\0" for tag in range(count))
    for content in (api_versions_v3(flood, tags()), api_versions_v3(tags(), flood)):
        with target.connect() as connection:
            connection.send(content)
            answered_or_closed(connection)
