"""The tables of topic and broker configs, and reading what clients set."""

from __future__ import annotations

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_broker.config import BrokerConfig, Durability, TopicConfig, kafka_config_name
from trio_broker.config_catalog import (
    BROKER_CONFIGS,
    REMOVED_TOPIC_CONFIGS,
    TOPIC_CONFIGS,
    ConfigType,
    Treatment,
    parse_topic_configs,
    parse_value,
    topic_config_text,
)
from trio_broker.errors import ConfigError

#: org.apache.kafka.storage.internals.log.LogConfig, versions 4.0 to 4.3.
KAFKA_TOPIC_CONFIGS = [
    "cleanup.policy",
    "compression.gzip.level",
    "compression.lz4.level",
    "compression.type",
    "compression.zstd.level",
    "delete.retention.ms",
    "file.delete.delay.ms",
    "flush.messages",
    "flush.ms",
    "follower.replication.throttled.replicas",
    "index.interval.bytes",
    "leader.replication.throttled.replicas",
    "local.retention.bytes",
    "local.retention.ms",
    "max.compaction.lag.ms",
    "max.message.bytes",
    "message.timestamp.after.max.ms",
    "message.timestamp.before.max.ms",
    "message.timestamp.type",
    "min.cleanable.dirty.ratio",
    "min.compaction.lag.ms",
    "min.insync.replicas",
    "preallocate",
    "remote.copy.lag.bytes",
    "remote.copy.lag.ms",
    "remote.log.copy.disable",
    "remote.log.delete.on.disable",
    "remote.storage.enable",
    "retention.bytes",
    "retention.ms",
    "segment.bytes",
    "segment.index.bytes",
    "segment.jitter.ms",
    "segment.ms",
    "unclean.leader.election.enable",
]
FIXED = sorted(n for n, e in TOPIC_CONFIGS.items() if e.treatment is Treatment.FIXED)
KEPT = sorted(n for n, e in TOPIC_CONFIGS.items() if e.treatment is Treatment.KEPT)
#: A legal value in Kafka that is not the default, by type.
OTHER_VALUES = {
    ConfigType.BOOLEAN: "true",
    ConfigType.INT: "5",
    ConfigType.LONG: "12345",
    ConfigType.DOUBLE: "0.9",
}


def faults_of(configs):
    with pytest.raises(ConfigError) as caught:
        parse_topic_configs(configs)
    return caught.value.faults


def test_the_table_has_every_config_of_kafka_and_durability():
    assert sorted(TOPIC_CONFIGS) == sorted([*KAFKA_TOPIC_CONFIGS, "durability"])
    assert list(TOPIC_CONFIGS) == sorted(TOPIC_CONFIGS)
    assert not REMOVED_TOPIC_CONFIGS.keys() & TOPIC_CONFIGS.keys()
    honoured = {n for n, e in TOPIC_CONFIGS.items() if e.treatment is Treatment.HONOURED}
    assert honoured == {kafka_config_name(a.name) for a in attrs.fields(TopicConfig)}


def test_every_config_can_be_set_to_its_default():
    defaults = {name: entry.default for name, entry in TOPIC_CONFIGS.items()}
    assert parse_topic_configs(defaults) == TopicConfig()
    for entry in TOPIC_CONFIGS.values():
        assert entry.documentation
        assert topic_config_text(entry, TopicConfig(), {}) == entry.default


@pytest.mark.parametrize("name", FIXED)
def test_what_is_fixed_is_refused_with_its_reason(name):
    entry = TOPIC_CONFIGS[name]
    (fault,) = faults_of({name: OTHER_VALUES[entry.type]})
    assert fault.startswith(f"{name} can only be {entry.default} here: ")
    assert fault.endswith(entry.documentation)


@pytest.mark.parametrize("name", KEPT)
def test_what_is_kept_is_checked_and_reported(name):
    for text, shown in (("*", "*"), ("", ""), (" 0:1 , 1:0", "0:1,1:0")):
        assert parse_topic_configs({name: text}) == TopicConfig()
        assert topic_config_text(TOPIC_CONFIGS[name], TopicConfig(), {name: text}) == shown
    for text in ("0", "*,0:1", "a:b", "0:-1"):
        assert "partition:broker" in faults_of({name: text})[0]


