"""A server that runs out of descriptors, and one that has few from the start."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

import pytest
from confluent_kafka import Producer

from tests.faults.descriptors import run_out_of_descriptors
from tests.faults.load import SECONDS, create_topics
from tests.support.server import ROOT, running_server

pytestmark = pytest.mark.slow


def test_who_is_connected_goes_on_when_descriptors_run_out(tmp_path: Path) -> None:
    """`python -m tests.faults.descriptors` does this for minutes."""
    shortage = run_out_of_descriptors(tmp_path, seconds=1.5)
    print(shortage)
    shortage.require()


def test_more_partitions_than_descriptors(tmp_path: Path) -> None:
    """CreateTopics is never refused for want of descriptors: an idle partition needs none."""
    allowed, count = 160, 400
    with running_server(tmp_path / "data", descriptors_max=allowed) as server:
        create_topics(server.bootstrap, ["many"], count, {"durability": "os"})
        assert server.usage().descriptors < allowed // 2
        producer = Producer({"bootstrap.servers": server.bootstrap, "enable.idempotence": True})
        failures = []
        for partition in range(count):
            producer.produce(
                "many",
                b"x",
                partition=partition,
                on_delivery=lambda error, _: failures.append(error) if error else None,
            )
        assert producer.flush(SECONDS) == 0
        assert not failures
        assert server.usage().descriptors < allowed
        assert f"descriptors: {allowed} allowed" in server.stderr()


def test_a_limit_that_is_far_too_low_is_said_at_the_start(tmp_path: Path) -> None:
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (48, 48))

    arguments = ["serve", "--data-dir", str(tmp_path / "data"), "--listen", "127.0.0.1:0"]
    ended = subprocess.run(
        [sys.executable, "-m", "trio_broker", *arguments, "--http", "off"],
        cwd=ROOT,
        preexec_fn=limit,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 2  # and so it would the next time: systemd need not try again
    assert "may have 48 descriptors (RLIMIT_NOFILE)" in ended.stderr
    assert "LimitNOFILE" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert not (tmp_path / "data").exists()
