"""Large answers are made in pieces, one after another, whatever happens in between."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import trio

from tests.broker.harness import (
    World,
    make_batch,
    running,
    simulated,
)
from tests.broker.test_offsets import commit, commit_request, committed
from trio_broker import BrokerConfig, ErrorCode
from trio_broker.broker import large_answers
from trio_broker.broker.handlers import describe_producers
from trio_broker.broker.handlers import fetch as fetch_handler
from trio_broker.broker.handlers import list_offsets as list_offsets_handler
from trio_broker.broker.handlers.table import SERVED
from trio_broker.broker.large_answers import Described, LargeAnswers
from trio_broker.group import prepared_commit
from trio_broker.group.commands import CommitOffsets
from trio_broker.group.offsets import OffsetToCommit
from trio_broker.names import TopicName
from trio_broker.records.batch import read_header
from trio_broker.wire import compiler
from trio_broker.wire.api import APIS
from trio_broker.wire.messages.describe_log_dirs import DescribeLogDirsRequest
from trio_broker.wire.messages.describe_producers import (
    DescribeProducersRequest,
    ProducerState,
    TopicRequest,
)
from trio_broker.wire.messages.describe_topic_partitions import (
    DescribeTopicPartitionsRequest,
)
from trio_broker.wire.messages.fetch import FetchPartition, FetchRequest, FetchTopic
from trio_broker.wire.messages.list_offsets import (
    ListOffsetsPartition,
    ListOffsetsRequest,
    ListOffsetsTopic,
)
from trio_broker.wire.messages.metadata import MetadataRequest
from trio_broker.wire.messages.offset_commit import (
    OffsetCommitRequestPartition,
    OffsetCommitRequestTopic,
)
from trio_broker.wire.messages.offset_for_leader_epoch import (
    OffsetForLeaderEpochRequest,
    OffsetForLeaderPartition,
    OffsetForLeaderTopic,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Generator

PARTITIONS = 4
NAMES = ("a", "b", "c")
#: Pauses of the largest answers here, with room to spare.
PAUSES_MAX = 60


def counting(count: int, log: list[str], name: str) -> Generator[None, None, str]:
    for _ in range(count):
        log.append(name)
        yield
    return name


async def test_small_answers_wait_for_nobody_and_large_ones_for_each_other() -> None:
    answers = LargeAnswers()
    log: list[str] = []

    async def make(name: str, count: int) -> None:
        try:
            assert await answers.make(counting(count, log, name), yields_per_piece=2) == name
        finally:
            answers.done()
        log.append(f"{name} done")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(make, "first", 7)
        nursery.start_soon(make, "second", 7)
        await trio.testing.wait_all_tasks_blocked()
    winner, loser = [name.removesuffix(" done") for name in log if name.endswith("done")]
    before = log[: log.index(f"{winner} done")]
    assert before.count(loser) <= 2, "whoever came second has made no more than its first piece"

    log.clear()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(make, "large", 40)
        await trio.lowlevel.checkpoint()
        await trio.lowlevel.checkpoint()
        with trio.CancelScope() as scope:
            scope.cancel()  # it meets no checkpoint
            await make("small", 1)
        assert not scope.cancelled_caught
        assert "large done" not in log
    assert not answers.is_mine


@pytest.mark.parametrize("steps", range(6))
async def test_the_turn_goes_on_when_its_owner_or_who_waits_is_cancelled(steps: int) -> None:
    answers = LargeAnswers()
    log: list[str] = []
    ended: list[str] = []

    async def make(name: str, scope: trio.CancelScope | None = None) -> None:
        with scope or trio.CancelScope():
            try:
                await answers.make(counting(4, log, name))
                ended.append(name)
            finally:
                answers.done()

    scopes = [trio.CancelScope(), trio.CancelScope()]
    async with trio.open_nursery() as nursery:
        for name, scope in zip(("one", "two"), scopes, strict=True):
            nursery.start_soon(make, name, scope)
        nursery.start_soon(make, "three")
        for _ in range(steps):
            await trio.lowlevel.checkpoint()
        scopes[0].cancel()
        await trio.lowlevel.checkpoint()
        scopes[1].cancel()
    assert "three" in ended
    assert not answers.is_mine


def test_parts_are_described_when_they_are_looked_at() -> None:
    seen: list[int] = []

    def describe(number: int) -> str:
        seen.append(number)
        return str(number)

    described = Described(range(3), describe)
    assert len(described) == 3
    assert not seen
    assert list(described) == ["0", "1", "2"]
    assert described[1] == "1"


# ---------------------------------------------------------------------- what happens meanwhile
class Meanwhile:
    """Does something in one of the pauses of a large answer."""

    def __init__(self, number: int, act: Callable[[], Awaitable[object]]) -> None:
        self.pauses = 0
        self._number = number
        self._act = act

    async def pause(self) -> None:
        self.pauses += 1
        if self.pauses == self._number:
            await self._act()


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let pieces be of two partitions each."""
    monkeypatch.setattr(large_answers, "ITEMS_PER_PIECE", 2)
    monkeypatch.setattr(compiler, "ELEMENTS_PER_PIECE", 2)
    monkeypatch.setattr(fetch_handler, "TARGETS_PER_TURN", 2)
    monkeypatch.setattr(list_offsets_handler, "ITEMS_PER_PIECE", 2)
    monkeypatch.setattr(prepared_commit, "OFFSETS_PER_PIECE", 2)
    for api in APIS.values():  # what is compiled now is of no use to anybody else
        if api.key in SERVED:
            monkeypatch.setattr(api.response_type, "_piecewise_encoders", {})


