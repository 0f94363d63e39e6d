"""SIGTERM under load with many clients and partitions: ``python -m tests.faults.stop``.

Idempotent producers write, other connections sit in long polls, a probe watches health and the
Kafka port, and then the server is told to stop. Every record that was acknowledged must be there
afterwards, and the next start must have nothing to scan.
"""

from __future__ import annotations

import argparse
import socket
import threading
import time
import urllib.error
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Self

import attrs

from tests.faults.load import Load, create_topics, read_everything, running_load
from tests.faults.restart import wait_for_scanned
from tests.faults.rounds import Site, kept_or_temporary
from tests.support import kafka_bytes
from tests.support.checker import Partition, Report, check
from tests.support.http import ask, metric
from tests.support.server import Server
from tests.support.waiting import pause, wait_until
from trio_broker.storage.paths import CLEAN_MARKER_NAME

PRODUCERS = 10
BURST = 20
#: A run is void with less load than this before the signal.
RECORDS_PER_SECOND_MIN = 5_000
GRACE_SECONDS = 2
#: The load is measured over this time, right before the signal.
MEASURED_SECONDS = 1.0
#: Starting and filling takes long where other programs use the machine too.
PATIENCE_SECONDS = 120.0


@attrs.define
class Probe:
    """A load balancer's view: readiness, and whether the Kafka port takes connections.

    Attributes:
        seen: (status of /health/ready or 0 for no answer, whether Kafka's port took a connection),
            each time they were asked for.
    """

    site: Site
    seen: list[tuple[int, bool]] = attrs.field(factory=list)
    _over: threading.Event = attrs.field(factory=threading.Event)
    _thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._over.set()
        assert self._thread is not None
        self._thread.join()

    def _look(self) -> None:
        while not self._over.is_set():
            try:
                status = ask(self.site.http, "/health/ready")[0]
            except (urllib.error.URLError, OSError):
                status = 0
            self.seen.append((status, takes_connections(self.site.port)))
            self._over.wait(0.02)

    @property
    def served_while_not_ready(self) -> int:
        """How often readiness said no while the Kafka port still took connections."""
        return sum(status == 503 and takes for status, takes in self.seen)

    @property
    def refused_while_ready(self) -> int:
        """How often the port refused although readiness had just said yes: must never be."""
        return sum(status == 200 and not takes for status, takes in self.seen)


def takes_connections(port: int) -> bool:
    """Tell whether anybody listens at a port of this machine."""
    try:
        socket.create_connection(("127.0.0.1", port), 5).close()
    except OSError:
        return False
    return True


@attrs.frozen
class Stop:
    """What one stop showed.

    Attributes:
        records_per_second: acknowledged in the last seconds before the signal.
        connections: open at the signal, by the server's own count.
        polls_answered: long polls that were answered, rather than cut off, by the stop.
        exit_code: of the process.
        seconds: from the signal to the end of the process.
        is_clean: every log dir had its marker.
        scanned_bytes: by the next start.
        served_while_not_ready: see `Probe`.
        refused_while_ready: see `Probe`.
        report: the judged history.
    """

    records_per_second: float
    connections: float
    polls_answered: int
    exit_code: int
    seconds: float
    is_clean: bool
    scanned_bytes: int
    served_while_not_ready: int
    refused_while_ready: int
    report: Report

    def __str__(self) -> str:
        return (
            f"{self.records_per_second:.0f} records/s, {self.connections:.0f} connections;"
            f" exit code {self.exit_code} after {self.seconds:.2f} s"
            f" ({GRACE_SECONDS} s of grace), {'clean' if self.is_clean else 'NOT CLEAN'},"
            f" next start scanned {self.scanned_bytes} bytes; {self.polls_answered} long polls"
            f" answered, {self.served_while_not_ready} probes saw 503 before the listener closed;"
            f" {self.report}"
        )

    def require_good(self) -> None:
        """Raise AssertionError if anything is not as it must be."""
        assert self.records_per_second >= RECORDS_PER_SECOND_MIN, f"void, too little load: {self}"
        assert self.exit_code == 0, self
        assert self.is_clean, self
        assert self.scanned_bytes == 0, self
        assert self.served_while_not_ready > 0, self
        assert self.refused_while_ready == 0, self
        self.report.require_clean()


