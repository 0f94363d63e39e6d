"""Bugs in what the broker does unasked: it goes on, tells of them, and heals by itself."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from attrs import evolve

from tests.broker.group_calls import GROUP, heartbeat, join, join_alone, join_request, sync
from tests.broker.harness import Running, World, make_batch, simulated
from tests.broker.retained import eventually
from tests.broker.test_isolation import PlantedBug, planted
from tests.broker.test_offsets import commit, commit_request, committed
from trio_broker import ErrorCode
from trio_broker.admin.health import reasons
from trio_broker.broker.connection import Connection
from trio_broker.broker.group_coordinator import GroupCoordinator
from trio_broker.broker.housekeeping import Housekeeper
from trio_broker.broker.leak_watch import LeakWatch
from trio_broker.broker.listeners import ConnectionGate
from trio_broker.broker.phase import Phase
from trio_broker.broker.service_notifier import ServiceManager, ServiceNotifier
from trio_broker.broker.statistics import health_facts
from trio_broker.config import GroupConfig
from trio_broker.group.machine import GroupMachine
from trio_broker.group.partitioning import offsets_partition
from trio_broker.names import OFFSETS_TOPIC_NAME

PARTITIONS = 2
#: In the other partition of ``__consumer_offsets``.
OTHER = next(
    name
    for name in "abcdef"
    if offsets_partition(name, PARTITIONS) != offsets_partition(GROUP, PARTITIONS)
)
SUSPECT = offsets_partition(GROUP, PARTITIONS)
BOUNDARY = f"group coordinator {OFFSETS_TOPIC_NAME}-{SUSPECT}"


def with_groups(world: World) -> Any:
    group = GroupConfig(offsets_topic_partitions=PARTITIONS, initial_rebalance_delay_ms=0)
    return world.running(reraise=False, group=group)


def is_suspect(run: Running) -> Any:
    return lambda machine: machine is run.state.coordinator._partitions[SUSPECT].machine


async def is_well(client: Any, group: str, offset: int) -> None:
    assert await commit(client, offset, group_id=group) == [0]
    assert (await committed(client, group=group))["orders"][0][:2] == (0, offset)


async def commit_once_healed(client: Any, offset: int, group: str = GROUP) -> None:
    """Do as a client does that is told to wait."""
    with trio.fail_after(100):
        while (found := await commit(client, offset, group_id=group)) != [0]:
            assert found[0] in {
                ErrorCode.COORDINATOR_LOAD_IN_PROGRESS,
                ErrorCode.NOT_COORDINATOR,
            }
            await trio.sleep(0.2)


@simulated
async def test_a_bug_that_the_clock_brings_out_harms_the_groups_of_one_partition(
    world: World,
) -> None:
    async with with_groups(world) as run, world.connect() as client, world.connect() as waiting:
        run.faults_expected = {BOUNDARY}
        await run.broker.create_topic("orders", partitions=2)
        await is_well(client, GROUP, 1)
        await is_well(client, OTHER, 1)
        joined = await join_alone(client)
        with planted(GroupMachine, "expire", is_suspect(run)) as met:
            # It waits for the first member, which is silent from now on; that is what falls due.
            parked = join_request()
            await waiting.send(parked, 3)
            told = await waiting.receive(parked, 3)
            assert told.error_code == ErrorCode.NOT_COORDINATOR
            [health] = reasons(health_facts(run.state))
            assert BOUNDARY in health
            assert "PlantedBug: a bug" in health
            # What clients of Apache Kafka expect while a coordinator loads its groups.
            loading = ErrorCode.COORDINATOR_LOAD_IN_PROGRESS
            assert (await join(client, joined.member_id)).error_code == loading
            assert (await sync(client, joined)).error_code == ErrorCode.REBALANCE_IN_PROGRESS
            assert await heartbeat(client, joined.member_id, joined.generation_id) == 0
            assert await commit(client, 2) == [loading]
            for offset in range(60):
                await is_well(client, OTHER, offset)
                assert (await client.produce(make_batch())).error_code == 0
                await trio.sleep(1)
            assert 1 <= len(met) <= 6, "it is tried again, ever more slowly"
        with trio.fail_after(100):
            while (again := await join(client, joined.member_id)).error_code == loading:  # noqa: ASYNC110
                await trio.sleep(0.2)
        assert again.error_code == 0, "it is known from the log"
        assert (await sync(client, again, {again.member_id: b"all"})).error_code == 0
        who = {"member_id": again.member_id, "generation_id_or_member_epoch": again.generation_id}
        assert await commit(client, 3, **who) == [0]
        assert (await committed(client))["orders"][0][:2] == (0, 3)
        assert not reasons(health_facts(run.state))
        assert run.state.supervisor.faults[BOUNDARY].count == len(met)
        assert not run.replica(OFFSETS_TOPIC_NAME, SUSPECT).refusal


@simulated
async def test_a_bug_in_taking_in_what_was_stored_does_not_reach_the_writer(world: World) -> None:
    """It strikes in the task of the shard, between the records of others."""
    async with with_groups(world) as run, world.connect() as client, world.connect() as waiting:
        run.faults_expected = {BOUNDARY}
        await run.broker.create_topic("orders", partitions=2)
        await is_well(client, GROUP, 1)
        with planted(GroupMachine, "stored", is_suspect(run)) as met:
            await waiting.send(commit_request(7), 8)
            answer = await waiting.receive(commit_request(7), 8)
            assert answer.topics[0].partitions[0].error_code == ErrorCode.NOT_COORDINATOR
        assert len(met) == 1
        assert run.replica(OFFSETS_TOPIC_NAME, SUSPECT).shard.is_running
        with trio.fail_after(10):  # and nobody has to ask for it
            await eventually(lambda: run.state.coordinator._partitions[SUSPECT].is_loaded)
        assert (await committed(client))["orders"][0][:2] == (0, 7)
        await is_well(client, GROUP, 8)


@simulated
async def test_a_log_of_groups_that_cannot_be_read_for_a_bug_is_no_end_of_the_start(
    world: World,
) -> None:
    async with with_groups(world) as run, world.connect() as client:
        await run.broker.create_topic("orders", partitions=2)
        await is_well(client, GROUP, 1)
        await is_well(client, OTHER, 1)
    replay = GroupMachine.replay

    def is_of_suspect(machine: GroupMachine, key: bytes, value: bytes | None) -> None:
        if GROUP.encode() in key:
            raise PlantedBug("a bug")
        replay(machine, key, value)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(GroupMachine, "replay", is_of_suspect)
        async with with_groups(world) as run, world.connect() as client:
            run.faults_expected = {BOUNDARY}
            for offset in range(30):
                assert await commit(client, 5) == [ErrorCode.COORDINATOR_LOAD_IN_PROGRESS]
                await is_well(client, OTHER, offset)
                await trio.sleep(1)
            assert 3 <= run.state.supervisor.faults[BOUNDARY].count <= 6
            patch.undo()
            with trio.fail_after(60):
                await eventually(lambda: run.state.coordinator._partitions[SUSPECT].is_loaded)
            assert (await committed(client))["orders"][0][:2] == (0, 1)


@pytest.mark.parametrize("command", ["join", "commit", "expire_offsets"])
@simulated
async def test_a_bug_in_a_command_costs_a_moment(world: World, command: str) -> None:
    async with with_groups(world) as run, world.connect() as client:
        run.faults_expected = {BOUNDARY}
        await run.broker.create_topic("orders", partitions=2)
        await is_well(client, GROUP, 1)
        with planted(GroupMachine, command, is_suspect(run)) as met:
            if command == "join":
                assert (await join(client)).error_code == ErrorCode.NOT_COORDINATOR
            elif command == "commit":
                assert await commit(client, 2) == [ErrorCode.NOT_COORDINATOR]
            else:
                await eventually(lambda: met, 3600)
        # Another connection: the first may have been idle for as long as it is allowed to.
        async with world.connect() as later:
            await commit_once_healed(later, 3)
            assert (await committed(later))["orders"][0][:2] == (0, 3)


@simulated
async def test_a_bug_in_the_last_answers_to_members_does_not_spoil_the_stop(world: World) -> None:
    async with with_groups(world) as run, world.connect() as client, world.connect() as waiting:
        run.faults_expected = {BOUNDARY}
        await run.broker.create_topic("orders", partitions=2)
        await join_alone(client)
        await waiting.send(join_request(), 3)
        await trio.sleep(0.1)
        with planted(GroupMachine, "close", is_suspect(run)):
            run.tree.request_stop()
            told = await waiting.receive(join_request(), 3)
            assert told.error_code == ErrorCode.NOT_COORDINATOR
            await run.tree.ended.wait()
    assert run.tree.report is not None
    assert run.tree.report.clean


# ------------------------------------------------------------------------------- other tasks
TASKS = {
    "offsets housekeeping": (GroupCoordinator, "shorten_logs"),
    "group coordinator": (GroupCoordinator, "_next_wake"),
    "leak watch": (LeakWatch, "_bounds"),
    "shard /data/logs#0 housekeeping": (Housekeeper, "take_turn"),
}


@pytest.mark.parametrize("boundary", TASKS)
@simulated
async def test_a_bug_in_a_background_task_is_told_and_tried_again(
    world: World, boundary: str
) -> None:
    storage = evolve(world.config().storage, shards_per_log_dir=1)
    config = {"storage": storage, "group": GroupConfig(offsets_retention_check_interval_ms=30_000)}
    async with world.running(reraise=False, **config) as run, world.connect() as client:
        run.faults_expected = {boundary}
        await run.broker.create_topic("orders", partitions=2)
        with planted(*TASKS[boundary], lambda _: True) as met:
            await eventually(lambda: met, 100)
            await trio.sleep(0.1)
            [reason] = reasons(health_facts(run.state))
            assert reason == f"{boundary} has failed and will be started again: PlantedBug: a bug"
            for _ in range(60):
                assert (await client.produce(make_batch())).error_code == 0
                await trio.sleep(1)
            assert 2 <= len(met) <= 8, "it is tried again, ever more slowly"
            assert run.state.supervisor.faults[boundary].count == len(met)
        await eventually(lambda: not reasons(health_facts(run.state)), 100)
        await is_well(client, GROUP, 1)


@simulated
async def test_a_bug_in_looking_after_one_connection_is_that_connections(world: World) -> None:
    async with world.running(reraise=False) as run:
        run.faults_expected = {"connection"}
        await run.broker.create_topic("orders")
        async with world.connect() as unlucky, world.connect() as other:
            await unlucky.produce(make_batch())
            first = next(iter(run.state.clients))
            with planted(Connection, "reap", lambda connection: connection is first):
                await unlucky.wait_closed()
            assert (await other.produce(make_batch())).error_code == 0
            assert "reaper" not in run.state.supervisor.faults


@simulated
async def test_a_bug_in_accepting_does_not_close_the_listener(world: World) -> None:
    async with world.running(reraise=False) as run:
        boundary = f"listener {run.address[0]}:{run.address[1]}"
        run.faults_expected = {boundary}
        await run.broker.create_topic("orders")
        async with world.connect() as client:
            await client.produce(make_batch())
            with planted(ConnectionGate, "enter", lambda _: True):
                async with world.connect() as unlucky:
                    await eventually(lambda: boundary in run.state.supervisor.down)
                    assert (await client.produce(make_batch())).error_code == 0
                    await unlucky.wait_closed()
            async with world.connect() as later:
                assert (await later.produce(make_batch())).error_code == 0


@simulated
async def test_a_bug_in_telling_the_service_manager_is_tried_again(world: World) -> None:
    from trio_broker.broker.server_main import keep_informed

    async with world.running(reraise=False) as run, trio.open_nursery() as nursery:
        run.faults_expected = {"service notifier"}
        with planted(ServiceNotifier, "_status", lambda _: True):
            nursery.start_soon(keep_informed, run.state, ServiceManager("/run/notify"))
            await eventually(lambda: "service notifier" in run.state.supervisor.down)
        assert run.state.phase is Phase.SERVING
        await eventually(lambda: not run.state.supervisor.down)
        nursery.cancel_scope.cancel()
