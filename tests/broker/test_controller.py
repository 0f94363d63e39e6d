"""The controller: commits, makes real, answers; and what it answers when the store does not."""

from __future__ import annotations

import itertools
from contextlib import asynccontextmanager
from uuid import UUID

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from tests.cluster.memory_store import Fault, MemoryStore
from trio_broker.broker.controller import DECISIONS_MAX, run_controller
from trio_broker.broker.supervise import Supervisor
from trio_broker.cluster.store import StoreUnavailable
from trio_broker.config import BrokerConfig
from trio_broker.errors import (
    BrokerClosed,
    CorruptMetadata,
    ErrorCode,
    RequestError,
    StorageError,
)
from trio_broker.metadata.decisions import (
    PRODUCER_ID_BLOCK_SIZE,
    NewTopic,
    StartedDirectory,
    TopicReference,
)
from trio_broker.metadata.image import image_from_snapshot
from trio_broker.metadata.records import EndpointRecord
from trio_broker.metadata.transaction import Put

DIRECTORY = UUID(int=0xD)


class FakeReconciler:
    """Remembers what runs; can be held up, and told to fail."""

    def __init__(self) -> None:
        self.running: set[tuple[str, int]] = set()
        self.events: list[str] = []
        self.start_gate: trio.Event | None = None
        self.fault: Exception | None = None

    async def start_partitions(self, image, partitions) -> None:
        for state in partitions:
            assert image.partition(state.topic_partition) == state
        self.events.append(f"starting {partitions[0].topic_name}")
        if self.start_gate is not None:
            await self.start_gate.wait()
        await trio.lowlevel.checkpoint()
        if self.fault is not None:
            raise self.fault
        self.running |= {(state.topic_name, state.partition) for state in partitions}
        self.events.append(f"started {partitions[0].topic_name}")

    async def stop_partitions(self, partitions) -> None:
        await trio.lowlevel.checkpoint()
        self.running -= {(state.topic_name, state.partition) for state in partitions}
        self.events.append(f"stopped {partitions[0].topic_name}")
        if self.fault is not None:
            raise self.fault

    async def move_away(self, partitions) -> None:
        await trio.lowlevel.checkpoint()
        self.events.append(f"moving {partitions[0].topic_name}")
        if self.fault is not None:
            raise self.fault

    def still_held(self, partitions) -> list[str]:
        return [f"{state.topic_name}-{state.partition}" for state in partitions]


def directories(clean: bool = True) -> list[StartedDirectory]:
    return [StartedDirectory(directory_id=DIRECTORY, shard_count=2, clean=clean)]


@asynccontextmanager
async def open_world(store=None, *, reraise: bool = True, config=None):
    """Run a controller that has started its broker; yields (controller, store, reconciler)."""
    store = store or MemoryStore()
    numbers = itertools.count(store.table.revision + 1)
    async with run_controller(
        store,
        cluster_id="cluster",
        config=config or BrokerConfig(num_partitions=2),
        supervisor=Supervisor(reraise=reraise),
        new_topic_id=lambda: UUID(int=next(numbers) << 64),
    ) as controller:
        await controller.broker_started(directories())
        reconciler = FakeReconciler()
        controller.reconciler = reconciler
        yield controller, store, reconciler


def check_image(controller, store) -> None:
    snapshot = store.table.snapshot()
    assert controller.image == image_from_snapshot(
        snapshot.entries, snapshot.revision, BrokerConfig().topic
    )


async def test_a_topic_is_answered_when_its_replicas_run_and_when_they_are_gone():
    async with open_world() as (controller, store, reconciler):
        created = await controller.create_topic("orders")
        assert created.code is ErrorCode.NONE
        assert reconciler.running == {("orders", 0), ("orders", 1)}
        assert controller.image.topics_by_name["orders"].topic_id == created.topic_id
        again = await controller.create_topic("orders", 3)
        assert again.code is ErrorCode.TOPIC_ALREADY_EXISTS
        assert repr(controller).endswith("topics=1 partitions=2>")
        check_image(controller, store)

        deleted = await controller.delete_topic("orders")
        assert (deleted.code, deleted.topic_id) == (ErrorCode.NONE, created.topic_id)
        assert not reconciler.running
        await wait_all_tasks_blocked()
        assert not controller.image.topics_by_name
        assert not controller.image.deletions
        check_image(controller, store)


