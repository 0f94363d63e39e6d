"""The log against a list, with random faults, and the proof that the check would notice bugs."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from tests.storage.model import LogRun
from tests.storage.sweep import points, run_point
from trio_broker.config import Durability
from trio_broker.host import jobs
from trio_broker.records.batch import LENGTH_MIN, read_header
from trio_broker.storage import scan
from trio_broker.testing.sim.disk import SimFileSystem
from trio_broker.testing.sim.faults import DiskFaults
from trio_broker.testing.sim.handles import SimFile

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from trio_broker.host.interface import Job

PROFILES = {
    "power cuts": DiskFaults(),
    "power cuts that lose any names": DiskFaults(names_lost="subset"),
    "write errors": DiskFaults(write_error_rate=0.03, short_write_rate=0.2),
    "sync errors": DiskFaults(sync_error_rate=0.03),
    "everything": DiskFaults(
        write_error_rate=0.02,
        sync_error_rate=0.02,
        name_error_rate=0.02,
        short_write_rate=0.1,
        names_lost="subset",
    ),
    "a full disk": DiskFaults(capacity_bytes=90_000),
    "few descriptors": DiskFaults(open_files_max=2),
}


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """What recovery says of each of thousands of faults helps nobody."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("durability", list(Durability))
def test_the_log_keeps_its_promises(profile: str, durability: Durability, seed: int) -> None:
    acknowledged = crashes = 0
    for number in range(2):
        run = LogRun((seed + number) % 2**32, durability=durability, faults=PROFILES[profile])
        run.run()
        acknowledged += run.acknowledged
        crashes += run.crashes
    # A run that did nothing proves nothing.
    assert acknowledged > 40
    assert crashes > 2


def test_faults_at_every_nth_operation() -> None:
    for kind, number in points(3, every=9):
        run_point(3, kind, number)


def test_the_same_seed_does_the_same() -> None:
    histories = []
    for _ in range(2):
        run = LogRun(11, faults=PROFILES["everything"])
        run.run()
        histories.append(list(run.fs.history))
    assert histories[0] == histories[1]


# ---------------------------------------------------------- mutations: each must be caught


def no_file_sync(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(SimFile, "sync", lambda self: None)


def no_directory_sync(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(SimFileSystem, "sync_directory", lambda self, path: None)


def no_crc(patch: pytest.MonkeyPatch) -> None:
    def check(buffer: bytes, position: int) -> Any:
        if len(buffer) - position < 61:
            return "too short"
        header = read_header(buffer, position)
        if header.length < LENGTH_MIN or header.size_bytes > len(buffer) - position:
            return "too short"
        return header

    patch.setattr(scan, "check_stored", check)


def the_page_cache_is_believed(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(SimFile, "forget_cached", lambda self, offset: True)


def no_sync_of_the_recovered_tail(patch: pytest.MonkeyPatch) -> None:
    def sync(_: object) -> Job[None]:
        yield from ()

    patch.setattr(scan, "jobs", SimpleNamespace(**(vars(jobs) | {"sync": sync})))


@pytest.mark.parametrize(
    "mutate, profile",
    [
        (no_file_sync, "power cuts"),
        (no_directory_sync, "power cuts that lose any names"),
        (no_crc, "power cuts"),
        (the_page_cache_is_believed, "sync errors"),
        (no_sync_of_the_recovered_tail, "power cuts"),
    ],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_a_broken_build_is_caught(
    mutate: Callable[[pytest.MonkeyPatch], None], profile: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    mutate(monkeypatch)
    for seed in range(200):
        try:
            LogRun(seed, faults=PROFILES[profile]).run()
        except Exception:  # noqa: BLE001 - whatever it stumbles over
            return
    pytest.fail("200 runs did not notice")


def test_mode_os_really_loses_data_in_a_power_cut() -> None:
    """The other side of the proof: a rig that never loses anything would prove nothing."""
    run = LogRun(1, durability=Durability.OS)
    run.open()
    run.append()
    stored = len(run.model.stored)
    assert stored
    lost = 0
    for seed in range(20):
        run = LogRun(seed, durability=Durability.OS)
        run.open()
        for _ in range(3):
            run.append()
        stored = len(run.model.stored)
        run.crash(power_cut=True)
        lost += stored - len(run.model.stored)
    assert lost
