"""Text to configuration: what is accepted, and how mistakes are told."""

from __future__ import annotations

import pytest

from tests.cli.reference_page import PAGE, render
from trio_broker.cli.configuration import Setting, build_config, settings
from trio_broker.config import BrokerConfig, Durability, TimestampType
from trio_broker.errors import ConfigError


def faults_of(*assignments: str, **options: object) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        build_config(assignments, **options)
    return list(caught.value.faults)


def test_nothing_said_gives_the_defaults() -> None:
    assert build_config() == BrokerConfig()


def test_values_of_each_kind() -> None:
    config = build_config(
        [
            "network.connections_max=100",
            "shutdown.deadline_seconds=2.5",
            "auto_create_topics=no",
            "log_dirs=/disk1, /disk2",
            "storage.durability=os",
            "topic.durability=interval",
            "topic.message_timestamp_type=LogAppendTime",
            "cluster_id=abc",
        ]
    )
    assert config.network.connections_max == 100
    assert config.shutdown.deadline_seconds == 2.5
    assert config.auto_create_topics is False
    assert config.log_dirs == ("/disk1", "/disk2")
    assert config.storage.durability is Durability.OS
    assert config.topic.durability is Durability.INTERVAL
    assert config.topic.message_timestamp_type is TimestampType.LOG_APPEND_TIME
    assert config.cluster_id == "abc"


@pytest.mark.parametrize("setting", settings().values(), ids=lambda setting: setting.key)
def test_every_default_can_be_written_and_read_back(setting: Setting) -> None:
    config = build_config([f"{setting.key}={setting.default_text}"])
    assert config == BrokerConfig()


def test_topic_keys_may_be_written_as_kafka_does() -> None:
    assert build_config(["topic.retention.ms=5"]).topic.retention_ms == 5


def test_the_last_assignment_counts_and_options_win() -> None:
    config = build_config(
        ["node_id=1", "node_id=2", "data_dir=a", "listeners=127.0.0.1:1"],
        data_dir="b",
        listeners=("127.0.0.1:2", "127.0.0.1:3"),
    )
    assert config.node_id == 2
    assert config.data_dir == "b"
    assert config.listeners == ("127.0.0.1:2", "127.0.0.1:3")


def test_all_mistakes_are_told_at_once() -> None:
    faults = faults_of(
        "network.connectoins_max=3",
        "topic.retention.ms=7 dayz",
        "topic.segment_bytes=3",
        "storage.durability=fsnyc",
        "auto_create_topics=maybe",
        "shutdown.deadline_seconds=soon",
        "limits.partitions_max=0",
        "nonsense",
        listeners=("0.0.0.0:9092", "here"),
    )
    for part in [
        "unknown key 'network.connectoins_max', did you mean 'network.connections_max'?",
        "topic.retention_ms: '7 dayz' is not a whole number",
        "topic.segment_bytes must be between",
        "storage.durability: 'fsnyc' is not one of fsync, interval, os",
        "auto_create_topics: 'maybe' is neither true nor false",
        "shutdown.deadline_seconds: 'soon' is not a number",
        "limits.partitions_max must be between",
        "'nonsense' is not key=value",
        "every interface",
        "'here' is not an address",
    ]:
        assert any(part in fault for fault in faults), part
    assert len(faults) == 10


@pytest.mark.parametrize(
    "key,meant",
    [
        ("retention_ms", "topic.retention_ms"),
        ("conections_per_address_max", "network.connections_per_address_max"),
        ("storage.durabilty", "storage.durability"),
    ],
)
def test_a_near_miss_gets_a_suggestion(key: str, meant: str) -> None:
    assert faults_of(f"{key}=1") == [f"unknown key {key!r}, did you mean {meant!r}?"]


def test_a_wild_key_points_to_the_list() -> None:
    assert faults_of("zzz=1") == ["unknown key 'zzz'; `-X list` shows all keys"]


def test_every_interface_needs_an_advertised_address() -> None:
    assert "advertised" in faults_of(listeners=("0.0.0.0:9092",))[0]
    config = build_config(listeners=("0.0.0.0:9092",), advertised="broker.example:9092")
    assert config.advertised == "broker.example:9092"


def test_the_reference_page_is_up_to_date() -> None:
    assert PAGE.read_text("utf-8") == render(), "run: python -m tests.cli.reference_page"
