"""A topic of which nobody said anything: it does not grow for ever, and says what becomes of it.

The case is dynamo's, whose stream had no limit unless somebody thought of one. The same on a
virtual clock, to the millisecond, is in `tests/broker/test_retention.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.admin import ConfigResource, NewTopic, ResourceType

from tests.faults.disk_full import VALUE_BYTES, Clients
from tests.faults.restart import log_size_bytes
from tests.faults.rounds import Site
from tests.support.http import metric
from tests.support.waiting import wait_until

pytestmark = pytest.mark.slow

MIB = 1 << 20
SECONDS = 60.0
TOPIC = "events"


@contextmanager
def untold(directory: Path, **settings: object) -> Iterator[tuple[Site, Clients]]:
    """Run a server with one topic that was created without any configuration."""
    settings["shutdown.ready_grace_seconds"] = 0
    site = Site(directory / "data", directory / "server.log", settings, with_http=True)
    server = site.start()
    try:
        clients = Clients(site.bootstrap, 1)
        clients.admin.create_topics([NewTopic(TOPIC, 2)])[TOPIC].result(SECONDS)
        yield site, clients
        clients.close()
        assert server.stop() == 0
    finally:
        server.kill()


def described(clients: Clients) -> dict[str, tuple[str, bool]]:
    """Return what DescribeConfigs says of the topic: values, and whether they are defaults."""
    resource = ConfigResource(ResourceType.TOPIC, TOPIC)
    [future] = clients.admin.describe_configs([resource]).values()
    return {name: (entry.value, entry.is_default) for name, entry in future.result(SECONDS).items()}


def test_bytes_stay_within_the_budget_and_nobody_is_refused(tmp_path: Path) -> None:
    with untold(tmp_path, **{"storage.bytes_max": 8 * MIB}) as (site, clients):
        values = described(clients)
        assert values["retention.ms"] == ("604800000", True)
        assert values["retention.bytes"] == ("-1", True)
        assert metric(site.http, "trio_broker_retention_gives_way", topic=TOPIC) == 1
        for _ in range(3):
            for partition in (0, 1):
                clients.write(TOPIC, partition, 8 * MIB // VALUE_BYTES)
        assert not clients.refused
        wait_until(
            lambda: metric(site.http, "trio_broker_log_bytes") <= 8 * MIB,
            seconds=SECONDS,
            what="the logs to fit",
        )
        wait_until(
            lambda: log_size_bytes(site.data_dir) <= 8 * MIB,
            seconds=SECONDS,
            what="the files to fit",
        )
        gone = metric(
            site.http,
            "trio_broker_retention_deleted_bytes_total",
            topic=TOPIC,
            reason="node_budget",
        )
        assert gone >= 30 * MIB


def test_age_is_enforced_on_an_idle_topic_and_announced(tmp_path: Path) -> None:
    with untold(tmp_path, **{"topic.retention_ms": 3_000}) as (site, clients):
        assert described(clients)["retention.ms"][0] == "3000"
        assert metric(site.http, "trio_broker_retention_age_seconds", topic=TOPIC) == 3
        name = "trio_broker_retention_next_deletion_timestamp_seconds"
        assert metric(site.http, name, topic=TOPIC) is None
        clients.write(TOPIC, 0, 100)
        assert metric(site.http, name, topic=TOPIC) is not None
        consumer = Consumer({"bootstrap.servers": site.bootstrap, "group.id": "nobody"})
        place = TopicPartition(TOPIC, 0)
        # Nobody writes any more.
        wait_until(
            lambda: consumer.get_watermark_offsets(place, SECONDS) == (100, 100),
            seconds=SECONDS,
            what="the records to be too old",
        )
        consumer.close()
        deleted = "trio_broker_retention_deleted_segments_total"
        assert metric(site.http, deleted, topic=TOPIC, reason="age") == 1
        assert metric(site.http, name, topic=TOPIC) is None
