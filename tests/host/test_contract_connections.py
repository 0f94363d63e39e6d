"""One contract, two machines: connections, as `test_contract` for everything else."""

from __future__ import annotations

import errno
import sys
from typing import TYPE_CHECKING, Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from tests.host.machines import Machine, fails_with

if TYPE_CHECKING:
    from trio_broker.host.interface import Listener, Network, Stream


async def receive(stream: Stream, length: int) -> bytes:
    """Receive exactly that many bytes, or fewer at the end."""
    content = bytearray(length)
    view = memoryview(content)
    received = 0
    while received < length:
        count = await stream.receive_into(view[received:])
        if count == 0:
            break
        received += count
    return bytes(content[:received])


async def receive_error(stream: Stream) -> BaseException | None:
    """Receive until that fails; None at an ordinary end."""
    try:
        while await stream.receive_into(memoryview(bytearray(100))):
            pass
    except trio.BrokenResourceError as error:
        return error
    return None


@pytest.fixture
def network(machine: Machine) -> Network:
    return machine.host.network


@pytest.fixture
async def listener(network: Network) -> Any:
    listeners = await network.listen("127.0.0.1", 0)
    yield listeners[0]
    for listener in listeners:
        listener.close()


@pytest.fixture
async def pair(network: Network, listener: Listener) -> Any:
    client = await network.connect("127.0.0.1", listener.port)
    server = await listener.accept()
    yield client, server
    client.close()
    server.close()


async def test_a_listener_knows_its_port(network: Network, listener: Listener) -> None:
    assert listener.host == "127.0.0.1"
    assert listener.port > 0
    with fails_with(errno.EADDRINUSE):
        await network.listen("127.0.0.1", listener.port)


async def test_who_binds_without_listening_has_the_port_and_refuses_clients(
    network: Network, listener: Listener
) -> None:
    with fails_with(errno.EADDRINUSE):
        await network.bind("127.0.0.1", listener.port)
    [bound] = await network.bind("127.0.0.1", 0)
    try:
        assert bound.port not in {0, listener.port}
        with fails_with(errno.ECONNREFUSED):
            await network.connect("127.0.0.1", bound.port)
        bound.listen()
        bound.listen()
        (await network.connect("127.0.0.1", bound.port)).close()
        (await bound.accept()).close()
    finally:
        bound.close()


async def test_nobody_there_is_an_oserror(network: Network, listener: Listener) -> None:
    listener.close()
    listener.close()
    with fails_with(errno.ECONNREFUSED):
        await network.connect("127.0.0.1", listener.port)
    with pytest.raises(trio.ClosedResourceError):
        await listener.accept()


async def test_closing_a_listener_wakes_its_accept(listener: Listener) -> None:
    async def accept() -> None:
        with pytest.raises(trio.ClosedResourceError):
            await listener.accept()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(accept)
        await wait_all_tasks_blocked()
        listener.close()


async def test_bytes_go_both_ways(pair: tuple[Stream, Stream]) -> None:
    client, server = pair
    assert client.peer.startswith("127.0.0.1:")
    await client.send_vectored([b"abc", b"", bytearray(b"def"), memoryview(b"ghi")])
    assert await receive(server, 9) == b"abcdefghi"
    assert server.send_nowait(b"xyz") == 3
    assert await receive(client, 3) == b"xyz"


async def test_large_vectored_sends_wait_for_the_receiver(pair: tuple[Stream, Stream]) -> None:
    client, server = pair
    buffers = [bytes([number % 251]) * 3001 for number in range(3000)]
    expected = b"".join(buffers)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.send_vectored, buffers)
        await wait_all_tasks_blocked()
        assert await receive(server, len(expected)) == expected


async def test_send_nowait_takes_only_what_fits(pair: tuple[Stream, Stream]) -> None:
    client, server = pair
    data = b"x" * 65_536
    sent = 0
    while taken := client.send_nowait(data):
        sent += taken
    assert sent > 0
    assert await receive(server, sent) == b"x" * sent
    await wait_all_tasks_blocked()
    assert client.send_nowait(b"again") == 5


async def test_an_end_comes_after_the_data(pair: tuple[Stream, Stream]) -> None:
    client, server = pair
    await client.send_vectored([b"last words"])
    client.close()
    client.close()
    assert await receive(server, 100) == b"last words"
    assert await receive(server, 100) == b""


async def until_abandoned(stream: Stream) -> None:
    with trio.fail_after(10):
        while not stream.is_abandoned():  # noqa: ASYNC110 - nobody is told
            await trio.sleep(0.001)


