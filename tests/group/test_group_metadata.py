from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_broker.errors import CorruptRecords
from trio_broker.group.group_metadata import (
    GroupMetadata,
    StoredMember,
    decode_group_metadata,
    encode_group_metadata,
)
from trio_broker.group.schemas import GroupMetadataKey, decode_key, encode_group_metadata_key

MEMBER = StoredMember("m-1", "i", "c", "/h", 60_000, 10_000, b"\x01\x02", b"\x03")
VALUE = GroupMetadata("consumer", 7, "range", "m-1", 100, (MEMBER,))

#: Laid out by hand after Kafka's GroupMetadataValue.json, one for each version.
PLAIN_HEAD = "0008 636f6e73756d6572 00000007 0005 72616e6765 0003 6d2d31"
CLIENT = "0001 63 0002 2f68"
VALUES = [
    (
        f"0000 {PLAIN_HEAD} 00000001 0003 6d2d31 {CLIENT} 00002710 00000002 0102 00000001 03",
        VALUE._replace(
            changed_at_ms=-1,
            members=(MEMBER._replace(group_instance_id=None, rebalance_timeout_ms=-1),),
        ),
    ),
    (
        (
            f"0001 {PLAIN_HEAD} 00000001 0003 6d2d31 {CLIENT} 0000ea60 00002710"
            " 00000002 0102 00000001 03"
        ),
        VALUE._replace(changed_at_ms=-1, members=(MEMBER._replace(group_instance_id=None),)),
    ),
    (
        (
            f"0002 {PLAIN_HEAD} 0000000000000064 00000001 0003 6d2d31 {CLIENT} 0000ea60 00002710"
            " 00000002 0102 00000001 03"
        ),
        VALUE._replace(members=(MEMBER._replace(group_instance_id=None),)),
    ),
    (
        (
            f"0003 {PLAIN_HEAD} 0000000000000064 00000001 0003 6d2d31 0001 69 {CLIENT}"
            " 0000ea60 00002710 00000002 0102 00000001 03"
        ),
        VALUE,
    ),
    (
        (
            "0004 09 636f6e73756d6572 00000007 06 72616e6765 04 6d2d31 0000000000000064 02"
            " 04 6d2d31 02 69 02 63 03 2f68 0000ea60 00002710 03 0102 02 03 01 05 01 ff 00"
        ),
        VALUE,
    ),
    (
        "0003 0000 00000002 ffff ffff ffffffffffffffff 00000000",
        GroupMetadata("", 2, None, None, -1, ()),
    ),
    (
        "0004 01 00000002 00 00 0000000000000064 01 00",
        GroupMetadata("", 2, None, None, 100, ()),
    ),
]


@pytest.mark.parametrize("text, value", VALUES)
def test_every_version_is_read(text: str, value: GroupMetadata) -> None:
    assert decode_group_metadata(bytes.fromhex(text)) == value


@pytest.mark.parametrize("index", [3, 5])
def test_version_3_is_written(index: int) -> None:
    text, value = VALUES[index]
    assert encode_group_metadata(value) == bytes.fromhex(text)


def test_the_key_is_kafkas() -> None:
    assert encode_group_metadata_key("gq") == bytes.fromhex("0002 0002 6771")
    assert decode_key(bytes.fromhex("0002 0002 6771")) == GroupMetadataKey("gq")


texts = st.text(max_size=10)
numbers = st.integers(-(2**31), 2**31 - 1)
members = st.lists(
    st.builds(
        StoredMember,
        texts,
        st.none() | texts,
        texts,
        texts,
        numbers,
        numbers,
        st.binary(max_size=20),
        st.binary(max_size=20),
    ),
    max_size=4,
    unique_by=lambda member: member.member_id,
).map(tuple)


@given(st.builds(GroupMetadata, texts, numbers, texts, st.none() | texts, numbers, members))
def test_values_come_back(value: GroupMetadata) -> None:
    assert decode_group_metadata(encode_group_metadata(value)) == value


@given(data=st.binary(max_size=60), keep=st.integers(0, 80), of=st.sampled_from(VALUES))
def test_damage_raises_one_kind_of_error(
    data: bytes, keep: int, of: tuple[str, GroupMetadata]
) -> None:
    try:
        decode_group_metadata(bytes.fromhex(of[0])[:keep] + data)
    except CorruptRecords:
        pass


@pytest.mark.parametrize(
    "text",
    [
        "",
        "ffff",
        "0005 0000",
        VALUES[3][0][:-2],
        VALUES[3][0] + "00",
        "0003 0000 00000002 ffff ffff ffffffffffffffff 7fffffff",  # 2 G members
        "0003 0000 00000002 ffff ffff ffffffffffffffff ffffffff",  # null members
        "0004 01 00000002 00 00 0000000000000064 ffffffff0f 00",
        "0004 01 00000002 00 00 0000000000000064 01 ffffffff0f",  # 4 G tags
        VALUES[3][0].replace("0005 72616e6765", "ffff"),  # members, no protocol
        VALUES[3][0].replace("00000001 0003", "00000002 0003")
        + VALUES[3][0].partition("00000001 ")[2],  # a member twice
    ],
)
def test_damaged_values_are_refused(text: str) -> None:
    with pytest.raises(CorruptRecords):
        decode_group_metadata(bytes.fromhex(text))


def test_what_does_not_fit_is_refused() -> None:
    for value in (
        VALUE._replace(protocol_type="p" * 32768),
        VALUE._replace(leader_id="p" * 32768),
    ):
        with pytest.raises(ValueError, match="32768"):
            encode_group_metadata(value)
    with pytest.raises(ValueError, match="32768"):
        encode_group_metadata_key("g" * 32768)
