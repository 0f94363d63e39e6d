"""What the classes of configuration refuse themselves: wrong types, and what could never work."""

from __future__ import annotations

from pathlib import Path

import pytest

from trio_broker.config import (
    BrokerConfig,
    GroupConfig,
    HttpConfig,
    LimitsConfig,
    NetworkConfig,
    ShutdownConfig,
    StorageConfig,
    TopicConfig,
)
from trio_broker.errors import ConfigError


@pytest.mark.parametrize(
    "build, said",
    [
        (lambda: BrokerConfig(data_dir=""), "data_dir must not be an empty text"),
        (lambda: BrokerConfig(data_dir="a\0b"), "data_dir must not contain a character NUL"),
        (lambda: BrokerConfig(log_dirs=("a", "")), "log_dirs must not be an empty text"),
        (lambda: BrokerConfig(log_dirs=("/b", "/b/c")), "log_dirs: '/b/c' lies inside '/b'"),
        (lambda: BrokerConfig(log_dirs=("data/metadata/x",)), "lies inside 'data/metadata'"),
        (lambda: BrokerConfig(cluster_id=""), "cluster_id must be 1 to 100 printable"),
        (lambda: BrokerConfig(cluster_id="a\nb"), "cluster_id must be 1 to 100 printable"),
        (lambda: BrokerConfig(cluster_id="x" * 40_000), "cluster_id must be 1 to 100 printable"),
        (lambda: BrokerConfig(log_dirs=("a/b", "a//b/")), "log_dirs: 'a/b' is listed 2 times"),
        (
            lambda: BrokerConfig(listeners=("a:1", "a:1")),
            "listeners: 'a:1' is listed 2 times; an address can be bound once",
        ),
        (
            lambda: BrokerConfig(listeners=("127.0.0.1:1",), http=HttpConfig(listen="127.0.0.1:1")),
            "http.listen: '127.0.0.1:1' is one of 'listeners', too; choose another port",
        ),
        (lambda: BrokerConfig(listeners=("0.0.0.0:1",)), "set 'advertised' to the host:port"),
        (lambda: BrokerConfig(listeners=(":1",)), "set 'advertised' to the host:port"),
        (lambda: BrokerConfig(listeners=("[::]:1",)), "set 'advertised' to the host:port"),
        (lambda: BrokerConfig(advertised="a:0"), "'a:0' leads clients nowhere"),
        (lambda: BrokerConfig(advertised="0.0.0.0:1"), "'0.0.0.0:1' leads clients nowhere"),
        (lambda: BrokerConfig(advertised=""), "advertised: '' is not an address"),
        (
            lambda: BrokerConfig(listeners=("PLAINTEXT://a:1",)),
            "listeners: 'PLAINTEXT://a:1': write 'a:1', without 'PLAINTEXT://'",
        ),
        (lambda: BrokerConfig(listeners=("::1:9092",)), "IPv6 goes into brackets"),
        (lambda: BrokerConfig(listeners=("[x]:1",)), "no IPv6 address in the brackets"),
        (lambda: BrokerConfig(listeners=("a b:1",)), "no name of a host"),
        # Python's own IDNA codec raises UnicodeError for these when they are looked up.
        (lambda: BrokerConfig(listeners=("a..b:1",)), "no name of a host"),
        (lambda: BrokerConfig(advertised=f"{'a' * 64}:1"), "no name of a host"),
        (lambda: BrokerConfig(advertised=f"{'a.' * 127}b:1"), "no name of a host"),
        (lambda: HttpConfig(listen="bröker:1", token="x" * 16), "no name of a host"),
        (lambda: BrokerConfig(listeners=("a:+1",)), "port '+1' is not between 0 and 65535"),
        (lambda: BrokerConfig(listeners=("a:65536",)), "is not between 0 and 65535"),
        (
            lambda: BrokerConfig(num_partitions=11, limits=LimitsConfig(partitions_max=10)),
            "num_partitions must not exceed limits.partitions_max (10), but is 11",
        ),
        (
            lambda: BrokerConfig(limits=LimitsConfig(partitions_per_topic_max=3)),
            "group.offsets_topic_partitions must not exceed limits.partitions_per_topic_max (3)",
        ),
        (
            lambda: BrokerConfig(
                topic=TopicConfig(max_message_bytes=2**21),
                network=NetworkConfig(produce_frame_bytes_max=2**20),
            ),
            "topic.max_message_bytes must not exceed network.produce_frame_bytes_max (1048576)",
        ),
        # What is too little to be meant, and 0 where it would be taken for something else.
        (
            lambda: StorageConfig(bytes_max=0),
            "bytes_max must be -1, or at least 1048576, not 0: what gives way are whole segments",
        ),
        (lambda: StorageConfig(bytes_max=5), "not 5: what gives way"),
        (lambda: StorageConfig(bytes_max=-2), "must be -1, or at least 1048576, not -2"),
        (
            lambda: StorageConfig(ballast_bytes=5),
            "ballast_bytes must be -1, 0, or between 65536 and 1073741824, not 5: giving back less",
        ),
        (lambda: StorageConfig(open_files_max=0), "must be -1, or between 1 and 1000000, not 0"),
        (
            lambda: LimitsConfig(topic_mutations_per_second=0),
            "must be -1, or between 0.001 and 1000000, not 0: clients would never be done",
        ),
        (
            lambda: LimitsConfig(topic_mutations_per_second=float("nan")),
            "must be -1, or between 0.001 and 1000000, not nan",
        ),
        (lambda: LimitsConfig(producer_id_expiration_ms=1), "not 1: a batch that its producer"),
        (lambda: GroupConfig(offsets_retention_ms=1), "not 1: a group whose members restart"),
        (
            lambda: GroupConfig(offsets_retention_check_interval_ms=1),
            "must be at least 1000, not 1: each look goes through",
        ),
        (
            lambda: BrokerConfig(topic=TopicConfig(retention_ms=0)),
            "topic.retention_ms must be -1, or at least 1, not 0: all topics would lose",
        ),
        (
            lambda: BrokerConfig(topic=TopicConfig(max_message_bytes=5)),
            "topic.max_message_bytes must be at least 1024, not 5: hardly any batch",
        ),
        (lambda: ShutdownConfig(drain_share=0.9), "add up to 1.55"),
        (
            lambda: GroupConfig(session_timeout_min_ms=2, session_timeout_max_ms=1),
            "session_timeout_min_ms must not exceed session_timeout_max_ms (1), but is 2",
        ),
        (
            lambda: HttpConfig(listen="0.0.0.0:1"),
            "set 'http.token' (TRIO_BROKER_HTTP__TOKEN, 16 characters or more), or",
        ),
        (lambda: HttpConfig(token="with a blank in it"), "token must be 16 to 1000 printable"),
        (lambda: TopicConfig(cleanup_policy="compact"), "'compact' is not supported yet"),
        # Types, which Python does not check.
        (lambda: BrokerConfig(listeners="127.0.0.1:1"), "listeners must be a list of texts"),
        (lambda: BrokerConfig(log_dirs=(1,)), "log_dirs must be a list of texts, not (1,)"),
        (lambda: BrokerConfig(auto_create_topics="no"), "must be True or False, not 'no'"),
        (lambda: BrokerConfig(node_id=True), "node_id must be a whole number, not True"),
        (lambda: BrokerConfig(node_id=1.0), "node_id must be a whole number, not 1.0"),
        (lambda: BrokerConfig(data_dir=5), "data_dir must be a text, not 5"),
        (lambda: BrokerConfig(topic={}), "topic must be a TopicConfig, not {}"),
        (lambda: StorageConfig(durability="os"), "durability must be a Durability, not 'os'"),
        (lambda: NetworkConfig(connections_max=0), "connections_max must be between 1 and"),
        (lambda: HttpConfig(token=5), "token must be a text"),
    ],
)
def test_what_could_never_work_is_refused(build, said) -> None:
    with pytest.raises(ConfigError) as caught:
        build()
    [fault] = caught.value.faults
    assert said in fault


