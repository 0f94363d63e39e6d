"""HTTP clients that are slow, rude or gone, on a simulated machine with a virtual clock."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio

from tests.admin.http_client import HttpClient, encode, open_http
from tests.broker.harness import World, make_batch, simulated
from trio_broker.config import HttpConfig
from trio_broker.testing.sim.network import NetworkFaults

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

HTTP = HttpConfig(listen="localhost:9644")


def http(world: World) -> AbstractAsyncContextManager[HttpClient]:
    return open_http(world.clients.network, ("server", 9644))


@simulated
async def test_a_client_that_never_reads_holds_up_nothing(world: World) -> None:
    world.internet.faults = NetworkFaults(window_bytes=1024, fragment_rate=0.0)
    async with world.running(http=HTTP) as run:
        await run.broker.create_topic("orders", partitions=20)
        async with http(world) as deaf:
            await deaf.send(encode("/metrics"))
            began = trio.current_time()
            await run.broker.produce("orders", b"meanwhile", partition=0)
            async with http(world) as other:
                assert (await other.request("/health/ready")).status == 200
            assert trio.current_time() - began < 1
            await trio.sleep(3 * HTTP.send_seconds_max)
            assert len(run.host.network.streams) == 0  # it was given up long ago
            await deaf.wait_closed()


@simulated
async def test_nor_does_it_hold_up_the_stop(world: World) -> None:
    world.internet.faults = NetworkFaults(window_bytes=1024, fragment_rate=0.0)
    async with world.running(http=HTTP) as run:
        await run.broker.create_topic("orders", partitions=20)
        async with http(world) as deaf:
            await deaf.send(encode("/metrics"))
            await trio.sleep(1)
            began = trio.current_time()
            run.tree.request_stop("a test")
            await run.tree.ended.wait()
            assert trio.current_time() - began < HTTP.send_seconds_max + 2
            assert run.tree.report.clean
            await deaf.wait_closed()


@pytest.mark.parametrize("sent", [b"", b"GET", b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nX:"])
@simulated
async def test_a_request_that_does_not_come_ends_the_connection(world: World, sent: bytes) -> None:
    async with world.running(http=HTTP), http(world) as client:
        if sent:
            await client.send(sent)
        began = trio.current_time()
        await client.wait_closed()
        assert trio.current_time() - began <= HTTP.request_seconds_max + 1


@simulated
async def test_a_request_that_drips_is_not_waited_for(world: World) -> None:
    async with world.running(http=HTTP), http(world) as client:
        began = trio.current_time()
        with pytest.raises(trio.BrokenResourceError):
            for byte in encode("/metrics", headers={"X-Long": "x" * 200}):
                await client.send(bytes([byte]))
                await trio.sleep(1)
        assert trio.current_time() - began <= HTTP.request_seconds_max + 3


@simulated
async def test_headers_have_a_limit(world: World) -> None:
    async with world.running(http=HTTP) as run:
        async with http(world) as client:
            await client.send(encode("/health/live", headers={"X-Fits": "x" * 8000}))
            answer = await client.answer()
            assert answer is not None
            assert answer.status == 200
        async with http(world) as client:
            await client.send(encode("/health/live", headers={"X-Long": "x" * 24_000}))
            answer = await client.answer()
            assert answer is not None
            assert answer.status == 431
            await client.wait_closed()
        assert not run.state.supervisor.faults


@simulated
async def test_bodies_have_a_limit_announced_or_not(world: World) -> None:
    async with world.running(http=HTTP) as run:
        for length in (HTTP.body_bytes_max + 1, 10**30):
            async with http(world) as client:
                await client.send(encode("/metrics", headers={"Content-Length": str(length)}))
                answer = await client.answer()
                assert answer is not None
                assert answer.status in {400, 413}
                await client.wait_closed()
        async with http(world) as client:
            await client.send(encode("/metrics", headers={"Transfer-Encoding": "chunked"}))
            with pytest.raises(trio.BrokenResourceError):
                while True:
                    await client.send(b"1\r\nx\r\n" * 10_000)
                    await trio.sleep(0.01)
        assert not run.state.supervisor.faults


@simulated
async def test_a_body_that_is_not_wanted_does_not_keep_the_answer_back(world: World) -> None:
    async with world.running(http=HTTP), http(world) as client:
        await client.send(encode("/health/live", headers={"Content-Length": "5"}) + b"12345")
        answer = await client.answer()
        assert answer is not None
        assert answer.status == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "13",
         "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ=="},
        {"Upgrade": "h2c", "Connection": "Upgrade, HTTP2-Settings", "HTTP2-Settings": "AAMAAABk"},
    ],
)  # fmt: skip
@simulated
async def test_other_protocols_come_to_nothing(world: World, headers: dict[str, str]) -> None:
    async with world.running(http=HTTP) as run:
        async with http(world) as client:
            await client.send(encode("/metrics", headers=headers))
            await client.wait_closed()
        async with http(world) as client:
            assert (await client.request("/health/live")).status == 200
        assert not run.state.supervisor.faults


@pytest.mark.parametrize(
    "sent",
    [
        b"\x00\x00\x00\x12\x00\x12\x00\x03\x00\x00\x00\x01\x00\x04test\x00",  # Kafka's ApiVersions
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200),  # TLS
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(100),
        b"GET /metrics\r\n\r\n",
        b"GET /metrics HTTP/9.9\r\nHost: x\r\n\r\n",
        b"GET /metrics HTTP/1.1\r\n\r\n",
        b"GET /metrics HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"GET http://evil.example/metrics HTTP/1.1\r\nHost: evil.example\r\n\r\n",
        b"GET /\xff\xfe HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET /%ff%00 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
        b"GET /x HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n",
        b"GET /x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"CONNECT localhost:1 HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET * HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nAuthorization: \xff\xff\r\n\r\n",
        b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n a: folded\r\n\r\n",
        b"GET /health/live HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\n\r\n",
    ],
)
@simulated
async def test_what_is_no_request_is_no_fault_of_ours(world: World, sent: bytes) -> None:
    async with world.running(http=HTTP) as run:
        async with http(world) as client:
            await client.send(sent)
            await client.wait_closed()
            assert b"trio_broker_uptime" not in client.received or b" 200 " in client.received
        async with http(world) as client:
            assert (await client.request("/health/live")).status == 200
        assert not run.state.supervisor.faults


@simulated
async def test_a_connection_serves_many_requests_and_pipelined_ones(world: World) -> None:
    async with world.running(http=HTTP), http(world) as client:
        for _ in range(20):
            assert (await client.request("/health/live")).status == 200
        await client.send(encode("/health/live") * 5 + encode("/health/ready"))
        for _ in range(6):
            answer = await client.answer()
            assert answer is not None
            assert answer.status == 200


@simulated
async def test_who_leaves_makes_room_at_once(world: World) -> None:
    """Probes connect, ask, and leave, several times a second."""
    few = HttpConfig(listen="localhost:9644", connections_max=2)
    async with world.running(http=few):
        began = trio.current_time()
        for _ in range(20):
            async with http(world) as client:
                assert (await client.request("/health/ready")).status == 200
            await trio.sleep(0.1)
        assert trio.current_time() - began < 10


@simulated
async def test_clients_that_vanish_leave_nothing(world: World) -> None:
    async with world.running(http=HTTP) as run:
        for path in ("/metrics", "/health", "/nothing"):
            async with http(world) as client:
                await client.send(encode(path))
            async with http(world) as client:
                await client.send(encode(path))
                client.stream.reset()  # type: ignore[attr-defined]
        await trio.sleep(60)
        assert run.host.network.streams == ()
        assert not run.state.supervisor.faults


@simulated
async def test_it_answers_while_the_broker_starts_and_while_it_stops(world: World) -> None:
    """A frozen disk stands for a long start, and then for a long flush."""
    said: list[tuple[int, str]] = []

    async def ask() -> None:
        async with http(world) as client:
            answer = await client.request("/health/ready")
            said.append((answer.status, answer.json()["phase"]))

    async def ask_and_thaw() -> None:
        await trio.sleep(1)
        await ask()
        async with http(world) as client:
            assert (await client.request("/health/startup")).status == 503
            assert (await client.request("/health/live")).status == 200
            assert (await client.request("/metrics")).status == 200
            assert (await client.request("/health")).status == 503
        world.fs.thaw()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask_and_thaw)
        world.fs.freeze()
        async with world.running(http=HTTP):
            await ask()
    async with world.running(http=HTTP) as run:
        await run.broker.create_topic("orders")
        async with world.connect() as client:
            await client.produce(make_batch(b"1"))
        await ask()
        world.fs.freeze()
        run.tree.request_stop("a test")
        await trio.sleep(1)
        await ask()
        world.fs.thaw()
        await run.tree.ended.wait()
    assert said == [(503, "starting"), (200, "serving"), (200, "serving"), (503, "stopping")]
