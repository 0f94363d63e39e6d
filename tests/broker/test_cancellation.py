"""Cancel at every step: whatever was under way, nothing is left behind and the next call works.

On the simulated machine an instrument counts the steps of a task (or of all tasks) and cancels
right after the one with a given number, while the task waits. Each operation is cancelled where it
waits first, then where it waits next, and so on, until it gets through.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import trio

from tests.broker.harness import (
    Running,
    World,
    fetch_request,
    make_batch,
    produce_request,
    simulated,
)
from trio_broker import BrokerClosed, ErrorCode, RequestError, open_broker
from trio_broker.group.commands import CommitOffsets
from trio_broker.group.offsets import OffsetToCommit
from trio_broker.names import TopicName
from trio_broker.testing.sim.faults import DiskFaults

if TYPE_CHECKING:
    from trio_broker.broker.embed import Broker


class StepCounter(trio.abc.Instrument):
    """Cancels a scope right after a step, when the task waits for something.

    Attributes:
        steps: how many there have been.
    """

    def __init__(self, scope: trio.CancelScope, cancel_at: int, task: object | None) -> None:
        self.steps = 0
        self._scope = scope
        self._cancel_at = cancel_at
        self._task = task

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        if self._task is None or task is self._task:
            self.steps += 1
            if self.steps == self._cancel_at:
                self._scope.cancel()


@contextmanager
def cancelled_at(step: int, *, of_all_tasks: bool = False) -> Any:
    """Run the block in a scope that is cancelled at that step of this task, or of all tasks."""
    with trio.CancelScope() as scope:
        task = None if of_all_tasks else trio.lowlevel.current_task()
        counter = StepCounter(scope, step, task)
        trio.lowlevel.add_instrument(counter)
        try:
            yield scope
        finally:
            trio.lowlevel.remove_instrument(counter)


async def sweep(
    operation: Callable[[], Awaitable[object]],
    check: Callable[[], Awaitable[object]],
    *,
    of_all_tasks: bool = False,
    stride: int = 1,
    first: int = 1,
) -> int:
    """Cancel `operation` at one step after the other, with `check` after each; return how many."""
    step = first
    while True:
        with cancelled_at(step, of_all_tasks=of_all_tasks) as scope:
            await operation()
        await check()
        if not scope.cancelled_caught:
            return step
        step += stride
        assert step < 5_000


def replicas_are_quiet(run: Running) -> None:
    for log_dir in run.state.log_dirs:
        for shard in log_dir.shards:
            for replica in shard.replicas.values():
                assert not replica.waiters, replica


async def settle() -> None:
    """Let what was begun come to its end."""
    await trio.sleep(1)


@simulated
async def test_produce_and_read_in_the_program_itself(world: World) -> None:
    async with world.running() as run:
        await run.broker.create_topic("orders")
        acknowledged: list[int] = []

        async def produce() -> None:
            _, offset = await run.broker.produce("orders", b"%d" % len(acknowledged))
            acknowledged.append(offset)

        async def check() -> None:
            await settle()
            replicas_are_quiet(run)
            await produce()

        assert await sweep(produce, check) > 1
        assert acknowledged == sorted(set(acknowledged))
        end = run.replica("orders").log.log_end_offset

        async def read() -> None:
            async with run.broker.read("orders", offset=end) as reader:
                with trio.move_on_after(0.5):
                    await reader.receive()
            async with run.broker.read("orders") as reader:
                for offset in range(end):
                    assert (await reader.receive()).offset == offset

        async def check_reader() -> None:
            replicas_are_quiet(run)
            assert run.state.response_memory.used_bytes == 0

        world.fs.faults = DiskFaults(cached_read_rate=0.0)
        assert await sweep(read, check_reader) > 3


@simulated
async def test_creating_and_deleting_topics(world: World) -> None:
    async with world.running() as run:
        number = 0

        async def create() -> None:
            nonlocal number
            number += 1
            await run.broker.create_topic(f"topic-{number}", partitions=3)

        async def check() -> None:
            await settle()
            name = f"topic-{number}"
            if name in run.state.router.by_name:
                for partition in range(3):
                    await run.broker.produce(name, b"x", partition=partition)
                await run.broker.delete_topic(name)
            else:
                await run.broker.create_topic(name)

        assert await sweep(create, check) > 2

        async def delete() -> None:
            await run.broker.delete_topic("victim")

        async def check_deleted() -> None:
            await settle()
            if "victim" in run.state.router.by_name:
                await run.broker.produce("victim", b"x")
            else:
                held = [entry.owner for entry in world.fs.open_files()]
                assert not any(victim in owner for owner in held)
                await make_victim()

        victim = ""

        async def make_victim() -> None:
            nonlocal victim
            victim = str(await run.broker.create_topic("victim", partitions=3))
            for partition in range(3):
                await run.broker.produce("victim", b"x", partition=partition)

        await make_victim()
        assert await sweep(delete, check_deleted) > 2
        await trio.sleep(100)
        living = {str(topic.topic_id) for topic in run.state.router.by_name.values()}
        for path in world.fs.tree():
            if path.startswith("/data/logs/") and path.count("/") == 3 and path.endswith("-0"):
                assert path.removeprefix("/data/logs/").removesuffix("-0") in living


@simulated
async def test_committing_offsets(world: World) -> None:
    async with world.running() as run:
        topic_id = await run.broker.create_topic("orders")
        offset = 0

        async def commit() -> None:
            nonlocal offset
            offset += 1
            wanted = OffsetToCommit(TopicName("orders"), 0, offset, -1, "", topic_id)
            request = CommitOffsets(group_id="readers", offsets=(wanted,))
            assert list(await run.state.coordinator.commit(request)) == [ErrorCode.NONE]

        async def check() -> None:
            await settle()
            await commit()

        assert await sweep(commit, check) > 1
    async with world.running() as run:
        assert not await run.state.coordinator.load_group("readers")
        found = run.state.coordinator.committed("readers").fetch("readers", "orders", 0, topic_id)
        assert found.offset == offset


@simulated
async def test_connections_that_are_closed_at_any_step(world: World) -> None:
    """The connection's own task is cancelled, as the reaper, a drain and a crash do it."""
    async with world.running() as run:
        await run.broker.create_topic("orders")
        step = 0
        got_through = False
        while not got_through:
            step += 1
            async with world.connect() as client:
                await trio.sleep(0.5)
                [connection] = run.state.clients
                task = next(iter(run.state.connections.child_tasks))
                counter = StepCounter(connection.scope, step, task)
                trio.lowlevel.add_instrument(counter)
                end = run.replica("orders").log.log_end_offset
                try:
                    await client.send(produce_request(make_batch()), 9)
                    await client.send(fetch_request(end + 1, max_wait_ms=100), 12)
                    await client.send(produce_request(make_batch()), 9)
                    for version in (9, 12, 9):
                        request = fetch_request() if version == 12 else produce_request(b"")
                        if await client.receive(request, version) is None:
                            break
                    else:
                        got_through = True
                except trio.BrokenResourceError:
                    pass
                finally:
                    trio.lowlevel.remove_instrument(counter)
            await settle()
            await run.wait_idle()
            assert not run.state.connections.child_tasks
        assert step > 3
        async with world.connect() as client:
            assert (await client.produce(make_batch())).error_code == 0