async def test_a_validation_starts_and_commits_nothing():
    async with open_world() as (controller, store, reconciler):
        revision = store.table.revision
        (result,) = await controller.create_topics([NewTopic(name="x")], validate_only=True)
        assert (result.code, result.partitions) == (ErrorCode.NONE, 2)
        assert store.table.revision == revision
        assert not reconciler.events


async def test_one_request_is_one_commit_and_answers_in_order():
    async with open_world() as (controller, store, reconciler):
        commits = store.commits
        results = await controller.create_topics(
            [NewTopic(name=name, configs=[("retention.ms", "1")]) for name in ("a", "..", "b")]
        )
        assert store.commits == commits + 1
        assert [result.code for result in results] == [0, ErrorCode.INVALID_TOPIC_EXCEPTION, 0]
        assert len(reconciler.running) == 4
        assert controller.image.topics_by_name["a"].configs == {"retention.ms": "1"}
        results = await controller.delete_topics(
            [
                TopicReference(name="b"),
                TopicReference(name="c"),
                TopicReference(topic_id=controller.image.topics_by_name["a"].topic_id),
            ]
        )
        assert [(r.name, r.code) for r in results] == [
            ("b", 0),
            ("c", ErrorCode.UNKNOWN_TOPIC_OR_PARTITION),
            ("a", 0),
        ]


async def test_a_cancelled_creation_gets_its_replicas_all_the_same():
    async with open_world() as (controller, _store, reconciler):
        reconciler.start_gate = trio.Event()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(controller.create_topic, "orders")
            await wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        assert "orders" in controller.image.topics_by_name
        reconciler.start_gate.set()
        await wait_all_tasks_blocked()
        assert reconciler.running == {("orders", 0), ("orders", 1)}
        assert (await controller.create_topic("orders")).code is ErrorCode.TOPIC_ALREADY_EXISTS


async def test_a_creation_cancelled_before_its_commit_does_not_happen():
    async with open_world() as (controller, store, _reconciler):
        store.gate = trio.Event()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(controller.create_topic, "orders")
            nursery.start_soon(controller.create_topic, "carts")
            await wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        store.gate = None
        assert not controller.image.topics_by_name
        assert (await controller.create_topic("orders")).code is ErrorCode.NONE


async def test_a_deletion_waits_for_the_start_it_undoes():
    async with open_world() as (controller, _store, reconciler):
        reconciler.start_gate = trio.Event()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(controller.create_topic, "orders")
            await wait_all_tasks_blocked()
            nursery.start_soon(controller.delete_topic, "orders")
            await wait_all_tasks_blocked()
            # A slow start holds up nobody else.
            gate, reconciler.start_gate = reconciler.start_gate, None
            await controller.create_topic("carts")
            assert reconciler.running == {("carts", 0), ("carts", 1)}
            gate.set()
        assert reconciler.events == [
            "starting orders",
            "starting carts",
            "started carts",
            "started orders",
            "stopped orders",
        ]


async def test_files_that_stay_are_an_error_tried_again_and_remembered(autojump_clock):
    async with open_world() as (controller, store, reconciler):
        await controller.create_topic("carts")
        created = await controller.create_topic("orders")
        reconciler.fault = StorageError("read-only")
        deleted = await controller.delete_topic("carts")
        assert deleted.code is ErrorCode.KAFKA_STORAGE_ERROR
        assert "read-only" in deleted.message
        assert "carts" not in controller.image.topics_by_name
        await controller.wait_for_work()  # a stop does not wait for that
        await trio.sleep(10)
        assert len(controller.image.deletions) == 1
        assert reconciler.events.count("moving carts") >= 3
        reconciler.fault = None
        await trio.sleep(60)
        assert not controller.image.deletions
        reconciler.fault = StorageError("read-only")
        deleted = await controller.delete_topic("orders")
        assert deleted.code is ErrorCode.KAFKA_STORAGE_ERROR
    async with open_world(store) as (controller, store, _):
        assert list(controller.image.deletions) == [created.topic_id]
        await controller.forget_deletions(list(controller.image.deletions))
        assert not controller.image.deletions


async def test_a_bug_in_starting_replicas_is_answered():
    async with open_world(reraise=False) as (controller, _store, reconciler):
        reconciler.fault = ZeroDivisionError()
        assert (await controller.create_topic("orders")).code is ErrorCode.UNKNOWN_SERVER_ERROR