def open_polls(
    stack: ExitStack, site: Site, partitions: Sequence[Partition], count: int
) -> list[kafka_bytes.RawConnection]:
    """Open connections, each with a fetch that waits for data that will not come."""
    polls = []
    for number in range(count):
        topic, partition = partitions[number % len(partitions)]
        poll = stack.enter_context(kafka_bytes.RawConnection.open(("127.0.0.1", site.port)))
        poll.send(kafka_bytes.fetch_v4(topic, 0, partition=partition, max_wait_ms=600_000))
        polls.append(poll)
    return polls


def run_stop(directory: Path, *, connections: int, partitions: int) -> Stop:
    """Stop a server once under load, start it again and judge the history."""
    log_dirs = [directory / "one", directory / "two"]
    settings = {
        "log_dirs": ",".join(map(str, log_dirs)),
        "shutdown.ready_grace_seconds": GRACE_SECONDS,
    }
    site = Site(directory / "data", directory / "server.log", settings, with_http=True)
    server = site.start()
    try:
        places = create_topics(site.bootstrap, ["load"], partitions)
        quiet = create_topics(site.bootstrap, ["quiet"], 10)
        load = Load(site.bootstrap, places, producers=PRODUCERS, burst=BURST, watched=False)
        with running_load(load), ExitStack() as stack:
            polls = open_polls(stack, site, quiet, connections - PRODUCERS)
            load.wait_for_acknowledged(RECORDS_PER_SECOND_MIN)
            rate = wait_for_load(load)
            open_count = metric(site.http, "trio_broker_connections") or 0
            assert open_count >= connections, f"void, too few connections: {open_count}"
            with Probe(site) as probe:
                code, seconds = stop_and_time(server)
            is_clean = all((path / CLEAN_MARKER_NAME).exists() for path in log_dirs)
            answered = sum(poll.receive() is not None for poll in polls)
            logged = len(site.stderr_path.read_text())
            server = site.start()
            load.wait_for_acknowledged(1_000)
        load.check_errors()
        scanned = wait_for_scanned(site.stderr_path, logged, log_dirs=len(log_dirs))
        report = check(load.history, read_everything(site.bootstrap, places))
        assert server.stop() == 0
    finally:
        server.kill()
    return Stop(
        rate,
        open_count,
        answered,
        code,
        seconds,
        is_clean,
        scanned,
        probe.served_while_not_ready,
        probe.refused_while_ready,
        report,
    )


def wait_for_load(load: Load) -> float:
    """Wait until enough is acknowledged in a second; return how much that was."""

    def rate() -> float:
        before, began = load.acknowledged, time.perf_counter()
        pause(MEASURED_SECONDS)
        found = (load.acknowledged - before) / (time.perf_counter() - began)
        return found if found >= RECORDS_PER_SECOND_MIN else 0.0

    return wait_until(rate, seconds=PATIENCE_SECONDS, what="enough load")


def stop_and_time(server: Server) -> tuple[int, float]:
    """Send SIGTERM; return the exit code, and the seconds until the end of the process."""
    began = time.perf_counter()
    server.terminate()
    code = server.wait()
    return code, time.perf_counter() - began


def main() -> None:
    """Run as a command; fails if any round is not as it must be."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.stop", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--connections", type=int, default=100)
    parser.add_argument("--partitions", type=int, default=1_000)
    options = parser.parse_args()
    for _ in range(options.rounds):
        with kept_or_temporary(None) as directory:
            stop = run_stop(
                directory, connections=options.connections, partitions=options.partitions
            )
        print(stop, flush=True)
        stop.require_good()


if __name__ == "__main__":
    main()