def planted(monkeypatch: pytest.MonkeyPatch, meanwhile: Meanwhile) -> None:
    """Let it happen in pauses of large answers and of fetches."""
    pause, let_others_run = LargeAnswers.pause, fetch_handler._let_others_run

    async def pause_meanwhile(self: LargeAnswers) -> None:
        await meanwhile.pause()
        await pause(self)

    async def run_meanwhile() -> None:
        await meanwhile.pause()
        await let_others_run()

    monkeypatch.setattr(LargeAnswers, "pause", pause_meanwhile)
    monkeypatch.setattr(fetch_handler, "_let_others_run", run_meanwhile)


REQUESTS: dict[str, Any] = {
    "metadata": MetadataRequest(topics=None),
    "pages": DescribeTopicPartitionsRequest(topics=()),
    "list offsets": ListOffsetsRequest(
        replica_id=-1,
        topics=[
            ListOffsetsTopic(
                name=name,
                partitions=[
                    ListOffsetsPartition(partition_index=index, timestamp=-1)
                    for index in range(PARTITIONS)
                ],
            )
            for name in NAMES
        ],
    ),
    "epochs": OffsetForLeaderEpochRequest(
        topics=[
            OffsetForLeaderTopic(
                topic=name,
                partitions=[
                    OffsetForLeaderPartition(partition=index, leader_epoch=0)
                    for index in range(PARTITIONS)
                ],
            )
            for name in NAMES
        ]
    ),
    "log dirs": DescribeLogDirsRequest(topics=None),
    "fetch": FetchRequest(
        max_wait_ms=0,
        min_bytes=1,
        topics=[
            FetchTopic(
                topic=name,
                partitions=[
                    FetchPartition(partition=index, fetch_offset=0, partition_max_bytes=1000)
                    for index in range(PARTITIONS)
                ],
            )
            for name in NAMES
        ],
    ),
}
#: What a partition that is being deleted may answer.
GONE = {
    ErrorCode.NONE,
    ErrorCode.LEADER_NOT_AVAILABLE,
    ErrorCode.UNKNOWN_TOPIC_OR_PARTITION,
}


def described(response: Any) -> dict[str, dict[int, int]]:
    """Return the code of each partition in an answer, by topic."""
    topics = getattr(response, "topics", None) or getattr(response, "responses", ())
    for log_dir in getattr(response, "results", ()):
        topics = [*topics, *log_dir.topics]
    found: dict[str, dict[int, int]] = {}
    for topic in topics:
        codes = found.setdefault(getattr(topic, "name", None) or topic.topic, {})
        for part in topic.partitions:
            index = getattr(part, "partition_index", getattr(part, "partition", None))
            assert index is not None and index not in codes
            codes[index] = getattr(part, "error_code", 0)
    return found


