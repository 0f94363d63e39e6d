"""An orderly stop of replicas that are not healthy, and then the power goes.

A stop promises that the machine may be switched off, whatever acknowledgements mean: what was
acknowledged is on the disk then, or the stop says that it was not clean.
"""

from __future__ import annotations

import errno
import logging
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import attrs
import pytest
import trio

from tests.broker.harness import World, failing, make_batch, running, simulated, slow
from tests.broker.test_isolation import failing_job, is_log_of, planted
from trio_broker.broker.log_dir import LogDir
from trio_broker.broker.replica import ReplicaState
from trio_broker.broker.shard import Shard
from trio_broker.broker.supervise import first_cause
from trio_broker.storage import paths
from trio_broker.storage.disk_state import DiskState
from trio_broker.storage.log import Log
from trio_broker.testing.brokers import open_simulated_broker
from trio_broker.testing.sim.disk import SimFileSystem
from trio_broker.testing.sim.faults import DiskFaults
from trio_broker.testing.sim.run import Simulation, simulate
from trio_broker.testing.workload.operating import touch

if TYPE_CHECKING:
    from tests.broker.harness import Running
    from trio_broker.broker.replica import Replica

#: So many that a power cut leaves not all of them by chance.
BATCHES = 12
DURABILITIES = ("os", "interval", "fsync")
#: The partition that gets into trouble, and the one beside it, in the same shard.
BAD, GOOD = 0, 1
LOG_DIR = "/data/logs"


@attrs.define
class Scene:
    """A broker with one partition that gets into trouble, and one beside it.

    Attributes:
        faults: what goes on until the broker has stopped.
    """

    world: World
    run: Running
    client: Any
    faults: ExitStack

    @property
    def bad(self) -> Replica:
        return self.run.replica("orders", BAD)

    @property
    def directory(self) -> str:
        return f"{LOG_DIR}/{paths.replica_name(self.bad.topic_partition)}"

    async def produce_refused(self) -> None:
        answer = await self.client.produce(make_batch(b"refused"), partition=BAD)
        assert answer.error_code != 0


async def down_with_its_shard(scene: Scene) -> None:
    """A bug in what belongs to no replica has ended the shard; it runs again in a second."""
    scene.run.faults_expected.add(scene.bad.shard.boundary)
    with planted(Shard, "_do_work", lambda shard: shard is scene.bad.shard):
        await scene.produce_refused()
    assert not scene.bad.shard.is_running
    assert not scene.bad.has_log


async def taken_by_a_bug(scene: Scene) -> None:
    """A bug in publishing what was stored: it is opened again in a second."""
    scene.run.faults_expected.add(scene.bad.boundary)
    with planted(Log, "publish", is_log_of(scene.bad)):
        await scene.produce_refused()
    assert scene.bad.state is ReplicaState.OFFLINE
    assert scene.bad.has_log


async def not_opened_for_a_bug(scene: Scene) -> None:
    """A bug has taken it, and it cannot be opened again for another one."""
    await taken_by_a_bug(scene)
    bad, opening = scene.bad, LogDir.recovering

    def recovering(log_dir: LogDir, replica: Replica) -> Any:
        return failing_job() if replica is bad else opening(log_dir, replica)

    patch = scene.faults.enter_context(pytest.MonkeyPatch.context())
    patch.setattr(LogDir, "recovering", recovering)
    await trio.sleep(2)
    assert not bad.has_log


async def being_opened_again(scene: Scene) -> None:
    """A bug has taken it, and it takes long to open it again."""
    await taken_by_a_bug(scene)
    scene.faults.enter_context(slow(scene.directory, 0.6))
    await trio.sleep(1.5)
    assert not scene.bad.has_log
    assert scene.bad.shard.changes.locked()


async def forbidden(scene: Scene) -> None:
    """A bug has taken it, and somebody has taken away the rights to its directory."""
    await taken_by_a_bug(scene)
    for call in ("open", "list_directory"):
        scene.faults.enter_context(failing(call, scene.directory, errno.EACCES, on=SimFileSystem))
    await trio.sleep(2)
    assert not scene.bad.has_log


async def not_cut_back(scene: Scene) -> None:
    """A write has failed, and the file could not be made what it was before."""
    with failing("write_at", scene.directory), failing("truncate", scene.directory):
        await scene.produce_refused()
    assert scene.bad.state is ReplicaState.OFFLINE
    assert scene.bad.log.is_broken


