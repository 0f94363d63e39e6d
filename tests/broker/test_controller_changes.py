"""The controller changes topics that are there: more partitions, other configs, and deadlines."""

from __future__ import annotations

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from tests.broker.test_controller import FakeReconciler, check_image, open_world
from tests.cluster.memory_store import Fault
from trio_broker.errors import BrokerClosed, ErrorCode
from trio_broker.metadata.decisions import (
    AlterOperation,
    ConfigChange,
    MorePartitions,
    NewTopic,
    TopicAlteration,
    TopicReference,
)


def retention(name, value="5"):
    change = ConfigChange("retention.ms", AlterOperation.SET, value)
    return [TopicAlteration(name=name, changes=[change])]


@pytest.fixture(autouse=True)
def configured(monkeypatch):
    """Let the fake remember which topics it was told to configure."""

    async def configure_topics(self, topic_ids) -> None:
        if self.start_gate is not None:
            await self.start_gate.wait()
        await trio.lowlevel.checkpoint()
        self.events.append(f"configured {len(topic_ids)}")
        if self.fault is not None:
            raise self.fault

    monkeypatch.setattr(FakeReconciler, "configure_topics", configure_topics, raising=False)


async def test_only_the_new_partitions_are_started():
    async with open_world() as (controller, store, reconciler):
        await controller.create_topic("orders")
        reconciler.running.clear()
        results = await controller.create_partitions([MorePartitions(name="orders", count=4)])
        assert [result.code for result in results] == [ErrorCode.NONE]
        assert reconciler.running == {("orders", 2), ("orders", 3)}
        results = await controller.create_partitions([MorePartitions(name="orders", count=4)])
        assert [result.code for result in results] == [ErrorCode.INVALID_PARTITIONS]
        check_image(controller, store)
        await controller.delete_topic("orders")
        assert not reconciler.running


async def test_a_deletion_waits_for_everything_that_is_being_started():
    async with open_world() as (controller, _store, reconciler):
        reconciler.start_gate = trio.Event()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(controller.create_topic, "orders")
            await wait_all_tasks_blocked()
            nursery.start_soon(
                controller.create_partitions, [MorePartitions(name="orders", count=3)]
            )
            await wait_all_tasks_blocked()
            nursery.start_soon(controller.delete_topic, "orders")
            await wait_all_tasks_blocked()
            assert controller.work_under_way() == [
                "creating orders",
                "creating orders",
                "deleting orders",
            ]
            reconciler.start_gate.set()
        assert reconciler.events[-1] == "stopped orders"
        assert not reconciler.running
        await wait_all_tasks_blocked()
        assert not controller.work_under_way()


async def test_an_alteration_is_answered_when_topics_follow_it():
    async with open_world() as (controller, store, reconciler):
        await controller.create_topic("orders")
        reconciler.start_gate = trio.Event()
        results = []

        async def alter() -> None:
            results.extend(await controller.alter_topics(retention("orders")))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(alter)
            await wait_all_tasks_blocked()
            assert controller.image.topics_by_name["orders"].config.retention_ms == 5
            assert not results
            reconciler.start_gate.set()
        assert [result.code for result in results] == [ErrorCode.NONE]
        assert reconciler.events[-1] == "configured 1"
        check_image(controller, store)
        # What is as it was, or only validated, needs nobody to follow.
        await controller.alter_topics(retention("orders"))
        await controller.alter_topics(retention("orders", "6"), validate_only=True)
        assert reconciler.events.count("configured 1") == 1


@pytest.mark.parametrize("fault", [Fault.UNKNOWN_DONE, Fault.UNKNOWN_NOT_DONE])
async def test_what_was_committed_unheard_of_takes_effect_later(fault):
    async with open_world() as (controller, store, reconciler):
        await controller.create_topic("orders")
        reconciler.running.clear()
        store.faults.extend([fault, fault])
        (altered,) = await controller.alter_topics(retention("orders"))
        assert altered.code is ErrorCode.REQUEST_TIMED_OUT
        (added,) = await controller.create_partitions([MorePartitions(name="orders", count=3)])
        assert added.code is ErrorCode.REQUEST_TIMED_OUT
        await controller.create_topics([NewTopic(name="any")], validate_only=True)
        await wait_all_tasks_blocked()
        done = fault is Fault.UNKNOWN_DONE
        assert ("configured 1" in reconciler.events) == done
        assert (("orders", 2) in reconciler.running) == done
        assert ("orders", 0) not in reconciler.running
        check_image(controller, store)


async def test_what_takes_longer_than_the_timeout_is_answered_and_goes_on(autojump_clock, caplog):
    async with open_world() as (controller, store, reconciler):
        await controller.create_topic("old")
        reconciler.start_gate = trio.Event()
        began = trio.current_time()
        results = await controller.create_topics(
            [NewTopic(name="orders"), NewTopic(name="old")], timeout_seconds=2
        )
        assert trio.current_time() - began == pytest.approx(2)
        assert [result.code for result in results] == [
            ErrorCode.REQUEST_TIMED_OUT,
            ErrorCode.TOPIC_ALREADY_EXISTS,
        ]
        (added,) = await controller.create_partitions(
            [MorePartitions(name="old", count=3)], timeout_seconds=0
        )
        assert added.code is ErrorCode.REQUEST_TIMED_OUT
        (deleted,) = await controller.delete_topics(
            [TopicReference(name="orders")], timeout_seconds=-5
        )
        assert deleted.code is ErrorCode.REQUEST_TIMED_OUT
        assert caplog.messages[-1] == (
            "deleting orders takes longer than the request allows, and goes on; "
            "still held: orders-0; orders-1"
        )
        assert len(controller.image.topics_by_name["old"].partitions) == 3
        reconciler.start_gate.set()
        await controller.wait_for_work()
        assert reconciler.running == {("old", 0), ("old", 1), ("old", 2)}
        check_image(controller, store)


async def test_who_waits_too_long_for_a_turn_has_changed_nothing(autojump_clock):
    async with open_world() as (controller, store, _reconciler):
        await controller.create_topic("old")
        store.gate = trio.Event()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(controller.create_topic, "slow")
            await wait_all_tasks_blocked()
            results = await controller.create_topics(
                [NewTopic(name="orders"), NewTopic(name="..")], timeout_seconds=1
            )
            assert [result.code for result in results] == [
                ErrorCode.REQUEST_TIMED_OUT,
                ErrorCode.INVALID_TOPIC_EXCEPTION,
            ]
            gate, store.gate = store.gate, None
            gate.set()
        assert sorted(controller.image.topics_by_name) == ["old", "slow"]


async def test_a_bug_in_configuring_is_answered_and_a_stop_ends_it():
    async with open_world(reraise=False) as (controller, _store, reconciler):
        await controller.create_topic("orders")
        reconciler.fault = ZeroDivisionError()
        (result,) = await controller.alter_topics(retention("orders"))
        assert result.code is ErrorCode.UNKNOWN_SERVER_ERROR
        controller.close_intake()
        for call in (
            controller.alter_topics([]),
            controller.create_partitions([]),
        ):
            with pytest.raises(BrokerClosed):
                await call
