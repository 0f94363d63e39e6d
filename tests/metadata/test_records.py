"""Values of the store: what was written is read back, what was not is refused by name."""

from __future__ import annotations

import json
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_broker.errors import CorruptMetadata, FormatTooNew
from trio_broker.metadata.records import (
    NO_LEADER,
    BrokerRecord,
    ClusterRecord,
    DeletionRecord,
    DirectoryRecord,
    EndpointRecord,
    IsrMember,
    PartitionRecord,
    ProducerIdsRecord,
    ReplicaAssignment,
    TopicRecord,
    decode_record,
    encode_record,
)

numbers = st.integers(0, 2**31 - 1)
texts = st.text(st.characters(codec="utf-8"), max_size=20)
assignments = st.lists(
    st.builds(ReplicaAssignment, numbers, st.uuids(), numbers),
    min_size=1,
    max_size=4,
    unique_by=lambda replica: replica.broker_id,
).map(tuple)


@st.composite
def partition_records(draw):
    replicas = draw(assignments)
    ids = [replica.broker_id for replica in replicas]
    return PartitionRecord(
        leader=draw(st.sampled_from([NO_LEADER, *ids])),
        leader_epoch=draw(numbers),
        partition_epoch=draw(numbers),
        replicas=replicas,
        isr=tuple(IsrMember(id_, draw(numbers)) for id_ in ids if draw(st.booleans())),
        min_isr=draw(st.integers(1, 5)),
    )


records = st.one_of(
    st.builds(ClusterRecord, cluster_id=texts),
    st.builds(
        BrokerRecord,
        directories=st.lists(
            st.builds(DirectoryRecord, directory_id=st.uuids(), shard_count=st.integers(1, 9)),
            max_size=2,
        ).map(tuple),
        endpoints=st.lists(
            st.builds(EndpointRecord, listener=texts, host=texts, port=numbers), max_size=2
        ).map(tuple),
        rack=st.none() | texts,
    ),
    st.builds(
        TopicRecord,
        topic_id=st.uuids(),
        partitions=st.integers(1, 99),
        configs=st.dictionaries(texts, texts, max_size=3),
    ),
    st.builds(DeletionRecord, name=texts, partitions=st.lists(assignments, max_size=3).map(tuple)),
    st.builds(ProducerIdsRecord, next_producer_id=st.integers(0, 2**63)),
    partition_records(),
)

PARTITION = PartitionRecord(
    leader=3,
    leader_epoch=1,
    partition_epoch=2,
    replicas=(ReplicaAssignment(3, UUID(int=7), 1),),
    isr=(IsrMember(3, 12),),
    min_isr=1,
)


@given(records)
def test_what_was_written_is_read_back(record):
    value = encode_record(record)
    assert decode_record(type(record), "key", value) == record
    assert b"\n" not in value


def test_the_text_of_a_partition_is_pinned():
    assert encode_record(PARTITION) == (
        b'{"v":1,"leader":3,"leader_epoch":1,"partition_epoch":2,"replicas":[{"broker_id":3,'
        b'"directory_id":"00000000-0000-0000-0000-000000000007","shard_index":1}],'
        b'"isr":[{"broker_id":3,"broker_epoch":12}],"min_isr":1}'
    )


def test_the_text_of_a_deletion_is_pinned():
    replica = ReplicaAssignment(3, UUID(int=7), 1)
    record = DeletionRecord(name="a", partitions=((replica,), (replica,)))
    text = '[{"broker_id":3,"directory_id":"00000000-0000-0000-0000-000000000007","shard_index":1}]'
    assert encode_record(record).decode() == (f'{{"v":1,"name":"a","partitions":[{text},{text}]}}')


@pytest.mark.parametrize(
    "changes", [{"shard_index": True}, {"broker_id": 1.0}, {"more": 1}, {"directory_id": "x"}]
)
def test_what_is_equal_to_a_place_is_not_taken_for_one(changes):
    """Places are remembered, and True and 1 are the same to a dictionary."""
    place = {"broker_id": 1, "directory_id": str(UUID(int=7)), "shard_index": 1}

    def decode(replica):
        text = json.dumps({"v": 1, "name": "a", "partitions": [[place], [replica]]}).encode()
        return decode_record(DeletionRecord, "deletions/x", text)

    assert decode(place).partitions[0] == (ReplicaAssignment(1, UUID(int=7), 1),)
    with pytest.raises(CorruptMetadata):
        decode(place | changes)


def changed(**changes: object) -> bytes:
    return json.dumps(json.loads(encode_record(PARTITION)) | changes).encode()


def test_a_newer_version_is_refused_by_number():
    with pytest.raises(FormatTooNew, match="parts/x/0 has format 2, this version reads up to 1"):
        decode_record(PartitionRecord, "parts/x/0", changed(v=2, anything=[]))


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"\xff",
        b"[]",
        b"3",
        b"null",
        b"{}",
        changed(v=0),
        changed(v="1"),
        changed(v=True),
        changed(surprise=1),
        changed(leader="3"),
        changed(leader=4),
        changed(leader_epoch=-1),
        changed(min_isr=0),
        changed(min_isr=1.5),
        changed(replicas=[]),
        changed(replicas=7),
        changed(replicas=[[3, "x", 1]]),
        changed(replicas=[{"broker_id": 3, "directory_id": "x", "shard_index": 1}]),
        changed(replicas=[{"broker_id": 3, "directory_id": 5, "shard_index": 1}]),
        changed(isr=[{"broker_id": 9, "broker_epoch": 1}]),
        changed(isr=None),
    ],
)
def test_nonsense_is_refused_and_names_the_key(value):
    with pytest.raises(CorruptMetadata, match="parts/x/0"):
        decode_record(PartitionRecord, "parts/x/0", value)


@given(st.binary(max_size=60) | st.text(max_size=60).map(str.encode))
def test_no_bytes_raise_anything_else(value):
    with pytest.raises((CorruptMetadata, FormatTooNew)):
        decode_record(PartitionRecord, "key", value)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 5) | st.floats(allow_nan=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=5,
)


@given(st.sampled_from(["leader", "replicas", "isr", "min_isr", "v"]), json_values)
def test_no_json_raises_anything_else(name, value):
    try:
        decode_record(PartitionRecord, "key", changed(**{name: value}))
    except (CorruptMetadata, FormatTooNew):
        pass
