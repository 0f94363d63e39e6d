"""The shape of every fault run: load, fault, restart, again; then judge the whole history."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import attrs

from tests.faults.load import Load, create_topics, read_everything, running_load
from tests.support.checker import Report, check
from tests.support.planted import VARIABLE
from tests.support.server import SERVE, SERVE_PLANTED, Server, free_port, start_server
from tests.support.waiting import pause

#: A round counts only if this much was acknowledged between the server's start and the fault.
LOAD_MIN = 200


@attrs.define
class Site:
    """Where a server lives that is started again and again: same address, same directory.

    Attributes:
        data_dir: its directory.
        stderr_path: its log, on a disk that no fault touches.
        settings: its ``-X`` settings.
        command: the program up to its subcommand.
        environment: variables for it.
        with_http: whether it serves health and metrics.
    """

    data_dir: Path
    stderr_path: Path
    settings: Mapping[str, object] = attrs.field(factory=dict)
    command: Sequence[str] = SERVE
    environment: Mapping[str, str] = attrs.field(factory=dict)
    with_http: bool = False
    port: int = attrs.field(factory=free_port)
    http_port: int = attrs.field(factory=free_port)

    @property
    def bootstrap(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def http(self) -> str:
        """Where health and metrics are."""
        return f"http://127.0.0.1:{self.http_port}"

    def start(self, command: Sequence[str] | None = None) -> Server:
        """Start the server (again)."""
        return start_server(
            self.data_dir,
            listen=self.bootstrap,
            settings=self.settings,
            options=("--http", f"127.0.0.1:{self.http_port}") if self.with_http else (),
            command=command or self.command,
            environment=self.environment,
            stderr_path=self.stderr_path,
        )


def planted_site(directory: Path, **settings: object) -> tuple[Site, Path]:
    """Return a place for a server in which faults can be planted, and the file to name them in."""
    planted = directory / "planted"
    site = Site(
        directory / "data",
        directory / "server.log",
        {"shutdown.ready_grace_seconds": 0, **settings},
        command=SERVE_PLANTED,
        environment={VARIABLE: str(planted)},
        with_http=True,
    )
    return site, planted


@attrs.frozen
class Outcome:
    """What a run showed.

    Attributes:
        report: the judged history.
        start_seconds: how long each restart took until the server listened.
    """

    report: Report
    start_seconds: Sequence[float]

    def __str__(self) -> str:
        slowest = max(self.start_seconds, default=0.0)
        return f"{len(self.start_seconds)} rounds, slowest start {slowest:.2f} s: {self.report}"


def run_rounds(
    site: Site,
    fault: Callable[[Server], None],
    *,
    rounds: int,
    seed: int,
    say: Callable[[str], None] = print,
) -> Outcome:
    """Run producers through `rounds` faults, each followed by a restart, and judge the history.

    Args:
        site: where the server lives.
        fault: does the damage; the server must be dead, and its directory usable, when it returns.
        rounds: how many faults.
        seed: decides when each strikes, 50 to 500 ms after the round's minimum of load.
        say: is told of progress.
    """
    chance = random.Random(seed)
    server = site.start()
    start_seconds: list[float] = []
    try:
        partitions = create_topics(site.bootstrap, ["alpha", "beta", "gamma"], 4)
        with running_load(Load(site.bootstrap, partitions)) as load:
            for number in range(1, rounds + 1):
                load.wait_for_acknowledged(LOAD_MIN)
                pause(chance.uniform(0.05, 0.5))
                server.check_alive()
                fault(server)
                server = site.start()
                start_seconds.append(server.started_seconds)
                if number % 10 == 0:
                    say(f"{number} rounds, {load.acknowledged} records acknowledged")
            load.wait_for_acknowledged(LOAD_MIN)
        load.check_errors()
        report = check(load.history, read_everything(site.bootstrap, partitions))
        code = server.stop()
    except BaseException:
        server.kill()
        raise
    assert code == 0, f"exit code {code} after the last round"
    report.require_load(rounds * LOAD_MIN)
    return Outcome(report, start_seconds)


@contextmanager
def kept_or_temporary(directory: Path | None) -> Iterator[Path]:
    """Give a command its directory: the one it was told to keep, or one that goes away."""
    if directory is not None:
        directory.mkdir(parents=True, exist_ok=True)
        yield directory
        return
    with tempfile.TemporaryDirectory() as temporary:
        yield Path(temporary)