# ------------------------------------------------------------------------------ start and stop
async def use(world: World, expected: int, **changes: Any) -> int:
    """Start a broker and write and read in it; return how many records there are now."""
    async with open_broker(world.config(**changes), host=world.host) as broker:
        await outcome_of(partial(broker.create_topic, "orders"))
        _, offset = await broker.produce("orders", b"x")
        assert offset >= expected
        async with broker.read("orders") as reader:
            for number in range(offset + 1):
                assert (await reader.receive()).offset == number
    assert list(world.fs.open_files()) == []
    return offset + 1


@pytest.mark.parametrize("unclean", [False, True])
@simulated
async def test_a_start_that_is_cancelled_leaves_nothing(world: World, unclean: bool) -> None:
    count = await use(world, 0)
    stride = 11

    async def start() -> None:
        async with open_broker(world.config(), host=world.host):
            pass

    async def check() -> None:
        nonlocal count
        assert list(world.fs.open_files()) == []
        if unclean:
            world.machine = world.machine.restart_process()
        else:
            count = await use(world, count)

    first = 1 + world.sim.random("first").randrange(stride)
    steps = await sweep(start, check, of_all_tasks=True, stride=stride, first=first)
    assert steps > 50
    assert await use(world, count) == count + 1


@simulated
async def test_a_stop_that_is_cancelled_ends_all_the_same(world: World) -> None:
    count = await use(world, 0)
    stride = 7
    step = 1 + world.sim.random("first").randrange(stride)
    got_through = False
    while not got_through:
        began = trio.current_time()
        with trio.CancelScope() as scope:
            async with open_broker(world.config(), host=world.host) as broker:
                for _ in range(3):
                    await broker.produce("orders", b"x")
                count += 3
                counter = StepCounter(scope, step, None)
                trio.lowlevel.add_instrument(counter)
        trio.lowlevel.remove_instrument(counter)
        assert trio.current_time() - began < 10
        assert list(world.fs.open_files()) == []
        got_through = counter.steps < step
        assert scope.cancel_called != got_through
        step += stride
    assert step > 50
    assert await use(world, count) == count + 1


