"""Consumers in groups, against our broker and against Apache Kafka."""

from __future__ import annotations

from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any

import pytest
import trio

from trio_broker import ErrorCode, RequestError
from trio_broker.client import ConsumerOptions, GroupOptions, TopicPartition
from trio_broker.wire.api import ApiKey

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Collection

    from trio_broker.client import Client, GroupConsumer

FROM_START = ConsumerOptions(auto_offset_reset="earliest")
PATIENCE_SECONDS = 20
ASSIGNORS = ["range", "cooperative-sticky"]


@pytest.fixture(autouse=True)
def groups_are_served(served: Callable[[ApiKey], None]) -> None:
    served(ApiKey.JOIN_GROUP)


def options(assignor: str = "range", **changes: Any) -> GroupOptions:
    values: dict[str, Any] = {
        "assignors": [assignor],
        "heartbeat_seconds": 0.05,
        "session_timeout_seconds": 6,
        "rebalance_timeout_seconds": 10,
    }
    return GroupOptions(**(values | changes))


async def produce(client: Client, topic: str, first: int, count: int) -> None:
    """Put numbers into all three partitions."""
    async with client.open_producer() as producer:
        for number in range(first, first + count):
            await producer.send_soon(topic, b"%d" % number, partition=number % 3)


class Member:
    """A consumer that reads in a task of its own, and what happened to it."""

    def __init__(self, consumer: GroupConsumer) -> None:
        self.consumer = consumer
        self.read: list[int] = []
        self.events: list[tuple[str, frozenset[TopicPartition]]] = []
        self.failure: RequestError | None = None

    async def consume(self) -> None:
        try:
            async for batch in self.consumer:
                self.read += [int(record.value or b"") for record in batch]
        except RequestError as error:
            self.failure = error


@asynccontextmanager
async def member(
    client: Client, group: str, topic: str, *, group_options: GroupOptions
) -> AsyncIterator[Member]:
    events: list[tuple[str, frozenset[TopicPartition]]] = []

    def noting(name: str) -> Any:
        async def note(places: frozenset[TopicPartition]) -> None:
            events.append((name, places))

        return note

    async with client.open_group_consumer(
        group,
        [topic],
        FROM_START,
        group_options=group_options,
        on_assigned=noting("assigned"),
        on_revoked=noting("revoked"),
        on_lost=noting("lost"),
    ) as consumer:
        found = Member(consumer)
        found.events = events
        async with trio.open_nursery() as nursery:
            nursery.start_soon(found.consume)
            yield found
            nursery.cancel_scope.cancel()


async def until(condition: Callable[[], bool]) -> None:
    with trio.fail_after(PATIENCE_SECONDS):
        while not condition():  # noqa: ASYNC110 - several tasks and the broker bring it about
            await trio.sleep(0.002)


def sizes(members: Collection[Member]) -> list[int]:
    return sorted(len(each.consumer.assignment) for each in members)


async def test_a_lone_member_reads_everything_and_leaves(
    client: Client, topic: str, new_name: Callable[[], str]
) -> None:
    group = new_name()
    await produce(client, topic, 0, 30)
    async with member(client, group, topic, group_options=options()) as alone:
        await until(lambda: len(alone.read) == 30)
        assert sorted(alone.read) == list(range(30))
        assert alone.consumer.generation >= 1
        described = await client.admin.describe_group(group)
        assert described.state == "Stable"
        assert described.assignor == "range"
        [listed] = described.members
        assert listed.member_id == alone.consumer.member_id
        assert set(listed.partitions) == {(topic, index) for index in range(3)}
    places = frozenset(TopicPartition(topic, index) for index in range(3))
    assert alone.events == [("assigned", places), ("revoked", places)]
    assert (await client.admin.describe_group(group)).state == "Empty"
    offsets = await client.admin.group_offsets(group)
    assert {place: committed.offset for place, committed in offsets.items()} == dict.fromkeys(
        places, 10
    )


@pytest.mark.parametrize("assignor", ASSIGNORS)
async def test_members_share_and_take_over(
    client: Client, topic: str, new_name: Callable[[], str], assignor: str
) -> None:
    group = new_name()
    chosen = options(assignor)
    await produce(client, topic, 0, 30)
    async with member(client, group, topic, group_options=chosen) as first:
        await until(lambda: len(first.read) == 30)
        async with member(client, group, topic, group_options=chosen) as second:
            await until(lambda: sizes([first, second]) == [1, 2])
            await until(lambda: not first.consumer.assignment & second.consumer.assignment)
            await produce(client, topic, 30, 30)
            await until(lambda: len(first.read) + len(second.read) == 60)
            assert second.read
        await until(lambda: sizes([first]) == [3])
        await produce(client, topic, 60, 30)
        await until(lambda: len(first.read) + len(second.read) == 90)
    assert sorted(first.read + second.read) == list(range(90))
    names = [name for name, _ in first.events]
    assert "lost" not in names
    if assignor == "cooperative-sticky":
        # Nothing that stays is ever taken away (KIP-429).
        [(_, given_up), *_] = [event for event in first.events if event[0] == "revoked"]
        assert len(given_up) in {1, 2}