@pytest.mark.parametrize(
    "fault, code",
    [
        (Fault.UNAVAILABLE, ErrorCode.KAFKA_STORAGE_ERROR),
        (Fault.UNKNOWN_DONE, ErrorCode.REQUEST_TIMED_OUT),
        (Fault.UNKNOWN_NOT_DONE, ErrorCode.REQUEST_TIMED_OUT),
    ],
)
async def test_a_store_that_fails_is_an_answer_and_the_next_request_sees_the_truth(fault, code):
    async with open_world() as (controller, store, reconciler):
        await controller.create_topic("old")
        store.faults.append(fault)
        assert (await controller.create_topic("orders")).code is code
        assert ("orders", 0) not in reconciler.running
        done = fault is Fault.UNKNOWN_DONE
        again = await controller.create_topic("orders")
        assert again.code is (ErrorCode.TOPIC_ALREADY_EXISTS if done else ErrorCode.NONE)
        await wait_all_tasks_blocked()
        assert ("orders", 0) in reconciler.running
        check_image(controller, store)
        store.faults.append(fault)
        assert (await controller.delete_topic("old")).code is code
        again = await controller.delete_topic("old")
        assert again.code is (ErrorCode.UNKNOWN_TOPIC_OR_PARTITION if done else ErrorCode.NONE)
        await wait_all_tasks_blocked()
        assert ("old", 0) not in reconciler.running
        check_image(controller, store)


async def test_who_is_overtaken_decides_again_on_newer_metadata():
    async with open_world() as (controller, store, _reconciler):
        pids = b'{"v":1,"next_producer_id":%d}'
        store.foreign_put = Put("pids", pids % 5000)
        store.faults.append(Fault.OVERTAKEN)
        assert await controller.allocate_producer_id() == (5000, 0)
        check_image(controller, store)

        broker = next(entry for entry in store.table.entries() if "brokers" in entry.key)
        store.foreign_put = Put(broker.key, broker.value)
        store.faults.append(Fault.OVERTAKEN)
        endpoint = EndpointRecord(listener="kafka", host="localhost", port=1)
        await controller.advertise([endpoint])
        assert controller.image.brokers[0].endpoints == (endpoint,)
        broker = next(entry for entry in store.table.entries() if "brokers" in entry.key)
        store.foreign_put = Put(broker.key, broker.value)
        store.faults.extend([Fault.OVERTAKEN] * DECISIONS_MAX)
        with pytest.raises(StoreUnavailable):
            await controller.advertise([])


async def test_producer_ids_are_never_given_twice():
    async with open_world() as (controller, store, _):
        commits = store.commits
        found: list[int] = []

        async def take() -> None:
            for _ in range(30):
                producer_id, epoch = await controller.allocate_producer_id()
                assert epoch == 0
                found.append(producer_id)

        async with trio.open_nursery() as nursery:
            for _ in range(50):
                nursery.start_soon(take)
        assert sorted(found) == list(range(1500))
        assert store.commits == commits + 2
    async with open_world(store) as (controller, store, _):
        assert (await controller.allocate_producer_id())[0] == 2 * PRODUCER_ID_BLOCK_SIZE
        controller._producer_ids = range(0)
        store.faults.append(Fault.UNAVAILABLE)
        with pytest.raises(RequestError) as caught:
            await controller.allocate_producer_id()
        assert caught.value.code is ErrorCode.COORDINATOR_NOT_AVAILABLE


async def test_a_restart_knows_everything_and_raises_epochs_if_it_was_unclean():
    async with open_world() as (controller, store, _):
        await controller.create_topic("orders")
        before = controller.image
    async with open_world(store) as (controller, store, _):
        assert controller.image == before
        assert controller.image.cluster_id == "cluster"
        await controller.broker_started(directories(clean=False))
        partitions = controller.image.topics_by_name["orders"].partitions
        assert [state.leader_epoch for state in partitions] == [1, 1]
    with pytest.raises(CorruptMetadata, match="of cluster 'cluster'"):
        async with run_controller(
            store,
            cluster_id="other",
            config=BrokerConfig(),
            supervisor=Supervisor(),
            new_topic_id=UUID,
        ):
            pass


async def test_whoever_waits_when_it_stops_is_told():
    raised = []

    async def create(controller) -> None:
        with pytest.raises(BrokerClosed) as caught:
            await controller.create_topic("orders")
        raised.append(caught.value)

    async with trio.open_nursery() as nursery:
        async with open_world() as (controller, _, reconciler):
            reconciler.start_gate = trio.Event()
            nursery.start_soon(create, controller)
            await wait_all_tasks_blocked()
    assert len(raised) == 1
    for call in (
        controller.create_topic("x"),
        controller.delete_topic("x"),
        controller.allocate_producer_id(),
    ):
        with pytest.raises(BrokerClosed):
            await call
