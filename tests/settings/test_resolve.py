"""Several sources into one configuration: which value counts, and every mistake of all of them."""

from __future__ import annotations

import itertools
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

import trio_broker
from trio_broker.config import (
    BrokerConfig,
    Durability,
    NetworkConfig,
    ShutdownConfig,
    StorageConfig,
    TimestampType,
    TopicConfig,
)
from trio_broker.errors import ConfigError
from trio_broker.host.config_file import load, load_config
from trio_broker.settings.resolve import resolve, without_effect
from trio_broker.settings.sources import (
    ENVIRONMENT_OF_COMMANDS,
    FILE_BYTES_MAX,
    option,
    read_assignments,
    read_environment,
    read_file,
)
from trio_broker.settings.table import SERVE_DEFAULTS, Setting, settings


@pytest.fixture
def write(tmp_path):
    """Return a function that writes a configuration file and returns its path."""

    def write_file(text: str | bytes) -> Path:
        path = tmp_path / "broker.toml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write_file


def faults_of(path=None, **sources) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(path, **sources)
    name = f"{path}: "
    return [fault.replace(name, "file: ") for fault in caught.value.faults]


# --------------------------------------------------------------------------------- precedence
def test_nothing_said_gives_the_defaults() -> None:
    assert load_config() == BrokerConfig()
    assert trio_broker.load_config is load_config


def test_the_environment_is_read_only_when_it_is_handed_over(monkeypatch) -> None:
    monkeypatch.setenv("TRIO_BROKER_NODE_ID", "7")
    assert load_config().node_id == 0
    assert load_config(environ=os.environ).node_id == 7


SOURCES = ("file", "environment", "assignment", "option")
SUBSETS = [
    subset for count in range(5) for subset in itertools.combinations(range(len(SOURCES)), count)
]


@pytest.mark.parametrize("subset", SUBSETS, ids=lambda subset: "+".join(SOURCES[n] for n in subset))
@pytest.mark.parametrize(
    "key, values",
    [
        ("node_id", [1, 2, 3, 4]),
        ("http.listen", ["127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3", "127.0.0.1:4"]),
        ("shutdown.deadline_seconds", [1.0, 2.0, 3.0, 4.0]),
        ("storage.ballast_bytes", [100_001, 100_002, 100_003, 100_004]),
    ],
)
def test_the_strongest_source_counts(subset, key, values, write) -> None:
    setting = settings()[key]
    path, environ, assignments, options = None, {}, [], []
    if 0 in subset:
        path = write(f"{key} = {values[0]!r}")
    if 1 in subset:
        environ[setting.environment_name] = str(values[1])
    if 2 in subset:
        assignments = [f"{key}={values[2]}"]
    if 3 in subset:
        options = [option("--option", key, str(values[3]))]
    resolved = load(path, environ=environ, assignments=assignments, options=options, serve=True)
    expected = values[subset[-1]] if subset else setting.serve_default
    assert resolved.value(setting) == expected
    place = str(resolved.origins[key])
    default = "default of serve" if key in SERVE_DEFAULTS else "default"
    names = [str(path), setting.environment_name, "-X", "--option"]
    assert place == (names[subset[-1]] if subset else default)


def test_the_last_assignment_counts() -> None:
    assert load_config(assignments=["node_id=1", "node_id=2"]).node_id == 2


def test_the_defaults_of_serve_are_those_of_the_process_only() -> None:
    embedded, served = load_config(), load_config(serve=True)
    assert embedded.http.listen is None
    assert served.http.listen == "127.0.0.1:9644"
    assert served.storage.ballast_bytes == -1
    assert served.group.initial_rebalance_delay_ms == 3000
    assert set(SERVE_DEFAULTS) <= set(settings())


def test_there_is_no_grace_where_nobody_can_ask_whether_the_broker_is_ready() -> None:
    key = "shutdown.ready_grace_seconds"
    assert load_config(serve=True).shutdown.ready_grace_seconds == 3
    off = ["http.listen="]
    assert load_config(assignments=off, serve=True).shutdown.ready_grace_seconds == 0
    said = load_config(assignments=[*off, f"{key}=2"], serve=True)
    assert said.shutdown.ready_grace_seconds == 2


