"""Kafka's server.properties: how it is read, what carries over, and that nothing is passed over."""

from __future__ import annotations

import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_broker.config import Durability
from trio_broker.config_catalog import BROKER_CONFIGS
from trio_broker.settings.page import imported_page
from trio_broker.settings.resolve import resolve
from trio_broker.settings.server_properties import (
    Imported,
    import_properties,
    parse_properties,
)
from trio_broker.settings.sources import read_file

#: As Apache Kafka 4.1 ships it, without its comments, and with what people add.
SHIPPED = """
# Licensed to the Apache Software Foundation (ASF) under one or more
process.roles=broker,controller
node.id=1
controller.quorum.bootstrap.servers=localhost:9093
listeners=PLAINTEXT://:9092,CONTROLLER://:9093
inter.broker.listener.name=PLAINTEXT
advertised.listeners=PLAINTEXT://localhost:9092,CONTROLLER://localhost:9093
controller.listener.names=CONTROLLER
listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,SSL:SSL
num.network.threads=3
num.io.threads=8
socket.send.buffer.bytes=102400
socket.receive.buffer.bytes=102400
socket.request.max.bytes=104857600
log.dirs=/tmp/kraft-combined-logs
num.partitions=1
num.recovery.threads.per.data.dir=1
offsets.topic.replication.factor=1
share.coordinator.state.topic.replication.factor=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
#log.flush.interval.messages=10000
log.retention.hours=168
#log.retention.bytes=1073741824
log.segment.bytes=1073741824
log.retention.check.interval.ms=300000
"""


def imported(text: str) -> Imported:
    return import_properties(parse_properties(text))


def config_of(text: str):
    properties = parse_properties(text)
    page = imported_page(import_properties(properties), properties)
    return resolve([read_file("imported", page.encode())], serve=True).config


def test_the_file_that_kafka_ships() -> None:
    result = imported(SHIPPED)
    assert result.values == {
        "node_id": 1,
        "listeners": ("0.0.0.0:9092",),
        "advertised": "localhost:9092",
        "network.produce_frame_bytes_max": 104_857_600,
        "data_dir": "/tmp/kraft-combined-logs",
        "num_partitions": 1,
        "topic.retention_ms": 168 * 3_600_000,
        "topic.segment_bytes": 2**30,
    }
    assert result.dropped["offsets.topic.replication.factor"] == "it is always so here"
    assert "no thread pools" in result.dropped["num.io.threads"]
    assert "quorum" in result.dropped["listeners (CONTROLLER)"]
    assert not any("nothing here corresponds" in reason for reason in result.dropped.values())
    assert len(result.to_do) == 1
    config = config_of(SHIPPED)
    assert config.advertised == "localhost:9092"
    assert config.http.listen == "127.0.0.1:9644"


def test_every_name_has_an_outcome() -> None:
    properties = parse_properties(SHIPPED)
    result = import_properties(properties)
    told = {name.partition(" (")[0] for name in (*result.dropped, *result.names.values())}
    assert told == properties.keys()


@pytest.mark.parametrize(
    "text, key, value",
    [
        ("log.retention.minutes=100\nlog.retention.hours=1", "topic.retention_ms", 6_000_000),
        ("log.retention.hours=1\nlog.retention.ms=5", "topic.retention_ms", 5),
        ("log.retention.hours=-1", "topic.retention_ms", -1),
        ("log.retention.ms=-1", "topic.retention_ms", -1),
        ("log.retention.bytes=1024", "topic.retention_bytes", 1024),
        ("log.roll.hours=24", "topic.segment_ms", 86_400_000),
        ("log.roll.ms=9\nlog.roll.hours=24", "topic.segment_ms", 9),
        ("log.dir=/a", "data_dir", "/a"),
        ("log.dir=/a\nlog.dirs=/b, /c", "log_dirs", ("/b", "/c")),
        ("metadata.log.dir=/m\nlog.dirs=/b", "data_dir", "/m"),
        ("metadata.log.dir=/m\nlog.dirs=/b", "log_dirs", ("/b",)),
        ("broker.id=4", "node_id", 4),
        ("broker.id=4\nnode.id=5", "node_id", 5),
        ("message.max.bytes=2000000", "topic.max_message_bytes", 2_000_000),
        ("auto.create.topics.enable=FALSE", "auto_create_topics", False),
        ("log.message.timestamp.type=LogAppendTime", "topic.message_timestamp_type",
         "LogAppendTime"),
        ("connections.max.idle.ms=540000", "network.connection_idle_seconds", 540.0),
        ("max.connections=77", "network.connections_max", 77),
        ("offsets.retention.minutes=60", "group.offsets_retention_ms", 3_600_000),
        ("offsets.topic.num.partitions=50", "group.offsets_topic_partitions", 50),
        ("group.initial.rebalance.delay.ms=0", "group.initial_rebalance_delay_ms", 0),
        ("group.max.session.timeout.ms=60000", "group.session_timeout_max_ms", 60_000),
        ("group.max.size=10", "group.group_size_max", 10),
        ("min.insync.replicas=1", "topic.min_insync_replicas", 1),
        ("log.segment.delete.delay.ms=1", "topic.file_delete_delay_ms", 1),
        ("fetch.max.bytes=1048576", "network.fetch_bytes_max", 1_048_576),
        (("listeners=INTERNAL://h:1,EXTERNAL://[::1]:2\n"
         "listener.security.protocol.map=INTERNAL:PLAINTEXT,EXTERNAL:PLAINTEXT"),
         "listeners", ("h:1", "[::1]:2")),
    ],
)  # fmt: skip
def test_what_carries_over(text: str, key: str, value: object) -> None:
    assert imported(text).values[key] == value


