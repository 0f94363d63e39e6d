"""``python -m tests.benchmarks.steps``: how long the event loop and a lane are held up at a time.

An embedded broker with 10,000 partitions is asked for everything that concerns many of them at
once. A Trio instrument takes the CPU time of each step of the broker's tasks, without what the
cyclic collector took, which is told apart; jobs of lanes are timed by the clock on the wall. The
longest step is how late everybody else is then, whatever else the machine does. Shown is the median
of the longest of each round. Takes about two minutes.
"""

from __future__ import annotations

import argparse
import gc
import tempfile
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import attrs
import trio

from tests.admin.http_client import get
from tests.broker.harness import Client, make_batch, open_client
from trio_broker import BrokerConfig
from trio_broker.broker.broker import BrokerTree
from trio_broker.broker.statistics import snapshot
from trio_broker.config import HttpConfig, LimitsConfig, ShutdownConfig, TopicConfig
from trio_broker.host.interface import Host, Job
from trio_broker.host.real import real_host
from trio_broker.names import ZERO_TOPIC_ID
from trio_broker.wire.messages.create_partitions import (
    CreatePartitionsRequest,
    CreatePartitionsTopic,
)
from trio_broker.wire.messages.create_topics import (
    CreatableTopic,
    CreatableTopicConfig,
    CreateTopicsRequest,
)
from trio_broker.wire.messages.delete_records import (
    DeleteRecordsPartition,
    DeleteRecordsRequest,
    DeleteRecordsTopic,
)
from trio_broker.wire.messages.delete_topics import DeleteTopicsRequest, DeleteTopicState
from trio_broker.wire.messages.describe_configs import (
    DescribeConfigsRequest,
    DescribeConfigsResource,
)
from trio_broker.wire.messages.describe_log_dirs import DescribeLogDirsRequest
from trio_broker.wire.messages.describe_topic_partitions import DescribeTopicPartitionsRequest
from trio_broker.wire.messages.fetch import FetchPartition, FetchRequest, FetchTopic
from trio_broker.wire.messages.incremental_alter_configs import (
    AlterableConfig,
    AlterConfigsResource,
    IncrementalAlterConfigsRequest,
)
from trio_broker.wire.messages.list_offsets import (
    ListOffsetsPartition,
    ListOffsetsRequest,
    ListOffsetsTopic,
)
from trio_broker.wire.messages.metadata import MetadataRequest, MetadataRequestTopic
from trio_broker.wire.messages.offset_commit import (
    OffsetCommitRequest,
    OffsetCommitRequestPartition,
    OffsetCommitRequestTopic,
)
from trio_broker.wire.messages.offset_fetch import OffsetFetchRequest, OffsetFetchRequestGroup
from trio_broker.wire.messages.offset_for_leader_epoch import (
    OffsetForLeaderEpochRequest,
    OffsetForLeaderPartition,
    OffsetForLeaderTopic,
)
from trio_broker.wire.messages.produce import PartitionProduceData, ProduceRequest, TopicProduceData

TOPICS = 10
PARTITIONS = 1_000
SMALL_TOPICS = 1_000
GROUP = "readers"
_SLOW_SECONDS = 0.002
_MS = 1_000
_NS = 1e-9


