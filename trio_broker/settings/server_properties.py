"""Kafka's server.properties into settings: what carries over, what does not, and why.

Names and units are those of Apache Kafka 4.1's broker configs
(https://kafka.apache.org/documentation/#brokerconfigs), and of earlier versions where old files
have them.
"""

from __future__ import annotations

import difflib
import re
from typing import TYPE_CHECKING, NamedTuple

from trio_broker.config import BrokerConfig
from trio_broker.config_catalog import BROKER_CONFIGS
from trio_broker.errors import ConfigError
from trio_broker.settings.resolve import resolve
from trio_broker.settings.sources import Entry, Origin, Source, SourceKind
from trio_broker.settings.table import OTHER_KAFKA_NAMES, settings
from trio_broker.settings.values import plain_text, read_value

if TYPE_CHECKING:
    from collections.abc import Mapping


class Imported(NamedTuple):
    """What has become of a server.properties.

    Attributes:
        values: what to set, by key.
        names: the Kafka config that each of them is from, by key.
        dropped: the reason why a Kafka config has no effect here, by its name.
        to_do: what a person has to decide.
    """

    values: dict[str, object]
    names: dict[str, str]
    dropped: dict[str, str]
    to_do: list[str]


#: Of each group only the first that is there counts, as in Kafka.
_FIRST_WINS = (
    ("log.retention.ms", "log.retention.minutes", "log.retention.hours"),
    ("log.roll.ms", "log.roll.hours"),
    ("log.dirs", "log.dir"),
    ("node.id", "broker.id"),
)
#: How many of our unit one of Kafka's is, where they differ; seconds are written with theirs.
_FACTORS: Mapping[str, int] = {
    "log.retention.minutes": 60_000,
    "log.retention.hours": 3_600_000,
    "log.roll.hours": 3_600_000,
    "offsets.retention.minutes": 60_000,
}
_SUFFIXES: Mapping[str, str] = {"connections.max.idle.ms": "ms"}

_EVERY_INTERFACE = "0.0.0.0"  # noqa: S104 - what Kafka means by no host
_NO_SECURITY = "there is no TLS, authentication or authorization yet"
_NO_QUORUM = "each broker decides for itself: there is no quorum of controllers"
_NO_REPLICATION = "there is one replica per partition, so nothing is replicated"
_NO_POOLS = "there are no thread pools: one event loop, and storage.shards_per_log_dir writers"
_METRICS = "metrics are served over HTTP, at http.listen"
_GONE = "Kafka itself has dropped it: there is one format of records"

