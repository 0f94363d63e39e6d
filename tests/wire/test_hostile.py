"""Whatever bytes arrive: a message or ProtocolError, in bounded time and memory."""

from __future__ import annotations

import random
import tracemalloc
from typing import TYPE_CHECKING

import pytest

from tests.wire.kio_pairs import kio_type, message_versions, random_pair
from trio_broker.errors import ProtocolError
from trio_broker.wire.api import APIS
from trio_broker.wire.fetch import parse_fetch
from trio_broker.wire.headers import decode_request_header
from trio_broker.wire.message import Message, Request
from trio_broker.wire.messages.delete_groups import DeleteGroupsRequest
from trio_broker.wire.messages.metadata import MetadataRequest, MetadataRequestTopic
from trio_broker.wire.messages.offset_fetch import OffsetFetchRequest, OffsetFetchRequestTopic
from trio_broker.wire.messages.produce import ProduceRequest
from trio_broker.wire.primitives import (
    ELEMENTS_BASE,
    element_budget,
    encode_unsigned_varint,
    read_unsigned_varint,
    skip_tagged_fields,
)
from trio_broker.wire.produce import parse_produce

if TYPE_CHECKING:
    from collections.abc import Callable

MESSAGE_TYPES = sorted({cls for cls, _ in message_versions()}, key=lambda cls: cls.__name__)
HUGE = (b"\xff\xff\xff\xff\x07", b"\x7f\xff\xff\xff", b"\xff\xff\xff\xfe", b"\x80\x80\x80\x80\x80")


def survives(decode: Callable[[bytes], object], damaged: bytes) -> bool:
    """Decode, letting nothing pass but ProtocolError; say whether the bytes were legal."""
    try:
        decode(damaged)
    except ProtocolError:
        return False
    return True


@pytest.mark.parametrize("message_type", MESSAGE_TYPES, ids=lambda cls: cls.__name__)
def test_truncated_and_mutated_messages(message_type: type[Message], seed: int) -> None:
    rng = random.Random(seed)
    for version in range(message_type.versions[0], message_type.versions[1] + 1):
        message, _ = random_pair(rng, message_type, kio_type(message_type, version), version)
        assert isinstance(message, Message)
        encoded = message.encode(version)[:2000]

        def decode(damaged: bytes, version: int = version) -> object:
            return message_type.decode(damaged, version)

        positions = range(len(encoded))
        if len(encoded) > 100:
            positions = rng.sample(positions, 100)
        for position in positions:
            if len(encoded) < 2000:
                assert not survives(decode, encoded[:position])
            for value in (0, 1, 0x80, 0xFF):
                survives(decode, encoded[:position] + bytes([value]) + encoded[position + 1 :])
            for bomb in HUGE:
                survives(decode, encoded[:position] + bomb + encoded[position + 4 :])
        if len(encoded) < 2000:
            assert survives(decode, encoded + b"\x00")  # librdkafka sends bytes behind some


@pytest.mark.parametrize(
    "encoded",
    [
        "ffffffff0f 00",  # 2^32 - 1 topics
        "8080808008 00",  # 2^31
        "ff01 00 00",  # 254 topics in no bytes
    ],
)
def test_counts_that_cannot_be_true_are_refused_before_anything_is_allocated(encoded: str) -> None:
    with pytest.raises(ProtocolError, match="more elements"):
        MetadataRequest.decode(bytes.fromhex(encoded), 9)


def test_elements_of_a_frame_are_limited_in_all() -> None:
    """Nested arrays share one budget, so that many small ones are as good as a big one."""
    small = OffsetFetchRequestTopic(name="a", partition_indexes=[0] * 400)
    legal = OffsetFetchRequest(group_id="g", topics=[small] * 30)
    assert OffsetFetchRequest.decode(legal.encode(7), 7) == legal
    bomb = OffsetFetchRequest(group_id="g", topics=[small] * 40).encode(7)
    assert len(bomb) // 4 > element_budget(len(bomb))
    with pytest.raises(ProtocolError, match="more elements"):
        OffsetFetchRequest.decode(bomb, 7)


def test_names_beyond_the_budget_are_refused() -> None:
    with pytest.raises(ProtocolError, match="more elements"):
        DeleteGroupsRequest.decode(DeleteGroupsRequest(groups_names=[""] * 20_000).encode(2), 2)


def test_records_pay_for_no_elements() -> None:
    mebibyte = 1024 * 1024
    assert element_budget(100 * mebibyte) == element_budget(4 * mebibyte) == 272_144


def test_tag_bomb_costs_no_memory_and_is_refused() -> None:
    tags = 500_000
    section = encode_unsigned_varint(tags) + b"\x01\x00" * tags
    body = b"\x01\x00\x00" + section
    tracemalloc.start()
    with pytest.raises(ProtocolError, match="more elements"):
        MetadataRequest.decode(body, 11)
    legal = encode_unsigned_varint(9_000) + b"\x01\x00" * 9_000
    decoded = MetadataRequest.decode(b"\x01\x00\x00" + legal, 11)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert decoded == MetadataRequest(topics=(), allow_auto_topic_creation=False)
    assert peak < 200_000