# -------------------------------------------------------------------------------------- values
def test_values_of_each_kind_as_texts() -> None:
    config = load_config(
        assignments=[
            "network.connections_max=100",
            "shutdown.deadline_seconds=2.5",
            "auto_create_topics=no",
            "log_dirs=/disk1, /disk2",
            "storage.durability=os",
            "topic.durability=interval",
            "topic.message_timestamp_type=LogAppendTime",
            "cluster_id=abc",
            "topic.retention.ms=36h",
            "network.frame_bytes_max= 2 MiB ",
            "network.frame_seconds_max=1m30s",
            "topic.segment_bytes=1_048_576",
        ]
    )
    assert config == BrokerConfig(
        network=NetworkConfig(
            connections_max=100, frame_bytes_max=2 * 1024**2, frame_seconds_max=90.0
        ),
        shutdown=ShutdownConfig(deadline_seconds=2.5),
        auto_create_topics=False,
        log_dirs=("/disk1", "/disk2"),
        storage=StorageConfig(durability=Durability.OS),
        topic=TopicConfig(
            durability=Durability.INTERVAL,
            message_timestamp_type=TimestampType.LOG_APPEND_TIME,
            retention_ms=129_600_000,
            segment_bytes=1_048_576,
        ),
        cluster_id="abc",
    )
    assert type(config.network.connections_max) is int
    whole = load_config(assignments=["shutdown.deadline_seconds=2"])
    assert type(whole.shutdown.deadline_seconds) is float


def test_a_file_with_values_of_each_kind(write) -> None:
    path = write(
        """
        data_dir = "/var/lib/broker"      # TOML is indented as you like
        log_dirs = ["/disk 1", "/disk,2"]
        auto_create_topics = false
        network.connections_max = 1_000
        http = {listen = "", host_names = []}
        [storage]
        durability = "interval"
        bytes_max = "10 GiB"
        operation_seconds_max = 3
        [topic]
        retention.ms = "7d"
        "segment.bytes" = "64MiB"
        durability = ""
        """
    )
    config = load_config(path, serve=True)
    assert config.data_dir == "/var/lib/broker"
    assert config.log_directories == ("/disk 1", "/disk,2")
    assert config.auto_create_topics is False
    assert config.network.connections_max == 1000
    assert config.http.listen is None
    assert config.storage.durability is Durability.INTERVAL
    assert config.storage.bytes_max == 10 * 1024**3
    assert config.storage.operation_seconds_max == 3.0
    assert config.topic.segment_bytes == 64 * 1024**2
    assert config.topic.durability is None


@pytest.mark.parametrize(
    "line, said",
    [
        ('node_id = "1"', "node_id: '1' is not a whole number; without quotes: 1"),
        ("node_id = 1.0", "node_id: 1.0 is not a whole number"),
        ("node_id = true", "node_id: true is not a whole number"),
        ("node_id = 1979-05-27", "node_id: a date or time is not a whole number"),
        ("auto_create_topics = 1", "auto_create_topics: 1 is neither true nor false"),
        ('auto_create_topics = "yes"', "write them without quotes"),
        ("data_dir = 5", 'data_dir: 5 is not a text; in quotes: "5"'),
        ("data_dir = false", "data_dir: false is not a text"),
        ('listeners = "a:1, b:2"', 'is not a list; in brackets: ["a:1", "b:2"]'),
        ("listeners = [9092]", "listeners: 9092 in the list is not a text in quotes"),
        ("listeners = 9092", "is not a list of texts like"),
        ("[[listeners]]", "listeners: a table in the list is not a text in quotes"),
        ("topic.retention_ms = 1.5", "1.5 is not a whole number of milliseconds, nor a text like"),
        ("topic.retention_ms = true", "true is not a whole number of milliseconds"),
        ('topic.retention_ms = "1.0005s"', "'1.0005s' is not a whole number of milliseconds"),
        ('topic.retention_ms = ""', "an empty text is no number"),
        ('network.frame_bytes_max = "64M"', "'64MiB' (times 1024) or '64MB' (times 1000)"),
        ('network.frame_bytes_max = "64m"', "'64MiB' (times 1024) or '64MB' (times 1000)"),
        ("shutdown.deadline_seconds = nan", "must be between 0.1 and 3600, not nan"),
        ("shutdown.deadline_seconds = inf", "must be between 0.1 and 3600, not inf"),
        ('shutdown.drain_share = "0.5"', "'0.5' is not a number; without quotes: 0.5"),
        ('storage.durability = "fsnyc"', "fsync, interval, os, did you mean 'fsync'?"),
        ("storage.durability = 3", "3 is not one of fsync, interval, os"),
        ("network = 3", "'network' is a section, not a value; set the keys in it"),
        ("node_id.x = 3", "node_id: a table is not a whole number"),
        ("node_id = 99999999999", "node_id must be between 0 and 2147483647, not 99999999999"),
        ("topic.segment_ms = 0", "topic.segment_ms must be at least 1, not 0"),
        ('broker.data_dir = "x"', "did you mean 'data_dir'?"),
        ("topic.log.retention.hours = 1", "did you mean 'topic.retention_ms'?"),
        ('"log.retention.hours" = 1', "did you mean 'topic.retention_ms'?"),
        ('"log.cleaner.enable" = true', "cannot be set here: there is no log compaction"),
        ("zzz = 1", "unknown key 'zzz'; `trio-broker config explain` lists all keys"),
    ],
)
def test_nothing_in_a_file_is_taken_for_another_thing(line, said, write) -> None:
    [fault] = faults_of(write(line))
    assert fault.startswith("file: ")
    assert said in fault