#: Why configs whose names begin so have no effect; the first match counts.
_REASONS: tuple[tuple[tuple[str, ...], str], ...] = (
    (("zookeeper.",), "there is no ZooKeeper"),
    (
        (
            "ssl.",
            "sasl.",
            "security.",
            "authorizer.",
            "super.users",
            "allow.everyone.",
            "principal.",
            "connections.max.reauth.ms",
            "delegation.",
            "password.",
            "listener.name.",
        ),
        _NO_SECURITY,
    ),
    (("controller.quota.", "quota.", "client.quota."), "there are no quotas by client yet"),
    (
        ("controller.", "metadata.", "process.roles", "broker.heartbeat.", "broker.session."),
        _NO_QUORUM,
    ),
    (("initial.broker.registration.", "early.start.", "server.max.startup."), _NO_QUORUM),
    (
        (
            "replica.",
            "follower.",
            "leader.",
            "inter.broker.listener",
            "auto.leader.",
            "replication.",
            "num.replica.",
            "alter.log.dirs.",
            "default.replication.factor",
            "offsets.topic.replication.factor",
            "transaction.state.log.",
        ),
        _NO_REPLICATION,
    ),
    (("num.network.threads", "num.io.threads", "background.threads", "queued."), _NO_POOLS),
    (("num.recovery.threads.",), "each log dir recovers with storage.shards_per_log_dir writers"),
    (("transaction.", "transactional."), "there are no transactions yet"),
    (("group.consumer.", "group.share.", "share."), "the classic group protocol is served"),
    (("group.coordinator.", "offsets.load.", "offsets.commit."), "there is nothing to tune there"),
    (("offsets.topic.compression.codec",), "what the broker writes itself is not compressed"),
    (("socket.",), "buffers and backlogs of sockets are left to the system"),
    (("metric.", "metrics.", "kafka.metrics.", "auto.include.jmx.", "telemetry."), _METRICS),
    (("log.message.format.", "inter.broker.protocol.", "log.message.downconversion."), _GONE),
    (
        ("log.message.timestamp.difference.",),
        "use log.message.timestamp.before.max.ms and log.message.timestamp.after.max.ms",
    ),
    (("log.flush.",), "records are flushed by 'storage.durability', as fsync unless you say less"),
    (("log.cleaner.", "log.deletion."), "there is no log compaction yet"),
    (("log.roll.jitter.",), "partitions do not roll all at one time: each does with its own batch"),
    (
        ("fetch.purgatory.", "producer.purgatory.", "delete.records.purgatory."),
        "requests that wait are woken by what they wait for",
    ),
    (
        ("create.topic.policy.", "alter.config.policy.", "config.providers", "replica.selector."),
        "classes of Java cannot be loaded",
    ),
    (
        ("host.name", "port", "advertised.host.name", "advertised.port"),
        "Kafka itself has dropped it: say it in 'listeners' and 'advertised'",
    ),
    (("control.plane.", "request.timeout.ms", "migration.", "add.partitions.to.txn."), _NO_QUORUM),
    (("connection.failed.authentication.",), _NO_SECURITY),
    (("unclean.leader.",), _NO_REPLICATION),
    (("producer.id.expiration.check.",), "each log looks for them by itself"),
    (("log.initial.task.delay.ms", "max.request.partition."), "there is nothing to tune there"),
    (("log.retention.check.interval.ms",), "a log is looked at when something in it is due"),
    (("log.dir.failure.timeout.ms",), "a failed log dir goes offline, the others go on"),
    (("remote.", "log.local."), "there is no tiered storage"),
    (("listener.security.protocol.map",), "it was used to read the listeners"),
    (("broker.rack",), "there are no racks with one broker"),
    (("broker.id.generation.enable", "reserved.broker.max.id"), "ids are not generated"),
    (("max.connections.per.ip.overrides", "max.connection.creation.rate"), "one limit for all"),
    (("max.incremental.fetch.session.cache.slots",), "fetch sessions are not kept"),
    (("controlled.shutdown.",), "a stop has phases; see 'shutdown'"),
    (
        (
            "log.segment.bytes.internal",
            "unstable.",
        ),
        "it is internal to Kafka",
    ),
    (("confluent.", "cruise.control.", "strimzi."), "it is not a config of Apache Kafka"),
)

_LINE_END = re.compile(r"(?<!\\)(?:\\\\)*\\\Z")
_SEPARATOR = re.compile(r"(?<!\\)(?:\\\\)*(\s*[=:]\s*|\s+)")
_ESCAPE = re.compile(r"\\(u[0-9a-fA-F]{4}|.)", re.DOTALL)
_ESCAPED = {"t": "\t", "n": "\n", "r": "\r", "f": "\f"}


def parse_properties(text: str) -> dict[str, str]:
    """Read the format of java.util.Properties: comments, three separators, escapes, long lines.

    The last value of a name counts, as in Java.
    """
    found: dict[str, str] = {}
    waiting = ""
    for raw_line in text.splitlines():
        line = raw_line.lstrip(" \t\f")
        if not waiting and (not line or line[0] in "#!"):
            continue
        line = waiting + line
        if _LINE_END.search(line):
            waiting = line[:-1]
            continue
        waiting = ""
        _add_property(found, line)
    if waiting:
        _add_property(found, waiting)
    return found


def _add_property(found: dict[str, str], line: str) -> None:
    separator = _SEPARATOR.search(line)
    if separator is None:
        name, value = line, ""
    else:
        name, value = line[: separator.start(1)], line[separator.end(1) :]
    found[_unescaped(name)] = _unescaped(value).strip()


def _unescaped(text: str) -> str:
    def plain(match: re.Match[str]) -> str:
        escaped = match[1]
        return chr(int(escaped[1:], 16)) if len(escaped) == 5 else _ESCAPED.get(escaped, escaped)

    return _ESCAPE.sub(plain, text)


def import_properties(properties: Mapping[str, str]) -> Imported:
    """Turn Kafka's broker configs into settings; everything has an entry in the result."""
    result = Imported({}, {}, {}, [])
    waiting = dict(properties)
    for names in _FIRST_WINS:
        present = [name for name in names if name in waiting]
        for name in present[1:]:
            del waiting[name]
            result.dropped[name] = f"{present[0]} wins over it, in Kafka too"
    _import_listeners(waiting, result)
    _import_directories(waiting, result)
    for name, text in waiting.items():
        _import_one(name, text, result)
    return result