async def waiting_for_an_operator(scene: Scene) -> None:
    """An fsync of it has failed; its disk works again, and what was acknowledged may be gone."""
    scene.run.faults_expected.add(f"log dir {LOG_DIR}")
    with failing("sync", scene.directory):
        await scene.bad.shard.advance_start_offset(scene.bad, 1)
    assert scene.bad.shard.log_dir.is_failed
    await trio.sleep(5)
    assert scene.bad.shard.log_dir.health.state is DiskState.OK


async def on_a_failed_disk(scene: Scene) -> None:
    """Nothing on its disk can be synced any more."""
    scene.run.faults_expected.add(f"log dir {LOG_DIR}")
    scene.faults.enter_context(failing("sync", LOG_DIR))
    await scene.bad.shard.advance_start_offset(scene.bad, 1)
    assert scene.bad.shard.log_dir.is_failed


async def on_a_hung_disk(scene: Scene) -> None:
    """No call to its disk comes back."""
    scene.run.faults_expected.add(f"log dir {LOG_DIR}")
    scene.run.files_stay = True
    scene.world.fs.freeze()
    scene.faults.callback(scene.world.fs.thaw)


@attrs.frozen
class Expected:
    """What a stop makes of a state, by durability: whether it is clean, and the neighbour safe.

    And believed by the next start, without a look, also if the stop was not clean.
    """

    clean: tuple[bool, bool, bool] = (True, True, True)
    neighbour_is_safe: bool = True
    neighbour_is_believed: bool = False


STATES: dict[Callable[[Scene], Awaitable[None]], Expected] = {
    down_with_its_shard: Expected(),
    taken_by_a_bug: Expected(),
    not_opened_for_a_bug: Expected(),
    being_opened_again: Expected(),
    forbidden: Expected(clean=(False, False, True), neighbour_is_believed=True),
    not_cut_back: Expected(),
    waiting_for_an_operator: Expected(clean=(False, False, True)),
    on_a_failed_disk: Expected(clean=(False, False, False), neighbour_is_safe=False),
    on_a_hung_disk: Expected(clean=(False, False, False), neighbour_is_safe=False),
}


@pytest.mark.parametrize("durability", DURABILITIES)
@pytest.mark.parametrize("state", STATES, ids=lambda state: state.__name__)
@simulated
async def test_what_was_acknowledged_is_durable_after_a_stop_or_it_was_not_clean(
    world: World, state: Callable[[Scene], Awaitable[None]], durability: str
) -> None:
    await stop_and_lose_power(world, state, durability)


def say_nothing(_self: Any, *_args: Any, **_options: Any) -> Any:
    """Be a job that does nothing and says that it has succeeded."""
    yield bool, ()


@pytest.mark.parametrize(
    "owner, name, state",
    [
        (LogDir, "flushing", down_with_its_shard),
        (Log, "flush_unsound_job", taken_by_a_bug),
        (Log, "flush_unsound_job", waiting_for_an_operator),
    ],
)
@simulated
async def test_a_stop_that_does_not_do_so_is_noticed(
    world: World, owner: type, name: str, state: Callable[[Scene], Awaitable[None]]
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner, name, say_nothing)
        with pytest.raises((AssertionError, ExceptionGroup)) as caught:
            await stop_and_lose_power(world, state, "os")
    assert isinstance(first_cause(caught.value), AssertionError)


