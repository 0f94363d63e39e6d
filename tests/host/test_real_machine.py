"""Clock, randomness, facts, and `real_host`, which holds them."""

from __future__ import annotations

import base64
import resource
import subprocess
import sys
import time
import uuid
from typing import TYPE_CHECKING

from trio_broker.host import facts
from trio_broker.host.real import real_host

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


def test_the_wall_clock_is_civil_time() -> None:
    before = time.time_ns() // 1_000_000
    now = real_host().wall.now_ms()
    assert before - 1 <= now <= time.time_ns() // 1_000_000 + 1


def test_random_streams_are_kept_by_name_and_differ() -> None:
    entropy = real_host().entropy
    first = entropy.random("jitter")
    assert entropy.random("jitter") is first
    assert entropy.random("sampling") is not first
    assert entropy.random("sampling").random() != first.random()
    assert real_host().entropy.random("jitter").random() != first.random()


def test_a_uuid_is_fit_to_be_a_topic_id() -> None:
    entropy = real_host().entropy
    seen = {entropy.uuid() for _ in range(500)}
    assert len(seen) == 500
    for fresh in seen:
        assert fresh.version == 4
        assert not base64.urlsafe_b64encode(fresh.bytes).startswith(b"-")


def test_a_uuid_that_looks_like_an_option_is_drawn_again(monkeypatch: pytest.MonkeyPatch) -> None:
    dashes = [uuid.UUID(int=top << 120 | 4 << 76) for top in (0xF8, 0xF9, 0xFA, 0xFB)]
    assert all(base64.urlsafe_b64encode(dash.bytes).startswith(b"-") for dash in dashes)
    good = [uuid.UUID(int=top << 120 | 4 << 76) for top in (0xF7, 0xFC)]
    draws = [*dashes, good[0], good[1]]
    monkeypatch.setattr(uuid, "uuid4", lambda: draws.pop(0))
    entropy = real_host().entropy
    assert [entropy.uuid(), entropy.uuid()] == good


def test_facts(tmp_path: Path) -> None:
    now = facts.process_facts()
    assert now.resident_bytes > 1 << 20
    assert now.cpu_seconds > 0
    assert now.threads >= 1
    with (tmp_path / "x").open("wb"):
        assert facts.open_descriptors() == now.descriptors + 1
    assert facts.memory_bytes() > now.resident_bytes
    mount = facts.mount_of(str(tmp_path))
    assert mount is not None
    assert str(tmp_path).startswith(mount.mount_point)


def test_the_limit_of_descriptors_can_be_raised() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft - 1, hard))
    try:
        assert facts.descriptors_max() == soft - 1
        assert facts.raise_descriptors_max() >= soft - 1
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_host_is_real_and_opens_nothing() -> None:
    host = real_host("one")
    assert host.name == "one"
    assert not host.simulated
    assert host.fs.open_files() == []
    assert host.open_lane("a", 1.0).name == "a"


def test_the_interface_alone_loads_neither_trio_nor_psutil() -> None:
    program = (
        "import sys, trio_broker.host.interface, trio_broker.host.jobs\n"
        "print(*sorted({'trio', 'psutil', 'socket'} & set(sys.modules)))"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert ran.stdout == "\n"
