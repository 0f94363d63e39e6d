"""The main job with each client: produce, read back, find by time, commit, delete, start over."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.clients.conftest import PARTITIONS, Target
from tests.clients.worker import CLIENTS, Worker, running_worker
from tests.clients.workload import CODECS, check_complete, make_records
from tests.support.log_files import partition_directories, stored_batches
from tests.support.recording_proxy import recording_proxy
from tests.support.server import running_server
from tests.support.waiting import pause
from trio_broker.records.compression import Compression

RECORDS = 20_000
HOUR_MS = 3_600_000

Workers = Callable[[str], Worker]
_numbers = itertools.count()

pytestmark = pytest.mark.slow


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def new_topic(workers: Workers, target: Target, client: str, partitions: int = PARTITIONS) -> str:
    """Create a topic with the client itself, or by auto-creation where it cannot."""
    topic = f"{client}.{next(_numbers)}.{now_ms()}"
    if client != "kcat":
        workers(client).create_topic(topic, partitions)
        settle(target)
    return topic


def settle(target: Target) -> None:
    """Apache Kafka answers before a topic's leaders do; retries would then reorder records."""
    if target.data_dir is None:
        pause(0.5)


def has_own_timestamps(client: str) -> bool:
    return client != "kcat"


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("client", CLIENTS)
def test_records_of_each_codec_come_back_complete_and_in_order(
    workers: Workers, target: Target, client: str, codec: str
) -> None:
    worker = workers(client)
    topic = new_topic(workers, target, client)
    first_ms = now_ms() - HOUR_MS
    worker.produce(topic, "r", RECORDS, first_ms, codec)
    rows = worker.read(topic, PARTITIONS)
    sent = list(make_records("r", RECORDS, first_ms))
    check_complete(rows, sent, exact_timestamps=has_own_timestamps(client))
    if target.data_dir is None:
        return
    directories = partition_directories(target.data_dir, topic)
    assert sorted(directories) == list(range(PARTITIONS))
    stored = 0
    for directory in directories.values():
        for header, _ in stored_batches(directory):
            assert header.compression is Compression[codec.upper()]
            stored += header.record_count
    assert stored == RECORDS


@pytest.mark.parametrize("client", CLIENTS)
def test_every_client_reads_what_the_others_wrote(
    workers: Workers, target: Target, client: str
) -> None:
    topic = new_topic(workers, target, client)
    first_ms = now_ms() - HOUR_MS
    expected = []
    for number, codec in enumerate(CODECS):
        label = f"{client}-{codec}"
        workers(client).produce(topic, label, 500, first_ms, codec, first=number * 500)
        expected += make_records(label, 500, first_ms, first=number * 500)
    for reader in CLIENTS:
        rows = workers(reader).read(topic, PARTITIONS)
        check_complete(rows, expected, exact_timestamps=has_own_timestamps(client))


@pytest.mark.parametrize("client", CLIENTS)
def test_offsets_by_timestamp(workers: Workers, target: Target, client: str) -> None:
    worker = workers(client)
    topic = new_topic(workers, target, client)
    first_ms = now_ms() - HOUR_MS
    for number, codec in enumerate(CODECS):
        start_ms = first_ms + 1000 * number
        worker.produce(topic, codec, 1000, start_ms, codec, first=1000 * number)
    rows = worker.read(topic, PARTITIONS)
    times = sorted(row.timestamp_ms for records in rows.values() for row in records)
    for asked_ms in (0, times[0], times[1777], times[2500] + 1, times[-1], times[-1] + 1):
        expected = {
            partition: next((row.offset for row in records if row.timestamp_ms >= asked_ms), None)
            for partition, records in rows.items()
        }
        assert worker.offsets_for_time(topic, PARTITIONS, asked_ms) == expected, asked_ms


@pytest.mark.parametrize("client", CLIENTS)
def test_simple_commits_and_their_end_with_the_topic(
    workers: Workers, target: Target, client: str
) -> None:
    worker = workers(client)
    group = f"group-of-{client}-{now_ms()}"
    topic = new_topic(workers, target, client)
    worker.produce(topic, "first", 3000, now_ms())
    offsets = {number: len(rows) for number, rows in worker.read(topic, PARTITIONS).items()}
    # kcat reads from the start where nothing is committed, and says where it would read.
    nothing = None if client != "kcat" else 0
    assert worker.committed(group, topic, 2) == nothing
    worker.commit(group, topic, 2, offsets[2])
    worker.produce(topic, "second", 3000, now_ms())
    assert worker.committed(group, topic, 2) == offsets[2]
    assert worker.committed(group, topic, 3) == nothing
    assert worker.committed(f"another-{group}", topic, 2) == nothing
    administrator = workers("confluent")
    administrator.delete_topic(topic)
    administrator.create_topic(topic, PARTITIONS)
    settle(target)
    worker.produce(topic, "third", 3000, now_ms())
    assert worker.committed(group, topic, 2) == nothing


@pytest.mark.parametrize("client", CLIENTS)
def test_a_deleted_topic_comes_back_empty_under_its_name(
    workers: Workers, target: Target, client: str
) -> None:
    """Twice, and confluent-kafka with the same producer all the time, as services do."""
    worker = workers(client)
    administrator = workers("confluent") if client == "kcat" else worker
    topic = new_topic(workers, target, client)
    for incarnation in ("second", "third"):
        worker.produce(topic, f"before-the-{incarnation}", 1000, now_ms())
        if target.data_dir is not None:
            assert partition_directories(target.data_dir, topic)
        administrator.delete_topic(topic)
        if target.data_dir is not None:
            # The reply comes after the logs are closed and their directories renamed.
            assert not partition_directories(target.data_dir, topic)
        administrator.create_topic(topic, PARTITIONS)
        settle(target)
        first_ms = now_ms() - HOUR_MS
        worker.produce(topic, incarnation, 1000, first_ms)
        sent = list(make_records(incarnation, 1000, first_ms))
        rows = worker.read(topic, PARTITIONS)
        check_complete(rows, sent, exact_timestamps=has_own_timestamps(client))


@pytest.mark.parametrize("client", CLIENTS)
def test_batches_reach_the_disk_byte_for_byte(
    workers: Workers, target: Target, tmp_path: Path, client: str
) -> None:
    """All but base offset and leader epoch, bytes 0 to 16, which lie outside the checksum."""
    if target.data_dir is None:
        pytest.skip("looks at the files of our own server")
    workers(client)  # skips if the client is missing
    with recording_proxy() as proxy:
        advertised = f"127.0.0.1:{proxy.port}"
        with (
            running_server(tmp_path / "data", options=["--advertise", advertised]) as server,
            running_worker(client, advertised) as worker,
        ):
            proxy.target = (server.host, server.port)
            for codec in CODECS:
                worker.produce(codec, codec, 500, now_ms(), codec)
            for codec in CODECS:
                (directory,) = partition_directories(server.data_dir, codec).values()
                batches = list(stored_batches(directory))
                assert sum(header.record_count for header, _ in batches) == 500
                for header, batch in batches:
                    assert header.compression is Compression[codec.upper()]
                    assert proxy.has_seen(batch[16:])
