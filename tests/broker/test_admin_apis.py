"""The admin APIs over a connection, in every version: what they do, and what holds afterwards."""

from __future__ import annotations

from typing import Any

import pytest
import trio

from tests.broker.admin_calls import (
    APPEND,
    BROKER,
    DELETE,
    SET,
    TOPIC,
    configs_of,
    delete_records_request,
    describe_request,
    epoch_request,
    incremental_request,
    log_dirs_request,
    pages_request,
    partitions_request,
    producers_request,
    replace_request,
)
from tests.broker.harness import (
    World,
    codes,
    failing,
    make_batch,
    running,
    simulated,
    slow,
)
from tests.broker.retained import eventually
from trio_broker import BrokerConfig, ErrorCode
from trio_broker.config import TopicConfig
from trio_broker.config_catalog import BROKER_CONFIGS, TOPIC_CONFIGS, Treatment
from trio_broker.names import ZERO_TOPIC_ID
from trio_broker.wire.messages.list_config_resources import ListConfigResourcesRequest

CONFIGS = {"file.delete.delay.ms": "5", "segment.ms": "7"}
THROTTLED = "leader.replication.throttled.replicas"


# ------------------------------------------------------------------------------ CreatePartitions
@pytest.mark.parametrize("version", range(4))
async def test_new_partitions_can_be_used_at_once(wire_config: BrokerConfig, version: int) -> None:
    async with running(wire_config) as run, run.connect() as client:
        await run.broker.create_topic("orders")
        answer = await client.call(partitions_request("orders", 2, validate_only=True), version)
        assert codes(answer.results) == [0]
        assert (await client.produce(make_batch(), partition=1)).error_code == 3
        answer = await client.call(partitions_request("orders", 3), version)
        assert [(r.name, r.error_code, r.error_message) for r in answer.results] == [
            ("orders", 0, None)
        ]
        for partition in range(3):
            assert (await client.produce(make_batch(), partition=partition)).error_code == 0
        answer = await client.call(partitions_request("orders", 4, assignments=[[0]]), version)
        assert codes(answer.results) == [0]
    async with running(wire_config) as run, run.connect() as client:
        found = [await client.fetch(partition=partition) for partition in range(4)]
        assert [one.high_watermark for one in found] == [1, 1, 1, 0]


@simulated
async def test_partitions_that_take_too_long_are_answered_in_time(world: World) -> None:
    async with world.running() as run:
        await run.broker.create_topic("orders")
        async with world.connect() as client:
            with slow("/data/logs", 8.0):
                began = trio.current_time()
                answer = await client.call(partitions_request("orders", 3, timeout_ms=2_000))
                assert codes(answer.results) == [ErrorCode.REQUEST_TIMED_OUT]
                assert 2 <= trio.current_time() - began < 3
            await trio.sleep(60)
            found = await client.produce(make_batch(), partition=2)
            assert found.error_code == 0
        await run.wait_idle()


# ------------------------------------------------------------------------------ AlterConfigs
@pytest.mark.parametrize("version", range(3))
async def test_a_configuration_is_replaced(wire_config: BrokerConfig, version: int) -> None:
    async with running(wire_config) as run, run.connect() as client:
        await run.broker.create_topic("orders", configs=CONFIGS)
        wanted = {"segment.ms": "8"}
        for validate_only in (True, False):
            request = replace_request("orders", wanted, validate_only=validate_only)
            [result] = (await client.call(request, version)).responses
            assert (result.error_code, result.error_message) == (0, None)
            assert (result.resource_type, result.resource_name) == (TOPIC, "orders")
            found = await configs_of(client, "orders")
            assert found["segment.ms"].value == ("7" if validate_only else "8")
        assert found["file.delete.delay.ms"].value == str(TopicConfig().file_delete_delay_ms)
        assert found["file.delete.delay.ms"].config_source == 5
        assert run.replica("orders").log.config.segment_ms == 8