@simulated
async def test_a_program_that_is_cancelled_keeps_what_was_acknowledged(world: World) -> None:
    """The hard stop, with produces, fetches and topic changes under way."""
    acknowledged: set[int] = set()
    for round_number in range(12):
        with trio.move_on_after(0.2 + 0.05 * round_number):
            async with open_broker(world.config(), host=world.host) as broker:
                await outcome_of(partial(broker.create_topic, "orders"))

                async def produce(broker: Any = broker) -> None:
                    while True:
                        _, offset = await broker.produce("orders", b"x")
                        assert offset not in acknowledged
                        acknowledged.add(offset)

                async def churn(broker: Any = broker) -> None:
                    while True:
                        topic_id = await broker.create_topic("churn", partitions=2)
                        assert topic_id
                        await broker.delete_topic("churn")

                async def read(broker: Any = broker) -> None:
                    async with broker.read("orders", offset=-1) as reader:
                        async for _ in reader:
                            pass

                async with trio.open_nursery() as nursery:
                    await outcome_of(partial(broker.delete_topic, "churn"))
                    for task in (produce, produce, churn, read):
                        nursery.start_soon(task)
        assert list(world.fs.open_files()) == []
    assert len(acknowledged) > 20
    assert await use(world, max(acknowledged) + 1) > max(acknowledged)


async def outcome_of(call: Callable[[], Awaitable[object]]) -> ErrorCode | None:
    """Make a call; return the code it was refused with, None if the broker stopped or answered."""
    with trio.fail_after(60):
        try:
            await call()
        except (BrokerClosed, trio.EndOfChannel):
            return None
        except RequestError as error:
            return error.code
    return None


class AtStep(trio.abc.Instrument):
    """Does something right after a step, counted over all tasks."""

    def __init__(self, step: int, act: Callable[[], None]) -> None:
        self._left = step
        self._act = act

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        self._left -= 1
        if self._left == 0:
            self._act()


@simulated
async def test_who_asks_while_the_broker_stops_gets_an_answer(world: World) -> None:
    """A stop begins at any step of a call; the call ends with its result or with BrokerClosed."""

    async def read_one(broker: Broker) -> None:
        async with broker.read("orders", offset=-1) as reader:
            await reader.receive()

    calls: dict[str, Callable[[Broker], Awaitable[object]]] = {
        "create": lambda broker: broker.create_topic("new", partitions=2),
        "delete": lambda broker: broker.delete_topic("orders"),
        "produce": lambda broker: broker.produce("orders", b"x"),
        "read": read_one,
    }
    refusals = {None, ErrorCode.NOT_LEADER_OR_FOLLOWER, ErrorCode.UNKNOWN_TOPIC_ID}
    for name, call in calls.items():
        for step in range(1, 40, 3):
            async with open_broker(world.config(), host=world.host) as broker:
                for topic in ("orders", "new"):
                    await outcome_of(partial(broker.delete_topic, topic))
                await broker.create_topic("orders")
                instrument = AtStep(step, broker.request_stop)
                trio.lowlevel.add_instrument(instrument)
                assert await outcome_of(partial(call, broker)) in refusals, (name, step)
                trio.lowlevel.remove_instrument(instrument)
            assert list(world.fs.open_files()) == []
