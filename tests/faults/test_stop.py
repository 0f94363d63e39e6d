"""SIGTERM under load, and what the next start has to do."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest

from tests.faults.load import Load, create_topics, read_everything, running_load
from tests.faults.restart import log_size_bytes, restart_after_kill, wait_for_scanned
from tests.faults.rounds import LOAD_MIN, Site, planted_site
from tests.faults.stop import run_stop
from tests.support.checker import check
from tests.support.http import ask
from tests.support.waiting import wait_until
from trio_broker.storage.paths import CLEAN_MARKER_NAME

pytestmark = pytest.mark.slow

MIB = 1 << 20


@pytest.mark.parametrize("stop_signal", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_under_load_is_clean_and_the_next_start_scans_nothing(
    tmp_path: Path, stop_signal: signal.Signals
) -> None:
    log_dirs = [tmp_path / "one", tmp_path / "two"]
    settings = {"log_dirs": ",".join(map(str, log_dirs))}
    site = Site(tmp_path / "data", tmp_path / "server.log", settings)
    server = site.start()
    try:
        partitions = create_topics(site.bootstrap, ["alpha", "beta"], 8)
        with running_load(Load(site.bootstrap, partitions)) as load:
            for _ in range(2):
                load.wait_for_acknowledged(10 * LOAD_MIN)
                server.process.send_signal(stop_signal)
                assert server.wait() == 0
                for log_dir in log_dirs:
                    assert (log_dir / CLEAN_MARKER_NAME).exists()
                    assert log_size_bytes(log_dir) > 0
                before = len(site.stderr_path.read_text())
                server = site.start()
                assert not any((log_dir / CLEAN_MARKER_NAME).exists() for log_dir in log_dirs)
                assert wait_for_scanned(site.stderr_path, before, log_dirs=len(log_dirs)) == 0
        load.check_errors()
        check(load.history, read_everything(site.bootstrap, partitions)).require_clean()
        assert server.stop() == 0
    finally:
        server.kill()


def test_a_start_after_a_crash_scans_only_what_is_past_the_recovery_points(
    tmp_path: Path,
) -> None:
    """`python -m tests.faults.restart` shows the same with a gigabyte, and how long it takes."""
    restart = restart_after_kill(tmp_path, log_bytes=512 * MIB)
    print(restart)
    assert restart.log_bytes >= 512 * MIB
    assert 0 < restart.scanned_bytes <= 6 * 64 * MIB


def test_a_stop_with_a_hundred_connections_loses_nothing_and_is_announced(tmp_path: Path) -> None:
    """`python -m tests.faults.stop` does the same with a thousand partitions."""
    stop = run_stop(tmp_path, connections=100, partitions=200)
    print(stop)
    stop.require_good()
    assert stop.polls_answered == 90, "long polls are answered, not cut off"


def test_a_second_signal_ends_the_grace_and_is_as_clean(tmp_path: Path) -> None:
    settings = {"shutdown.ready_grace_seconds": 300}
    site = Site(tmp_path / "data", tmp_path / "server.log", settings, with_http=True)
    server = site.start()
    try:
        partitions = create_topics(site.bootstrap, ["alpha"], 4)
        with running_load(Load(site.bootstrap, partitions)) as load:
            load.wait_for_acknowledged(LOAD_MIN)
            server.terminate()
            wait_until(lambda: ask(site.http, "/health/ready")[0] == 503, seconds=30, what="503")
            load.wait_for_acknowledged(LOAD_MIN)  # in the grace everything works
            server.terminate()
            assert server.wait() == 0
            assert (tmp_path / "data" / "logs" / CLEAN_MARKER_NAME).exists()
            server = site.start()
        load.check_errors()
        check(load.history, read_everything(site.bootstrap, partitions)).require_clean()
    finally:
        server.kill()


def test_a_third_signal_ends_the_process_at_once_and_loses_nothing(tmp_path: Path) -> None:
    site, planted = planted_site(tmp_path, **{"shutdown.deadline_seconds": 300})
    server = site.start()
    try:
        partitions = create_topics(site.bootstrap, ["alpha"], 4)
        with running_load(Load(site.bootstrap, partitions)) as load:
            load.wait_for_acknowledged(LOAD_MIN)
            planted.write_text("flush\n")
            for told in ("stopping: SIGTERM", "a second SIGTERM"):
                server.terminate()
                wait_until(lambda told=told: told in server.stderr(), seconds=30, what=told)
            server.terminate()
            assert server.wait() == 3
            planted.write_text("")
            logged = len(server.stderr())
            server = site.start()
            assert wait_for_scanned(site.stderr_path, logged) > 0
        load.check_errors()
        check(load.history, read_everything(site.bootstrap, partitions)).require_clean()
    finally:
        server.kill()


def test_an_event_loop_that_is_blocked_does_not_keep_the_process_alive(tmp_path: Path) -> None:
    site, planted = planted_site(tmp_path, **{"shutdown.deadline_seconds": 1})
    server = site.start()
    planted.write_text("loop\n")
    server.terminate()
    assert server.wait() == 3


def test_a_stop_while_recovering_gives_up_and_the_next_start_recovers(tmp_path: Path) -> None:
    site, planted = planted_site(tmp_path)
    server = site.start()
    try:
        partitions = create_topics(site.bootstrap, ["alpha"], 20)
        load = Load(site.bootstrap, partitions, watched=False)
        with running_load(load):
            load.wait_for_acknowledged(LOAD_MIN)
        server.kill()
        planted.write_text("recovery 10\n")
        stop_while_recovering(site)
        planted.write_text("")
        server = site.start()
        check(load.history, read_everything(site.bootstrap, partitions)).require_clean()
    finally:
        server.kill()


def stop_while_recovering(site: Site) -> None:
    """Start a server that takes long to recover, and stop it meanwhile."""
    arguments = ["serve", "--data-dir", str(site.data_dir), "--listen", site.bootstrap]
    arguments += ["--http", f"127.0.0.1:{site.http_port}"]

    def is_recovering() -> bool:
        try:
            return ask(site.http, "/health/startup")[1]["phase"] == "recovering"
        except OSError:
            return False

    with (
        site.stderr_path.open("ab") as stderr,
        subprocess.Popen(
            [*site.command, *arguments], stderr=stderr, env={**os.environ, **site.environment}
        ) as process,
    ):
        try:
            wait_until(is_recovering, seconds=30, what="recovery")
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 3
        finally:
            process.kill()
    assert "stopped while starting (SIGTERM)" in site.stderr_path.read_text()
