"""Real sockets on the loopback: exact bytes, prompt closes, no descriptor lost."""

from __future__ import annotations

import errno
import os
import resource
import socket
import struct
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from trio_broker.host.sockets import RealListener, RealNetwork, RealStream

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

network = RealNetwork()


@asynccontextmanager
async def listening(host: str = "127.0.0.1") -> AsyncIterator[RealListener]:
    (listener,) = await network.listen(host, 0)
    try:
        yield listener
    finally:
        listener.close()


@asynccontextmanager
async def connected() -> AsyncIterator[tuple[RealStream, RealStream]]:
    """Yield both ends of a connection: who connected, who accepted."""
    async with listening() as listener:
        near = await network.connect("127.0.0.1", listener.port)
        far = await listener.accept()
        try:
            yield near, far
        finally:
            near.close()
            far.close()


async def receive_exactly(stream: RealStream, length: int) -> bytes:
    buffer = bytearray(length)
    view = memoryview(buffer)
    have = 0
    while have < length:
        count = await stream.receive_into(view[have:])
        assert count, "the stream ended early"
        have += count
    return bytes(buffer)


async def receive_all(stream: RealStream) -> bytes:
    buffer = bytearray(65536)
    content = bytearray()
    while count := await stream.receive_into(memoryview(buffer)):
        content += buffer[:count]
    return bytes(content)


async def test_bytes_arrive_in_both_directions() -> None:
    async with connected() as (near, far):
        assert near.send_nowait(b"hello") == 5
        assert await receive_exactly(far, 5) == b"hello"
        await far.send_vectored([b"he", bytearray(b"ll"), memoryview(b"o"), b""])
        assert await receive_exactly(near, 5) == b"hello"


async def test_addresses_are_named() -> None:
    async with listening() as listener:
        near = await network.connect("127.0.0.1", listener.port)
        far = await listener.accept()
        assert listener.host == "127.0.0.1"
        assert near.peer == f"127.0.0.1:{listener.port}"
        assert far.peer.startswith("127.0.0.1:")
        assert far.peer in repr(far)
        near.close()
        far.close()


async def test_an_ipv6_address_is_bracketed() -> None:
    try:
        listeners = await network.listen("::1", 0)
    except OSError:
        pytest.skip("NOT TESTED: this machine has no IPv6")
    near = await network.connect("::1", listeners[0].port)
    assert near.peer == f"[::1]:{listeners[0].port}"
    near.close()
    listeners[0].close()


async def test_small_writes_are_not_delayed() -> None:
    async with connected() as (near, far):
        for stream in (near, far):
            assert stream._socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            assert not stream._socket.getblocking()


async def test_a_large_frame_does_not_wake_for_every_packet() -> None:
    """The rest of a frame is waited for in good parts, its end is not overslept."""
    frame = bytes(range(256)) * 4096
    async with connected() as (near, far), trio.open_nursery() as nursery:

        async def send_slowly() -> None:
            for start in range(0, len(frame), 4096):
                await near.send_vectored([frame[start : start + 4096]])
                await trio.sleep(0.0002)

        nursery.start_soon(send_slowly)
        buffer = memoryview(bytearray(len(frame)))
        have = wake_ups = 0
        while have < len(frame):
            have += await far.receive_into(buffer[have:], len(frame) - have)
            wake_ups += 1
        assert buffer == frame
        assert wake_ups <= 8  # without the low water mark up to 256, with it 5
        near.send_nowait(b"x")  # small ones are not waited for
        assert await receive_exactly(far, 1) == b"x"


@pytest.mark.parametrize("ends", ["closes", "resets"])
async def test_a_peer_that_leaves_amid_a_large_frame_is_noticed(ends: str) -> None:
    async with connected() as (near, far):
        near.send_nowait(b"a part")
        if ends == "resets":
            near._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        buffer = memoryview(bytearray(100_000))
        with trio.fail_after(10):
            async with trio.open_nursery() as nursery:

                @nursery.start_soon
                async def leave() -> None:
                    await wait_all_tasks_blocked(0.01)
                    near.close()

                if ends == "resets":
                    with pytest.raises(trio.BrokenResourceError):
                        while await far.receive_into(buffer, 100_000):
                            pass
                else:
                    assert await far.receive_into(buffer, 100_000) == 6
                    assert await far.receive_into(buffer, 99_994) == 0