@pytest.mark.parametrize("request_name", REQUESTS)
@pytest.mark.usefixtures("small_pieces")
@simulated
async def test_a_topic_is_deleted_while_a_large_answer_is_made(
    world: World, request_name: str
) -> None:
    request = REQUESTS[request_name]
    version = 12 if request_name == "fetch" else -1
    async with world.running() as run, world.connect() as client:
        reached = True
        number = 0
        while reached:
            number += 1
            assert number < PAUSES_MAX
            for name in NAMES:
                if name not in run.state.router.by_name:
                    await run.broker.create_topic(name, partitions=PARTITIONS)
            victim = NAMES[number % len(NAMES)]

            async def delete(victim: str = victim) -> None:
                # Elsewhere: the one who makes the answer does not wait for it.
                await run.broker.delete_topic(victim)

            meanwhile = Meanwhile(number, delete)
            with pytest.MonkeyPatch.context() as patch:
                planted(patch, meanwhile)
                response = await client.call(request, version)
            reached = meanwhile.pauses >= number
            found = described(response)
            every = set(range(PARTITIONS))
            for name in NAMES:
                if name != victim or not reached:
                    assert found[name] == dict.fromkeys(every, 0), (name, number)
            assert set(found.get(victim, {}).values()) <= GONE
            if request_name != "log dirs":  # where what has been closed is left out
                assert found.keys() <= {*NAMES}
                assert found.get(victim, {}).keys() in (set(), every)
        assert number > 3


@pytest.mark.parametrize("number", [1, 2, 5])
@pytest.mark.usefixtures("small_pieces")
@simulated
async def test_a_client_that_leaves_in_a_pause_gives_up_the_turn(world: World, number: int) -> None:
    async with world.running() as run:
        for name in NAMES:
            await run.broker.create_topic(name, partitions=PARTITIONS)
        async with world.connect() as client:

            async def leave() -> None:
                client.stream.close()
                for connection in list(run.state.clients):
                    connection.close("the client is gone")

            with pytest.MonkeyPatch.context() as patch:
                planted(patch, Meanwhile(number, leave))
                await client.send(REQUESTS["metadata"])
                await run.wait_idle()
        async with world.connect() as client:
            assert described(await client.call(REQUESTS["metadata"])).keys() == {*NAMES}


@pytest.mark.parametrize("number", [1, 4])
@pytest.mark.usefixtures("small_pieces")
@simulated
async def test_a_stop_waits_for_a_large_answer(world: World, number: int) -> None:
    async with world.running() as run, world.connect() as client:
        for name in NAMES:
            await run.broker.create_topic(name, partitions=PARTITIONS)

        async def stop() -> None:
            run.tree.request_stop()
            await trio.sleep(0.1)

        with pytest.MonkeyPatch.context() as patch:
            planted(patch, Meanwhile(number, stop))
            response = await client.call(REQUESTS["metadata"])
        assert described(response) == {name: dict.fromkeys(range(PARTITIONS), 0) for name in NAMES}


@pytest.mark.parametrize("version", [7, 9])
@pytest.mark.usefixtures("small_pieces")
@simulated
async def test_what_is_told_of_a_group_is_of_one_moment(world: World, version: int) -> None:
    async with world.running() as run, world.connect() as client:
        await run.broker.create_topic("orders", partitions=PARTITIONS)
        before = [10] * PARTITIONS
        assert await commit(client, *before) == [0] * PARTITIONS
        wanted = tuple(range(PARTITIONS))
        for number in range(1, PAUSES_MAX):
            after = [before[0] + 1] * PARTITIONS

            offsets = tuple(
                OffsetToCommit(TopicName("orders"), index, offset)
                for index, offset in enumerate(after)
            )

            async def commit_more(offsets: tuple[OffsetToCommit, ...] = offsets) -> None:
                wanted = CommitOffsets(group_id="readers", offsets=offsets)
                assert set(await run.state.coordinator.commit(wanted)) == {ErrorCode.NONE}

            meanwhile = Meanwhile(number, commit_more)
            with pytest.MonkeyPatch.context() as patch:
                planted(patch, meanwhile)
                found = (await committed(client, version, partitions=wanted))["orders"]
            assert len({offset for _, offset, *_ in found}) == 1
            if meanwhile.pauses < number:
                break
            assert found[0][1] in {before[0], after[0]}
            before = after
        assert number > 1