def test_values_are_read_as_kafka_reads_them():
    config = parse_topic_configs(
        {
            "retention.ms": " 60000 ",
            "cleanup.policy": "delete , delete",
            "message.timestamp.type": "LogAppendTime",
            "min.cleanable.dirty.ratio": "0.50",
            "preallocate": "FALSE",
            "durability": "os",
        }
    )
    assert (config.retention_ms, config.cleanup_policy) == (60_000, "delete")
    assert config.durability is Durability.OS
    unset = parse_topic_configs({"durability": ""}, attrs.evolve(config))
    assert unset.durability is None


@pytest.mark.parametrize(
    "name, text",
    [
        ("retention.ms", "1_000"),
        ("retention.ms", "١"),
        ("retention.ms", ""),
        ("retention.ms", "1e3"),
        ("retention.ms", str(2**63)),
        ("segment.bytes", str(2**31)),
        ("preallocate", "1"),
        ("min.cleanable.dirty.ratio", "nan"),
        ("message.timestamp.type", "createtime"),
        ("durability", "always"),
    ],
)
def test_what_is_no_value_of_its_type_is_refused(name, text):
    (fault,) = faults_of({name: text})
    assert fault.startswith(f"invalid value {text!r} for topic config {name}: ")


def test_what_is_out_of_bounds_is_refused_under_kafkas_name():
    faults = faults_of({"retention.ms": "-2", "cleanup.policy": "compact", "segment.ms": "0"})
    assert faults[0].startswith("retention.ms must be at least -1, not -2")
    assert faults[1] == "cleanup.policy must be 'delete': 'compact' is not supported yet"
    assert faults[2].startswith("segment.ms must be at least 1, not 0")
    assert faults_of({"compression.type": "zstd"}) == (
        "compression.type must be 'producer': batches are stored as sent",
    )


def test_unknown_names_get_a_suggestion_or_a_reason():
    assert faults_of({"retention.msec": "1"}) == (
        "unknown topic config 'retention.msec', is it 'retention.ms'?",
    )
    assert faults_of({"zzz": "1"}) == ("unknown topic config 'zzz'",)
    (fault,) = faults_of({"message.format.version": "2.8"})
    assert "gone since Kafka 4.0" in fault


@given(
    st.dictionaries(st.sampled_from(sorted(TOPIC_CONFIGS)), st.text(max_size=20), max_size=3),
)
def test_whatever_is_set_is_in_effect_kept_or_refused(configs):
    """Nothing is accepted and then forgotten."""
    try:
        config = parse_topic_configs(configs)
    except ConfigError:
        return
    for name, text in configs.items():
        entry = TOPIC_CONFIGS[name]
        shown = topic_config_text(entry, config, configs)
        assert parse_value(entry, shown) == (
            list(dict.fromkeys(value))
            if isinstance(value := parse_value(entry, text), list)
            and entry.treatment is Treatment.HONOURED
            else value
        )


def test_broker_configs_name_the_setting_they_come_from():
    broker = BrokerConfig(node_id=7, topic=TopicConfig(retention_ms=1234))
    for entry in BROKER_CONFIGS.values():
        found = broker
        for part in entry.key.split(".") if entry.key else ():
            found = getattr(found, part)
        assert isinstance(entry.text(broker), str)
        assert entry.documentation
    assert BROKER_CONFIGS["broker.id"].text(broker) == "7"
    assert BROKER_CONFIGS["log.retention.ms"].text(broker) == "1234"
    assert BROKER_CONFIGS["offsets.retention.minutes"].text(broker) == "10080"
    assert BROKER_CONFIGS["connections.max.idle.ms"].text(broker) == "600000"
    assert BROKER_CONFIGS["listeners"].text(broker) == "PLAINTEXT://127.0.0.1:9092"
    assert BROKER_CONFIGS["delete.topic.enable"].text(broker) == "true"


def test_a_request_with_very_many_unknown_names_gets_few_suggestions(monkeypatch):
    """Looking for one takes a hundred thousand times as long as sending a name."""
    looked = []
    monkeypatch.setattr("difflib.get_close_matches", lambda *_, **__: looked.append(1) or [])
    faults = faults_of({f"retention.{number}": "" for number in range(5_000)})
    assert len(faults) == 5_000
    assert len(looked) <= 10


@pytest.mark.parametrize("name", ["leader.replication.throttled.replicas", "cleanup.policy"])
def test_what_is_longer_than_an_answer_can_tell_is_refused(name):
    """It could be put together by appending, and no answer has room for it."""
    [fault] = faults_of({name: ",".join(["1:1"] * 8_193)})
    assert "longer than 32767 bytes" in fault
    parse_topic_configs({"leader.replication.throttled.replicas": ",".join(["1:1"] * 8_192)})