async def test_the_end_of_the_stream_is_zero_bytes() -> None:
    async with connected() as (near, far):
        near.send_nowait(b"last")
        near.close()
        assert await receive_all(far) == b"last"
        assert await far.receive_into(memoryview(bytearray(10))) == 0


def big_payload() -> Sequence[bytes]:
    # More buffers than one system call takes, more bytes than the socket holds, empty ones too.
    return [bytes([number % 251]) * (number % 7 * 700) for number in range(3000)]


async def test_large_replies_arrive_whole_through_a_slow_reader() -> None:
    buffers = big_payload()
    received: list[bytes] = []

    async with connected() as (near, far):

        async def read() -> None:
            await wait_all_tasks_blocked()  # the sender has filled the socket
            received.append(await receive_exactly(far, sum(map(len, buffers))))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            await near.send_vectored(buffers)
    assert received[0] == b"".join(buffers)


async def test_send_nowait_takes_what_fits() -> None:
    async with connected() as (near, far):
        block = bytes(1 << 20)
        total = 0
        while count := near.send_nowait(block):
            total += count
        assert total > 0
        assert near.send_nowait(b"x") == 0
        assert len(await receive_exactly(far, total)) == total


# Cancellation


async def test_a_cancelled_receive_takes_nothing() -> None:
    async with connected() as (near, far):
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(far.receive_into, memoryview(bytearray(10)))
                await wait_all_tasks_blocked()
                near.send_nowait(b"hello")
                scope.cancel()
        assert await receive_exactly(far, 5) == b"hello"


async def test_a_cancelled_send_stops_waiting() -> None:
    async with connected() as (near, _far):
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(near.send_vectored, [bytes(1 << 25)])
                await wait_all_tasks_blocked()
                scope.cancel()
        assert scope.cancelled_caught
        with trio.CancelScope() as scope:
            scope.cancel()
            await near.send_vectored([b"not even begun"])
        assert scope.cancelled_caught


async def test_a_cancelled_accept_loses_no_connection() -> None:
    async with listening() as listener:
        with trio.move_on_after(0) as scope:
            await listener.accept()
        assert scope.cancelled_caught
        near = await network.connect("127.0.0.1", listener.port)
        (await listener.accept()).close()
        near.close()


async def test_a_cancelled_connect_leaves_nothing_open() -> None:
    before = len(os.listdir("/dev/fd"))
    async with listening() as listener:
        with trio.CancelScope() as scope:
            scope.cancel()
            await network.connect("127.0.0.1", listener.port)
        assert scope.cancelled_caught
    assert len(os.listdir("/dev/fd")) == before


# Closing and faults


async def test_close_wakes_who_waits() -> None:
    woken: list[str] = []

    async def expect_closed(label: str, function: object, *arguments: object) -> None:
        with pytest.raises(trio.ClosedResourceError):
            await function(*arguments)  # type: ignore[operator]
        woken.append(label)

    async with connected() as (near, _), connected() as (_, far), listening() as listener:
        async with trio.open_nursery() as nursery:
            start = nursery.start_soon
            start(expect_closed, "receive", far.receive_into, memoryview(bytearray(10)))
            start(expect_closed, "send", near.send_vectored, [bytes(1 << 25)])
            start(expect_closed, "accept", listener.accept)
            await wait_all_tasks_blocked()
            for thing in (far, near, listener):
                thing.close()
                thing.close()
                assert "closed" in repr(thing)
        assert sorted(woken) == ["accept", "receive", "send"]
        with pytest.raises(trio.ClosedResourceError):
            await far.receive_into(memoryview(bytearray(10)))
        with pytest.raises(trio.ClosedResourceError):
            far.send_nowait(b"x")
        with pytest.raises(trio.ClosedResourceError):
            await far.send_vectored([b"x"])
        with pytest.raises(trio.ClosedResourceError):
            await listener.accept()


async def test_a_listener_closed_while_a_client_comes_is_closed_and_nothing_else() -> None:
    """The task that accepts may have been woken before the close and run after it."""

    async def accept(listener: RealListener) -> None:
        with pytest.raises(trio.ClosedResourceError):
            while True:
                (await listener.accept()).close()

    for _ in range(50):  # which of two tasks runs first is chance
        async with listening() as listener, trio.open_nursery() as nursery:
            nursery.start_soon(accept, listener)
            await wait_all_tasks_blocked()
            with socket.create_connection(("127.0.0.1", listener.port)):
                await trio.lowlevel.checkpoint()
                listener.close()


