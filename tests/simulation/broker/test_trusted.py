"""What I9 expects of a start after a clean stop, and what not."""

from __future__ import annotations

import logging

import pytest

from trio_broker.errors import ErrorCode
from trio_broker.storage import paths
from trio_broker.testing.brokers import (
    Life,
    SimulatedBroker,
    directory_of,
    open_simulated_broker,
)
from trio_broker.testing.invariants import check_end, check_trusted
from trio_broker.testing.model import Violation
from trio_broker.testing.sim.run import Simulation, simulate
from trio_broker.testing.workload.operating import touch


@pytest.fixture(autouse=True)
def _silence(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL, "trio_broker")


async def fill(server: SimulatedBroker) -> None:
    assert server.life is not None
    assert server.life.broker is not None
    await server.life.broker.create_topic("orders", partitions=1, configs={"durability": "os"})
    for number in range(3):
        await server.life.broker.produce("orders", b"%d" % number)


async def start_again(server: SimulatedBroker) -> tuple[Life, Life]:
    """Stop cleanly and start; return both lives."""
    before = await stop(server)
    return before, await server.start()


async def stop(server: SimulatedBroker) -> Life:
    life = server.ask_to_stop()
    await life.ended.wait()
    assert life.was_clean
    server.new_process()
    return life


def test_a_log_that_was_offline_at_a_clean_stop_may_be_scanned(seed: int) -> None:
    async def main(sim: Simulation) -> None:
        async with open_simulated_broker(sim) as server:
            await fill(server)
            assert server.life is not None
            [replica] = server.life.state.router.replicas()
            replica.shard.take_offline(replica, "for a test")
            before, after = await start_again(server)
            [replica] = after.state.router.replicas()
            assert replica.log.recovery.bytes_scanned
            check_end(before)
            check_trusted(after, before)

            before, after = await start_again(server)
            [replica] = after.state.router.replicas()
            assert replica.log.recovery.is_trusted
            check_trusted(after, before)

    simulate(main, seed=seed).unwrap()


def test_a_stop_does_not_vouch_for_a_log_that_waits_for_an_operator(seed: int) -> None:
    """An fsync failed in an earlier life; what is acknowledged may be gone with the power."""

    async def main(sim: Simulation) -> None:
        async with open_simulated_broker(sim) as server:
            await fill(server)
            life = server.kill()
            [replica] = life.state.router.replicas()
            directory = directory_of(replica)
            log = f"{directory}/{0:020d}.log"
            touch(server, f"{directory}/{paths.SYNC_FAILED_NAME}")
            server.fs.damage(log, len(server.fs.content(log)) - 3, b"\0\0")

            offline = await server.start()
            [replica] = offline.state.router.replicas()
            assert replica.refusal is ErrorCode.KAFKA_STORAGE_ERROR
            server.ask_to_stop()
            await offline.ended.wait()
            assert not offline.was_clean
            check_end(offline)
            replica.cause = "something else"
            with pytest.raises(Violation, match=r"I9 .* was not clean"):
                check_end(offline)

            server.new_process()
            touch(server, f"{directory}/{paths.ACCEPT_LOSS_NAME}")
            accepted = await server.start()
            [replica] = accepted.state.router.replicas()
            assert replica.log.log_end_offset == 2
            await stop(server)

    simulate(main, seed=seed).unwrap()


def test_a_log_that_was_closed_by_a_clean_stop_may_not(seed: int) -> None:
    async def main(sim: Simulation) -> None:
        async with open_simulated_broker(sim) as server:
            await fill(server)
            before, after = await start_again(server)
            check_trusted(after, before)
            server.kill()
            scanned = await server.start()
            with pytest.raises(Violation, match=r"I9 .* was scanned after a clean stop"):
                check_trusted(scanned, before)

    simulate(main, seed=seed).unwrap()
