"""The budget of descriptors: what is divided how, what is refused, and that it is kept."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs
import pytest
import trio
import trio.lowlevel

from tests.broker.harness import World, make_batch, simulated
from trio_broker import Broker, BrokerConfig, ConfigError, ErrorCode, open_broker
from trio_broker.broker.descriptors import (
    FILES_DEFAULT_MAX,
    DescriptorBudget,
    divide_descriptors,
)
from trio_broker.config import HttpConfig, NetworkConfig, StorageConfig, TopicConfig
from trio_broker.host.leases import Claim, rooms
from trio_broker.host.real import real_host
from trio_broker.testing import broker_thread
from trio_broker.testing.sim.faults import DiskFaults
from trio_broker.wire.messages.api_versions import ApiVersionsRequest

if TYPE_CHECKING:
    from pathlib import Path

    from trio_broker.host.interface import Host


def test_everything_fits_into_what_is_allowed() -> None:
    configs = [
        BrokerConfig(),
        BrokerConfig(listeners=()),
        BrokerConfig(log_dirs=tuple("abcdefgh"), http=HttpConfig(listen="127.0.0.1:0")),
        BrokerConfig(storage=StorageConfig(open_files_max=100)),
        BrokerConfig(network=NetworkConfig(connections_max=5)),
    ]
    for config in configs:
        for allowed in (400, 1024, 20_000, 2**31 - 1):
            budget = divide_descriptors(config, allowed=allowed, taken=17)
            assert 17 + budget.reserved + budget.files_max + budget.connections_max <= allowed
            assert budget.files_max >= 16
            assert budget.files_max <= FILES_DEFAULT_MAX
            assert budget.connections_max <= config.network.connections_max
            assert 0 < budget.spares < budget.reserved
            assert str(allowed) in str(budget)


def test_the_usual_limits_leave_room_for_what_one_expects() -> None:
    few = divide_descriptors(BrokerConfig(), allowed=1024, taken=10)
    assert few.files_max > 400
    assert few.connections_max > 400
    many = divide_descriptors(BrokerConfig(), allowed=524_288, taken=10)
    assert (many.files_max, many.connections_max) == (FILES_DEFAULT_MAX, 10_000)


@pytest.mark.parametrize(
    "config, allowed, words",
    [
        (BrokerConfig(), 64, "RLIMIT_NOFILE"),
        (BrokerConfig(storage=StorageConfig(open_files_max=1000)), 1024, "storage.open_files_max"),
        (BrokerConfig(log_dirs=tuple(map(str, range(100)))), 1024, "LimitNOFILE"),
    ],
)
def test_too_few_are_refused_with_the_figures(
    config: BrokerConfig, allowed: int, words: str
) -> None:
    with pytest.raises(ConfigError, match=words) as failure:
        divide_descriptors(config, allowed=allowed, taken=12)
    assert f"may have {allowed} descriptors" in str(failure.value)
    assert "12 are open already" in str(failure.value)


@simulated
async def test_no_more_clients_are_let_in_than_there_are_descriptors_for(world: World) -> None:
    world.machine.host = attrs.evolve(world.machine.host, descriptors_max=108)
    async with world.running() as run:
        most = run.state.descriptors.connections_max
        assert 16 <= most < 40
        clients = [await world.clients.network.connect("server", 9092) for _ in range(most + 5)]
        async with world.connect() as late:
            await late.wait_closed()
        assert len(run.state.clients) == most
        assert run.state.connections_refused == 6
        clients[0].close()
        await trio.sleep(1)
        async with world.connect() as client:
            assert await client.call(ApiVersionsRequest(), 0) is not None, "there is room for one"
        for client in clients:
            client.close()


@simulated
async def test_who_is_refused_is_told_of_in_one_line(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    network = NetworkConfig(connections_max=1)
    async with world.running(network=network):
        async with world.connect() as client:
            assert await client.call(ApiVersionsRequest(), 0) is not None
            for _ in range(20):
                async with world.connect() as late:
                    await late.wait_closed()
    lines = [text for text in caplog.messages if "was refused" in text]
    assert len(lines) == 1
    assert "1 are open, and 1 may be" in lines[0]


@simulated
async def test_a_broker_without_a_free_descriptor_goes_on(world: World) -> None:
    """Every write, roll, checkpoint, fetch and commit goes through spare ones."""
    async with world.running(topic=TopicConfig(segment_bytes=2_000, retention_ms=-1)) as run:
        for durability in ("fsync", "interval", "os"):
            await run.broker.create_topic(
                durability, partitions=4, configs={"durability": durability}
            )
        async with world.connect() as client:
            for durability in ("fsync", "interval", "os"):
                await client.produce(make_batch(bytes(500)), topic=durability)
            world.fs.faults = DiskFaults(open_files_max=0)
            for round_number in range(8):
                for durability in ("fsync", "interval", "os"):
                    for partition in range(4):
                        answer = await client.produce(
                            make_batch(bytes(500)), topic=durability, partition=partition
                        )
                        assert answer.error_code == 0
                        answer = await client.fetch(
                            round_number, topic=durability, partition=partition
                        )
                        assert answer.error_code == 0
                        assert answer.records
            await run.broker.create_topic("new")
            assert (await client.produce(make_batch(), topic="new")).error_code == 0
            await run.broker.delete_topic("os")
            answer = await client.produce(make_batch(), topic="os")
            assert answer.error_code == ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
        assert not run.state.log_dirs[0].health.cause
        # Files that were open before are the only ones that are kept.
        assert len(list(world.fs.open_files())) <= 3 + 4
    world.fs.faults = DiskFaults()
    world.machine.power_off()
    world.machine = world.machine.power_on()
    async with world.running() as run:
        for durability in ("fsync", "interval"):
            replica = run.replica(durability, 1)
            assert replica.log.log_end_offset == 8


@simulated
async def test_what_is_written_with_a_spare_descriptor_is_durable_at_once(world: World) -> None:
    world.fs.faults = DiskFaults(writes_lost="any")
    async with world.running_until_power_cut() as run:
        await run.broker.create_topic("orders", configs={"durability": "interval"})
        world.fs.faults = DiskFaults(writes_lost="any", open_files_max=0)
        await run.broker.produce("orders", b"x")
        assert run.replica("orders").log.durable_offset == 1
    world.fs.faults = DiskFaults()
    async with world.running() as run:
        assert run.replica("orders").log.log_end_offset == 1


@simulated
async def test_a_want_of_descriptors_is_not_a_fault_of_the_disk(world: World) -> None:
    async with world.running() as run:
        await run.broker.create_topic("orders", partitions=3)
        with world.fs.spare_descriptors(-run.state.descriptors.spares):
            world.fs.faults = DiskFaults(open_files_max=0)
            async with world.connect() as client:
                for partition in range(3):
                    for _ in range(4):
                        answer = await client.produce(make_batch(), partition=partition)
                        assert answer.error_code == ErrorCode.KAFKA_STORAGE_ERROR
                assert run.state.log_dirs[0].health.state.value == "ok"
                world.fs.faults = DiskFaults()
                for partition in range(3):
                    assert (await client.produce(make_batch(), partition=partition)).error_code == 0


# ------------------------------------------------------------------- several brokers, one process
def test_shares_add_up_and_what_one_has_no_use_for_goes_to_the_others() -> None:
    equal = [Claim(10, 32, 10_000)] * 2
    assert rooms(520, equal) == [250, 250]
    assert rooms(521, [Claim(10, 32, 40), Claim(10, 32, 10_000)]) == [40, 461]
    assert rooms(84, equal) == [32, 32]
    assert rooms(100_000, equal) == [10_000, 10_000]
    assert rooms(85, [Claim(10, 32, 10_000), Claim(10, 32, 32)]) == [33, 32]
    assert rooms(5, []) == []


def budgets_of(*brokers: Broker) -> list[DescriptorBudget]:
    return [broker._state.descriptors for broker in brokers]


async def test_two_brokers_in_one_process_share_what_it_may_have(tmp_path: Path) -> None:
    def config(name: str) -> BrokerConfig:
        return BrokerConfig(data_dir=str(tmp_path / name), listeners=("127.0.0.1:0",))

    def with_limit() -> Host:  # as two parts of a program make theirs, each without the other
        return attrs.evolve(real_host(), descriptors_max=600)

    others = list(real_host().descriptor_leases._leases)  # of brokers that other tests share
    async with open_broker(config("a"), host=with_limit()) as first:
        [alone] = budgets_of(first)
        async with open_broker(config("b"), host=with_limit()) as second:
            shares = budgets_of(first, second)
            assert sum(b.reserved + b.files_max + b.connections_max for b in shares) <= (
                600 - alone.taken
            )
            files = [share.files_max for share in shares]
            assert max(files) - min(files) <= 1, "an odd one is somebody's"
            assert max(files) < alone.files_max
            assert shares[0].taken == shares[1].taken == alone.taken, "nobody counts twice"
            assert first._state.segment_cache is not None
            assert first._state.segment_cache.files_max == shares[0].files_max
            assert "other brokers" in str(shares[0])
            third = config("c").with_values(storage=StorageConfig(open_files_max=400))
            with pytest.raises(ConfigError, match="for other brokers in this process"):
                async with open_broker(third, host=with_limit()):
                    pytest.fail("there is no room for it")
            assert budgets_of(first, second) == shares
        assert budgets_of(first) == [alone], "it is given back"
    assert real_host().descriptor_leases._leases == others


async def test_files_that_are_too_many_are_closed_when_another_broker_comes(
    tmp_path: Path,
) -> None:
    config = BrokerConfig(data_dir=str(tmp_path / "a"), listeners=())
    host = attrs.evolve(real_host(), descriptors_max=300)
    async with open_broker(config, host=host) as first:
        cache = first._state.segment_cache
        assert cache is not None
        await first.create_topic("orders", partitions=cache.files_max)
        for partition in range(cache.files_max):
            await first.produce("orders", b"x", partition=partition)
        many = cache.open_count
        assert many > cache.files_max // 2 + 16
        other = config.with_values(data_dir=str(tmp_path / "b"))
        async with open_broker(other, host=host):
            assert cache.open_count <= cache.files_max < many
            await first.produce("orders", b"y", partition=0)


def test_brokers_in_threads_of_their_own_are_told_there(tmp_path: Path) -> None:
    with broker_thread() as first:
        before = first.call(lambda broker: _budget(broker))
        with broker_thread() as second:
            shares = [thread.call(lambda broker: _budget(broker)) for thread in (first, second)]
        assert before.taken == shares[0].taken == shares[1].taken
        wanted = [b.files_max + b.connections_max + b.reserved for b in shares]
        assert sum(wanted) + before.taken <= before.allowed
        after = first.call(lambda broker: _budget(broker))
        assert after == before


async def _budget(broker: Broker) -> DescriptorBudget:
    await trio.lowlevel.checkpoint()
    return broker._state.descriptors
