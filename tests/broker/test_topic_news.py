"""The log says which topics come, grow and go, and who made those that nobody created."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from tests.broker.harness import World, simulated
from trio_broker.broker.topic_news import INTERVAL_SECONDS, LINES_AT_ONCE
from trio_broker.metadata.decisions import MorePartitions, NewTopic
from trio_broker.wire.messages.metadata import MetadataRequest, MetadataRequestTopic

if TYPE_CHECKING:
    import pytest


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "trio_broker.topics"]


@simulated
async def test_topics_that_come_grow_and_go(world: World, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "trio_broker.topics")
    async with world.running() as run:
        controller = run.state.controller
        await controller.create_topic("orders", 3)
        await controller.create_partitions([MorePartitions(name="orders", count=4)])
        await controller.delete_topic("orders")
        await controller.create_topic("orders", 0)  # not legal, so nothing to tell
        assert lines(caplog) == [
            "created: orders (3 partitions)",
            "more partitions: orders (4 partitions)",
            "deleted: orders",
        ]
        caplog.clear()
        before = controller.image
        await controller.create_topics([NewTopic(name=f"t{n}", partitions=1) for n in range(7)])
        after = controller.image
        caplog.clear()
        controller.news.tell_of_new_partitions(before, after, list(after.topics_by_id))
        [line] = lines(caplog)
        assert line.startswith("created: ")
        assert line.count("(1 partition)") == 5
        assert line.endswith(" and 2 more")


@simulated
async def test_many_topics_are_told_in_sums(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """Whoever creates ten thousand topics, one after another, finds few lines and all numbers."""
    caplog.set_level("INFO", "trio_broker.topics")
    many = LINES_AT_ONCE + 30
    async with world.running() as run:
        controller = run.state.controller
        for number in range(many):
            await controller.create_topic(f"t{number}", 1)
        await controller.delete_topic("t0")
        told = [f"created: t{number} (1 partition)" for number in range(LINES_AT_ONCE)]
        assert lines(caplog) == told
        await trio.sleep(INTERVAL_SECONDS + 1)
        first = ", ".join(f"t{LINES_AT_ONCE + index} (1 partition)" for index in range(5))
        told += [f"created: {first} and 25 more", "deleted: t0"]
        assert lines(caplog) == told
        await controller.create_topic("late", 1)  # it goes on, so it is another sum
        assert lines(caplog) == told
        await trio.sleep(INTERVAL_SECONDS + 1)
        told.append("created: late (1 partition)")
        assert lines(caplog) == told
        await trio.sleep(INTERVAL_SECONDS + 1)
        await controller.delete_topic("late")  # all is quiet again
        told.append("deleted: late")
        assert lines(caplog) == told
        for number in range(1, many):
            await controller.delete_topic(f"t{number}")
        told += [f"deleted: t{number}" for number in range(1, LINES_AT_ONCE)]
        assert lines(caplog) == told
    first = ", ".join(f"t{LINES_AT_ONCE + index}" for index in range(5))
    assert lines(caplog) == [*told, f"deleted: {first} and 25 more"], "a stop keeps nothing back"


@simulated
async def test_a_topic_that_a_request_for_metadata_creates(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "trio_broker.topics")
    async with world.running() as run, world.connect() as client:
        wanted = (MetadataRequestTopic(name="ordres"),)
        await client.call(MetadataRequest(topics=wanted, allow_auto_topic_creation=True), 12)
        assert run.state.controller.image.topics_by_name.keys() == {"ordres"}
    told, created = lines(caplog)
    assert " asked for ordres, which does not exist: it is created (auto_create_topics)" in told
    assert created == "created: ordres (1 partition)"
