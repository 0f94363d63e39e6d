"""A disk that hangs under one log dir: the other log dir's requests are all answered."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition

from tests.faults.load import SECONDS, Load, create_topics, read_everything, running_load
from tests.faults.restart import wait_for_scanned
from tests.faults.rounds import LOAD_MIN, Site
from tests.faults.stop import takes_connections
from tests.support.checker import Partition, RecordId, check, encode_value
from tests.support.disks import LoopDisk, loop_disk
from tests.support.http import metric
from tests.support.log_files import partition_directories
from tests.support.requirements import require_loop_disks
from tests.support.waiting import pause, wait_until
from trio_broker.storage.paths import CLEAN_MARKER_NAME

pytestmark = pytest.mark.slow

MARKER = RecordId("marker", 0)
STOP_SECONDS = 3.0
#: The machine may be busy with other things.
LATE_SECONDS = 10.0


def partitions_in(log_dir: Path, topic: str) -> list[Partition]:
    return [(topic, number) for number in sorted(partition_directories(log_dir, topic))]


def test_a_frozen_disk_under_one_log_dir_leaves_the_other_answering(tmp_path: Path) -> None:
    require_loop_disks("a frozen disk under one log dir")
    with loop_disk(tmp_path, size_bytes=256 << 20) as disk:
        frozen_dir, free_dir = disk.mount_point / "logs", tmp_path / "logs"
        settings = {"log_dirs": f"{frozen_dir},{free_dir}"}
        site = Site(tmp_path / "data", tmp_path / "server.log", settings, with_http=True)
        server = site.start()
        try:
            create_topics(site.bootstrap, ["split"], 8)
            frozen = partitions_in(frozen_dir, "split")
            free = partitions_in(free_dir, "split")
            assert len(frozen) + len(free) == 8
            assert frozen, "no partition was placed on the disk that will freeze"
            assert free, "no partition was placed beside it"
            freeze_under_load(disk, site, frozen, free, frozen_dir)
            assert server.stop() == 0
        finally:
            server.kill()


def freeze_under_load(
    disk: LoopDisk,
    site: Site,
    frozen: Sequence[Partition],
    free: Sequence[Partition],
    frozen_dir: Path,
) -> None:
    """Load both disks, freeze one, see that the other's clients go on, thaw, judge both."""
    stuck = Load(site.bootstrap, frozen, name="stuck", watched=False)
    going = Load(site.bootstrap, free, name="going", retries=False)  # no request may fail
    with running_load(stuck), running_load(going):
        stuck.wait_for_acknowledged(LOAD_MIN)
        with disk.frozen():
            pause(0.3)  # what was on its way may still arrive
            before = stuck.acknowledged
            going.wait_for_acknowledged(20 * LOAD_MIN)
            going.history.sent(free[0], MARKER)
            requests_of_every_kind(site.bootstrap, free[0])
            assert stuck.acknowledged == before
            assert metric(site.http, "trio_broker_shard_stuck_seconds", log_dir=str(frozen_dir))
        stuck.wait_for_acknowledged(LOAD_MIN)
    final = read_everything(site.bootstrap, [*frozen, *free])
    for load, partitions in ((stuck, frozen), (going, free)):
        load.check_errors()
        check(load.history, {place: final[place] for place in partitions}).require_clean()


def requests_of_every_kind(bootstrap: str, partition: Partition) -> None:
    """Metadata, produce, list offsets and fetch that concern only the healthy disk."""
    topic, number = partition
    producer = Producer({"bootstrap.servers": bootstrap})
    producer.produce(topic, partition=number, value=encode_value(MARKER))
    assert producer.flush(SECONDS) == 0
    # Committed offsets live in a topic whose partition may be on the frozen disk: none here.
    consumer = Consumer(
        {"bootstrap.servers": bootstrap, "group.id": "another", "enable.auto.commit": False}
    )
    assert topic in consumer.list_topics(timeout=SECONDS).topics
    low, high = consumer.get_watermark_offsets(TopicPartition(topic, number), SECONDS)
    assert low < high
    consumer.assign([TopicPartition(topic, number, low)])
    assert len(consumer.consume(1, SECONDS)) == 1
    consumer.close()


def test_a_stop_with_a_frozen_disk_ends_by_its_deadline(tmp_path: Path) -> None:
    """The kernel keeps the process until the disk thaws; but nobody can reach it any more."""
    require_loop_disks("a stop with a frozen disk")
    with loop_disk(tmp_path, size_bytes=256 << 20) as disk:
        frozen_dir, free_dir = disk.mount_point / "logs", tmp_path / "logs"
        settings = {
            "log_dirs": f"{frozen_dir},{free_dir}",
            "shutdown.ready_grace_seconds": 0,
            "shutdown.deadline_seconds": STOP_SECONDS,
        }
        site = Site(tmp_path / "data", tmp_path / "server.log", settings, with_http=True)
        server = site.start()
        try:
            partitions = create_topics(site.bootstrap, ["split"], 8)
            with running_load(Load(site.bootstrap, partitions, watched=False)) as load:
                load.wait_for_acknowledged(LOAD_MIN)
                with disk.frozen():
                    wait_until(
                        lambda: metric(
                            site.http, "trio_broker_shard_stuck_seconds", log_dir=str(frozen_dir)
                        ),
                        seconds=30,
                        what="a writer to be in a call that hangs",
                    )
                    began = time.perf_counter()
                    server.terminate()
                    wait_until(
                        lambda: not takes_connections(site.port), seconds=30, what="refusals"
                    )
                    refused_seconds = time.perf_counter() - began
                    wait_until(
                        lambda: "stopped (SIGTERM), not clean" in server.stderr(),
                        seconds=STOP_SECONDS + LATE_SECONDS,
                        what="the end of the event loop",
                    )
                    ended_seconds = time.perf_counter() - began
                    assert not takes_connections(site.http_port)
                    assert not (frozen_dir / CLEAN_MARKER_NAME).exists()
                    wait_until(
                        lambda: (free_dir / CLEAN_MARKER_NAME).exists(),
                        seconds=LATE_SECONDS,
                        what="the other disk's marker",
                    )
                    assert server.is_running, "the kernel lets nobody go who is in such a call"
                assert server.wait() == 3
                assert not (frozen_dir / CLEAN_MARKER_NAME).exists()
                logged = len(server.stderr())
                server = site.start()
                assert wait_for_scanned(site.stderr_path, logged, log_dirs=2) > 0
                load.wait_for_acknowledged(LOAD_MIN)
            load.check_errors()
            check(load.history, read_everything(site.bootstrap, partitions)).require_clean()
            print(
                f"port refused after {refused_seconds:.2f} s, event loop ended after"
                f" {ended_seconds:.2f} s, deadline {STOP_SECONDS:g} s"
            )
            assert server.stop() == 0
        finally:
            server.kill()
