"""What brokers in one Trio program leave behind: ``python -m tests.faults.leaks``.

The case is fluvio's, where deleted topics kept their descriptors. Three brokers are embedded in one
program; clients write to three partitions of each and read, and sit in long polls when the topic is
deleted. At the moment of the answer no task, no entry of the handle ledger and no descriptor of it
may be left; soon after that no byte on the disk. Then topics are made, written and deleted again
and again, and brokers opened and closed again and again, and the program must end where it began.
"""

from __future__ import annotations

import argparse
import gc
import os
import subprocess
import sys
import tempfile
import threading
from contextlib import AsyncExitStack
from pathlib import Path

import attrs
import psutil
import trio

from tests.faults.leak_clients import VALUE
from tests.support.server import ROOT
from trio_broker import BrokerConfig, open_broker
from trio_broker.broker.embed import Broker
from trio_broker.client import open_client
from trio_broker.records.build import Record
from trio_broker.storage.paths import DELETED_SUFFIX

MIB = 1 << 20
BROKERS = 3
PARTITIONS = 3
TOPIC = "orders"
SECONDS = 300.0
#: From this cycle on memory may grow by so much.
SETTLED_CYCLES = 200
GROWTH_BYTES_MAX = 2 * MIB


@attrs.frozen
class Usage:
    """What the program holds.

    Attributes:
        files: descriptors of files and directories.
        sockets: descriptors of sockets.
        others: eventfds, pipes and so on.
        threads: of the interpreter, but for the idle ones that Trio keeps for ten seconds.
        tasks: of Trio.
        resident_bytes: memory of the process, once the collector has run.
    """

    files: int
    sockets: int
    others: int
    threads: int
    tasks: int
    resident_bytes: int

    def __str__(self) -> str:
        return (
            f"{self.files} files, {self.sockets} sockets, {self.others} other descriptors, "
            f"{self.threads} threads, {self.tasks} tasks, {self.resident_bytes / MIB:.1f} MiB"
        )

    def require_no_more_than(self, before: Usage) -> None:
        """Raise AssertionError if more is held than before, memory apart."""
        for name in ("files", "sockets", "others", "threads", "tasks"):
            now, then = getattr(self, name), getattr(before, name)
            assert now <= then, f"{now} {name}, {then} before"


def descriptors() -> list[str]:
    """Return what every descriptor of this process leads to."""
    targets = []
    for name in os.listdir("/proc/self/fd"):
        try:
            targets.append(os.readlink(f"/proc/self/fd/{name}"))
        except FileNotFoundError:
            continue  # that of the listing itself
    return targets


def usage() -> Usage:
    """Count what this program holds now. Called inside Trio."""
    gc.collect()
    targets = descriptors()
    sockets = sum(target.startswith("socket:") for target in targets)
    files = sum(target.startswith("/") for target in targets)
    return Usage(
        files=files,
        sockets=sockets,
        others=len(targets) - sockets - files,
        threads=sum(not thread.name.startswith("Trio thread") for thread in threading.enumerate()),
        tasks=trio.lowlevel.current_statistics().tasks_living,
        resident_bytes=psutil.Process().memory_info().rss,
    )


def broker_config(directory: Path) -> BrokerConfig:
    """Return the configuration of an embedded broker, without limits on changes of topics."""
    config = BrokerConfig(
        data_dir=str(directory), listeners=("127.0.0.1:0",), auto_create_topics=False
    )
    limits = attrs.evolve(config.limits, topic_mutations_per_second=-1)
    return config.with_values(limits=limits)


def check_nothing_is_left(broker: Broker, topic_id: object) -> None:
    """Look for tasks, ledger entries and descriptors of a topic, at this very moment."""
    text, state = str(topic_id), broker._state
    directory = state.config.data_dir
    tasks = [
        replica
        for log_dir in state.log_dirs
        for shard in log_dir.shards
        for key, replica in shard.replicas.items()
        if str(key.topic_id) == text
    ]
    assert not tasks, tasks
    ledger = [file for file in state.host.fs.open_files() if text in file.owner]
    assert not ledger, ledger
    held = [
        target
        for target in descriptors()
        if target.startswith(directory)
        and not target.endswith(DELETED_SUFFIX)  # a directory that is being emptied, listed
    ]
    assert not [target for target in held if text in target], held
    assert not [target for target in held if target.endswith("(deleted)")], held


