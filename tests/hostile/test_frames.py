"""Lengths, keys and versions that lie; frames that stop in the middle."""

from __future__ import annotations

import contextlib
import resource
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hostile.conftest import Target
from tests.hostile.frames import ends_of_each_api, legal_request, newest_and_oldest
from tests.support.kafka_bytes import (
    API_VERSIONS,
    FETCH,
    METADATA,
    PRODUCE,
    Batch,
    RawConnection,
    api_versions_v0,
    compact_string,
    frame,
    header,
    int16,
    int32,
    produce,
    produce_v7,
    tags,
)
from tests.support.server import running_server
from trio_broker.errors import ErrorCode

MIB = 1 << 20


def assert_closed(connection: RawConnection) -> None:
    """The server has closed, or does so now, without an answer."""
    assert connection.receive() is None


@pytest.mark.parametrize("length", [-1, -2, -(2**31), 0, 1, 7, 2**31 - 1, 101 * MIB])
def test_illegal_frame_lengths_close_the_connection(target: Target, length: int) -> None:
    with target.connect() as connection:
        connection.send(int32(length) + header(PRODUCE, 7)[: max(0, length)])
        connection.end()
        assert_closed(connection)


@pytest.mark.parametrize("api_key", [FETCH, METADATA, API_VERSIONS])
def test_only_produce_may_be_large(target: Target, api_key: int) -> None:
    """A length is judged as soon as the API key is known, not when the bytes are there."""
    if target.server is None:
        pytest.skip("Apache Kafka has one limit for all APIs")
    with target.connect() as connection:
        connection.send(int32(4 * MIB + 1) + header(api_key, 4))
        assert_closed(connection)


