"""Connections: silent, slow, rude and many; what one of them does is nobody else's trouble."""

from __future__ import annotations

import errno
import http.client
import socket
import ssl
from contextlib import AsyncExitStack
from typing import Any

import attrs
import pytest
import trio

from tests.broker.harness import (
    Client,
    World,
    closed_after,
    codes,
    fetch_request,
    make_batch,
    open_client,
    produce_request,
    running,
    simulated,
)
from tests.broker.retained import eventually
from trio_broker import BrokerConfig
from trio_broker.broker.handlers.table import SERVED
from trio_broker.config import NetworkConfig
from trio_broker.testing import broker_thread
from trio_broker.testing.sim.network import NetworkFaults
from trio_broker.wire.api import ApiKey
from trio_broker.wire.messages.api_versions import ApiVersionsRequest
from trio_broker.wire.messages.heartbeat import HeartbeatRequest
from trio_broker.wire.messages.metadata import MetadataRequest
from trio_broker.wire.messages.produce import PartitionProduceData, TopicProduceData


def network(world: World, **changes: Any) -> NetworkConfig:
    return attrs.evolve(world.config().network, **changes)


# ------------------------------------------------------------------------------- other protocols
def test_http_at_the_kafka_port_is_told_the_way_in_http(caplog: pytest.LogCaptureFixture) -> None:
    with broker_thread() as broker, caplog.at_level("INFO", "trio_broker.connection"):
        host, _, port = broker.bootstrap.rpartition(":")
        asking = http.client.HTTPConnection(host, int(port), timeout=10)
        asking.request("POST", "/topics/orders", b"x" * 1000)
        answer = asking.getresponse()
        assert answer.status == 400
        assert b"This port speaks the Kafka protocol, not HTTP." in answer.read()
        asking.close()
    assert "an HTTP request came to a port that speaks the Kafka protocol" in caplog.text


def test_tls_at_the_kafka_port_is_named_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    with broker_thread() as broker, caplog.at_level("INFO", "trio_broker.connection"):
        host, _, port = broker.bootstrap.rpartition(":")
        with socket.create_connection((host, int(port)), 10) as connected:
            with pytest.raises(OSError, match=r"EOF|reset|Reset"):
                ssl.create_default_context().wrap_socket(connected, server_hostname=host)
    assert "a TLS handshake came" in caplog.text
    assert "security.protocol=PLAINTEXT" in caplog.text


# -------------------------------------------------------------------------- silent and slow
@simulated
async def test_idle_connections_are_closed_and_busy_ones_are_not(world: World) -> None:
    async with world.running(network=network(world, connection_idle_seconds=60.0)) as run:
        async with world.connect() as idle, world.connect() as busy:
            await idle.call(ApiVersionsRequest(), 0)
            for _ in range(10):
                await trio.sleep(20)
                assert await busy.call(ApiVersionsRequest(), 0) is not None
            assert len(run.state.clients) == 1
            assert await closed_after(idle) == 0
            assert 55 < await closed_after(busy) < 65
        await run.wait_idle()


@simulated
async def test_a_long_poll_is_not_idleness(world: World) -> None:
    async with world.running(network=network(world, connection_idle_seconds=10.0)) as run:
        await run.broker.create_topic("orders")
        async with world.connect() as client:
            await client.produce(make_batch())
            request = fetch_request(1, max_wait_ms=40_000)
            await client.send(request, 12)
            await trio.sleep(39)
            assert (await client.receive(request, 12)).error_code == 0


@simulated
async def test_a_request_that_has_begun_must_arrive_in_time(world: World) -> None:
    limits = network(world, frame_seconds_max=30.0, connection_idle_seconds=600.0)
    async with world.running(network=limits) as run:
        for size in (1_000, 3_000_000):
            async with world.connect() as client:
                await client.send_bytes(size.to_bytes(4, "big") + b"\0\0")
                assert 29 < await closed_after(client) < 32
            async with world.connect() as client:
                began = trio.current_time()
                await client.send_bytes(size.to_bytes(4, "big") + b"\0\0\0\x09")
                with pytest.raises(trio.BrokenResourceError):
                    for _ in range(100):  # a byte now and then does not help
                        await trio.sleep(2)
                        await client.stream.send_vectored([b"\0"])
                assert 29 < trio.current_time() - began < 36
        await run.wait_idle()


