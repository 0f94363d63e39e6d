"""A broker without work wakes up rarely, and is none the slower to notice when there is some."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import attrs
import pytest
import trio
import trio.testing

from tests.broker.harness import World, closed_after, make_batch, produce_request, simulated, slow
from trio_broker.broker import disk_guard, leak_watch, reaper
from trio_broker.broker.owned_tasks import TASKS_PER_TURN, count_tasks
from trio_broker.client import open_client
from trio_broker.errors import ErrorCode
from trio_broker.host import jobs
from trio_broker.storage.disk_state import DiskState
from trio_broker.testing import memory_broker
from trio_broker.wire.messages.api_versions import ApiVersionsRequest

if TYPE_CHECKING:
    from trio_broker.host.interface import Space

HOUR = 3600.0
#: Until every pause is as long as it gets, and some more.
LONG = 600.0


class Steps(trio.abc.Instrument):
    """Counts the steps of tasks by their names."""

    def __init__(self) -> None:
        self.of: Counter[str] = Counter()

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self.of[task.name] += 1


def test_an_hour_of_nothing_takes_some_hundred_steps() -> None:
    """Under a virtual clock a test pays for each; before it was 24,000."""
    steps = Steps()

    async def main() -> None:
        async with memory_broker() as broker, open_client(broker=broker) as client:
            await broker.create_topic("orders", partitions=3)
            await broker.produce("orders", b"x")
            await client.admin.list_topics()
            await trio.sleep(120)
            trio.lowlevel.add_instrument(steps)
            await trio.sleep(HOUR)
            trio.lowlevel.remove_instrument(steps)

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
    assert steps.of.total() < 2_500, steps.of.most_common(5)


# ------------------------------------------------------------------------------- the reaper
@simulated
async def test_what_begins_after_a_long_silence_is_due_as_ever(world: World) -> None:
    network = attrs.evolve(
        world.config().network, connection_idle_seconds=1000.0, frame_seconds_max=20.0
    )
    async with world.running(network=network) as run:
        await run.broker.create_topic("orders")
        async with world.connect() as client, world.connect() as silent:
            for each in (client, silent):
                await each.call(ApiVersionsRequest(), 0)
            await trio.sleep(100)
            assert "asleep" in repr(run.state.reaper)
            # A produce that takes longer than its client waits, ...
            request = produce_request(make_batch(b"x"), timeout_ms=2_000)
            began = trio.current_time()
            with slow(str(run.topic_id("orders")), 20.0):
                answer = await client.call(request, 9)
            [partition] = answer.responses[0].partition_responses
            assert partition.error_code == ErrorCode.REQUEST_TIMED_OUT
            assert trio.current_time() - began < 2 + 2 * reaper.REAP_INTERVAL_SECONDS
            await trio.sleep(100)
            # ... a request that is not sent to its end, ...
            began = trio.current_time()
            await client.send_bytes((1000).to_bytes(4, "big") + b"\0\0")
            await closed_after(client)
            assert 20 <= trio.current_time() - began < 20 + 2 * reaper.REAP_INTERVAL_SECONDS
            # ... and one who has said nothing for too long.
            assert len(run.state.clients) == 1
            await closed_after(silent)
            assert 998 < trio.current_time() - run.state.started_at < 1005
        await run.wait_idle()


# --------------------------------------------------------------------------- the disk guard
@simulated
async def test_a_quiet_disk_is_looked_at_rarely_and_at_once_when_it_is_written_to(
    world: World,
) -> None:
    looks: list[float] = []
    is_filled = False
    async with world.running() as run:
        await run.broker.create_topic("orders")
        [log_dir] = run.state.log_dirs
        observe = log_dir.health.observe

        def look(space: Space) -> None:
            looks.append(trio.current_time())
            observe(space._replace(free_bytes=0) if is_filled else space)

        log_dir.health.observe = look  # type: ignore[method-assign]
        await trio.sleep(LONG)
        quiet = [at for at in looks if at > looks[-1] - LONG / 2]
        assert len(quiet) <= LONG / 2 / disk_guard.LOOK_SECONDS_QUIET + 1
        await trio.sleep_until(looks[-1] + disk_guard.LOOK_SECONDS_QUIET / 2)

        written_at = trio.current_time()
        await run.broker.produce("orders", b"x", partition=0)
        await trio.sleep(5)
        assert next(at for at in looks if at >= written_at) < written_at + 0.5
        assert len([at for at in looks if at >= written_at]) >= 3

        # Others fill the disk, and nobody writes to it.
        await trio.sleep(LONG)
        is_filled = True
        await trio.sleep(disk_guard.LOOK_SECONDS_QUIET + 0.5)
        assert log_dir.health.state is DiskState.DEGRADED
        is_filled = False
        await trio.sleep(3)
        assert log_dir.health.state is DiskState.OK


# --------------------------------------------------------------------------- the leak watch
@simulated
async def test_files_are_missed_in_time_however_quiet_the_broker_was(world: World) -> None:
    async with world.running() as run:
        await run.broker.create_topic("orders")
        await trio.sleep(LONG + 1)
        lane = run.state.log_dirs[0].lane
        opening = jobs.open_file(world.fs, "/data/logs/stranger", "replica/of-nobody", create=True)
        file = await lane.run(opening)
        await trio.sleep(2 * leak_watch.LOOK_SECONDS + leak_watch.PATIENCE_SECONDS)
        assert list(run.state.leaks) == ["replica/of-nobody"]
        file.close()
        await trio.sleep(leak_watch.LOOK_SECONDS)
        assert not run.state.leaks

        # What is in no ledger shows at the next look, which may be a minute away.
        world.fs.descriptor_paths = lambda directories: ["/data/logs/unknown"]
        await trio.sleep(leak_watch.LOOK_SECONDS_QUIET + 2 * leak_watch.LOOK_SECONDS)
        await trio.sleep(leak_watch.PATIENCE_SECONDS)
        assert list(run.state.leaks) == ["/data/logs/unknown"]
        del world.fs.descriptor_paths


# ---------------------------------------------------------------------------- counting tasks
async def test_ten_thousands_of_tasks_are_counted_in_turns() -> None:
    async with trio.open_nursery() as nursery:
        for _ in range(2 * TASKS_PER_TURN):
            nursery.start_soon(trio.sleep_forever)
        await trio.testing.wait_all_tasks_blocked()
        counting = count_tasks(trio.lowlevel.current_task())
        for _ in range(2):
            next(counting)
        with pytest.raises(StopIteration) as end:
            next(counting)
        assert end.value.value == {"broker": 2 * TASKS_PER_TURN + 1}
        nursery.cancel_scope.cancel()