def bytes_of(directory: Path, topic_id: object) -> int:
    """Return what the disk holds of a topic."""
    return sum(
        path.stat().st_size
        for path in directory.rglob("*")
        if str(topic_id) in str(path) and path.is_file()
    ) + sum(1 for path in directory.rglob(f"*{topic_id}*"))


async def wait_for_no_bytes(directory: Path, topic_id: object) -> None:
    """Wait for housekeeping to give the space of a deleted topic back."""
    with trio.fail_after(SECONDS):
        while True:
            try:
                left = bytes_of(directory, topic_id)
            except FileNotFoundError:
                continue  # removed while it was looked at
            finally:
                await trio.sleep(0.02)
            if not left:
                return


async def wait_for_controller(*brokers: Broker) -> None:
    """Wait for the tasks of a moment that a change of topics leaves behind."""
    with trio.fail_after(SECONDS):
        while any(  # noqa: ASYNC110
            each.owner == "controller" and each.tasks
            for broker in brokers
            for each in broker.statistics().owners
        ):
            await trio.sleep(0.02)


async def delete_while_polled(broker: Broker, directory: Path, records: int) -> None:
    """Let clients write and read a topic, and delete it while they sit in long polls."""
    topic_id = await broker.create_topic(TOPIC, partitions=PARTITIONS)
    command = [sys.executable, "-m", "tests.faults.leak_clients"]
    arguments = [broker.bootstrap, TOPIC, str(PARTITIONS), str(records)]
    process = await trio.lowlevel.open_process(
        [*command, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        with trio.fail_after(SECONDS):
            assert (await process.stdout.receive_some(100)).strip() == b"read"
            replicas = broker._state.router.by_name[TOPIC].replicas
            # The broker tells nobody that a fetch has been parked, or that a client has gone.
            while not all(each is not None and each.waiters for each in replicas):  # noqa: ASYNC110
                await trio.sleep(0.02)
        assert sum(replica.high_watermark for replica in replicas if replica) == records
        async with open_client(broker.bootstrap) as client:
            await client.admin.delete_topic(TOPIC)
            check_nothing_is_left(broker, topic_id)
        await wait_for_no_bytes(directory, topic_id)
        check_nothing_is_left(broker, topic_id)
    finally:
        await process.stdin.aclose()
        with trio.move_on_after(SECONDS) as scope:
            await process.wait()
        if scope.cancelled_caught:
            process.kill()
        await process.stdout.aclose()


async def cycle_topics(broker: Broker, directory: Path, cycles: int) -> list[Usage]:
    """Make, write and delete a topic again and again; return what was held, every so often."""
    values = [Record(key=None, value=VALUE) for _ in range(100)]
    await wait_for_controller(broker)
    found = [usage()]
    for number in range(cycles):
        name = f"{TOPIC}-{number}"
        topic_id = await broker.create_topic(
            name, partitions=PARTITIONS, configs={"durability": "os"}
        )
        for partition in range(PARTITIONS):
            await broker.produce_batch(name, values, partition=partition)
        async with broker.read(name) as reader:
            await reader.receive()
        await broker.delete_topic(name)
        check_nothing_is_left(broker, topic_id)
        if number % max(1, cycles // 4) == max(1, cycles // 4) - 1:
            await wait_for_no_bytes(directory, topic_id)
            await wait_for_controller(broker)
            found.append(usage())
    return found


async def run_brokers(directory: Path, *, records: int, cycles: int) -> list[Usage]:
    """Run the case with three brokers; return what was held before, and at some times after."""
    places = [directory / f"broker-{number}" for number in range(BROKERS)]
    async with AsyncExitStack() as stack:
        brokers = [
            await stack.enter_async_context(open_broker(broker_config(place))) for place in places
        ]
        for broker, place in zip(brokers, places, strict=True):
            await cycle_topics(broker, place, 1)  # what every broker keeps: offsets, journal
        async with trio.open_nursery() as nursery:
            for broker, place in zip(brokers, places, strict=True):
                nursery.start_soon(delete_while_polled, broker, place, records)
        with trio.fail_after(SECONDS):
            while any(broker._state.clients for broker in brokers):  # noqa: ASYNC110
                await trio.sleep(0.02)
        await wait_for_controller(*brokers)  # of the others too: they are idle from now on
        found = await cycle_topics(brokers[0], places[0], cycles)
        for broker in brokers:
            assert not broker.statistics().leaks_suspected
            assert not broker.statistics().faults
    return found


async def wait_for_lanes_to_end() -> None:
    """Wait for the threads of brokers that have stopped: they are told to end, not waited for."""
    with trio.fail_after(SECONDS):
        while any(each.name.startswith("lane ") for each in threading.enumerate()):  # noqa: ASYNC110
            await trio.sleep(0.02)


async def cycle_brokers(directory: Path, cycles: int) -> list[Usage]:
    """Open and close a broker again and again; return what was held, every so often."""
    config = broker_config(directory / "again")
    found = []
    for number in range(cycles):
        async with open_broker(config) as broker:
            if number == 0:
                await broker.create_topic(TOPIC, partitions=PARTITIONS)
            await broker.produce(TOPIC, VALUE)
            async with open_client(broker.bootstrap) as client:
                await client.admin.list_topics()
        if number in {0, SETTLED_CYCLES - 1, cycles - 1} or number % 100 == 99:
            await wait_for_lanes_to_end()
            found.append(usage())
    return found


@attrs.frozen
class Leaks:
    """What a run showed.

    Attributes:
        before: before the first broker.
        topics: while topics came and went.
        brokers: while brokers came and went.
        after: at the end.
    """

    before: Usage
    topics: list[Usage]
    brokers: list[Usage]
    after: Usage

    def __str__(self) -> str:
        lines = [f"before: {self.before}"]
        lines += [f"topics come and go: {each}" for each in self.topics]
        lines += [f"brokers come and go: {each}" for each in self.brokers]
        return "\n".join([*lines, f"after: {self.after}"])

    def require(self) -> None:
        """Raise AssertionError if the program does not end where it began."""
        self.after.require_no_more_than(self.before)
        for found in self.topics:
            found.require_no_more_than(self.topics[0])
        for found in self.brokers:
            found.require_no_more_than(self.before)

    def require_no_growth(self) -> None:
        """Raise AssertionError if memory goes on growing; only long runs can tell."""
        for found in (self.topics[1:], self.brokers[2:]):
            growth = found[-1].resident_bytes - found[0].resident_bytes
            assert growth <= GROWTH_BYTES_MAX, f"{growth / MIB:.1f} MiB more"


async def run_leaks(directory: Path, *, records: int, cycles: int, brokers: int) -> Leaks:
    """Run all of it."""
    before = usage()
    topics = await run_brokers(directory, records=records, cycles=cycles)
    await wait_for_lanes_to_end()
    again = await cycle_brokers(directory, brokers)
    return Leaks(before, topics, again, usage())


def main() -> None:
    """Run as a command."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.leaks", description=__doc__)
    parser.add_argument("--records", type=int, default=100_000, help="written to each broker")
    parser.add_argument("--cycles", type=int, default=200, help="topics made and deleted")
    parser.add_argument("--brokers", type=int, default=1000, help="brokers opened and closed")
    options = parser.parse_args()

    async def run() -> None:
        with tempfile.TemporaryDirectory() as directory:
            leaks = await run_leaks(
                Path(directory),
                records=options.records,
                cycles=options.cycles,
                brokers=options.brokers,
            )
        print(leaks)
        leaks.require()
        leaks.require_no_growth()

    trio.run(run)


if __name__ == "__main__":
    main()