def test_legal_frame_of_many_elements_stays_within_a_small_multiple_of_its_size() -> None:
    request = MetadataRequest(topics=[MetadataRequestTopic(name="orders-1234")] * 30_000)
    encoded = request.encode(12)
    tracemalloc.start()
    decoded = MetadataRequest.decode(encoded, 12)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert decoded.topics is not None
    assert len(decoded.topics) == 30_000
    assert peak < 6 * len(encoded)


@pytest.mark.parametrize("version", [3, 9, 13])
def test_produce_bombs(version: int) -> None:
    head = b"\x00" if version >= 9 else b"\xff\xff"
    head += b"\xff\xff\x00\x00\x00\x01"
    for count in (b"\xff\xff\xff\xff\x0f", b"\x7f\xff\xff\xff", b"\xff\xff\xff\xff"):
        for padding in (b"", b"\x01" * 100, b"\x00" * 100_000):
            with pytest.raises(ProtocolError):
                parse_produce(memoryview(head + count + padding), 0, version)


def test_produce_element_budget_spans_topics() -> None:
    partitions = encode_unsigned_varint(6_001) + b"\x00\x00\x00\x01\x00\x00" * 6_000 + b"\x00"
    topics = b"\x02a" + partitions
    head = b"\x00\xff\xff\x00\x00\x00\x01"
    assert parse_produce(memoryview(head + b"\x02" + topics + b"\x00"), 0, 9)
    with pytest.raises(ProtocolError, match="more elements"):
        parse_produce(memoryview(head + b"\x04" + 3 * topics + b"\x00"), 0, 9)


@pytest.mark.parametrize("parse", [parse_produce, parse_fetch])
def test_random_bytes_to_the_hot_paths(parse: Callable[..., object], seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(3000):
        noise = bytes(rng.choice((0, 1, 2, 0x61, 0x80, 0xFF)) for _ in range(rng.randrange(80)))
        survives(
            lambda damaged: parse(memoryview(damaged), 0, rng.choice((5, 7, 11, 12, 13))), noise
        )


def test_strings_must_be_utf_8_and_not_null() -> None:
    with pytest.raises(ProtocolError, match="UTF-8"):
        MetadataRequest.decode(bytes.fromhex("02 02ff 00 000000 00"), 9)
    with pytest.raises(ProtocolError, match="not legal"):
        MetadataRequest.decode(bytes.fromhex("02 00 00 000000 00"), 9)
    with pytest.raises(ProtocolError, match="not legal"):
        MetadataRequest.decode(bytes.fromhex("fffffffe"), 1)
    with pytest.raises(ProtocolError, match="UTF-8"):
        parse_produce(memoryview(bytes.fromhex("00 ffff 00000001 02 02ff 01 00 00")), 0, 9)


def test_compact_strings_are_as_short_as_others() -> None:
    encoded = encode_unsigned_varint(40_001) + b"x" * 40_000
    with pytest.raises(ProtocolError, match="not legal"):
        MetadataRequest.decode(b"\x02" + encoded + b"\x00\x00\x00", 9)
    with pytest.raises(ProtocolError, match="not legal"):
        parse_produce(memoryview(encoded), 0, 9)


def test_varints_end_within_five_bytes() -> None:
    assert read_unsigned_varint(b"\xff\xff\xff\xff\x0f", 0) == (2**32 - 1, 5)
    for endless in (b"\x80" * 5 + b"\x00", b"\xff\xff\xff\xff\x10", b"\xff" * 100):
        with pytest.raises(ProtocolError, match="32 bits"):
            read_unsigned_varint(endless, 0)
    for value in (0, 1, 127, 128, 511, 512, 16_383, 16_384, 2**31, 2**32 - 1):
        encoded = encode_unsigned_varint(value)
        assert read_unsigned_varint(encoded, 0) == (value, len(encoded))
    for value in (-1, 2**32):
        with pytest.raises(ValueError, match="unsigned varint"):
            encode_unsigned_varint(value)


def test_skipping_tags_takes_them_from_the_budget() -> None:
    section = b"\x02\x05\x03abc\x86\x01\x00"
    assert skip_tagged_fields(section, 0, 10) == (len(section), 8)
    with pytest.raises(ProtocolError):
        skip_tagged_fields(section, 0, 1)


def test_every_request_of_only_zeros_or_ones() -> None:
    for api in APIS.values():
        for version in range(api.min_version, api.max_version + 1):
            for filling in (b"\x00", b"\x01", b"\x7f", b"\xff"):
                survives(lambda b: api.request_type.decode(b, version), filling * 5_000)  # noqa: B023


def test_every_frame_of_noise_has_a_header_or_is_refused(seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(2000):
        survives(decode_request_header, rng.randbytes(rng.randrange(40)))


def test_the_budget_is_generous_to_small_requests() -> None:
    assert element_budget(0) == ELEMENTS_BASE == 10_000
    assert issubclass(ProduceRequest, Request)
