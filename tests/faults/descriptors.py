"""Descriptors that run out while a server works: ``python -m tests.faults.descriptors``.

The limit of a running server (RLIMIT_NOFILE) is lowered to what it has open, under a load of real
clients, while other clients keep knocking. Whoever was connected goes on, also into partitions
whose files have to be opened; the log stays quiet; and all is well again by itself, once when the
limit is raised and once when clients leave.
"""

from __future__ import annotations

import argparse
import resource
import socket
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import attrs
from confluent_kafka import Consumer, TopicPartition

from tests.faults.load import SECONDS, Load, create_topics, read_everything, running_load
from tests.faults.rounds import LOAD_MIN, Site
from tests.support.checker import Report, check
from tests.support.server import Server
from tests.support.waiting import pause, wait_until

PARTITIONS = 24
#: Fewer than there are partitions, so that a load on all of them opens files all the time.
SETTINGS = {"storage.open_files_max": 16, "topic.segment_bytes": 256 * 1024}
#: Clients that are there, and then leave.
GUESTS = 10
#: What ApiVersions version 0 looks like on the wire: size, key, version, correlation id, no client.
_API_VERSIONS = bytes.fromhex("0000000a 0012 0000 00000007 ffff")
_COMPLAINT = "cannot accept clients"


@attrs.frozen
class Shortage:
    """What a run showed.

    Attributes:
        report: the judged history of the load.
        acknowledged: records acknowledged while there was no descriptor left.
        turned_away: connections that were closed at once meanwhile.
        seconds: how long that lasted, in all.
        complaints: lines in the log about it.
        elapsed_seconds: from the beginning of the first time to the end of the second.
        healing_seconds: until a new client was served, after the limit was raised and after
            clients had left.
    """

    report: Report
    acknowledged: int
    turned_away: int
    seconds: float
    complaints: int
    elapsed_seconds: float
    healing_seconds: tuple[float, float]

    def __str__(self) -> str:
        raised, left = self.healing_seconds
        return (
            f"{self.seconds:.1f} s without descriptors: {self.acknowledged} records acknowledged, "
            f"{self.turned_away} connections turned away, {self.complaints} lines logged; new "
            f"clients served {raised:.2f} s after the limit was raised, {left:.2f} s after clients "
            f"had left; {self.report}"
        )

    def require(self) -> None:
        """Raise AssertionError if this is not what is promised."""
        self.report.require_clean()
        assert self.acknowledged >= 2 * LOAD_MIN
        assert self.turned_away > 0
        assert self.complaints <= 1 + self.elapsed_seconds // 10, f"{self.complaints} lines"
        assert max(self.healing_seconds) < 10


def is_served(server: Server, guests: ExitStack | None = None) -> bool:
    """Connect, ask for ApiVersions, and say whether there was an answer.

    Args:
        server: to be asked.
        guests: keeps the connection; None: it is closed.
    """
    with ExitStack() as stack:
        client = stack.enter_context(socket.create_connection((server.host, server.port), 10))
        try:
            client.sendall(_API_VERSIONS)
            served = bool(client.recv(1))
        except ConnectionError:
            return False
        if guests is not None:
            guests.push(stack.pop_all())
    return served


def lowest_free_number(pid: int) -> int:
    """Return the number that the next descriptor of a process will have."""
    used = {int(entry.name) for entry in Path(f"/proc/{pid}/fd").iterdir()}
    return next(number for number in range(len(used) + 1) if number not in used)


def use_up_descriptors(server: Server) -> None:
    """Lower the limit of a running server until no descriptor is left."""

    def lower() -> bool:
        _, hard = resource.prlimit(server.pid, resource.RLIMIT_NOFILE)
        free = lowest_free_number(server.pid)
        resource.prlimit(server.pid, resource.RLIMIT_NOFILE, (free, hard))
        return not is_served(server)

    wait_until(lower, seconds=SECONDS, what="no descriptor to be left")


