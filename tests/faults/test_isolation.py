"""One of many parts of a real server fails: no request to any other part does.

The others' producers try nothing twice, so that every request that fails is seen; their partitions
are fetched all the time. The part that failed is back by itself when the cause is gone, and nothing
that it had acknowledged is lost.
"""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.faults.disk_full import log_storms
from tests.faults.load import Load, create_topics, read_everything, running_load
from tests.faults.rounds import LOAD_MIN, Site, planted_site
from tests.support import kafka_bytes
from tests.support.checker import Partition, RecordId, check, encode_value
from tests.support.disks import thin_disk
from tests.support.http import ask, metric
from tests.support.log_files import partition_directories
from tests.support.requirements import require_loop_disks
from tests.support.waiting import wait_until

pytestmark = pytest.mark.slow

PARTITIONS = 100
#: A part that has failed tries again after 1, 2, 4 ... seconds.
BACK_SECONDS = 60.0
#: What `produce_once` sends.
PROBE = RecordId("probe", 0)


@contextmanager
def fetching(site: Site, partitions: Sequence[Partition]) -> Iterator[None]:
    """Fetch from partitions in turn for the length of the block; no fetch may fail."""
    over, failures = threading.Event(), []

    def fetch_in_turn() -> None:
        with kafka_bytes.RawConnection.open(("127.0.0.1", site.port)) as connection:
            while not over.is_set():
                for topic, partition in partitions:
                    request = kafka_bytes.fetch_v4(topic, 0, partition=partition)
                    code = kafka_bytes.fetch(connection, request).error_code
                    if code:
                        failures.append((topic, partition, code))

    thread = threading.Thread(target=fetch_in_turn)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
    assert not failures, failures[:5]


def go_through(
    site: Site,
    concerned: Sequence[Partition],
    others: Sequence[Partition],
    fault: Callable[[], AbstractContextManager[None]],
    while_it_lasts: Callable[[], None],
) -> None:
    """Load everything, let a fault (a context manager) come and go, and judge all of it."""
    stricken = Load(site.bootstrap, concerned, producers=2, name="stricken", watched=False)
    strict = Load(site.bootstrap, others, producers=2, name="strict", retries=False, watched=False)
    for load in (stricken, strict):
        for place in load.partitions:
            load.history.sent(place, PROBE)
    with running_load(stricken), running_load(strict), fetching(site, others):
        stricken.wait_for_acknowledged(LOAD_MIN)
        strict.wait_for_acknowledged(LOAD_MIN)
        with fault():
            while_it_lasts()
            strict.wait_for_acknowledged(5 * LOAD_MIN)
        stricken.wait_for_acknowledged(LOAD_MIN)  # it is back by itself
    final = read_everything(site.bootstrap, [*concerned, *others])
    for load, places in ((stricken, concerned), (strict, others)):
        load.check_errors()
        report = check(load.history, {place: final[place] for place in places})
        report.require_clean()
        print(f"{load.name}: {report}")


@contextmanager
def planted_server(directory: Path) -> Iterator[tuple[Site, Path]]:
    """Run a server in which faults can be planted, by writing into the file that is given."""
    site, planted = planted_site(directory)
    server = site.start()
    try:
        yield site, planted
        assert server.stop() == 0
    finally:
        server.kill()


@contextmanager
def line_in(planted: Path, line: str) -> Iterator[None]:
    planted.write_text(line + "\n")
    try:
        yield
    finally:
        planted.write_text("")


def shards(site: Site) -> list[dict[str, Any]]:
    """Return what health says of every shard."""
    return [
        shard for log_dir in ask(site.http, "/health")[1]["log_dirs"] for shard in log_dir["shards"]
    ]


def fault_of(site: Site, boundary: str) -> dict[str, Any] | None:
    """Return what health says of the faults that a boundary has stopped."""
    faults = ask(site.http, "/health")[1]["faults"]
    return next((fault for fault in faults if fault["boundary"] == boundary), None)


def test_one_of_a_hundred_partitions_raises(tmp_path: Path) -> None:
    with planted_server(tmp_path) as (site, planted):
        places = create_topics(site.bootstrap, ["load"], PARTITIONS)

        def look() -> None:
            fault = wait_until(
                lambda: fault_of(site, "replica load-0"), seconds=30, what="the fault in health"
            )
            assert fault["last_cause"] == "PlantedFault: a bug in one partition"
            wait_until(
                lambda: (
                    metric(site.http, "trio_broker_partition_online", partition="0", topic="load")
                    == 0
                ),
                seconds=30,
                what="the partition shown offline",
            )
            assert metric(site.http, "trio_broker_faults_total", boundary="replica")
            assert metric(site.http, "trio_broker_last_fault", cause=fault["last_cause"])
            assert all(shard["is_running"] for shard in shards(site))

        go_through(site, places[:1], places[1:], lambda: line_in(planted, "partition load-0"), look)
        assert metric(site.http, "trio_broker_partitions", state="offline") == 0