@pytest.mark.parametrize(
    "text, name, reason",
    [
        ("log.retention.ms=1\nlog.retention.hours=1", "log.retention.hours", "in Kafka too"),
        ("min.insync.replicas=2", "min.insync.replicas", "one replica per partition"),
        ("log.cleanup.policy=compact", "log.cleanup.policy", "the default of topic.cleanup_policy"),
        ("broker.id=-1", "broker.id", "must be between 0 and"),
        ("max.connections.per.ip=2147483647", "max.connections.per.ip", "stays, 1000"),
        ("log.flush.interval.messages=1", "log.flush.interval.messages", "'durability'"),
        ("ssl.keystore.location=/k", "ssl.keystore.location", "no TLS"),
        ("listeners=SASL_SSL://:9094", "listeners (SASL_SSL)", "no TLS"),
        ("zookeeper.connect=z:2181", "zookeeper.connect", "no ZooKeeper"),
        ("port=9092", "port", "say it in 'listeners' and 'advertised'"),
        ("log.cleaner.threads=2", "log.cleaner.threads", "no log compaction"),
        ("replica.selector.class=a.B", "replica.selector.class", "nothing is replicated"),
        ("max.heap=1", "max.heap", "nothing here corresponds to it"),
        ("log.cleaner.enable=true", "log.cleaner.enable", "no log compaction"),
        ("log.retntion.ms=1", "log.retntion.ms", "did you mean 'log.retention.ms'?"),
        ("num.partitions=many", "num.partitions", "'many' is not a whole number"),
    ],
)
def test_what_does_not_says_why(text: str, name: str, reason: str) -> None:
    result = imported(text)
    assert reason in result.dropped[name]
    assert not result.values.keys() & {"topic.min_insync_replicas", "topic.cleanup_policy"}


@pytest.mark.parametrize(
    "text, words",
    [
        ("listeners=PLAINTEXT://:9092", "advertised: set it"),
        ("listeners=SSL://:9092", "none of 'SSL://:9092' can be served"),
        ("log.dirs=/a,/b", "data_dir: say where metadata is kept"),
        ("log.dirs=/a", "name empty ones"),
    ],
)
def test_what_a_person_has_to_decide(text: str, words: str) -> None:
    assert any(words in sentence for sentence in imported(text).to_do)


def test_every_config_that_the_broker_reports_can_be_imported() -> None:
    """What DescribeConfigs says of a broker at its defaults is taken, or is always so."""
    defaults = {name: entry.text(config_of("")) for name, entry in BROKER_CONFIGS.items()}
    result = import_properties(defaults)
    refused = {
        name: reason
        for name, reason in result.dropped.items()
        if reason not in {"it is always so here", "node.id wins over it, in Kafka too"}
        # 'node.id' and 'broker.id' are one setting
        and not reason.startswith("broker.id wins")
    }
    assert not refused
    assert len(result.values) >= 30


def test_the_format_of_java() -> None:
    text = (
        "# comment\n! another\n\n  key = value \nother:value\nthird value with blanks\n"
        "empty\nlong = a, \\\n    b\nescaped\\=key=a\\tb\\\\c\nunicode=\\u00e4\nkey=last\r\n"
        "odd\\\\\\=x=1\n"
    )
    assert parse_properties(text) == {
        "key": "last",
        "other": "value",
        "third": "value with blanks",
        "empty": "",
        "long": "a, b",
        "escaped=key": "a\tb\\c",
        "unicode": "ä",
        "odd\\=x": "1",
    }


@given(st.text(max_size=200))
def test_any_text_gives_a_page_that_is_toml(text: str) -> None:
    properties = parse_properties(text)
    page = imported_page(import_properties(properties), properties)
    tomllib.loads(page)


def test_durability_is_not_weakened_on_the_way() -> None:
    assert config_of("log.flush.interval.ms=1000").storage.durability is Durability.FSYNC