async def test_commits_are_the_program_s_own(
    client: Client, topic: str, new_name: Callable[[], str]
) -> None:
    group = new_name()
    await produce(client, topic, 0, 9)
    manual = options(auto_commit_seconds=None)
    with trio.fail_after(PATIENCE_SECONDS):
        async with client.open_group_consumer(
            group, [topic], FROM_START, group_options=manual
        ) as consumer:
            for _ in range(2):
                record = await consumer.next_record()
            await consumer.commit()
            place = TopicPartition(topic, record.partition)
            assert (await consumer.committed([place]))[place].offset == 2
            await consumer.next_record()
        assert (await client.admin.group_offsets(group))[place].offset == 2


async def test_a_batch_in_work_is_not_committed_when_the_program_fails(
    client: Client, topic: str, new_name: Callable[[], str]
) -> None:
    group = new_name()
    await produce(client, topic, 0, 9)
    with trio.fail_after(PATIENCE_SECONDS), pytest.raises(KeyError, match="mine"):
        async with client.open_group_consumer(
            group, [topic], FROM_START, group_options=options()
        ) as consumer:
            batch = await consumer.next_batch()
            await consumer.next_batch()
            raise KeyError("mine")
    offsets = await client.admin.group_offsets(group)
    assert {place: each.offset for place, each in offsets.items()} == {batch.place: 3}


async def test_single_records_are_read_once_whatever_rebalances(
    client: Client, topic: str, new_name: Callable[[], str]
) -> None:
    await produce(client, topic, 0, 300)
    found: list[int] = []
    with trio.fail_after(PATIENCE_SECONDS):
        async with client.open_group_consumer(
            new_name(), [topic], FROM_START, group_options=options()
        ) as consumer:
            for partitions in (4, 5, 6):
                await client.admin.add_partitions(topic, partitions)
                client._cluster.request_refresh()
                while len(consumer.assignment) < partitions:
                    with trio.move_on_after(0.05):
                        found.append(int((await consumer.next_record()).value or b""))
                    await trio.sleep(0.005)
            while len(found) < 300:
                found.append(int((await consumer.next_record()).value or b""))
    assert sorted(found) == list(range(300))


async def test_what_is_in_work_stays_until_it_is_done(
    client: Client, topic: str, new_name: Callable[[], str]
) -> None:
    """A rebalance waits for the program, so that nothing is processed twice."""
    group = new_name()
    await produce(client, topic, 0, 30)
    with trio.fail_after(PATIENCE_SECONDS):
        async with client.open_group_consumer(
            group, [topic], FROM_START, group_options=options()
        ) as consumer:
            batch = await consumer.next_batch()
            async with member(client, group, topic, group_options=options()) as second:
                await until(lambda: consumer._must_join)
                assert batch.place in consumer.assignment
                assert not second.consumer.assignment
                found = [int(record.value or b"") for record in batch]
                while len(found) + len(second.read) < 30:
                    with trio.move_on_after(0.02):
                        again = await consumer.next_batch()
                        found += [int(record.value or b"") for record in again]
                assert second.read
                assert sorted(found + second.read) == list(range(30))


@pytest.mark.parametrize("fails", [False, True])
async def test_leaving_while_the_next_generation_is_waited_for(
    client: Client, topic: str, new_name: Callable[[], str], fails: bool
) -> None:
    """A cooperative member keeps its partitions meanwhile, and so commits what it has processed."""
    group = new_name()
    lost: list[frozenset[TopicPartition]] = []

    async def note_loss(places: frozenset[TopicPartition]) -> None:
        lost.append(places)

    @asynccontextmanager
    async def consuming() -> AsyncIterator[GroupConsumer]:
        async with client.open_group_consumer(
            group,
            [topic],
            FROM_START,
            group_options=options("cooperative-sticky", auto_commit_seconds=100),
            on_lost=note_loss,
        ) as consumer:
            yield consumer

    with trio.fail_after(PATIENCE_SECONDS):
        async with consuming() as other:
            await until(lambda: len(other.assignment) == 3)
            with suppress(KeyError):
                async with consuming() as consumer:
                    await until(lambda: bool(consumer.assignment) and consumer._is_joined)
                    await produce(client, topic, 0, 30)
                    batch = await consumer.next_batch()
                    with trio.move_on_after(0.1):
                        await consumer.next_batch()
                    assert other._member_task is not None
                    other._member_task.cancel()  # it hangs, and the group waits for it
                    consumer._must_join = True
                    consumer._changed.unpark_all()
                    await until(lambda: not consumer._is_joined)
                    assert batch.place in consumer.assignment
                    if fails:
                        raise KeyError
            offsets = await client.admin.group_offsets(group)
            assert offsets[batch.place].offset >= batch.next_offset
            assert not lost