@pytest.mark.parametrize("version", [8, 10])
@pytest.mark.usefixtures("small_pieces")
@simulated
async def test_a_commit_in_pieces_is_there_as_a_whole(world: World, version: int) -> None:
    """Others commit and look meanwhile; whoever is later in the log counts, for all partitions."""
    everything = tuple(range(PARTITIONS))
    async with world.running() as run, world.connect() as client, world.connect() as other:
        topic_id = await run.broker.create_topic("orders", partitions=PARTITIONS)
        topic = topic_id if version >= 10 else "orders"
        assert await commit(other, *[1] * PARTITIONS) == [0] * PARTITIONS
        offset = 1
        for number in range(1, PAUSES_MAX):
            seen: list[int] = []
            meanwhile = Meanwhile(number, partial(_commit_and_look, run, offset + 1, seen))
            with pytest.MonkeyPatch.context() as patch:
                planted(patch, meanwhile)
                wanted = [offset + 2] * PARTITIONS
                assert await commit(client, *wanted, topic=topic, version=version) == (
                    [0] * PARTITIONS
                )
            found = (await committed(client, partitions=everything))["orders"]
            offsets = {offset for _, offset, *_ in found}
            if meanwhile.pauses < number:
                assert offsets == {offset + 2}
                break
            assert seen[: len(everything)] in ([offset] * PARTITIONS, [offset + 2] * PARTITIONS)
            assert offsets in ({offset + 2}, {offset + 1})
            assert (offsets == {offset + 1}) == (seen[0] == offset + 2), "the later one counts"
            offset += 2
            assert await commit(other, *[offset] * PARTITIONS) == [0] * PARTITIONS
        assert number > 3
    async with world.running() as run, world.connect() as client:
        assert (await committed(client, partitions=everything))["orders"] == found


async def _commit_and_look(run: Any, offset: int, seen: list[int]) -> None:
    assert not await run.state.coordinator.load_group("readers")
    known = run.state.coordinator.committed("readers").fetch_all("readers")["orders"]
    seen += [known[index].offset for index in range(PARTITIONS)]
    topic_id = run.state.router.by_name["orders"].topic_id
    offsets = tuple(
        OffsetToCommit(TopicName("orders"), index, offset, topic_id=topic_id)
        for index in range(PARTITIONS)
    )
    answers = run.state.large_answers
    with pytest.MonkeyPatch.context() as patch:  # it is somebody else who asks, in one piece
        patch.setattr(prepared_commit, "OFFSETS_PER_PIECE", PARTITIONS)
        patch.setattr(answers, "done", lambda: None)
        request = CommitOffsets(group_id="readers", offsets=offsets)
        assert set(await run.state.coordinator.commit(request)) == {ErrorCode.NONE}


@pytest.mark.parametrize("version", [8, 10])
@pytest.mark.usefixtures("small_pieces")
@simulated
async def test_nothing_is_committed_for_a_topic_that_is_deleted_while_a_commit_is_prepared(
    world: World, version: int
) -> None:
    """What was committed for it is forgotten when it is deleted, so nothing must come later."""
    async with world.running() as run, world.connect() as client:
        await run.broker.create_topic("kept")
        codes_seen = set()
        for number in range(1, PAUSES_MAX):
            topic_id = await run.broker.create_topic("orders", partitions=PARTITIONS)
            kept_id = run.state.router.by_name["kept"].topic_id
            request = commit_request(
                *[number] * PARTITIONS, topic=topic_id if version >= 10 else "orders"
            )
            kept = OffsetCommitRequestPartition(
                partition_index=0, committed_offset=number, committed_metadata=""
            )
            request.topics.append(
                OffsetCommitRequestTopic(
                    **({"topic_id": kept_id} if version >= 10 else {"name": "kept"}),
                    partitions=[kept],
                )
            )

            async def delete() -> None:
                await run.broker.delete_topic("orders")

            meanwhile = Meanwhile(number, delete)
            with pytest.MonkeyPatch.context() as patch:
                planted(patch, meanwhile)
                response = await client.call(request, version)
            if meanwhile.pauses < number:
                break
            [code] = {part.error_code for part in response.topics[0].partitions}
            codes_seen.add(code)
            assert [part.error_code for part in response.topics[1].partitions] == [0]
            known = run.state.coordinator.committed("readers").fetch_all("readers")
            assert {name: dict(found) for name, found in known.items()}.keys() == {"kept"}
            assert known["kept"][0].offset == number
        unknown = (
            ErrorCode.UNKNOWN_TOPIC_ID if version >= 10 else ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
        )
        assert codes_seen == {ErrorCode.NONE, unknown}