def use_up_by_guests(server: Server, guests: ExitStack) -> None:
    """Leave room for some clients under the limit of a running server, and let them come.

    The limit is on the numbers of descriptors. So that theirs are free below it once they leave,
    they come after it was lowered.
    """
    _, hard = resource.prlimit(server.pid, resource.RLIMIT_NOFILE)
    limit = lowest_free_number(server.pid) + GUESTS
    resource.prlimit(server.pid, resource.RLIMIT_NOFILE, (limit, hard))
    wait_until(
        lambda: not is_served(server, guests), seconds=SECONDS, what="no descriptor to be left"
    )


def raise_limit(server: Server) -> None:
    """Let a server have as many descriptors as it could have had before."""
    _, hard = resource.prlimit(server.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(server.pid, resource.RLIMIT_NOFILE, (hard, hard))


def seconds_until_served(server: Server) -> float:
    """Wait for a new client to be served."""
    began = time.perf_counter()
    wait_until(lambda: is_served(server), seconds=SECONDS, what="a new client to be served")
    return time.perf_counter() - began


@contextmanager
def _committing(bootstrap: str, topic: str) -> Iterator[Consumer]:
    """A consumer that is connected to its coordinator."""
    consumer = Consumer(
        {"bootstrap.servers": bootstrap, "group.id": "committer", "enable.auto.commit": False}
    )
    try:
        consumer.commit(offsets=[TopicPartition(topic, 0, 1)], asynchronous=False)
        yield consumer
    finally:
        consumer.close()


def run_out_of_descriptors(directory: Path, *, seconds: float) -> Shortage:
    """Let a server run out of descriptors twice under load, for `seconds` each time."""
    site = Site(directory / "data", directory / "server.log", SETTINGS)
    server = site.start()
    try:
        partitions = create_topics(site.bootstrap, ["alpha"], PARTITIONS)
        load = Load(site.bootstrap, partitions, producers=2)
        turned_away, spent, acknowledged, healing = 0, 0.0, 0, []
        with ExitStack() as stack:
            stack.enter_context(running_load(load))
            committer = stack.enter_context(_committing(site.bootstrap, "alpha"))
            load.wait_for_acknowledged(LOAD_MIN)
            first_began = time.perf_counter()
            for round_number in range(2):
                guests = stack.enter_context(ExitStack())
                began, before = time.perf_counter(), load.acknowledged
                if round_number == 0:
                    use_up_descriptors(server)
                else:
                    use_up_by_guests(server, guests)
                until = time.perf_counter() + seconds
                while time.perf_counter() < until:
                    turned_away += not is_served(server)
                    pause(0.02)
                load.wait_for_acknowledged(LOAD_MIN)
                offset = TopicPartition("alpha", 0, 2 + round_number)
                [committed] = committer.commit(offsets=[offset], asynchronous=False)
                assert committed.error is None
                acknowledged += load.acknowledged - before
                spent += time.perf_counter() - began
                if round_number == 0:
                    raise_limit(server)
                guests.close()
                healing.append(seconds_until_served(server))
            elapsed = time.perf_counter() - first_began
            load.wait_for_acknowledged(LOAD_MIN)
        load.check_errors()
        raise_limit(server)
        report = check(load.history, read_everything(site.bootstrap, partitions))
        assert server.stop() == 0
    finally:
        server.kill()
    log = site.stderr_path.read_text()
    for trouble in ("fault in", "goes offline", "write refused"):
        assert trouble not in log, f"the log says {trouble!r}: {site.stderr_path}"
    complaints = sum(_COMPLAINT in line for line in log.splitlines())
    return Shortage(
        report, acknowledged, turned_away, spent, complaints, elapsed, (healing[0], healing[1])
    )


def main() -> None:
    """Run as a command."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.descriptors", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0, help="how long each of two times")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        shortage = run_out_of_descriptors(Path(directory), seconds=options.seconds)
    print(shortage)
    shortage.require()


if __name__ == "__main__":
    main()