class StepMeter(trio.abc.Instrument):
    """Takes the CPU time of each step of tasks below a root, and tells where the longest began.

    Attributes:
        root: whose descendants count; None: nobody.
        steps: CPU seconds of every step since the last `clear`.
        slow: (seconds, task, where it began, where it ended) of long ones.
        collector_seconds: the longest run of the cyclic collector.
    """

    def __init__(self) -> None:
        self.root: trio.lowlevel.Task | None = None
        self.steps: list[float] = []
        self.slow: list[tuple[float, str, str, str]] = []
        self.collector_seconds = 0.0
        self.jobs: list[tuple[float, int, str]] = []
        self._began = 0.0
        self._where = ""
        self._collected = 0.0
        self._collecting_since = 0.0
        self._outside: set[int] = set()

    def clear(self) -> None:
        """Forget everything."""
        self.steps, self.slow, self.jobs = [], [], []
        self.collector_seconds = 0.0

    def collector(self, phase: str, _: dict[str, int]) -> None:
        """Be a callback of the cyclic collector."""
        now = time.thread_time()
        if phase == "start":
            self._collecting_since = now
        else:
            took = now - self._collecting_since
            self._collected += took
            self.collector_seconds = max(self.collector_seconds, took)

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        """See `trio.abc.Instrument`."""
        self._where = _place(task)
        self._collected = 0.0
        self._began = time.thread_time()

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        """See `trio.abc.Instrument`."""
        took = time.thread_time() - self._began - self._collected
        if not _is_below(task, self.root):
            return
        self.steps.append(took)
        if took > _SLOW_SECONDS:
            name = task.name.removeprefix("trio_broker.")
            self.slow.append((took, name, self._where, _place(task)))

    def timed(self, job: Job[Any]) -> Job[Any]:
        """Drive a job of a lane; note how long it took by the clock, and its calls."""
        name = getattr(job, "__name__", "?")
        began, calls = time.perf_counter(), 0
        result: Any = None
        failure: BaseException | None = None
        try:
            while True:
                try:
                    call = job.send(result) if failure is None else job.throw(failure)
                except StopIteration as stop:
                    return stop.value
                calls += 1
                try:
                    result, failure = (yield call), None
                except BaseException as error:  # noqa: BLE001 - handed on to the job
                    failure = error
        finally:
            self.jobs.append((time.perf_counter() - began, calls, name))


def _is_below(task: trio.lowlevel.Task | None, root: trio.lowlevel.Task | None) -> bool:
    while task is not None:
        if task is root:
            return True
        nursery = task.parent_nursery
        task = None if nursery is None else nursery.parent_task
    return False


def _place(task: trio.lowlevel.Task) -> str:
    """Name the innermost lines of the broker that a task is at."""
    found: list[str] = []
    coroutine: Any = task.coro
    while coroutine is not None:
        frame = getattr(coroutine, "cr_frame", None)
        if frame is not None and "trio_broker" in frame.f_code.co_filename:
            name = Path(frame.f_code.co_filename).name
            found.append(f"{name}:{frame.f_lineno}")
        coroutine = getattr(coroutine, "cr_await", None)
    return " > ".join(found[-3:])


def _timing_lanes(host: Host, meter: StepMeter) -> Host:
    open_lane = host.open_lane

    def open_timed(name: str, seconds_max: float) -> Any:
        lane: Any = open_lane(name, seconds_max)
        run = lane.run

        async def timed_run(job: Job[Any]) -> Any:
            return await run(meter.timed(job))

        lane.run = timed_run
        return lane

    return attrs.evolve(host, open_lane=open_timed)


class Bench:
    """A broker, a client, and a table that grows."""

    def __init__(
        self, tree: BrokerTree, host: Host, client: Client, meter: StepMeter, options: Any
    ) -> None:
        self.tree = tree
        self.client = client
        self.meter = meter
        self._host = host
        self._options = options

    async def call(self, request: Any, version: int = -1) -> Any:
        """Send a request, return the response."""
        return await self.client.call(request, version)

    async def send(self, request: Any, version: int = -1) -> None:
        """Send a request, and leave the response unread until it is there as a whole."""
        await self.client.send(request, version)
        await self.client.receive_frame()

    async def get(self, path: str) -> None:
        """Ask over HTTP."""
        await get(self._host.network, self.tree.state.http_bound[0], path)

    async def measure(
        self, name: str, act: Callable[[int], Awaitable[object]], *, rounds: int | None = None
    ) -> None:
        """Do something several times, and print a row."""
        longest, totals, jobs, calls, counts, collector = [], [], [], [], [], 0.0
        slow: list[tuple[float, str, str, str]] = []
        slow_jobs: list[tuple[float, int, str]] = []
        if self._options.only and self._options.only not in name and not name.startswith("*"):
            return
        for number in range(rounds or self._options.rounds):
            await trio.sleep(0.02)
            self.meter.clear()
            await act(number)
            await trio.sleep(0.02)
            meter = self.meter
            longest.append(_MS * max(meter.steps, default=0.0))
            totals.append(_MS * sum(meter.steps))
            counts.append(len(meter.steps))
            job = max(meter.jobs, default=(0.0, 0, ""))
            jobs.append(_MS * job[0])
            calls.append(max((each[1] for each in meter.jobs), default=0))
            collector = max(collector, meter.collector_seconds)
            slow += meter.slow
            slow_jobs.append(job)
        print(
            f"| {name} | {median(longest):.1f} | {median(totals):.1f} | {median(counts):g} "
            f"| {median(jobs):.1f} | {median(calls):g} | {_MS * collector:.1f} |",
            flush=True,
        )
        if self._options.where:
            for took, task, began, ended in sorted(slow, reverse=True)[:4]:
                print(f"      {_MS * took:.1f} ms {task}: {began} ... {ended}")
            for took, count, what in sorted(slow_jobs, reverse=True)[:1]:
                print(f"      job {_MS * took:.1f} ms {count} calls {what}")