@pytest.mark.parametrize(
    "assignment, said",
    [
        ("node_id=1.0", "'1.0' is not a whole number"),
        ("node_id=٣", "is not a whole number"),
        ("node_id=" + "9" * 5000, "is not a whole number"),
        ("node_id=", "'' is not a whole number"),
        ("shutdown.drain_share=soon", "'soon' is not a number"),
        ("shutdown.drain_share=nan", "'nan' is not a number"),
        ("shutdown.deadline_seconds=soon", "'soon' is not a duration like"),
        ("topic.retention.ms=7 dayz", "topic.retention_ms: '7 dayz' is not a duration like '7d'"),
        ("auto_create_topics=maybe", "'maybe' is neither true nor false"),
        ("nonsense", "'nonsense' is not key=value, like node_id=1"),
        ("retention_ms=1", "did you mean 'topic.retention_ms'?"),
        ("conections_per_address_max=1", "did you mean 'network.connections_per_address_max'?"),
        ("network.connectoins_max=1", "did you mean 'network.connections_max'?"),
        ("log.dirs=/a", "did you mean 'log_dirs'?"),
    ],
)
def test_nothing_in_a_text_is_taken_for_another_thing(assignment, said) -> None:
    [fault] = faults_of(assignments=[assignment])
    assert fault.startswith("-X: ")
    assert said in fault
    assert len(fault) < 300


