"""What systemd, played by a socket of ours, is told."""

from __future__ import annotations

import itertools
import os
import signal
import socket
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
import trio

from tests.broker.harness import World, running, simulated
from tests.support.server import start_server
from trio_broker import BrokerConfig
from trio_broker.broker.phase import Phase
from trio_broker.broker.service_notifier import ServiceManager, ServiceNotifier
from trio_broker.host.real import real_host
from trio_broker.testing.sim.faults import DiskFaults
from trio_broker.testing.sim.network import SimNetwork

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@contextmanager
def fake_manager(path: Path) -> Iterator[socket.socket]:
    """Listen as a service manager does."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(path))
        manager.setblocking(False)
        yield manager


def told(manager: socket.socket) -> list[list[str]]:
    """Return all datagrams that are there, each as its lines."""
    found = []
    while True:
        try:
            found.append(manager.recv(4096).decode().split("\n"))
        except BlockingIOError:
            return found


async def test_a_real_socket_gets_every_phase(tmp_path: Path) -> None:
    config = BrokerConfig(data_dir=str(tmp_path / "data"), listeners=())
    with fake_manager(tmp_path / "notify") as manager:
        async with running(config) as run:
            notifier = ServiceNotifier(run.state, ServiceManager(str(tmp_path / "notify")))
            async with trio.open_nursery() as nursery:
                nursery.start_soon(notifier.run)
                await trio.testing.wait_all_tasks_blocked()
                run.tree.request_stop("a test")
                await run.tree.ended.wait()
                nursery.cancel_scope.cancel()
        messages = told(manager)
    assert messages[0] == ["READY=1", "STATUS=serving without listeners"]
    assert messages[1] == ["STOPPING=1", "STATUS=draining"]
    assert not any("WATCHDOG" in line or "EXTEND" in line for lines in messages for line in lines)


def test_the_process_tells_from_start_to_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    monkeypatch.setenv("WATCHDOG_USEC", "30000000")
    with fake_manager(tmp_path / "notify") as manager:
        server = start_server(tmp_path / "data")
        messages = told(manager)
        server.process.send_signal(signal.SIGTERM)
        assert server.wait() == 0
        messages += told(manager)
    assert messages[0][0] == "STATUS=starting"
    assert messages[0][1].startswith("EXTEND_TIMEOUT_USEC=")
    assert all("WATCHDOG=1" in lines for lines in messages)
    lines = [line for lines in messages for line in lines]
    in_order = [
        "READY=1",
        f"STATUS=serving 127.0.0.1:{server.port}",
        "STOPPING=1",
        "STATUS=draining",
        "STATUS=stopped",
    ]
    assert [line for line in lines if line in in_order] == in_order


class Recorder:
    """Takes the datagrams of a simulated machine."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.lines: list[tuple[float, str]] = []
        monkeypatch.setattr(SimNetwork, "send_datagram", self._take)

    def _take(self, path: str, payload: bytes) -> None:
        assert path == "/run/notify"
        now = trio.current_time()
        self.lines += [(now, line) for line in payload.decode().split("\n")]

    def times(self, start: str) -> list[float]:
        return [time for time, line in self.lines if line.startswith(start)]