def _topic(number: int) -> str:
    return f"topic-{number}"


async def _populate(bench: Bench) -> None:
    async def create(number: int) -> None:
        await bench.send(_creation(_topic(number)))

    async def produce(number: int) -> None:
        batch = make_batch(b"one record")
        data = [PartitionProduceData(index=index, records=batch) for index in range(PARTITIONS)]
        topic = TopicProduceData(name=_topic(number), partition_data=data)
        await bench.send(ProduceRequest(acks=-1, timeout_ms=60_000, topic_data=[topic]), 11)

    async def create_small(_: int) -> None:
        await bench.send(
            CreateTopicsRequest(
                topics=[
                    CreatableTopic(
                        name=f"small-{number}",
                        num_partitions=1,
                        replication_factor=1,
                        assignments=(),
                        configs=(),
                    )
                    for number in range(SMALL_TOPICS)
                ]
            )
        )

    await bench.measure(f"*create a topic of {PARTITIONS:,}", create, rounds=TOPICS)
    await bench.measure(f"*produce to {PARTITIONS:,} partitions", produce, rounds=TOPICS)
    await bench.measure(f"*create {SMALL_TOPICS:,} topics", create_small, rounds=1)


def _creation(name: str, partitions: int = PARTITIONS) -> CreateTopicsRequest:
    topic = CreatableTopic(
        name=name,
        num_partitions=partitions,
        replication_factor=1,
        assignments=(),
        configs=[CreatableTopicConfig(name="segment.ms", value="600000000")],
    )
    return CreateTopicsRequest(topics=[topic])


async def _describe(bench: Bench) -> None:
    def say(request: Any, version: int = -1) -> Callable[[int], Awaitable[object]]:
        return lambda _: bench.send(request, version)

    async def statistics(_: int) -> None:
        began = time.thread_time()
        snapshot(bench.tree.state)
        bench.meter.steps.append(time.thread_time() - began)

    everything = MetadataRequest(topics=None)
    one = MetadataRequest(topics=[MetadataRequestTopic(name=_topic(0))])
    await bench.measure("metadata of all", say(everything))
    await bench.measure(f"metadata of {PARTITIONS:,}", say(one))
    await bench.measure("DescribeTopicPartitions", say(DescribeTopicPartitionsRequest(topics=())))
    await bench.measure("/metrics", lambda _: bench.get("/metrics"))
    await bench.measure("/health", lambda _: bench.get("/health"))
    await bench.measure("broker.statistics()", statistics)
    await bench.measure("DescribeLogDirs", say(DescribeLogDirsRequest(topics=None)))
    resources = [
        DescribeConfigsResource(
            resource_type=2, resource_name=f"small-{number}", configuration_keys=None
        )
        for number in range(SMALL_TOPICS)
    ]
    for options in ({}, {"include_synonyms": True, "include_documentation": True}):
        await bench.measure(
            f"DescribeConfigs of {SMALL_TOPICS:,} topics{' with all' if options else ''}",
            say(DescribeConfigsRequest(resources=resources, **options)),
        )


