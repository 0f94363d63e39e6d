from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_broker.errors import CorruptRecords
from trio_broker.group import consumer_protocol
from trio_broker.group.consumer_protocol import (
    AssignedPartition,
    Assignment,
    Subscription,
    decode_assignment,
    decode_subscription,
    encode_assignment,
    encode_subscription,
    subscribed_topics,
)
from trio_broker.group.encoding import SchemaReader
from trio_broker.names import TopicName

A, B = TopicName("a"), TopicName("bb")
FULL = Subscription(
    topics=(A, B),
    user_data=b"\x07",
    owned=(AssignedPartition(A, 0), AssignedPartition(A, 2), AssignedPartition(B, 1)),
    generation=5,
    rack="r",
)

#: Laid out by hand after Kafka's ConsumerProtocolSubscription.json.
TOPICS = "00000002 0001 61 0002 6262 00000001 07"
OWNED = "00000002 0001 61 00000002 00000000 00000002 0002 6262 00000001 00000001"
SUBSCRIPTIONS = [
    (f"0000 {TOPICS}", Subscription(topics=(A, B), user_data=b"\x07")),
    (f"0001 {TOPICS} {OWNED}", Subscription(topics=(A, B), user_data=b"\x07", owned=FULL.owned)),
    (
        f"0002 {TOPICS} {OWNED} 00000005",
        Subscription(topics=(A, B), user_data=b"\x07", owned=FULL.owned, generation=5),
    ),
    (f"0003 {TOPICS} {OWNED} 00000005 0001 72", FULL),
]


@pytest.mark.parametrize(
    "version, text, subscription", [(i, *s) for i, s in enumerate(SUBSCRIPTIONS)]
)
def test_subscriptions_are_kafkas(version: int, text: str, subscription: Subscription) -> None:
    assert encode_subscription(FULL, version) == bytes.fromhex(text)
    assert decode_subscription(bytes.fromhex(text)) == subscription
    assert subscribed_topics([bytes.fromhex(text)]) == {A, B}


def test_a_newer_version_is_read_as_the_newest_known() -> None:
    text = SUBSCRIPTIONS[3][0].replace("0003", "0009", 1) + " beef"
    assert decode_subscription(bytes.fromhex(text)) == FULL
    assert subscribed_topics([bytes.fromhex("0007 00000001 0001 61 ff")]) == {A}


def test_empty_subscriptions() -> None:
    assert encode_subscription(Subscription(topics=()), 0) == bytes.fromhex(
        "0000 00000000 ffffffff"
    )
    empty = Subscription(topics=())
    assert decode_subscription(encode_subscription(empty)) == empty


def test_assignments_are_kafkas() -> None:
    assignment = Assignment(partitions=FULL.owned, user_data=b"\x07")
    data = bytes.fromhex(f"0001 {OWNED} 00000001 07")
    assert encode_assignment(assignment, 1) == data
    assert decode_assignment(data) == assignment
    assert decode_assignment(b"") == Assignment()
    assert encode_assignment(Assignment(), 0) == bytes.fromhex("0000 00000000 ffffffff")


def test_an_assignment_names_each_topic_once() -> None:
    partitions = (AssignedPartition(A, 1), AssignedPartition(B, 0), AssignedPartition(A, 0))
    decoded = decode_assignment(encode_assignment(Assignment(partitions=partitions)))
    assert decoded.partitions == (partitions[0], partitions[2], partitions[1])


topics = st.text(min_size=1, max_size=5).map(TopicName)
partitions = st.lists(
    st.builds(AssignedPartition, topics, st.integers(0, 2**31 - 1)), max_size=6, unique=True
)


@given(
    st.builds(
        Subscription,
        topics=st.lists(topics, unique=True).map(lambda names: tuple(sorted(names))),
        user_data=st.none() | st.binary(max_size=5),
        owned=partitions.map(lambda places: tuple(sorted(places))),
        generation=st.integers(-1, 2**31 - 1),
        rack=st.none() | st.text(min_size=1, max_size=5),
    )
)
def test_subscriptions_come_back(subscription: Subscription) -> None:
    assert decode_subscription(encode_subscription(subscription)) == subscription


@given(partitions, st.none() | st.binary(max_size=5))
def test_assignments_come_back(places: list[AssignedPartition], user_data: bytes | None) -> None:
    assignment = Assignment(partitions=tuple(sorted(places)), user_data=user_data)
    assert decode_assignment(encode_assignment(assignment)) == assignment


def _subscribed_topics(data: bytes) -> frozenset[TopicName]:
    return subscribed_topics([data])


@given(data=st.binary(max_size=60), keep=st.integers(0, 80))
def test_damage_raises_one_kind_of_error(data: bytes, keep: int) -> None:
    junk = bytes.fromhex(SUBSCRIPTIONS[3][0])[:keep] + data
    for decode in (decode_subscription, _subscribed_topics, decode_assignment):
        try:
            decode(junk)
        except CorruptRecords:
            pass


@pytest.mark.parametrize(
    "text", ["", "00", "ffff 00000000", "0000 7fffffff", "0000 ffffffff", "0000 00000001 ffff"]
)
def test_what_is_no_subscription_is_refused(text: str) -> None:
    with pytest.raises(CorruptRecords):
        subscribed_topics([bytes.fromhex(text)])


def test_there_are_four_versions() -> None:
    for version in (-1, 4):
        with pytest.raises(ValueError, match="no version"):
            encode_subscription(FULL, version)
        with pytest.raises(ValueError, match="no version"):
            encode_assignment(Assignment(), version)


topic_names = st.lists(st.sampled_from(["", "a", "aa", "b", "ab"]).map(TopicName), max_size=3)


@given(
    of_members=st.lists(
        st.tuples(topic_names, st.integers(0, 3), st.none() | st.binary(max_size=3)), max_size=25
    )
)
def test_the_topics_of_many_are_those_of_each(
    of_members: list[tuple[list[TopicName], int, bytes | None]],
) -> None:
    subscriptions = [
        encode_subscription(Subscription(topics=tuple(topics), user_data=user_data), version)
        for topics, version, user_data in of_members
    ]
    assert subscribed_topics(subscriptions) == {t for topics, _, _ in of_members for t in topics}


def test_members_who_read_the_same_are_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """500 members with 1,000 topics each held up the event loop for half a second."""
    decoded: list[SchemaReader] = []
    take_topics = consumer_protocol._take_topics

    def count(reader: SchemaReader) -> tuple[TopicName, ...]:
        decoded.append(reader)
        return take_topics(reader)

    monkeypatch.setattr(consumer_protocol, "_take_topics", count)
    subscriptions = [
        encode_subscription(Subscription(topics=(A, B)[number % 2 :], generation=number))
        for number in range(100)
    ]
    assert subscribed_topics(subscriptions) == {A, B}
    assert len(decoded) == 2