@simulated
async def test_the_watchdog_is_fed_twice_as_often_as_it_asks(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder = Recorder(monkeypatch)
    async with world.running() as run, trio.open_nursery() as nursery:
        manager = ServiceManager("/run/notify", watchdog_seconds=20)
        nursery.start_soon(ServiceNotifier(run.state, manager).run)
        await run.broker.create_topic("orders")
        for _ in range(50):
            await run.broker.produce("orders", b"1")
            await trio.sleep(2)
        nursery.cancel_scope.cancel()
    fed = recorder.times("WATCHDOG=1")
    assert len(fed) >= 10
    assert max(after - before for before, after in itertools.pairwise(fed)) <= 10.5


@simulated
async def test_a_writer_that_does_not_get_on_starves_it(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder = Recorder(monkeypatch)
    # A shard in a system call is excused; the disk guard's would be met now and then.
    world.fs.faults = DiskFaults(latency_seconds=(0.0, 0.0))
    async with world.running() as run, trio.open_nursery() as nursery:
        await run.broker.create_topic("orders")
        manager = ServiceManager("/run/notify", watchdog_seconds=20)
        nursery.start_soon(ServiceNotifier(run.state, manager).run)
        shard = run.replica("orders").shard
        async with shard.changes:  # somebody has forgotten to let go
            nursery.start_soon(run.broker.produce, "orders", b"1")
            began = trio.current_time()
            await trio.sleep(100)
        await trio.sleep(30)
        ended = trio.current_time()
        nursery.cancel_scope.cancel()
    fed = [time - began for time in recorder.times("WATCHDOG=1")]
    assert not [time for time in fed if 15 < time < 100]
    assert [time for time in fed if 100 < time < ended - began]


@simulated
async def test_a_disk_that_hangs_is_no_reason_to_end_the_process(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder = Recorder(monkeypatch)
    async with world.running() as run, trio.open_nursery() as nursery:
        await run.broker.create_topic("orders")
        manager = ServiceManager("/run/notify", watchdog_seconds=20)
        nursery.start_soon(ServiceNotifier(run.state, manager).run)
        async with world.connect() as client:
            world.fs.freeze()
            await client.send_bytes(b"")
            await trio.sleep(25)
            assert len(recorder.times("WATCHDOG=1")) >= 3
            world.fs.thaw()
        nursery.cancel_scope.cancel()


@simulated
async def test_more_time_is_asked_for_while_recovering(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder = Recorder(monkeypatch)
    async with world.running() as run, trio.open_nursery() as nursery:
        run.state.phase = Phase.RECOVERING
        nursery.start_soon(ServiceNotifier(run.state, ServiceManager("/run/notify")).run)
        await trio.sleep(60)
        run.state.phase = Phase.SERVING
        await trio.sleep(60)
        nursery.cancel_scope.cancel()
    asked = recorder.times("EXTEND_TIMEOUT_USEC=30000000")
    assert len(asked) in {6, 7}
    assert len(recorder.times("READY=1")) == 1


async def test_a_manager_that_has_gone_disturbs_nobody(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = BrokerConfig(data_dir=str(tmp_path / "data"), listeners=())
    async with running(config) as run:
        ServiceNotifier(run.state, ServiceManager(str(tmp_path / "nobody"))).tell()
    assert "cannot notify" in caplog.text


@pytest.mark.skipif(not os.path.exists("/proc/self"), reason="abstract sockets are Linux's")
def test_an_abstract_socket_is_reached(tmp_path: Path) -> None:
    name = f"trio-broker-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(f"\0{name}")
        manager.setblocking(False)
        real_host().network.send_datagram(f"@{name}", b"READY=1")
        assert told(manager) == [["READY=1"]]


@pytest.mark.parametrize(
    "environment, expected",
    [
        ({}, None),
        ({"NOTIFY_SOCKET": ""}, None),
        ({"NOTIFY_SOCKET": "relative"}, None),
        ({"NOTIFY_SOCKET": "/run/n"}, ServiceManager("/run/n")),
        ({"NOTIFY_SOCKET": "@n", "WATCHDOG_USEC": "3000000"}, ServiceManager("@n", 3.0)),
        ({"NOTIFY_SOCKET": "@n", "WATCHDOG_USEC": "0"}, ServiceManager("@n")),
        ({"NOTIFY_SOCKET": "@n", "WATCHDOG_USEC": "soon"}, ServiceManager("@n")),
        (
            {"NOTIFY_SOCKET": "@n", "WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "1"},
            ServiceManager("@n"),
        ),
        (
            {"NOTIFY_SOCKET": "@n", "WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "77"},
            ServiceManager("@n", 3.0),
        ),
    ],
)
def test_the_environment_tells_who_wants_to_know(
    environment: dict[str, str], expected: ServiceManager | None
) -> None:
    assert ServiceManager.from_environment(environment, 77) == expected