async def test_a_slow_program_loses_its_partitions_and_comes_back(
    client: Client, topic: str, new_name: Callable[[], str]
) -> None:
    group = new_name()
    await produce(client, topic, 0, 9)
    slow = options(rebalance_timeout_seconds=0.3)
    lost: list[frozenset[TopicPartition]] = []

    async def note_loss(places: frozenset[TopicPartition]) -> None:
        lost.append(places)

    with trio.fail_after(PATIENCE_SECONDS):
        async with client.open_group_consumer(
            group, [topic], FROM_START, group_options=slow, on_lost=note_loss
        ) as consumer:
            await consumer.next_batch()
            await until(lambda: bool(lost))
            assert not consumer.assignment
            assert await consumer.next_batch()
            assert consumer.assignment == lost[0]


async def test_who_has_lost_its_membership_cannot_commit(
    client: Client, topic: str, new_name: Callable[[], str]
) -> None:
    """Not as a stranger either, once the group has no members: others have gone further."""
    group = new_name()
    await produce(client, topic, 0, 30)
    slow = options(rebalance_timeout_seconds=0.3)
    with trio.fail_after(PATIENCE_SECONDS):
        async with client.open_group_consumer(
            group, [topic], FROM_START, group_options=slow
        ) as consumer:
            batch = await consumer.next_batch()
            await until(lambda: not consumer.assignment)
            async with member(client, group, topic, group_options=options()) as other:
                await until(lambda: len(other.read) == 30)
            with pytest.raises(RequestError) as caught:
                await consumer.commit({batch.place: 1})
            assert caught.value.code == ErrorCode.UNKNOWN_MEMBER_ID
    assert (await client.admin.group_offsets(group))[batch.place].offset == 10


async def test_a_static_member_comes_back_without_a_rebalance(
    client: Client, topic: str, new_name: Callable[[], str]
) -> None:
    group = new_name()
    names = ["one", "two"]
    static = {name: options(instance_id=name) for name in names}
    async with member(client, group, topic, group_options=static["one"]) as first:
        async with member(client, group, topic, group_options=static["two"]) as second:
            await until(lambda: sizes([first, second]) == [1, 2])
            before = second.consumer.assignment
            generation = second.consumer.generation
        async with member(client, group, topic, group_options=static["two"]) as second:
            await until(lambda: second.consumer.assignment == before)
            assert second.consumer.generation == generation
            # Another one of the same name takes its place, and the first is told.
            async with member(client, group, topic, group_options=static["two"]) as third:
                await until(lambda: third.consumer.assignment == before)
                await until(lambda: second.failure is not None)
                assert second.failure is not None
                assert second.failure.code == ErrorCode.FENCED_INSTANCE_ID


async def test_new_partitions_are_shared_out(
    client: Client, topic: str, new_name: Callable[[], str]
) -> None:
    async with member(client, new_name(), topic, group_options=options()) as alone:
        await until(lambda: sizes([alone]) == [3])
        await client.admin.add_partitions(topic, 5)
        client._cluster.request_refresh()
        await until(lambda: sizes([alone]) == [5])


async def test_a_topic_may_come_later(client: Client, new_name: Callable[[], str]) -> None:
    name = new_name()
    async with member(client, new_name(), name, group_options=options()) as alone:
        await until(lambda: alone.consumer.generation >= 1)
        await client.admin.create_topic(name, partitions=3)
        await produce(client, name, 0, 9)
        client._cluster.request_refresh()
        await until(lambda: len(alone.read) == 9)
    await client.admin.delete_topic(name)


async def test_a_group_that_does_not_fit(
    client: Client, topic: str, new_name: Callable[[], str]
) -> None:
    group = new_name()
    async with member(client, group, topic, group_options=options("range")) as first:
        await until(lambda: sizes([first]) == [3])
        async with client.open_group_consumer(
            group, [topic], group_options=options("cooperative-sticky")
        ) as consumer:
            with trio.fail_after(PATIENCE_SECONDS), pytest.raises(RequestError) as caught:
                await consumer.next_batch()
            assert caught.value.code == ErrorCode.INCONSISTENT_GROUP_PROTOCOL
    with pytest.raises(ValueError, match="no assignor"):
        async with client.open_group_consumer(group, [topic], group_options=options("mine")):
            raise AssertionError("there is no such assignor")
