"""A disk that hangs under one log dir: the other log dir's requests are all answered."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition

from tests.faults.load import SECONDS, Load, create_topics, read_everything, running_load
from tests.faults.rounds import LOAD_MIN, Site
from tests.support.checker import Partition, RecordId, check, encode_value
from tests.support.disks import LoopDisk, loop_disk
from tests.support.log_files import partition_directories
from tests.support.requirements import require_loop_disks
from tests.support.waiting import pause

pytestmark = pytest.mark.slow

MARKER = RecordId("marker", 0)


def partitions_in(log_dir: Path, topic: str) -> list[Partition]:
    return [(topic, number) for number in sorted(partition_directories(log_dir, topic))]


def test_a_frozen_disk_under_one_log_dir_leaves_the_other_answering(tmp_path: Path) -> None:
    require_loop_disks("a frozen disk under one log dir")
    with loop_disk(tmp_path, size_bytes=256 << 20) as disk:
        frozen_dir, free_dir = disk.mount_point / "logs", tmp_path / "logs"
        settings = {"log_dirs": f"{frozen_dir},{free_dir}"}
        site = Site(tmp_path / "data", tmp_path / "server.log", settings)
        server = site.start()
        try:
            create_topics(site.bootstrap, ["split"], 8)
            frozen = partitions_in(frozen_dir, "split")
            free = partitions_in(free_dir, "split")
            assert len(frozen) + len(free) == 8
            assert frozen, "no partition was placed on the disk that will freeze"
            assert free, "no partition was placed beside it"
            freeze_under_load(disk, site, frozen, free)
            assert server.stop() == 0
        finally:
            server.kill()


def freeze_under_load(
    disk: LoopDisk, site: Site, frozen: Sequence[Partition], free: Sequence[Partition]
) -> None:
    """Load both disks, freeze one, see that the other's clients go on, thaw, judge both."""
    stuck = Load(site.bootstrap, frozen, name="stuck", watched=False)
    going = Load(site.bootstrap, free, name="going")
    with running_load(stuck), running_load(going):
        stuck.wait_for_acknowledged(LOAD_MIN)
        with disk.frozen():
            pause(0.3)  # what was on its way may still arrive
            before = stuck.acknowledged
            going.wait_for_acknowledged(20 * LOAD_MIN)
            going.history.sent(free[0], MARKER)
            requests_of_every_kind(site.bootstrap, free[0])
            assert stuck.acknowledged == before
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