# ------------------------------------------------------------------------------- whole files
@pytest.mark.parametrize(
    "text, said",
    [
        ("node_id: 3", "line 1 is not TOML: 'node_id: 3': TOML has '=' between key and value"),
        ("\n\ntopic.retention_ms = 7d", "line 3 is not TOML: "),
        ("topic.retention_ms = 7d  # long", 'need quotes: topic.retention_ms = "7d"'),
        ("data_dir = /var/lib", 'need quotes: data_dir = "/var/lib"'),
        ("# Kafka\nzookeeper.connect=a:1\nlog.dirs=/a,/b", "looks like Kafka's server.properties"),
        ("auto_create_topics = yes", "write auto_create_topics = true or false"),
        ("auto_create_topics = True", "write auto_create_topics = true or false"),
        ("node_id =", "there is no value; write one, or remove the line"),
        ("listeners = [a:1]", 'texts in a list need quotes: listeners = ["one", "two"]'),
        ('data_dir = "x', "a text has no closing quote"),
        ('listeners = ["a",\n"b"\n', "a list has no closing bracket"),
        ("node_id = 1\nnode_id = 2\nnum_partitions = 1", "line 2 is not TOML: 'node_id = 2'"),
        ("node_id = 1\nnode_id = 2\n", "this key is set twice in the file; remove one of them"),
        ("[topic\n", "line 1 is not TOML: '[topic'"),
        ("hello\n", "line 1 is not TOML: 'hello'"),
        (b"data_dir = '\xff'\n", "line 1 is not UTF-8; save the file as UTF-8"),
        ("x = " + "[" * 100_000, "nested too deeply"),
        ("x" + ".x" * 5_000 + " = 1", "nested too deeply"),
        ("node_id = " + "1" * 5_000, "too many digits"),
        (b"#" * (FILE_BYTES_MAX + 1), "more than 1048576 bytes are no configuration"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_what_is_no_toml_says_where_and_what_to_write(text, said, write) -> None:
    [fault] = faults_of(write(text))
    assert fault.startswith("file: ")
    assert said in fault
    assert len(fault) < 400


def test_a_bom_and_windows_line_ends_are_no_mistake(write) -> None:
    assert load_config(write("\ufeffnode_id = 3\r\n[topic]\r\n")).node_id == 3


def test_a_key_in_two_spellings_is_told(write) -> None:
    [fault] = faults_of(write("[topic]\nretention_ms = 5\nretention.ms = 6\n"))
    assert "is set twice, as 'topic.retention_ms' and as 'topic.retention.ms'" in fault


def test_a_file_that_cannot_be_read_is_a_mistake_beside_others(tmp_path) -> None:
    missing, other = faults_of(tmp_path / "none.toml", assignments=["node_id=x"])
    assert missing.endswith(
        "there is no such file; `trio-broker config init` writes one to start from"
    )
    assert "node_id" in other
    assert "is a directory; name the file in it" in faults_of(tmp_path)[0]


# -------------------------------------------------------------------------------- environment
def test_every_setting_has_a_variable_of_its_own() -> None:
    names = [setting.environment_name for setting in settings().values()]
    assert len(set(names)) == len(names)
    assert not ENVIRONMENT_OF_COMMANDS.intersection(names)
    assert "TRIO_BROKER_HTTP__TOKEN" in names


@pytest.mark.parametrize(
    "name, said",
    [
        ("TRIO_BROKER_NETWORK_CONNECTIONS_MAX", "mean 'TRIO_BROKER_NETWORK__CONNECTIONS_MAX'?"),
        ("TRIO_BROKER_NETWORK__CONECTIONS_MAX", "mean 'TRIO_BROKER_NETWORK__CONNECTIONS_MAX'?"),
        ("TRIO_BROKER_RETENTION_MS", "mean 'TRIO_BROKER_TOPIC__RETENTION_MS'?"),
        ("trio_broker_node_id", "write 'TRIO_BROKER_NODE_ID'"),
        ("TRIO_BROKER_NETWORK", "it names a section; the keys in it follow behind '__'"),
        ("TRIO_BROKER_ZZZ", "unset it, or see the names in `trio-broker config explain`"),
        ("TRIO_BROKER_PORT", "unknown environment variable 'TRIO_BROKER_PORT'"),
    ],
)
def test_a_variable_that_nobody_knows_is_told(name, said) -> None:
    [fault] = faults_of(environ={name: "9092"})
    assert said in fault


def test_variables_that_are_not_ours_are_left_alone() -> None:
    environ = dict.fromkeys(ENVIRONMENT_OF_COMMANDS, "x") | {
        "TRIO_BROKER_TEST_ADDRESS": "127.0.0.1:9092",
        # What Kubernetes sets in every pod beside a service named trio-broker.
        "TRIO_BROKER_SERVICE_HOST": "10.0.0.11",
        "TRIO_BROKER_SERVICE_PORT": "9092",
        "TRIO_BROKER_SERVICE_PORT_KAFKA": "9092",
        "TRIO_BROKER_PORT": "tcp://10.0.0.11:9092",
        "TRIO_BROKER_PORT_9092_TCP": "tcp://10.0.0.11:9092",
        "TRIO_BROKER_PORT_9092_TCP_PROTO": "tcp",
        "TRIO_BROKER_HEADLESS_SERVICE_HOST": "10.0.0.12",
        "TRIO_BROKER_HEADLESS_PORT": "tcp://10.0.0.12:9092",
        "TRIO_BROKERAGE": "another program's",
        "PATH": "/bin",
    }
    assert load_config(environ=environ) == BrokerConfig()


# ------------------------------------------------------------------------- mistakes, all at once
def test_all_mistakes_of_all_sources_are_told_at_once(write) -> None:
    path = write(
        """
        retension = 5
        [topic]
        retention.ms = "7 dayz"
        segment_bytes = 3
        [storage]
        durability = "fsnyc"
        """
    )
    faults = faults_of(
        path,
        environ={"TRIO_BROKER_NODE_ID": "-4", "TRIO_BROKER_NODEID": "4"},
        assignments=["network.connectoins_max=3", "shutdown.drain_share=0.9", "nonsense"],
        options=[option("--listen", "listeners", ["0.0.0.0:9092"])],
    )
    assert faults == [
        "file: unknown key 'retension', did you mean 'topic.retention_ms'?",
        "file: topic.retention_ms: '7 dayz' is not a duration like '7d', '1h30m' or '250ms'",
        "file: topic.segment_bytes must be between 1024 and 2147483647, not 3",
        (
            "file: storage.durability: 'fsnyc' is not one of fsync, interval, os, did you mean "
            "'fsync'?"
        ),
        "unknown environment variable 'TRIO_BROKER_NODEID', did you mean 'TRIO_BROKER_NODE_ID'?",
        "TRIO_BROKER_NODE_ID: node_id must be between 0 and 2147483647, not -4",
        "-X: 'nonsense' is not key=value, like node_id=1",
        "-X: unknown key 'network.connectoins_max', did you mean 'network.connections_max'?",
        (
            "-X: shutdown.drain_share: the shares of the stop phases add up to 1.55; lower some, "
            "to at most 1"
        ),
        (
            "--listen: listeners: an address that means 'every interface' cannot be told to "
            "clients; set 'advertised' to the host:port that they can reach (`serve --advertise`)"
        ),
    ]


@hypothesis_settings(deadline=None, max_examples=40)
@given(
    st.lists(
        st.tuples(st.sampled_from(list(settings().values())), st.integers(0, 2)),
        max_size=12,
        unique_by=lambda drawn: (drawn[0].key, drawn[1]),
    )
)
def test_as_many_mistakes_as_there_are(mistakes: list[tuple[Setting, int]]) -> None:
    """Whatever is wrong, wherever: each is told once, in its place, and nothing else is."""
    tables, environ, assignments = [], {}, []
    expected = set()
    for setting, source in mistakes:
        if setting.value_type is str or setting.value_type == tuple[str, ...]:
            continue  # any text may be right there
        if source == 0:
            tables.append(f"{setting.key} = [1]")
        elif source == 1:
            environ[setting.environment_name] = "wrong"
        else:
            assignments.append(f"{setting.key}=wrong")
        expected.add((setting.key, ("file", setting.environment_name, "-X")[source]))
    sources = [
        read_file("file", "\n".join(tables).encode()),
        read_environment(environ),
        read_assignments(assignments),
    ]
    try:
        resolve(sources, serve=True)
        told = []
    except ConfigError as error:
        told = [(fault.keys[0], fault.place) for fault in error.details]
    assert sorted(told) == sorted(expected)


def test_a_value_that_another_source_overrides_is_still_checked(write) -> None:
    [fault] = faults_of(write("node_id = -1"), assignments=["node_id=1"])
    assert fault == "file: node_id must be between 0 and 2147483647, not -1"


def test_a_rule_between_two_sources_names_both(write) -> None:
    [fault] = faults_of(
        write('group.session_timeout_min_ms = "2h"'),
        assignments=["group.session_timeout_max_ms=1m"],
    )
    assert fault == (
        "file: group.session_timeout_min_ms must not exceed session_timeout_max_ms (60000), but is "
        "7200000 (group.session_timeout_max_ms is set by -X)"
    )


def test_a_rule_waits_until_its_keys_are_right() -> None:
    """Nobody asked for the listener that stands in the place of the broken one."""
    faults = faults_of(assignments=["listeners=here", "http.listen=0.0.0.0:1", "http.token=short"])
    assert len(faults) == 2
    assert "'here' is not an address" in faults[1]
    assert "http.token must be 16 to 1000" in faults[0]


def test_faults_are_there_in_parts_too() -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(environ={"TRIO_BROKER_NODE_ID": "x"})
    [detail] = caught.value.details
    assert detail.keys == ("node_id",)
    assert detail.place == "TRIO_BROKER_NODE_ID"
    assert detail.reason == "'x' is not a whole number"


@pytest.mark.parametrize(
    "text", ["http.token = hunter2hunter2hunter2", "[http]\ntoken = 7", "[http]\ntoken = 'hunter2'"]
)
def test_a_secret_is_not_repeated(text, write) -> None:
    path = write(text)
    [fault] = faults_of(path)
    assert "hunter2" not in fault
    assert "7" not in fault.replace("1000", "")


def test_a_server_that_nobody_can_reach_is_refused() -> None:
    with pytest.raises(ConfigError, match="-X: listeners must not be empty: nobody could connect"):
        load_config(assignments=["listeners="], serve=True)
    assert load_config(assignments=["listeners="]).listeners == ()  # embedded: in memory


@pytest.mark.parametrize(
    "assignments, keys",
    [
        (["http.listen="], []),
        (["http.listen=", "http.connections_max=5", "metrics.compat=kafka_exporter"],
         ["http.connections_max", "metrics.compat"]),
        (["http.connections_max=5"], []),
        (["limits.topic_mutations_per_second=-1", "limits.topic_mutations_burst=5"],
         ["limits.topic_mutations_burst"]),
        (["limits.topic_mutations_per_second=-1"], []),
        (["metrics.per_partition=no", "metrics.per_partition_max=5"],
         ["metrics.per_partition_max"]),
    ],
)  # fmt: skip
def test_what_nothing_comes_of_is_said(assignments, keys) -> None:
    told = without_effect(load(assignments=assignments, serve=True))
    assert [sentence.split()[1] for sentence in told] == keys
    assert all(sentence.startswith("-X: ") for sentence in told)
