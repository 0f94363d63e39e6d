from __future__ import annotations

from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_broker.errors import CorruptRecords
from trio_broker.group.partitioning import java_string_hash, offsets_partition
from trio_broker.group.schemas import (
    OffsetCommitKey,
    OffsetCommitValue,
    UnknownKey,
    decode_key,
    decode_offset_commit_value,
    encode_offset_commit_key,
    encode_offset_commit_value,
)
from trio_broker.names import ZERO_TOPIC_ID, TopicName

TOPIC_ID = UUID(bytes=bytes(range(16)))

int64 = st.integers(-(2**63), 2**63 - 1)
times = st.integers(0, 2**53)

KEY_BYTES = bytes.fromhex("0001 0002 6771 0003 746f70 00000007")

#: Bytes laid out by hand after Kafka's OffsetCommitValue.json, one for each version.
VALUES = [
    ("0000 000000000000002a 0001 6d 0000000000000064", OffsetCommitValue(42, -1, "m", 100)),
    (
        "0001 000000000000002a 0001 6d 0000000000000064 00000000000000c8",
        OffsetCommitValue(42, -1, "m", 100, 200),
    ),
    ("0002 000000000000002a 0000 0000000000000064", OffsetCommitValue(42, -1, "", 100)),
    (
        "0003 000000000000002a 00000005 0001 6d 0000000000000064",
        OffsetCommitValue(42, 5, "m", 100),
    ),
    (
        "0004 000000000000002a 00000005 02 6d 0000000000000064 00",
        OffsetCommitValue(42, 5, "m", 100),
    ),
    (
        f"0004 000000000000002a 00000005 01 0000000000000064 02 00 10 {TOPIC_ID.hex} 07 01 ff",
        OffsetCommitValue(42, 5, "", 100, -1, TOPIC_ID),
    ),
]


def test_keys_are_kafkas() -> None:
    assert encode_offset_commit_key("gq", "top", 7) == KEY_BYTES
    for version in (b"\x00\x00", b"\x00\x01"):
        assert decode_key(version + KEY_BYTES[2:]) == OffsetCommitKey("gq", TopicName("top"), 7)


@pytest.mark.parametrize("text, value", VALUES)
def test_every_version_of_a_value_is_read(text: str, value: OffsetCommitValue) -> None:
    assert decode_offset_commit_value(bytes.fromhex(text)) == value


@pytest.mark.parametrize("index, version", [(1, 1), (3, 3)])
def test_values_are_written_in_the_oldest_version_that_fits(index: int, version: int) -> None:
    text, value = VALUES[index]
    assert encode_offset_commit_value(value) == bytes.fromhex(text)
    assert version == bytes.fromhex(text)[1]


def test_a_topic_id_is_written_as_tag_0() -> None:
    value = OffsetCommitValue(42, 5, "", 100, -1, TOPIC_ID)
    assert encode_offset_commit_value(value) == bytes.fromhex(
        "0004 000000000000002a 00000005 01 0000000000000064 01 00 10" + TOPIC_ID.hex
    )


@given(
    group_id=st.text(max_size=20), topic=st.text(max_size=20), partition=st.integers(0, 2**31 - 1)
)
def test_keys_come_back(group_id: str, topic: str, partition: int) -> None:
    key = encode_offset_commit_key(group_id, topic, partition)
    assert decode_key(key) == (group_id, topic, partition)


@given(
    value=st.builds(
        OffsetCommitValue,
        offset=int64,
        leader_epoch=st.integers(-1, 2**31 - 1),
        metadata=st.text(max_size=200),
        commit_timestamp_ms=times,
        expire_timestamp_ms=st.just(-1),
        topic_id=st.just(ZERO_TOPIC_ID) | st.uuids(),
    ),
    expire_timestamp_ms=times,
)
def test_values_come_back(value: OffsetCommitValue, expire_timestamp_ms: int) -> None:
    assert decode_offset_commit_value(encode_offset_commit_value(value)) == value
    old = value._replace(expire_timestamp_ms=expire_timestamp_ms)
    assert decode_offset_commit_value(encode_offset_commit_value(old)) == old._replace(
        leader_epoch=-1, topic_id=ZERO_TOPIC_ID
    )


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="32768"):
        encode_offset_commit_key("g" * 32768, "t", 0)
    for topic_id in (ZERO_TOPIC_ID, TOPIC_ID):
        with pytest.raises(ValueError, match="32768"):
            encode_offset_commit_value(OffsetCommitValue(0, 0, "m" * 32768, 0, -1, topic_id))


def test_other_kinds_of_keys_are_named_and_left_alone() -> None:
    assert decode_key(b"\x00\x03\x00\x01g") == UnknownKey(3)
    assert decode_key(b"\x00\x63") == UnknownKey(99)


@given(data=st.binary(max_size=60), keep=st.integers(0, 40), of=st.sampled_from(VALUES))
def test_damage_raises_one_kind_of_error(
    data: bytes, keep: int, of: tuple[str, OffsetCommitValue]
) -> None:
    for decode, junk in (
        (decode_key, KEY_BYTES[:keep] + data),
        (decode_offset_commit_value, bytes.fromhex(of[0])[:keep] + data),
    ):
        try:
            decode(junk)
        except CorruptRecords:
            pass


@pytest.mark.parametrize(
    "text",
    [
        "",
        "0005 000000000000002a",
        "ffff 000000000000002a",
        VALUES[3][0][:-2],
        VALUES[3][0] + "00",
        "0003 000000000000002a 00000005 ffff 0000000000000064",  # null metadata
        "0003 000000000000002a 00000005 0001 ff 0000000000000064",  # not UTF-8
        "0004 000000000000002a 00000005 00 0000000000000064 00",  # null metadata
        "0004 000000000000002a 00000005 01 0000000000000064 01 00 0f" + "00" * 15,  # short id
        "0004 000000000000002a 00000005 01 0000000000000064 ffffffff0f",  # 4 G tags
    ],
)
def test_damaged_values_are_refused(text: str) -> None:
    with pytest.raises(CorruptRecords):
        decode_offset_commit_value(bytes.fromhex(text))


def test_incarnations_compare_where_both_are_known() -> None:
    known = OffsetCommitValue(0, 0, "", 0, -1, TOPIC_ID)
    assert known.is_for(TOPIC_ID)
    assert known.is_for(ZERO_TOPIC_ID)
    assert not known.is_for(UUID(int=5))
    assert known._replace(topic_id=ZERO_TOPIC_ID).is_for(TOPIC_ID)


@pytest.mark.parametrize(
    "text, value",
    [
        ("", 0),
        ("hello", 99162322),
        ("polygenelubricants", -(2**31)),
        ("\u00e9\U0001f600", 233 * 31 * 31 + 0xD83D * 31 + 0xDE00),
    ],
)
def test_groups_are_placed_by_javas_hash(text: str, value: int) -> None:
    assert java_string_hash(text) == value
    assert offsets_partition(text, 50) == (0 if value == -(2**31) else abs(value) % 50)