async def test_a_reset_connection_is_broken() -> None:
    async with connected() as (near, far):
        near._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        near.close()
        with pytest.raises(trio.BrokenResourceError, match=r"connection with 127\.0\.0\.1:"):
            await far.receive_into(memoryview(bytearray(10)))
        with pytest.raises(trio.BrokenResourceError) as caught:
            await far.send_vectored([b"x"])
        assert isinstance(caught.value.__cause__, OSError)
        with pytest.raises(trio.BrokenResourceError):
            far.send_nowait(b"x")


async def test_a_refused_connection_keeps_its_errno() -> None:
    async with listening() as listener:
        port = listener.port
    with pytest.raises(ConnectionRefusedError, match=rf"cannot connect to 127\.0\.0\.1:{port}"):
        await network.connect("127.0.0.1", port)


async def test_names_that_do_not_exist_are_os_errors() -> None:
    with pytest.raises(OSError, match=r"no such host\.invalid"):
        await network.connect("no such host.invalid", 9092)
    with pytest.raises(OSError, match=r"no such host\.invalid"):
        await network.listen("no such host.invalid", 9092)


async def test_an_address_in_use_is_named() -> None:
    async with listening() as listener:
        with pytest.raises(OSError, match=rf"127\.0\.0\.1:{listener.port}") as caught:
            await network.listen("127.0.0.1", listener.port)
        assert caught.value.errno == errno.EADDRINUSE


async def test_a_port_can_be_bound_again_at_once() -> None:
    async with connected() as (near, far):
        far.close()  # who closes first keeps the port in TIME_WAIT
        port = int(near.peer.rpartition(":")[2])
        near.close()
    (again,) = await network.listen("127.0.0.1", port)
    assert again.port == port
    again.close()


async def test_all_addresses_of_a_name_share_one_port() -> None:
    listeners = await network.listen("localhost", 0)
    assert len({listener.port for listener in listeners}) == 1
    assert len({listener.host for listener in listeners}) == len(listeners)
    for listener in listeners:
        near = await network.connect(listener.host, listener.port)
        (await listener.accept()).close()
        near.close()
        listener.close()


async def test_listening_takes_all_addresses_or_none(monkeypatch: pytest.MonkeyPatch) -> None:
    async def two_addresses(*_arguments: object, **_options: object) -> list[object]:
        kind = (socket.AF_INET, socket.SOCK_STREAM, 6, "")
        # The second is reserved for documentation: no machine has it.
        return [(*kind, ("127.0.0.1", 0)), (*kind, ("192.0.2.1", 0))]

    monkeypatch.setattr(trio.socket, "getaddrinfo", two_addresses)
    before = len(os.listdir("/dev/fd"))
    with pytest.raises(OSError, match=r"192\.0\.2\.1"):
        await network.listen("two", 0)
    assert len(os.listdir("/dev/fd")) == before


async def test_without_descriptors_accept_fails_turns_the_client_away_and_recovers() -> None:
    async with listening() as listener:
        waiting = socket.create_connection(("127.0.0.1", listener.port))
        hogs: list[int] = []
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        highest = max(map(int, os.listdir("/dev/fd")))
        resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 2, hard))
        try:
            while True:
                try:
                    hogs.append(os.open(os.devnull, os.O_RDONLY))
                except OSError:
                    break
            with pytest.raises(OSError, match="Too many open files") as caught:
                await listener.accept()
            assert caught.value.errno == errno.EMFILE
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            for hog in hogs:
                os.close(hog)
        waiting.settimeout(60)
        assert waiting.recv(10) == b""  # not left to wait in the backlog
        waiting.close()
        near = await network.connect("127.0.0.1", listener.port)
        far = await listener.accept()
        near.send_nowait(b"works")
        assert await receive_exactly(far, 5) == b"works"
        near.close()
        far.close()


async def test_a_connection_that_cannot_be_set_up_is_closed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with listening() as listener:
        near = socket.create_connection(("127.0.0.1", listener.port))
        before = len(os.listdir("/dev/fd"))

        def fail(*_arguments: object) -> None:
            raise OSError(errno.ENOMEM, "injected")

        with monkeypatch.context() as patch:
            patch.setattr(socket.socket, "setblocking", fail)
            with pytest.raises(OSError, match="injected"):
                await listener.accept()
        assert len(os.listdir("/dev/fd")) == before
        near.close()