@pytest.mark.parametrize("version", range(2))
async def test_single_configs_are_changed(wire_config: BrokerConfig, version: int) -> None:
    async with running(wire_config) as run, run.connect() as client:
        await run.broker.create_topic("orders", configs=CONFIGS)
        changes = (("file.delete.delay.ms", DELETE, None), (THROTTLED, APPEND, "0:0"))
        [result] = (await client.call(incremental_request("orders", *changes), version)).responses
        assert (result.error_code, result.error_message) == (0, None)
        found = await configs_of(client, "orders")
        assert (found["segment.ms"].value, found["file.delete.delay.ms"].config_source) == ("7", 5)
        assert (found[THROTTLED].value, found[THROTTLED].config_source) == ("0:0", 1)
        validation = incremental_request("orders", ("segment.ms", SET, "9"), validate_only=True)
        assert codes((await client.call(validation, version)).responses) == [0]
        assert (await configs_of(client, "orders"))["segment.ms"].value == "7"


async def test_brokers_say_where_they_are_configured(wire_config: BrokerConfig) -> None:
    async with running(wire_config) as run, run.connect() as client:
        for name, changes, code, text in (
            ("0", [("log.retention.ms", SET, "1")], 40, "topic.retention_ms"),
            ("", [("message.max.bytes", SET, "1")], 40, "topic.max_message_bytes"),
            ("0", [("delete.topic.enable", SET, "false")], 40, "cannot be changed"),
            ("0", [("no.such", SET, "1")], 40, "has no config 'no.such'"),
            ("7", [("no.such", SET, "1")], 42, "Unexpected broker id"),
            ("x", [], 42, "must be an integer"),
            ("0", [], 0, None),
        ):
            request = incremental_request(name, *changes, kind=BROKER)
            [result] = (await client.call(request)).responses
            assert (result.error_code, result.resource_name) == (code, name)
            assert text is None or text in result.error_message
            request = replace_request(name, {c: v for c, _, v in changes}, kind=BROKER)
            assert codes((await client.call(request)).responses) == [code]
        assert not run.state.supervisor.faults


# ------------------------------------------------------------------------------ DescribeConfigs
@pytest.mark.parametrize("version", range(1, 5))
async def test_every_config_of_kafka_is_described(wire_config: BrokerConfig, version: int) -> None:
    config = wire_config.with_values(topic=TopicConfig(retention_ms=5_000))
    async with running(config) as run, run.connect() as client:
        await run.broker.create_topic(
            "orders", configs={"segment.ms": "7", "flush.ms": str(2**63 - 1)}
        )
        request = describe_request(TOPIC, "orders")
        request.include_synonyms = request.include_documentation = True
        [result] = (await client.call(request, version)).results
        found = {entry.name: entry for entry in result.configs}
        assert list(found) == list(TOPIC_CONFIGS)
        for name, entry in found.items():
            assert entry.read_only == (TOPIC_CONFIGS[name].treatment is Treatment.FIXED)
            assert entry.value == entry.synonyms[0].value
            assert entry.config_source == entry.synonyms[0].source
            if version >= 3:
                assert entry.config_type == TOPIC_CONFIGS[name].type
                assert entry.documentation.startswith(TOPIC_CONFIGS[name].documentation)
        assert [(s.name, s.value, s.source) for s in found["retention.ms"].synonyms] == [
            ("log.retention.ms", "5000", 4),
            ("log.retention.ms", "604800000", 5),
        ]
        assert [s.name for s in found["segment.ms"].synonyms] == ["segment.ms", "log.roll.ms"]
        assert (found["flush.ms"].config_source, found["flush.ms"].read_only) == (1, True)

        [result] = (await client.call(describe_request(BROKER, "0"), version)).results
        entries = {entry.name: entry for entry in result.configs}
        assert list(entries) == list(BROKER_CONFIGS)
        assert all(entry.read_only for entry in entries.values())
        assert entries["log.retention.ms"].value == "5000"
        assert entries["log.retention.ms"].config_source == 4
        assert entries["log.cleaner.enable"].value == "false"
        [result] = (await client.call(describe_request(BROKER, ""), version)).results
        assert (result.error_code, list(result.configs)) == (0, [])


@pytest.mark.parametrize("version", range(2))
async def test_resources_are_listed(wire_config: BrokerConfig, version: int) -> None:
    async with running(wire_config) as run, run.connect() as client:
        await run.broker.create_topic("b")
        await run.broker.create_topic("a")

        async def listed(*types: int) -> list[tuple[str, int]]:
            request = ListConfigResourcesRequest(resource_types=types)
            answer = await client.call(request, version)
            assert answer.error_code == 0
            return [(r.resource_name, r.resource_type) for r in answer.config_resources]

        if version == 0:
            assert await listed() == []
            return
        assert await listed() == [("a", 2), ("b", 2), ("0", 4), ("0", 8)]
        assert await listed(2, 16) == [("a", 2), ("b", 2)]
        assert await listed(4) == [("0", 4)]
        assert await listed(16, 32) == []
        refused = await client.call(ListConfigResourcesRequest(resource_types=[2, 3]), version)
        assert (refused.error_code, list(refused.config_resources)) == (35, [])