@contextlib.contextmanager
def descriptors(count: int) -> Iterator[None]:
    """Allow this process so many open sockets for a while."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(count, hard)), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_five_hundred_claims_of_a_hundred_megabytes_cost_no_memory(
    target: Target, victim: str
) -> None:
    """The fixture sees the memory: a claim is not a reason to allocate (CVE-2022-34917).

    A large frame goes first: from then on the C library may hand out memory that it has used
    before, and has to clear, where it used to hand out untouched pages.
    """
    if target.server is None:
        pytest.skip("Apache Kafka allocates what is claimed, and dies with a heap of 1 GiB")
    now_ms = time.time_ns() // 1_000_000
    batch = Batch(values=[b"x" * 8 * MIB], base_timestamp=now_ms, max_timestamp=now_ms).encode()
    with descriptors(1200), contextlib.ExitStack() as stack:
        honest = stack.enter_context(target.connect())
        for _ in range(3):
            answer = produce(honest, produce_v7(victim, batch))
            assert answer.error_code == ErrorCode.MESSAGE_TOO_LARGE
        connections = [stack.enter_context(target.connect()) for _ in range(500)]
        for connection in connections:
            connection.send(int32(100 * MIB) + header(PRODUCE, 7, client_id="x" * 40))
        honest.require(api_versions_v0())


@pytest.mark.parametrize("api_key", [-1, 4, 93, 999, 32767, -32768])
def test_unknown_api_keys_close_the_connection(target: Target, api_key: int) -> None:
    with target.connect() as connection:
        connection.send(frame(header(api_key, 0) + int32(0)))
        assert_closed(connection)


def test_unsupported_versions_close_the_connection(
    target: Target, offered: dict[int, tuple[int, int]]
) -> None:
    """Even where the bytes would make sense as the version next to it.

    Produce 0 to 2 is offered all the same, and not served, as Kafka does: librdkafka before 2.11
    does not compress otherwise (KAFKA-18659).
    """
    for oldest, newest in ends_of_each_api(offered):
        if oldest.api_key == API_VERSIONS:
            continue
        older = [version for version in (-1, -32768, *range(3)) if version < oldest.version]
        newer = [newest.version + 1, 32767]
        for request, versions in ((oldest, older), (newest, newer)):
            for version in versions:
                content = request.content[:2] + int16(version) + request.content[4:]
                with target.connect() as connection:
                    connection.send(frame(content))
                    assert connection.receive() is None, f"{request} as version {version}"


@pytest.mark.parametrize("version", [5, 99, 32767, -1])
def test_an_unsupported_version_of_api_versions_is_told_which_are(
    target: Target, version: int
) -> None:
    """KIP-511: error 35 in the layout of version 0, with the versions of ApiVersions itself."""
    body = compact_string("client") + compact_string("1.0") + tags()
    with target.connect() as connection:
        response = connection.require(
            frame(header(API_VERSIONS, version, header_tags=tags()) + body)
        )
        assert response.int16() == 35
        keys = {}
        for _ in range(response.int32()):
            api_key = response.int16()
            keys[api_key] = (response.int16(), response.int16())
        assert response.at_end()
        assert keys[API_VERSIONS] == (0, 4)
        connection.require(api_versions_v0())


@pytest.mark.parametrize(
    "name, version", [("", "1"), ("a", ""), ("-a", "1"), ("a b", "1"), ("a", "1;DROP"), ("é", "1")]
)
def test_api_versions_refuses_strange_software_names(
    target: Target, name: str, version: str
) -> None:
    body = compact_string(name) + compact_string(version) + tags()
    with target.connect() as connection:
        response = connection.require(frame(header(API_VERSIONS, 3, header_tags=tags()) + body))
        assert response.int16() == 42


def test_frames_cut_short_close_the_connection(
    target: Target, offered: dict[int, tuple[int, int]]
) -> None:
    """Every API, its oldest and newest version, ended after every byte with a length that fits."""
    for request in newest_and_oldest(offered):
        content = request.content
        for cut in range(len(content)):
            with target.connect() as connection:
                connection.send(frame(content[:cut]))
                assert connection.receive() is None, f"{request} cut to {cut} of {len(content)}"


def test_clients_that_leave_in_the_middle_of_a_frame(
    target: Target, offered: dict[int, tuple[int, int]]
) -> None:
    for request in newest_and_oldest(offered):
        whole = frame(request.content)
        for sent in {1, 3, 4, 5, len(whole) // 2, len(whole) - 1}:
            with target.connect() as connection:
                connection.send(whole[:sent])
                connection.end()
                assert connection.receive() is None, f"{request}: {sent} of {len(whole)} bytes"


def test_bytes_after_a_request_are_ignored_as_kafka_does(
    target: Target, offered: dict[int, tuple[int, int]]
) -> None:
    for request in newest_and_oldest(offered):
        with target.connect() as connection:
            response = connection.ask(frame(request.content + b"\0more"))
            assert response is not None, str(request)
            assert response.int32() == 7


def test_librdkafkas_way_of_asking_for_all_topics(target: Target) -> None:
    """librdkafka 2.16 writes an int32 where Metadata v13 has a compact count: 3 bytes too many."""
    content = header(METADATA, 13, client_id="rdkafka", header_tags=tags()) + bytes(7)
    with target.connect() as connection:
        assert connection.require(frame(content)).at_end() is False


def test_other_protocols_close_the_connection(target: Target) -> None:
    for greeting in (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc"):
        with target.connect() as connection:
            connection.send(greeting)
            assert_closed(connection)


def test_a_frame_byte_by_byte_is_a_frame(target: Target) -> None:
    with target.connect() as connection:
        whole = frame(legal_request(API_VERSIONS, 3).content)
        for position in range(len(whole)):
            connection.send(whole[position : position + 1])
        response = connection.receive()
        assert response is not None
        assert response.int32() == 7


def test_requests_in_one_packet_are_answered_in_order(target: Target) -> None:
    with target.connect() as connection:
        connection.send(b"".join(api_versions_v0(number) for number in range(100)))
        for number in range(100):
            response = connection.receive()
            assert response is not None
            assert response.int32() == number


def test_a_started_frame_that_never_ends_is_given_up(tmp_path: Path) -> None:
    """Slow senders are closed, however regularly they send a little; idle ones are not."""
    settings = {"network.frame_seconds_max": 1}
    with running_server(tmp_path / "data", settings=settings) as server:
        address = (server.host, server.port)
        with RawConnection.open(address) as slow, RawConnection.open(address) as idle:
            idle.require(api_versions_v0())
            slow.send(api_versions_v0()[:6])
            assert_closed(slow)
            idle.require(api_versions_v0())