def _import_one(name: str, text: str, result: Imported) -> None:
    entry = BROKER_CONFIGS.get(name)
    key = OTHER_KAFKA_NAMES.get(name) or (entry.key if entry else "")
    if key:
        if name == "min.insync.replicas" and text != "1":
            result.dropped[name] = (
                "there is one replica per partition; more would refuse every acks=all"
            )
        else:
            _take(name, key, _in_our_unit(name, text), result)
    elif entry is not None:
        same = text.lower() == entry.text(BrokerConfig()).lower()
        result.dropped[name] = "it is always so here" if same else entry.documentation
    else:
        result.dropped[name] = _reason(name)


def _in_our_unit(name: str, text: str) -> str:
    factor = _FACTORS.get(name)
    if factor is not None and text.isdecimal():
        return str(int(text) * factor)
    return text + _SUFFIXES.get(name, "") if text.isdecimal() else text


def _take(name: str, key: str, raw: object, result: Imported) -> None:
    """Take over a value, unless this broker would refuse it."""
    setting = settings()[key]
    entry = Entry(Origin(SourceKind.FILE), key, raw, is_text=isinstance(raw, str))
    try:
        resolve([Source((entry,))])
        value = read_value(setting, raw, is_text=entry.is_text)
    except ConfigError as error:
        default = plain_text(setting, setting.serve_default) or "none"
        reason = error.details[0].reason
        result.dropped[name] = f"{reason}; the default of {key} stays, {default}"
        return
    result.values[key] = value
    result.names[key] = name


def _reason(name: str) -> str:
    for beginnings, reason in _REASONS:
        if name.startswith(beginnings):
            return reason
    near = difflib.get_close_matches(
        name[:100], [*BROKER_CONFIGS, *OTHER_KAFKA_NAMES], n=1, cutoff=0.85
    )
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return f"nothing here corresponds to it{hint}"


def _import_directories(waiting: dict[str, str], result: Imported) -> None:
    name = "log.dirs" if "log.dirs" in waiting else "log.dir"
    metadata_dir = waiting.pop("metadata.log.dir", "")
    directories = [part.strip() for part in waiting.pop(name, "").split(",") if part.strip()]
    if metadata_dir:
        _take("metadata.log.dir", "data_dir", metadata_dir, result)
    if len(directories) == 1 and not metadata_dir:
        _take(name, "data_dir", directories[0], result)
    elif directories:
        _take(name, "log_dirs", directories, result)
        if not metadata_dir:
            result.to_do.append(
                "data_dir: say where metadata is kept; Kafka uses the first log dir"
            )
    if directories or metadata_dir:
        result.to_do.append(
            "directories: what Kafka has written cannot be read here; name empty ones"
        )


class _Listener(NamedTuple):
    name: str
    address: str
    protocol: str


def _listeners(text: str, protocols: Mapping[str, str]) -> list[_Listener]:
    found = []
    for part in text.split(","):
        name, separator, address = part.strip().partition("://")
        if separator:
            if address.startswith(":"):
                address = f"{_EVERY_INTERFACE}{address}"
            found.append(
                _Listener(name.upper(), address, protocols.get(name.upper(), name.upper()))
            )
    return found


def _import_listeners(waiting: dict[str, str], result: Imported) -> None:
    pairs = [
        part.split(":") for part in waiting.get("listener.security.protocol.map", "").split(",")
    ]
    protocols = {
        pair[0].strip().upper(): pair[1].strip().upper() for pair in pairs if len(pair) == 2
    }
    of_controllers = {
        name.strip().upper() for name in waiting.get("controller.listener.names", "").split(",")
    }
    told = _listeners(waiting.pop("advertised.listeners", ""), protocols)
    text = waiting.pop("listeners", None)
    kept = []
    for listener in _listeners(text or "", protocols):
        if listener.name in of_controllers:
            result.dropped[f"listeners ({listener.name})"] = _NO_QUORUM
        elif listener.protocol != "PLAINTEXT":
            result.dropped[f"listeners ({listener.name})"] = _NO_SECURITY
        else:
            kept.append(listener)
    if kept:
        result.values["listeners"] = tuple(listener.address for listener in kept)
        result.names["listeners"] = "listeners"
    elif text is not None:
        result.to_do.append(f"listeners: none of {text!r} can be served; the default stays")
    names = {listener.name for listener in kept} or {"PLAINTEXT"}
    usable = [listener for listener in told if listener.name in names]
    for listener in told:
        if listener not in usable[:1]:
            result.dropped[f"advertised.listeners ({listener.name})"] = (
                "one address is told to clients"
                if listener in usable
                else "its listener is not served"
            )
    if usable:
        _take("advertised.listeners", "advertised", usable[0].address, result)
    elif any(listener.address.startswith((f"{_EVERY_INTERFACE}:", "[::]:")) for listener in kept):
        result.to_do.append("advertised: set it to the host:port that clients can reach")