# ------------------------------------------------------------------------------ DeleteRecords
@pytest.mark.parametrize("version", range(3))
async def test_records_are_deleted(wire_config: BrokerConfig, version: int) -> None:
    async with running(wire_config) as run, run.connect() as client:
        await run.broker.create_topic("orders", partitions=2, configs={"segment.bytes": "1500"})
        for partition in (0, 1):
            for _ in range(4):
                await client.produce(make_batch(b"v" * 1000, b"w"), partition=partition)

        async def delete(**offsets: int) -> list[tuple[int, int]]:
            wanted = {int(name[1:]): offset for name, offset in offsets.items()}
            answer = await client.call(delete_records_request("orders", wanted), version)
            [topic] = answer.topics
            assert topic.name == "orders"
            assert [p.partition_index for p in topic.partitions] == list(wanted)
            return [(p.error_code, p.low_watermark) for p in topic.partitions]

        assert await delete(p0=3, p1=-1) == [(0, 3), (0, 8)]
        log = run.replica("orders").log
        assert (log.log_start_offset, log.segment_count) == (3, 3)
        assert (await client.fetch(2)).error_code == ErrorCode.OFFSET_OUT_OF_RANGE
        assert (await client.fetch(3)).log_start_offset == 3
        assert await delete(p0=1, p1=8) == [(0, 3), (0, 8)]
        assert await delete(p0=9, p1=-2) == [(1, -1), (1, -1)]
        assert (await client.fetch(8, partition=1)).error_code == 0
        assert (await client.produce(make_batch(), partition=1)).base_offset == 8


@simulated
async def test_deleted_records_do_not_come_back(world: World) -> None:
    async with world.running_until_power_cut() as run, world.connect() as client:
        await run.broker.create_topic("orders")
        for _ in range(4):
            await client.produce(make_batch())
        answer = await client.call(delete_records_request("orders", {0: 3}))
        assert codes(answer.topics[0].partitions) == [0]
    async with world.running() as run, world.connect() as client:
        log = run.replica("orders").log
        assert (log.log_start_offset, log.log_end_offset) == (3, 4)
        assert (await client.fetch(0)).error_code == ErrorCode.OFFSET_OUT_OF_RANGE


@simulated
async def test_deleted_records_stay_away_when_a_log_is_opened_again_that_was_not_told(
    world: World,
) -> None:
    """The disk refuses to write it down, so a restart may forget it, and nothing else."""
    async with world.running() as run, world.connect() as client:
        await run.broker.create_topic("orders")
        for _ in range(4):
            await client.produce(make_batch())
        replica = run.replica("orders")
        with failing("write_at", "checkpoint"):
            answer = await client.call(delete_records_request("orders", {0: 3}))
            assert codes(answer.topics[0].partitions) == [ErrorCode.KAFKA_STORAGE_ERROR]
            assert replica.log.log_start_offset == 3
            first = replica.log
            replica.shard.take_offline(replica, "to be opened again")
            await eventually(lambda: replica.has_log and replica.log is not first)
        assert replica.log.log_start_offset == 3
        assert (await client.fetch(2)).error_code == ErrorCode.OFFSET_OUT_OF_RANGE
        assert (await client.fetch(3)).error_code == 0