async def _offsets(bench: Bench) -> None:
    def say(request: Any, version: int = -1) -> Callable[[int], Awaitable[object]]:
        return lambda _: bench.send(request, version)

    def list_offsets(timestamp: int) -> ListOffsetsRequest:
        return ListOffsetsRequest(
            replica_id=-1,
            topics=[
                ListOffsetsTopic(
                    name=_topic(number),
                    partitions=[
                        ListOffsetsPartition(partition_index=index, timestamp=timestamp)
                        for index in range(PARTITIONS)
                    ],
                )
                for number in range(TOPICS)
            ],
        )

    await bench.measure("ListOffsets of 10,000, latest", say(list_offsets(-1)))
    await bench.measure("ListOffsets of 10,000, earliest", say(list_offsets(-2)))
    await bench.measure("ListOffsets of 10,000, by time", say(list_offsets(1)), rounds=1)
    commit = OffsetCommitRequest(
        group_id=GROUP,
        member_id="",
        topics=[
            OffsetCommitRequestTopic(
                name=_topic(number),
                partitions=[
                    OffsetCommitRequestPartition(
                        partition_index=index, committed_offset=1, committed_metadata=""
                    )
                    for index in range(PARTITIONS)
                ],
            )
            for number in range(TOPICS)
        ],
    )
    await bench.measure("OffsetCommit of 10,000", say(commit, 9))
    groups = [OffsetFetchRequestGroup(group_id=GROUP, topics=None)]
    await bench.measure("OffsetFetch of all", say(OffsetFetchRequest(groups=groups), 9))
    epochs = OffsetForLeaderEpochRequest(
        topics=[
            OffsetForLeaderTopic(
                topic=_topic(number),
                partitions=[
                    OffsetForLeaderPartition(partition=index, leader_epoch=0)
                    for index in range(PARTITIONS)
                ],
            )
            for number in range(TOPICS)
        ]
    )
    await bench.measure("OffsetForLeaderEpoch of 10,000", say(epochs))


def _fetch(topics: int, offset: int, **arguments: Any) -> FetchRequest:
    return FetchRequest(
        topics=[
            FetchTopic(
                topic=_topic(number),
                partitions=[
                    FetchPartition(
                        partition=index, fetch_offset=offset, partition_max_bytes=1_000_000
                    )
                    for index in range(PARTITIONS)
                ],
            )
            for number in range(topics)
        ],
        **arguments,
    )


async def _fetches(bench: Bench) -> None:
    def say(request: Any, version: int = -1) -> Callable[[int], Awaitable[object]]:
        return lambda _: bench.send(request, version)

    for topics in (1, TOPICS):
        count = f"{topics * PARTITIONS:,}"
        full = _fetch(topics, 0, max_wait_ms=0, min_bytes=1)
        empty = _fetch(topics, 1, max_wait_ms=20, min_bytes=1)
        await bench.measure(f"fetch from {count}, with a record in each", say(full, 12))
        await bench.measure(f"fetch from {count}, all read, waiting 20 ms", say(empty, 12))
    data = [
        PartitionProduceData(index=index, records=make_batch(b"again"))
        for index in range(PARTITIONS)
    ]
    topic = TopicProduceData(name=_topic(1), partition_data=data)
    again = ProduceRequest(acks=-1, timeout_ms=60_000, topic_data=[topic])
    await bench.measure(f"produce to {PARTITIONS:,} again", say(again, 11))


async def _changes(bench: Bench) -> None:
    def alter(name: str, value: str) -> Callable[[int], Awaitable[object]]:
        resource = AlterConfigsResource(
            resource_type=2,
            resource_name=_topic(2),
            configs=[AlterableConfig(name=name, config_operation=0, value=value)],
        )
        request = IncrementalAlterConfigsRequest(resources=[resource], validate_only=False)
        return lambda _: bench.send(request)

    async def alter_age(number: int) -> None:
        await alter("retention.ms", str(10**12 + number))(0)

    async def grow(number: int) -> None:
        topic = CreatePartitionsTopic(
            name=_topic(3), count=PARTITIONS + 500 * (number + 1), assignments=None
        )
        await bench.send(
            CreatePartitionsRequest(topics=[topic], timeout_ms=60_000, validate_only=False)
        )

    async def delete_records(number: int) -> None:
        partitions = [
            DeleteRecordsPartition(partition_index=index, offset=1) for index in range(PARTITIONS)
        ]
        topics = [DeleteRecordsTopic(name=_topic(4 + number), partitions=partitions)]
        await bench.send(DeleteRecordsRequest(topics=topics, timeout_ms=60_000))

    async def delete(number: int) -> None:
        topics = [DeleteTopicState(name=_topic(9 - number), topic_id=ZERO_TOPIC_ID)]
        await bench.send(DeleteTopicsRequest(topics=topics, timeout_ms=60_000))

    async def recreate(number: int) -> None:
        await bench.send(_creation(f"later-{number}"))

    async def delete_again(number: int) -> None:
        topics = [DeleteTopicState(name=f"later-{number}", topic_id=ZERO_TOPIC_ID)]
        await bench.send(DeleteTopicsRequest(topics=topics, timeout_ms=60_000))

    async def delete_small(_: int) -> None:
        topics = [
            DeleteTopicState(name=f"small-{i}", topic_id=ZERO_TOPIC_ID) for i in range(SMALL_TOPICS)
        ]
        await bench.send(DeleteTopicsRequest(topics=topics, timeout_ms=60_000))

    await bench.measure(f"alter a topic of {PARTITIONS:,}: retention", alter_age)
    await bench.measure(
        f"alter a topic of {PARTITIONS:,}: durability to os", alter("durability", "os"), rounds=1
    )
    await bench.measure(
        f"alter a topic of {PARTITIONS:,}: back to fsync", alter("durability", "fsync"), rounds=1
    )
    await bench.measure("add 500 partitions to 1,000", grow, rounds=1)
    await bench.measure("DeleteRecords of 1,000", delete_records, rounds=1)
    await bench.measure(f"create a topic of {PARTITIONS:,} beside 10,000", recreate)
    await bench.measure(f"delete a topic of {PARTITIONS:,}, unused", delete_again)
    await bench.measure(f"delete a topic of {PARTITIONS:,}", delete, rounds=3)
    await bench.measure(f"delete {SMALL_TOPICS:,} topics", delete_small, rounds=1)