@simulated
async def test_a_request_may_be_late_that_was_not_read_on_because_of_the_one_before(
    world: World,
) -> None:
    world.internet.faults = NetworkFaults(window_bytes=5_000, latency_seconds=(0.1, 0.2))
    async with world.running(network=network(world, frame_seconds_max=10.0)) as run:
        await run.broker.create_topic("orders")
        async with world.connect() as client, trio.open_nursery() as nursery:
            fetch = fetch_request(max_wait_ms=20_000)
            produce = produce_request(make_batch(bytes(30_000)))
            frames = client.encode(fetch, 12) + client.encode(produce, 9)
            nursery.start_soon(client.send_bytes, frames)
            assert (await client.receive(fetch, 12)) is not None
            response = await client.receive(produce, 9)
            assert codes(response.responses[0].partition_responses) == [0]
        async with world.connect() as client:  # but only because of that
            fetch = fetch_request(1, max_wait_ms=7_000)
            await client.send_bytes(client.encode(fetch, 12) + (100).to_bytes(4, "big"))
            assert 17 < await closed_after(client) < 25


@simulated
async def test_who_does_not_read_a_large_reply_is_closed(world: World) -> None:
    world.internet.faults = NetworkFaults(window_bytes=10_000)
    async with world.running(network=network(world, send_stall_seconds_max=20.0)) as run:
        await run.broker.create_topic("orders")
        async with world.connect() as client, world.connect() as other:
            await other.produce(make_batch(bytes(100_000)))
            await client.send(fetch_request(), 12)
            await trio.sleep(15)
            assert len(run.state.clients) == 2
            assert (await other.fetch()).error_code == 0
            await trio.sleep(10)
            assert len(run.state.clients) == 1
        await run.wait_idle()


@simulated
async def test_who_sends_and_never_reads_is_held_back_and_then_closed(world: World) -> None:
    """Replies to Produce wait for room in the socket; meanwhile no more requests are taken."""
    world.internet.faults = NetworkFaults(window_bytes=5_000)
    async with world.running(network=network(world, send_stall_seconds_max=20.0)) as run:
        await run.broker.create_topic("orders")
        nothing = [PartitionProduceData(index=0, records=None)] * 40
        request = produce_request(b"")
        request.topic_data = [TopicProduceData(name="orders", partition_data=nothing)]
        async with world.connect() as client:
            frame = client.encode(request, 9)
            with trio.move_on_after(15):
                while True:
                    await client.stream.send_vectored([frame])
            [connection] = run.state.clients
            backlog_bytes = sum(map(len, connection._backlog))
            assert 0 < backlog_bytes < 50_000
            await trio.sleep(10)
            assert not run.state.clients
        await run.wait_idle()


@simulated
async def test_a_slow_reader_gets_all_replies_in_order(world: World) -> None:
    world.internet.faults = NetworkFaults(window_bytes=2_000)
    async with world.running() as run:
        await run.broker.create_topic("orders")
        async with world.connect() as client, trio.open_nursery() as nursery:
            request = produce_request(make_batch())

            async def send() -> None:
                for _ in range(200):
                    await client.send(request, 9)

            nursery.start_soon(send)
            for offset in range(200):
                if offset % 50 == 0:
                    await trio.sleep(5)
                got, response = await client.receive_with_id(request, 9)
                assert got == 101 + offset
                assert response.responses[0].partition_responses[0].base_offset == offset


# ---------------------------------------------------------------------------------- fairness
async def test_one_connection_does_not_hold_up_the_others(wire_config: BrokerConfig) -> None:
    """A client that has hundreds of small fetches of what is in memory in one segment of TCP."""
    async with running(wire_config) as run:
        await run.broker.create_topic("orders")
        async with run.connect() as hog, run.connect() as other:
            await other.produce(make_batch())
            request = fetch_request()
            frames = b"".join(hog.encode(request, 12) for _ in range(600))
            handled = run.state.requests[ApiKey.FETCH]
            for _ in range(3):  # the broker's buffer for this client grows
                before = sum(handled.counts)
                await hog.send_bytes(frames)
                assert await other.call(MetadataRequest(topics=()), 9) is not None
                in_between = sum(handled.counts) - before
                for _ in range(600):
                    assert codes((await hog.receive(request, 12)).responses[0].partitions) == [0]
            assert in_between < 100