@simulated
async def test_where_a_log_began_that_has_become_shorter_since_is_forgotten(world: World) -> None:
    """Else what is written to it from then on would be hidden when it is opened once more."""
    async with world.running() as run, world.connect() as client:
        await run.broker.create_topic("orders", configs={"durability": "os"})
        replica = run.replica("orders")
        for _ in range(10):
            await client.produce(make_batch())
        file = replica.log.segments[0].file
        assert file is not None

        async def open_again() -> None:
            before = replica.log
            replica.shard.take_offline(replica, "to be opened again")
            await eventually(lambda: replica.has_log and replica.log is not before)

        replica.log.advance_start_offset(10)
        await replica.shard.lane.call(file.truncate, file.size // 2)
        await open_again()
        end = replica.log.log_end_offset
        assert end < 10
        for _ in range(20):
            assert (await client.produce(make_batch())).error_code == 0
        await open_again()
        assert replica.log.log_start_offset == end


@simulated
async def test_what_is_not_written_down_in_time_is_no_success(world: World) -> None:
    async with world.running() as run, world.connect() as client:
        await run.broker.create_topic("orders", partitions=2)
        for partition in (0, 1):
            await client.produce(make_batch(), partition=partition)
        with slow("/data/logs", 0.5):
            began = trio.current_time()
            request = delete_records_request("orders", {0: 1, 1: 1}, timeout_ms=1_000)
            answer = await client.call(request)
            assert codes(answer.topics[0].partitions) == [ErrorCode.REQUEST_TIMED_OUT] * 2
            assert trio.current_time() - began < 20  # what has begun is finished
        assert run.replica("orders", 1).log.log_start_offset == 0
        run.replica("orders").go_offline("gone")
        answer = await client.call(delete_records_request("orders", {0: 1, 1: 1}))
        assert codes(answer.topics[0].partitions) == [ErrorCode.KAFKA_STORAGE_ERROR, 0]


# ------------------------------------------------------------------------------ epochs, producers
@simulated
async def test_an_epoch_ends_where_the_next_one_begins(world: World) -> None:
    async with world.running_until_power_cut() as run, world.connect() as client:
        await run.broker.create_topic("orders")
        await client.produce(make_batch(b"1", b"2"))
    async with world.running_until_power_cut():
        pass  # the leader of epoch 1 writes nothing
    async with world.running() as run, world.connect() as client:
        assert run.replica("orders").leader_epoch == 2

        async def end(epoch: int, version: int = 4, **arguments: Any) -> tuple[int, int, int]:
            answer = await client.call(epoch_request("orders", epoch, **arguments), version)
            [found] = answer.topics[0].partitions
            return found.error_code, found.leader_epoch, found.end_offset

        for version in (2, 3, 4):
            assert await end(0, version) == (0, 0, 2)
        assert await end(1) == (0, 0, 2)
        assert await end(2) == (0, 2, 2)
        await client.produce(make_batch(b"3"))
        assert [await end(epoch) for epoch in (0, 1, 2)] == [(0, 0, 2), (0, 0, 2), (0, 2, 3)]
        assert await end(3) == (0, -1, -1)
        assert await end(-1) == (0, -1, -1)
        assert await end(0, current=2) == (0, 0, 2)


async def test_an_empty_log_knows_where_every_epoch_ends(wire_config: BrokerConfig) -> None:
    async with running(wire_config) as run, run.connect() as client:
        await run.broker.create_topic("orders")
        [found] = (await client.call(epoch_request("orders", 0))).topics[0].partitions
        assert (found.error_code, found.leader_epoch, found.end_offset) == (0, 0, 0)


async def test_producers_are_described(wire_config: BrokerConfig) -> None:
    async with running(wire_config) as run, run.connect() as client:
        await run.broker.create_topic("orders")
        for sequence in (0, 2):
            batch = make_batch(b"1", b"2", producer_id=7, producer_epoch=3, base_sequence=sequence)
            assert (await client.produce(batch)).error_code == 0
        await client.produce(make_batch())
        [topic] = (await client.call(producers_request("orders", 0))).topics
        [partition] = topic.partitions
        assert (partition.error_code, partition.error_message) == (0, None)
        [producer] = partition.active_producers
        assert (producer.producer_id, producer.producer_epoch, producer.last_sequence) == (7, 3, 3)
        assert abs(producer.last_timestamp - run.host.wall.now_ms()) < 60_000
        assert (producer.coordinator_epoch, producer.current_txn_start_offset) == (-1, -1)


# ------------------------------------------------------------------------------ log dirs
@pytest.mark.parametrize("version", range(1, 6))
async def test_log_dirs_are_described(wire_config: BrokerConfig, version: int) -> None:
    paths = (f"{wire_config.data_dir}/a", f"{wire_config.data_dir}/b")
    async with running(wire_config.with_values(log_dirs=paths)) as run, run.connect() as client:
        await run.broker.create_topic("orders", partitions=3)
        await run.broker.create_topic("carts")
        for partition in range(3):
            await client.produce(make_batch(b"v" * 500), partition=partition)
        while any(log_dir.health.space is None for log_dir in run.state.log_dirs):
            await trio.lowlevel.checkpoint()
        answer = await client.call(log_dirs_request(None), version)
        assert (answer.error_code, [r.log_dir for r in answer.results]) == (0, list(paths))
        sizes = {}
        for result in answer.results:
            assert result.error_code == 0
            assert (result.total_bytes >= result.usable_bytes > 0) == (version >= 4)
            for topic in result.topics:
                for found in topic.partitions:
                    assert (found.offset_lag, found.is_future_key) == (0, False)
                    sizes[topic.name, found.partition_index] = found.partition_size
        assert sizes.keys() == {("orders", 0), ("orders", 1), ("orders", 2), ("carts", 0)}
        assert sizes["orders", 1] > 500
        assert sizes["carts", 0] == 0
        some = await client.call(log_dirs_request({"orders": [1, 9], "x": [0]}), version)
        named = [
            (topic.name, [found.partition_index for found in topic.partitions])
            for result in some.results
            for topic in result.topics
        ]
        assert named == [("orders", [1])]
        none = await client.call(log_dirs_request({}), version)
        assert [list(result.topics) for result in none.results] == [[], []]


@simulated
async def test_a_failed_log_dir_is_listed_as_such(world: World) -> None:
    async with world.running(log_dirs=("/a", "/b")) as run, world.connect() as client:
        run.faults_expected.add("log dir /a")
        await run.broker.create_topic("orders", partitions=2)
        run.state.log_dirs[0].fail(OSError(5, "broken"))
        answer = await client.call(log_dirs_request(None))
        failed, good = answer.results
        assert (failed.error_code, list(failed.topics)) == (ErrorCode.KAFKA_STORAGE_ERROR, [])
        assert failed.total_bytes == -1
        assert (good.error_code, good.topics[0].name) == (0, "orders")


# ------------------------------------------------------------------------------ pages of partitions
async def test_partitions_come_page_by_page(wire_config: BrokerConfig) -> None:
    async with running(wire_config) as run, run.connect() as client:
        for name, count in (("b", 3), ("a", 2), ("c", 1)):
            await run.broker.create_topic(name, partitions=count)

        async def page(*topics: str, **arguments: Any) -> tuple[list[Any], Any]:
            answer = await client.call(pages_request(*topics, **arguments))
            rows = [
                (topic.name, [found.partition_index for found in topic.partitions])
                for topic in answer.topics
            ]
            cursor = answer.next_cursor
            return rows, cursor and (cursor.topic_name, cursor.partition_index)

        everything = [("a", [0, 1]), ("b", [0, 1, 2]), ("c", [0])]
        assert await page() == (everything, None)
        assert await page("c", "b", "c") == (everything[1:], None)
        assert await page(limit=3) == ([("a", [0, 1]), ("b", [0])], ("b", 1))
        assert await page(limit=3, cursor=("b", 1)) == ([("b", [1, 2]), ("c", [0])], None)
        assert await page(limit=2) == ([("a", [0, 1])], ("b", 0))
        assert await page(limit=0) == ([("a", [0])], ("a", 1))
        assert await page(limit=-5, cursor=("bb", 7)) == ([("c", [0])], None)
        assert await page(cursor=("b", 3)) == ([("b", []), ("c", [0])], None)
        assert await page(cursor=("d", 0)) == ([], None)
        [topic] = (await client.call(pages_request("c"))).topics
        assert (topic.error_code, topic.topic_id) == (0, run.topic_id("c"))
        [found] = topic.partitions
        assert (found.leader_id, found.leader_epoch, found.error_code) == (0, 0, 0)
        assert (found.replica_nodes, found.isr_nodes, found.offline_replicas) == ([0], [0], [])
        # Java's Admin client fails on null.
        assert (found.eligible_leader_replicas, found.last_known_elr) == ([], [])
        answer = await client.call(pages_request("c", "no", ".."))
        assert [(t.name, t.error_code, t.topic_id != ZERO_TOPIC_ID) for t in answer.topics] == [
            ("..", ErrorCode.INVALID_TOPIC_EXCEPTION, False),
            ("c", 0, True),
            ("no", ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, False),
        ]
        run.replica("c").go_offline("broken")
        [topic] = (await client.call(pages_request("c"))).topics
        assert codes(topic.partitions) == [ErrorCode.LEADER_NOT_AVAILABLE]
        assert topic.partitions[0].offline_replicas == [0]