async def _run(directory: str, options: Any) -> None:
    meter = StepMeter()
    trio.lowlevel.add_instrument(meter)
    gc.callbacks.append(meter.collector)
    host = _timing_lanes(real_host(), meter)
    config = BrokerConfig(
        data_dir=directory,
        listeners=("127.0.0.1:0",),
        http=HttpConfig(listen="127.0.0.1:0"),
        limits=LimitsConfig(partitions_max=30_000),
        topic=TopicConfig(retention_ms=-1),  # timestamps of the records are old
        shutdown=ShutdownConfig(deadline_seconds=60, ready_grace_seconds=0),
    )
    print(
        "| what | longest step, ms of CPU | all steps, ms | steps | longest job, ms | its calls "
        "| longest collection, ms |"
    )
    print("|---|--:|--:|--:|--:|--:|--:|")
    for first in (True, False):
        async with trio.open_nursery() as nursery:
            tree = BrokerTree(config, host, reraise=True)

            async def start(_: int, tree: BrokerTree = tree) -> None:
                meter.root = None
                await nursery.start(tree.run)

            async def stop(_: int, tree: BrokerTree = tree) -> None:
                tree.request_stop()
                await tree.ended.wait()

            nursery.start_soon(_find_root, tree, meter)
            async with AsyncExitStack() as stack:
                stack.callback(tree.request_stop)  # else the nursery waits for it after a failure
                bench = Bench(tree, host, None, meter, options)  # type: ignore[arg-type]
                await bench.measure("*start" if first else "*clean start with all", start, rounds=1)
                meter.root = tree.state.root_task
                bench.client = await stack.enter_async_context(
                    open_client(host.network, tree.state.bound[0])
                )
                if first:
                    await _populate(bench)
                gc.collect()
                gc.freeze()
                if first:
                    await bench.measure("*idle for 25 s", _idle, rounds=1)
                    await bench.measure("*idle for 25 s more", _idle, rounds=1)
                    for part in (_describe, _offsets, _fetches):
                        await part(bench)
                else:
                    await _changes(bench)

                await bench.measure("*stop", stop, rounds=1)


async def _idle(_: int) -> None:
    await trio.sleep(25)


async def _find_root(tree: BrokerTree, meter: StepMeter) -> None:
    while getattr(tree.state, "root_task", None) is None:
        await trio.lowlevel.checkpoint()
    meter.root = tree.state.root_task


def main() -> None:
    """Parse the command line, measure, print."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.steps", description=__doc__)
    parser.add_argument("--directory", type=Path, help="where data goes; decides the disk")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", help="what has this in its name")
    parser.add_argument("--where", action="store_true", help="tell where long steps are")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.directory) as directory:
        trio.run(partial(_run, f"{directory}/data", options))


if __name__ == "__main__":
    main()