@pytest.mark.parametrize("what", ["version", "session", "heartbeat", "topic", "retry"])
async def test_nor_with_requests_that_are_answered_at_once(
    wire_config: BrokerConfig, what: str
) -> None:
    async with running(wire_config) as run:
        await run.broker.create_topic("orders")
        async with run.connect() as hog, run.connect() as other:
            batch = make_batch(producer_id=1, producer_epoch=0, base_sequence=0)
            await other.produce(batch)
            beat = HeartbeatRequest(group_id="nobody", generation_id=1, member_id="me")
            frame = {
                "version": b"\0\0\0\x0b\0\x12\x03\xe8\0\0\0\x07\xff\xff\0",
                "session": hog.encode(fetch_request(session_epoch=1), 12),
                "heartbeat": hog.encode(beat, 3),
                "topic": hog.encode(produce_request(None, topic="nowhere"), 9),
                "retry": hog.encode(produce_request(batch), 9),
            }[what]
            handled = run.state.requests[frame[5]]
            for _ in range(3):  # the broker's buffer for this client grows
                before = sum(handled.counts)
                await hog.send_bytes(frame * 500)
                assert await other.call(MetadataRequest(topics=()), 9) is not None
                in_between = sum(handled.counts) - before
                for _ in range(500):
                    assert await hog.receive_frame() is not None
            assert in_between < 100


async def test_reading_what_is_there_lets_others_run(config: BrokerConfig) -> None:
    async with running(config.with_values(listeners=())) as run:
        await run.broker.create_topic("orders", configs={"retention.ms": "-1"})
        batch = make_batch(*[b"x"] * 500)
        for _ in range(10):
            await run.broker._append(run.replica("orders"), batch)
        turns = 0
        async with trio.open_nursery() as nursery:

            async def count() -> None:
                nonlocal turns
                while True:
                    await trio.lowlevel.checkpoint()
                    turns += 1

            nursery.start_soon(count)
            async with run.broker.read("orders") as reader:
                for _ in range(5_000):
                    await reader.receive()
                with trio.CancelScope() as scope:
                    scope.cancel()
                    await reader.receive()
                assert scope.cancelled_caught
            await reader.aclose()
            with pytest.raises(trio.ClosedResourceError):
                await reader.receive()
            nursery.cancel_scope.cancel()
        assert turns >= 5_000 // 64


# ------------------------------------------------------------------------------------ memory
@simulated
async def test_requests_being_received_count_and_one_at_a_time_is_finished(world: World) -> None:
    limit = 2 * 1024 * 1024
    config = network(world, request_memory_bytes=limit, produce_bytes_in_flight_max=4 * 1024 * 1024)
    topic = attrs.evolve(world.config().topic, max_message_bytes=8 * 1024 * 1024)
    async with world.running(network=config, topic=topic) as run:
        await run.broker.create_topic("orders")
        value_bytes = 1_500_000
        most = 0
        done = 0

        async def produce() -> None:
            nonlocal done
            async with world.connect() as client:
                request = produce_request(make_batch(bytes(value_bytes)))
                frame = client.encode(request, 9)
                for start in range(0, len(frame), 100_000):
                    await client.send_bytes(frame[start : start + 100_000])
                    await trio.sleep(0.01)
                response = await client.receive(request, 9)
                assert response.responses[0].partition_responses[0].error_code == 0
                done += 1

        async def watch() -> None:
            nonlocal most
            while done < 12:
                most = max(most, run.state.request_memory.used_bytes)
                await trio.sleep(0.001)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch)
            for _ in range(12):
                nursery.start_soon(produce)
        # Without the bound it would be twelve times the size of a request.
        assert limit < most < limit + 3 * value_bytes
        await run.wait_idle()


@simulated
async def test_a_peer_that_stops_in_a_large_request_gives_its_memory_back(world: World) -> None:
    config = network(world, request_memory_bytes=1024 * 1024, frame_seconds_max=20.0)
    async with world.running(network=config) as run:
        await run.broker.create_topic("orders")
        async with world.connect() as first, world.connect() as second, world.connect() as other:
            for client in (first, second):
                await client.send_bytes((8_000_000).to_bytes(4, "big") + b"\0\0\0\x09")
                await client.send_bytes(bytes(650_000))
            await trio.sleep(5)
            assert not run.state.request_memory.has_room
            # The next request is being waited for already; the one after it waits, at the latest,
            # until one of the two is given up.
            began = trio.current_time()
            for _ in range(2):
                assert (await other.produce(make_batch(bytes(10)))).error_code == 0
            assert 10 < trio.current_time() - began < 25
        await run.wait_idle()