async def test_a_peer_that_has_left_is_noticed_without_reading(
    pair: tuple[Stream, Stream],
) -> None:
    client, server = pair
    await client.send_vectored([b"last words"])
    assert not server.is_abandoned()
    client.close()
    assert client.is_abandoned()
    assert not server.is_abandoned(), "something is left to read"
    assert await receive(server, 10) == b"last words"
    await until_abandoned(server)
    assert await receive(server, 1) == b""


async def until_left(stream: Stream) -> None:
    with trio.fail_after(10):
        while not stream.has_peer_left():  # noqa: ASYNC110 - nobody is told
            await trio.sleep(0.001)


@pytest.mark.skipif(sys.platform != "linux", reason="NOT TESTED: PEERS THAT LEAVE, ON LINUX")
async def test_a_peer_that_has_left_is_noticed_although_there_is_more_to_read(
    pair: tuple[Stream, Stream],
) -> None:
    client, server = pair
    assert not server.has_peer_left()
    await client.send_vectored([b"last ", b"words"])
    await trio.sleep(0.05)
    assert not server.has_peer_left()
    client.close()
    assert client.has_peer_left()
    await until_left(server)
    assert not server.is_abandoned()
    assert await receive(server, 100) == b"last words"
    assert server.has_peer_left()


async def test_a_reset_is_noticed_without_reading(pair: tuple[Stream, Stream]) -> None:
    client, server = pair
    await client.send_vectored([b"never read"])
    await wait_all_tasks_blocked()
    server.close()
    await until_abandoned(client)
    assert client.has_peer_left()


async def test_a_closed_stream_refuses_everything(pair: tuple[Stream, Stream]) -> None:
    client, _ = pair
    client.close()
    with pytest.raises(trio.ClosedResourceError):
        await client.receive_into(memoryview(bytearray(1)))
    with pytest.raises(trio.ClosedResourceError):
        client.send_nowait(b"x")
    with pytest.raises(trio.ClosedResourceError):
        await client.send_vectored([b"x"])


async def test_closing_wakes_the_tasks_in_the_stream(pair: tuple[Stream, Stream]) -> None:
    client, _server = pair

    async def receiving() -> None:
        with pytest.raises(trio.ClosedResourceError):
            await receive(client, 1)

    async def sending() -> None:
        with pytest.raises(trio.ClosedResourceError):
            await client.send_vectored([b"x" * 10_000_000])

    async with trio.open_nursery() as nursery:
        nursery.start_soon(receiving)
        nursery.start_soon(sending)
        await wait_all_tasks_blocked()
        client.close()


async def test_sending_to_somebody_who_left_breaks(pair: tuple[Stream, Stream]) -> None:
    client, server = pair
    server.close()
    with pytest.raises(trio.BrokenResourceError):
        while True:
            await client.send_vectored([b"x" * 1000])
            await wait_all_tasks_blocked()


async def test_leaving_with_data_unread_resets_the_peer(pair: tuple[Stream, Stream]) -> None:
    client, server = pair
    await client.send_vectored([b"never read"])
    await wait_all_tasks_blocked()
    server.close()
    assert isinstance(await receive_error(client), trio.BrokenResourceError)


async def test_a_cancelled_receive_has_received_nothing(pair: tuple[Stream, Stream]) -> None:
    client, server = pair
    with trio.CancelScope() as scope:
        scope.cancel()
        await receive(server, 3)
    assert scope.cancelled_caught
    await client.send_vectored([b"abc"])
    assert await receive(server, 3) == b"abc"


async def test_several_connections_are_accepted_in_order(
    network: Network, listener: Listener
) -> None:
    clients = [await network.connect("127.0.0.1", listener.port) for _ in range(3)]
    for number, client in enumerate(clients):
        await client.send_vectored([b"%d" % number])
    servers = [await listener.accept() for _ in clients]
    assert [await receive(server, 1) for server in servers] == [b"0", b"1", b"2"]
    assert len({server.peer for server in servers}) == 3
    for stream in (*clients, *servers):
        stream.close()


async def test_names_that_do_not_resolve_are_oserrors(network: Network) -> None:
    with pytest.raises(OSError):  # noqa: PT011 - resolvers word it differently
        await network.connect("no-such-machine.invalid", 9092)


def test_a_datagram_to_nobody_is_an_oserror(machine: Machine, network: Network) -> None:
    with fails_with(errno.ENOENT):
        network.send_datagram(machine.path("no-such-socket"), b"READY=1")
