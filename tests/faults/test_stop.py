"""SIGTERM under load, and what the next start has to do."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.faults.load import Load, create_topics, read_everything, running_load
from tests.faults.restart import log_size_bytes, restart_after_kill, scanned_bytes
from tests.faults.rounds import LOAD_MIN, Site
from tests.support.checker import check
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
                scanned = scanned_bytes(site.stderr_path.read_text()[before:])
                assert len(scanned) >= len(log_dirs)
                assert sum(scanned) == 0
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