def test_one_shard_raises(tmp_path: Path) -> None:
    with planted_server(tmp_path) as (site, planted):
        # Else retention would take the probes, whose timestamps are old.
        for_ever = {"retention.ms": "-1"}
        places = create_topics(site.bootstrap, ["load"], 20, for_ever)
        name = f"{tmp_path / 'data' / 'logs'}#0"
        # Which partitions a shard serves is its own affair: those that refuse while it is down.
        with line_in(planted, f"shard {name}"):
            codes = {place: produce_once(site, place) for place in places}
        concerned = [place for place, code in codes.items() if code]
        others = [place for place, code in codes.items() if not code]
        assert concerned
        assert others
        wait_until(
            lambda: metric(site.http, "trio_broker_partitions", state="offline") == 0,
            seconds=BACK_SECONDS,
            what="the shard to be back",
        )

        def look() -> None:
            wait_until(
                lambda: any(not shard["is_running"] for shard in shards(site)),
                seconds=30,
                what="the fault in health",
            )
            fault = fault_of(site, f"shard {name}")
            assert fault is not None
            assert fault["last_cause"] == "PlantedFault: a bug in one shard"
            assert metric(site.http, "trio_broker_shard_restarts_total", shard="0")

        go_through(site, concerned, others, lambda: line_in(planted, f"shard {name}"), look)


def produce_once(site: Site, place: Partition) -> int:
    """Send one batch to a partition; return the code that it gets."""
    batch = kafka_bytes.Batch(values=[encode_value(PROBE)]).encode()
    with kafka_bytes.RawConnection.open(("127.0.0.1", site.port)) as connection:
        request = kafka_bytes.produce_v7(place[0], batch, partition=place[1])
        return kafka_bytes.produce(connection, request).error_code


def split_over(site: Site, bad: Path, good: Path) -> tuple[list[Partition], list[Partition]]:
    """Create a topic; return its partitions on one log dir, and those on the other."""
    create_topics(site.bootstrap, ["load"], 20)
    concerned, others = (
        [("load", number) for number in sorted(partition_directories(path, "load"))]
        for path in (bad, good)
    )
    return concerned, others


def test_an_fsync_that_fails_takes_one_log_dir_which_comes_back(tmp_path: Path) -> None:
    """For real: a thinly provisioned disk with nothing behind it any more, and then again."""
    require_loop_disks("an fsync that fails")
    with thin_disk(tmp_path) as thin:
        bad, good = thin.disk.mount_point / "logs", tmp_path / "logs"
        settings = {"log_dirs": f"{bad},{good}", "shutdown.ready_grace_seconds": 0}
        site = Site(tmp_path / "data", tmp_path / "server.log", settings, with_http=True)
        server = site.start()
        try:
            concerned, others = split_over(site, bad, good)

            def look() -> None:
                wait_until(
                    lambda: metric(site.http, "trio_broker_disk_alert", log_dir=str(bad)) == 3,
                    seconds=30,
                    what="the failed disk in the metrics",
                )
                fault = fault_of(site, f"log dir {bad}")
                assert fault is not None
                assert "fsync of" in fault["last_cause"]
                assert metric(site.http, "trio_broker_disk_alert", log_dir=str(good)) == 0
                status, health = ask(site.http, "/health/ready")
                assert status == 200, "the other disk can be used"
                assert health["status"] == "degraded"

            go_through(site, concerned, others, thin.exhausted, look)
            assert metric(site.http, "trio_broker_disk_alert", log_dir=str(bad)) == 0
            assert not log_storms(server.stderr())
            # Not what the page cache shows, which a failed fsync has made a liar: what is stored.
            before = read_everything(site.bootstrap, concerned)
            assert server.stop() == 0
            thin.disk.remount()
            server = site.start()
            assert read_everything(site.bootstrap, concerned) == before
            assert server.stop() == 0
        finally:
            server.kill()


def test_a_disk_that_becomes_read_only_takes_one_log_dir_until_it_is_repaired(
    tmp_path: Path,
) -> None:
    """For real: first fsync and writes fail, then the journal's end makes all of it EROFS."""
    require_loop_disks("a disk that becomes read-only")
    with thin_disk(tmp_path, has_journal=True) as thin:
        bad, good = thin.disk.mount_point / "logs", tmp_path / "logs"
        settings = {"log_dirs": f"{bad},{good}", "shutdown.ready_grace_seconds": 0}
        site = Site(tmp_path / "data", tmp_path / "server.log", settings, with_http=True)
        server = site.start()
        try:
            concerned, others = split_over(site, bad, good)
            stricken = Load(site.bootstrap, concerned, producers=2, name="lost", watched=False)
            strict = Load(
                site.bootstrap, others, producers=2, name="strict", retries=False, watched=False
            )
            with running_load(strict), fetching(site, others):
                with running_load(stricken):
                    stricken.wait_for_acknowledged(LOAD_MIN)
                    with thin.exhausted():
                        wait_until(
                            lambda: is_read_only(thin.disk.mount_point),
                            seconds=60,
                            what="the filesystem to be read-only",
                        )
                        strict.wait_for_acknowledged(5 * LOAD_MIN)
                    assert metric(site.http, "trio_broker_disk_alert", log_dir=str(bad)) == 3, (
                        "nobody has repaired it"
                    )
                    assert ask(site.http, "/health/ready")[0] == 200
                    stricken.give_up()
                strict.wait_for_acknowledged(LOAD_MIN)
            strict.check_errors()
            assert not log_storms(server.stderr())
            assert server.stop() == 3
            thin.disk.remount()
            server = site.start()
            final = read_everything(site.bootstrap, [*concerned, *others])
            for load, places in ((stricken, concerned), (strict, others)):
                check(load.history, {place: final[place] for place in places}).require_clean()
            assert server.stop() == 0
        finally:
            server.kill()


def is_read_only(path: Path) -> bool:
    try:
        (path / "written").write_text("x")
    except OSError as error:
        return error.errno == errno.EROFS
    return False