class Parts:
    """A request that is sent part by part."""

    def __init__(self, client: Client, frame: bytes) -> None:
        self.client = client
        self.frame = frame

    async def send(self, *sizes_bytes: int) -> None:
        """Send so much more, and wait until the broker has it."""
        for size_bytes in sizes_bytes:
            part, self.frame = self.frame[:size_bytes], self.frame[size_bytes:]
            await self.client.send_bytes(part)
            await trio.sleep(0.1)


@simulated
@pytest.mark.parametrize("goes_on", ["parked fetch", "request after request"])
async def test_who_is_finished_without_room_lets_the_next_one_finish(
    world: World, goes_on: str
) -> None:
    world.internet.faults = NetworkFaults(fragment_rate=0)
    config = network(world, request_memory_bytes=1024 * 1024, frame_seconds_max=1_000.0)
    topic = attrs.evolve(world.config().topic, max_message_bytes=8 * 1024 * 1024)
    async with world.running(network=config, topic=topic) as run, AsyncExitStack() as clients:
        await run.broker.create_topic("orders")
        memory = run.state.request_memory
        ours, *theirs = [await clients.enter_async_context(world.connect()) for _ in range(4)]
        if goes_on == "parked fetch":
            request = fetch_request(max_wait_ms=2**31 - 1)
            request.topics[0].partitions *= 12_000
            one = Parts(ours, ours.encode(request, 12))
        else:  # the beginning of the next one always comes with the end of this one
            request = produce_request(make_batch(bytes(400_000)))
            one = Parts(ours, ours.encode(request, 9) * 100)
        upload = produce_request(make_batch(bytes(1_500_000)))
        half, other_half = (Parts(each, each.encode(upload, 9)) for each in theirs[:2])
        small = produce_request(make_batch(bytes(400_000)))
        last = Parts(theirs[2], theirs[2].encode(small, 9))

        await one.send(70_000)
        for each in (half, other_half):
            await each.send(*[109_000] * 5)
        await last.send(200_000)  # there is no room any more, and it goes on
        for each in (one, half, other_half):
            await each.send(50_000)
        await last.send(len(last.frame))
        assert (await theirs[2].receive(small, 9)) is not None
        assert not memory.has_room  # because of those that wait, of whom ours was the first
        async with trio.open_nursery() as nursery:
            nursery.start_soon(one.send, len(one.frame))
            await trio.sleep(1)
            nursery.start_soon(half.send, len(half.frame))
            assert (await half.client.receive(upload, 9)) is not None
            assert run.replica("orders").log.log_end_offset < 10
            nursery.cancel_scope.cancel()


@simulated
async def test_a_stop_does_not_wait_for_connections_that_wait_for_memory(world: World) -> None:
    config = network(world, request_memory_bytes=1024 * 1024)
    async with trio.open_nursery() as nursery:

        async def half() -> None:
            async with world.connect() as client:
                await client.send_bytes((8_000_000).to_bytes(4, "big") + b"\0\0\0\x09")
                with pytest.raises(trio.BrokenResourceError):
                    while True:
                        await client.send_bytes(bytes(100_000))
                        await trio.sleep(0.01)

        async with world.running(network=config) as run:
            for _ in range(3):
                nursery.start_soon(half)
            await trio.sleep(2)
            assert not run.state.request_memory.has_room
            began = trio.current_time()
        assert trio.current_time() - began < 5
        assert run.tree.report is not None
        assert run.tree.report.clean


# -------------------------------------------------------------------------------- rude clients
@pytest.mark.parametrize(
    "data",
    [
        b"\xff\xff\xff\xff",
        b"\0\0\0\0",
        b"\0\0\0\x03abc",
        b"\x7f\xff\xff\xff\0\0",
        b"\0\x50\0\0\0\x03\0\x09",  # Metadata of 5 MiB
        b"GET / HTTP/1.1\r\n\r\n",
        b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03",  # TLS
        b"\0\0\0\x0a\0\x12\0\0\0\0\0\x01\x7f\xff",  # a client id longer than the frame
    ],
)
async def test_what_is_no_request_closes_its_connection_only(
    wire_config: BrokerConfig, data: bytes
) -> None:
    async with running(wire_config) as run, run.connect() as witness:
        async with run.connect() as client:
            await client.send_bytes(data)
            await client.wait_closed()
        assert await witness.call(ApiVersionsRequest(), 0) is not None