@pytest.mark.parametrize("number", [1, 2, 3, 4])
@pytest.mark.usefixtures("small_pieces")
@simulated
async def test_a_commit_whose_client_leaves_while_it_is_prepared_is_not_done(
    world: World, number: int
) -> None:
    async with world.running() as run:
        await run.broker.create_topic("orders", partitions=PARTITIONS)
        async with world.connect() as client:
            assert await commit(client, *[1] * PARTITIONS) == [0] * PARTITIONS

            async def leave() -> None:
                client.stream.close()
                for connection in list(run.state.clients):
                    connection.close("the client is gone")

            meanwhile = Meanwhile(number, leave)
            with pytest.MonkeyPatch.context() as patch:
                planted(patch, meanwhile)
                await client.send(commit_request(*[2] * PARTITIONS), 8)
                await run.wait_idle()
            assert meanwhile.pauses >= number
        async with world.connect() as client:
            found = await committed(client, partitions=tuple(range(PARTITIONS)))
            [offset] = {offset for _, offset, *_ in found["orders"]}
            assert offset in {1, 2}
            if number == 1:
                assert offset == 1
            assert await commit(client, *[3] * PARTITIONS) == [0] * PARTITIONS


@pytest.mark.usefixtures("small_pieces")
@simulated
async def test_records_that_come_while_a_large_fetch_is_planned_wake_it(world: World) -> None:
    """Those for partitions that had their turn; nobody else would wake it before its deadline."""
    async with world.running() as run, world.connect() as client:
        await run.broker.create_topic("a", partitions=PARTITIONS)
        for number in (1, 2):

            async def produce() -> None:
                await run.broker.produce("a", b"early", partition=0)

            with pytest.MonkeyPatch.context() as patch:
                planted(patch, Meanwhile(number, produce))
                began = trio.current_time()
                topic = FetchTopic(
                    topic="a",
                    partitions=[
                        FetchPartition(
                            partition=index,
                            fetch_offset=0 if index else number - 1,
                            partition_max_bytes=1000,
                        )
                        for index in range(PARTITIONS)
                    ],
                )
                request = FetchRequest(max_wait_ms=20_000, min_bytes=1, topics=[topic])
                response = await client.call(request, 12)
            assert trio.current_time() - began < 5
            assert response.responses[0].partitions[0].records
        assert not any(replica.waiters for replica in run.state.router.replicas())


# ------------------------------------------------------------------------------- producers
async def test_thousands_of_producers_are_described_some_at_a_time(
    wire_config: BrokerConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = most = 0

    def make(**fields: Any) -> ProducerState:
        nonlocal made
        made += 1
        return ProducerState(**fields)

    monkeypatch.setattr(describe_producers, "ProducerState", make)
    async with running(wire_config) as run, run.connect() as client, trio.open_nursery() as nursery:
        await run.broker.create_topic("orders", partitions=20)
        for number in range(200):
            batch = make_batch(producer_id=number, producer_epoch=0, base_sequence=0)
            for partition in range(20):
                run.replica("orders", partition).refuse_sequence(read_header(batch, 0))

        async def watch() -> None:
            nonlocal made, most
            while True:
                await trio.lowlevel.checkpoint()
                most, made = max(most, made), 0

        nursery.start_soon(watch)
        wanted = TopicRequest(name="orders", partition_indexes=range(20))
        response = await client.call(DescribeProducersRequest(topics=[wanted]))
        nursery.cancel_scope.cancel()
        found = response.topics[0].partitions
        assert [len(each.active_producers) for each in found] == [200] * 20
        assert 0 < most < 400