def test_lists_may_be_lists() -> None:
    config = BrokerConfig(listeners=["127.0.0.1:0"], log_dirs=["a"])
    assert config.listeners == ("127.0.0.1:0",)
    assert hash(config) == hash(BrokerConfig(listeners=("127.0.0.1:0",), log_dirs=("a",)))


def test_what_only_looks_like_a_mistake_is_accepted() -> None:
    BrokerConfig(listeners=("127.0.0.1:0", "127.0.0.1:0", "[::1]:9092", "localhost:9092"))
    BrokerConfig(listeners=(), advertised="[::1]:9092")
    BrokerConfig(advertised=f"broker_0.{'a' * 63}.example.org.:9092")
    BrokerConfig(listeners=("[fe80::1%eth0]:0",), log_dirs=("data", "logs", "logs2"))
    BrokerConfig(listeners=("127.0.0.1:0",), http=HttpConfig(listen="127.0.0.1:0"))


def test_a_single_topic_may_be_as_odd_as_kafka_lets_it_be() -> None:
    TopicConfig(retention_ms=0, max_message_bytes=0)


def test_special_values_are_accepted() -> None:
    StorageConfig(bytes_max=-1, ballast_bytes=-1, open_files_max=-1)
    StorageConfig(bytes_max=2**20, ballast_bytes=0, open_files_max=1)
    LimitsConfig(topic_mutations_per_second=-1)


def test_paths_are_taken_for_what_they_say(tmp_path: Path) -> None:
    config = BrokerConfig(data_dir=tmp_path / "data", log_dirs=[tmp_path / "a", "b"])
    assert config.data_dir == str(tmp_path / "data")
    assert config.log_dirs == (str(tmp_path / "a"), "b")
    assert config.with_values(data_dir=tmp_path).data_dir == str(tmp_path)