@simulated
async def test_what_came_before_a_broken_frame_is_stored(world: World) -> None:
    """It is in the queue, and nobody else is there to begin a commit."""
    async with world.running() as run:
        await run.broker.create_topic("orders")
        async with world.connect() as client:
            frame = client.encode(produce_request(make_batch()), 11)
            await client.send_bytes(frame + b"\xff" * 8)
            await client.wait_closed()
        replica = run.replica("orders")
        await eventually(lambda: replica.log.log_end_offset == 1)


async def test_a_client_that_only_stops_sending_gets_its_answers(
    wire_config: BrokerConfig,
) -> None:
    async with running(wire_config) as run:
        await run.broker.create_topic("orders")
        async with run.connect() as client:
            for _ in range(3):
                await client.send(produce_request(make_batch()), 9)
            client.stream._socket.shutdown(socket.SHUT_WR)
            for offset in range(3):
                response = await client.receive(produce_request(b""), 9)
                assert response.responses[0].partition_responses[0].base_offset == offset
            await client.wait_closed()


async def test_a_bug_in_a_handler_closes_its_connection_only(
    wire_config: BrokerConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def handle(*_: object) -> None:
        raise ZeroDivisionError("a bug")

    async with running(wire_config, reraise=False) as run, run.connect() as witness:
        run.faults_expected = {"connection"}
        served = dict(SERVED)
        served[ApiKey.METADATA] = attrs.evolve(served[ApiKey.METADATA], handler=handle)
        monkeypatch.setattr("trio_broker.broker.handlers.table.SERVED", served)
        async with run.connect() as client:
            await client.send(MetadataRequest(topics=None), 9)
            await client.wait_closed()
        assert await witness.call(ApiVersionsRequest(), 0) is not None
        assert run.state.supervisor.faults["connection"].count == 1


# ------------------------------------------------------------------------------------- many
@simulated
async def test_hundreds_of_connections_leave_nothing(world: World) -> None:
    async with world.running() as run:
        await run.broker.create_topic("orders")
        random = world.sim.random("connections")
        tasks = len(run.state.connections.child_tasks)

        async def visit(number: int) -> None:
            await trio.sleep(random.random() * 5)
            async with world.connect() as client:
                kind = number % 5
                if kind == 0:
                    assert (await client.produce(make_batch())).error_code == 0
                elif kind == 1:
                    await client.send(produce_request(make_batch()), 9)
                elif kind == 2:
                    await client.send(fetch_request(10**6, max_wait_ms=3_000), 12)
                elif kind == 3:
                    await client.send_bytes(b"\0\0\x10\0\0\x03")
                if random.random() < 0.5:
                    client.stream.reset()

        async with trio.open_nursery() as nursery:
            for number in range(200):
                nursery.start_soon(visit, number)
        await run.wait_idle()
        await trio.sleep(1)
        assert len(run.state.connections.child_tasks) == tasks


@simulated
async def test_too_many_connections_are_closed_at_once(world: World) -> None:
    config = network(world, connections_max=3, connections_per_address_max=2)
    async with world.running(network=config) as run:
        async with world.connect() as one, world.connect() as two:
            for client in (one, two):
                assert await client.call(ApiVersionsRequest(), 0) is not None
            async with world.connect() as third:
                await third.wait_closed()
            async with open_client(world.host.network, run.address) as other_address:
                assert await other_address.call(ApiVersionsRequest(), 0) is not None
                async with open_client(world.host.network, run.address) as one_too_many:
                    await one_too_many.wait_closed()
        await run.wait_idle()
        async with world.connect() as client:
            assert await client.call(ApiVersionsRequest(), 0) is not None


@simulated
async def test_errors_of_accept_are_those_of_one_client_or_pass(world: World) -> None:
    async with world.running() as run:
        [listener] = world.machine.network._listeners.values()
        for number in (errno.ECONNABORTED, errno.EHOSTUNREACH, errno.ENETDOWN, errno.EMFILE):
            listener.fail_accept(number)
            async with world.connect() as client:
                assert await client.call(ApiVersionsRequest(), 0) is not None
        await run.wait_idle()