async def stop_and_lose_power(
    world: World, state: Callable[[Scene], Awaitable[None]], durability: str
) -> None:
    """Check what is promised of a replica in such a state."""
    storage = attrs.evolve(world.config().storage, shards_per_log_dir=1, flush_interval_ms=60_000)
    shutdown = attrs.evolve(world.config().shutdown, deadline_seconds=10.0)
    config = world.config(storage=storage, shutdown=shutdown)
    with ExitStack() as faults:
        async with running(config, host=world.host, reraise=False) as run:
            await run.broker.create_topic(
                "orders", partitions=2, configs={"durability": durability}
            )
            async with world.connect() as client:
                for _ in range(BATCHES):
                    for partition in (BAD, GOOD):
                        answer = await client.produce(make_batch(), partition=partition)
                        assert answer.error_code == 0
                await state(Scene(world, run, client, faults))
                served = {
                    partition
                    for partition in (BAD, GOOD)
                    if run.replica("orders", partition).state is ReplicaState.ONLINE
                }
                began = trio.current_time()
                run.broker.request_stop()
                await run.broker.wait_stopped()
                assert trio.current_time() - began <= 11
    report = run.tree.report
    assert report is not None
    expected = STATES[state]
    assert report.clean is expected.clean[DURABILITIES.index(durability)], str(report)
    if not report.clean and expected.neighbour_is_safe:
        assert any("orders-0" in failure for failure in report.failures), str(report)
    world.machine.power_off()
    world.machine = world.machine.power_on()
    async with world.running() as run:
        bad, good = (run.replica("orders", partition) for partition in (BAD, GOOD))
        is_kept = report.clean or durability == "fsync"
        if is_kept:
            assert bad.log.log_end_offset >= BATCHES
        if is_kept or expected.neighbour_is_safe:
            assert good.log.log_end_offset == BATCHES
        for replica in (bad, good):
            is_vouched_for = report.clean or (replica is good and expected.neighbour_is_believed)
            is_believed = is_vouched_for and replica.partition in served
            assert not replica.has_log or replica.log.recovery.is_trusted is is_believed
            # Consumers are told where something may be gone, and nowhere else.
            assert replica.leader_epoch == (0 if is_believed else 1)


@simulated
async def test_a_disk_without_a_byte_left_loses_nothing_by_a_stop(world: World) -> None:
    async with world.running(reraise=False) as run:
        await fill(run.broker, durability="os")
        world.fs.faults = DiskFaults(capacity_bytes=world.fs.used_bytes)
        run.broker.request_stop()
        await run.broker.wait_stopped()
    assert "clean-shutdown" in str(run.tree.report)
    world.machine.power_off()
    world.machine = world.machine.power_on()
    world.fs.faults = DiskFaults()
    async with world.running() as run:
        assert [each.log.log_end_offset for each in run.state.router.replicas()] == [BATCHES] * 2


async def fill(broker: Any, **configs: str) -> None:
    await broker.create_topic("orders", partitions=2, configs=configs)
    for number in range(BATCHES):
        for partition in (BAD, GOOD):
            await broker.produce("orders", b"%d" % number, partition=partition)


@pytest.mark.parametrize("trouble", ["a bug", "no rights", "sync failed"])
def test_a_replica_that_was_never_opened_since_the_process_before_was_killed(
    seed: int, trouble: str, caplog: pytest.LogCaptureFixture
) -> None:
    """What the process before had acknowledged may be in the page cache only."""
    caplog.set_level(logging.CRITICAL, "trio_broker")

    async def main(sim: Simulation) -> None:
        async with open_simulated_broker(sim) as server:
            assert server.life is not None
            assert server.life.broker is not None
            await fill(server.life.broker, durability="os")
            life = server.kill()
            bad, _ = life.state.router.replicas()
            directory = bad.shard.log_dir.directory.replica_path(bad.topic_partition)
            log = f"{directory}/{0:020d}.log"
            with ExitStack() as faults:
                if trouble == "a bug":
                    patch = faults.enter_context(pytest.MonkeyPatch.context())
                    for name in ("opening", "recovering"):
                        patch.setattr(LogDir, name, failing_for(bad, getattr(LogDir, name)))
                elif trouble == "no rights":
                    faults.enter_context(failing("open", directory, errno.EACCES, on=SimFileSystem))
                else:
                    touch(server, f"{directory}/{paths.SYNC_FAILED_NAME}")
                    server.fs.damage(log, len(server.fs.content(log)) - 3, b"\0\0")
                life = await server.start()
                offline, good = life.state.router.replicas()
                assert (offline.has_log, good.has_log) == (False, True)
                server.ask_to_stop()
                await life.ended.wait()
            assert life.was_clean is (trouble == "a bug")
            server.cut_power()
            after = await server.start()
            ends = [r.log.log_end_offset for r in after.state.router.replicas() if r.has_log]
            assert ends[-1] == BATCHES
            if life.was_clean:
                assert ends[0] == BATCHES
            log_dir = after.state.log_dirs[0].directory
            assert log_dir.was_clean is (trouble != "sync failed")

    simulate(main, seed=seed).unwrap()


def failing_for(replica: Replica, opening: Any) -> Any:
    def fail(log_dir: LogDir, wanted: Replica) -> Any:
        job = opening(log_dir, wanted)
        if wanted.topic_partition != replica.topic_partition:
            return job
        job.close()
        return failing_job()

    return fail
