"""Configuration as frozen classes: every field with its unit, its default and its limits.

`TopicConfig` uses Kafka's names with underscores for dots (`retention.ms` is `retention_ms`),
because clients read and write them; `BrokerConfig` groups what belongs to this broker. Building
one checks every field at once and raises `ConfigError` with all mistakes found. What clients set is
read by `trio_broker.config_catalog`; files, environment and command line by `trio_broker.settings`.
"""

from __future__ import annotations

import os
import posixpath
import re
from collections import Counter
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Self

import attrs
from attrs import field, frozen

from trio_broker.config_checks import (
    EVERY_INTERFACE,
    Checked,
    Limits,
    address_fault,
    advertised_fault,
    is_loopback,
    split_address,
)
from trio_broker.errors import ConfigFault

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

INT32_MAX = 2**31 - 1
INT64_MAX = 2**63 - 1
KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB
DAY_MS = 24 * 60 * 60 * 1000

#: Shorter ones can be guessed.
TOKEN_CHARACTERS_MIN = 16
_TOKEN = re.compile(rf"[!-~]{{{TOKEN_CHARACTERS_MIN},1000}}")
_CLUSTER_ID = re.compile(r"[!-~]{1,100}")
#: What `MetricsConfig.compat` may name.
METRICS_COMPAT = ("kafka_exporter",)


class Durability(StrEnum):
    """What an acknowledgement means; each mode's possible loss is stated in docs/reference."""

    FSYNC = "fsync"  # on stable storage: power loss loses nothing acknowledged
    INTERVAL = "interval"  # on stable storage within `flush_interval_ms` or `flush_interval_bytes`
    OS = "os"  # handed to the kernel, as Apache Kafka does: survives a crash of the process only


class TimestampType(StrEnum):
    """Who sets a record's timestamp (Kafka: message.timestamp.type)."""

    CREATE_TIME = "CreateTime"
    LOG_APPEND_TIME = "LogAppendTime"


def _bounded(
    default: float,
    least: float,
    most: float,
    *,
    help: str,  # noqa: A002
    special: tuple[float, ...] = (),
    why: str = "",
) -> Any:
    """Declare a number with its limits, which `Checked` enforces; see `Limits`."""
    limits = Limits(least, most, special, why)
    return field(default=default, metadata={"limits": limits, "help": help})


def _described(default: object, *, help: str) -> Any:  # noqa: A002
    return field(default=default, metadata={"help": help})


def _texts(default: tuple[str, ...], *, help: str) -> Any:  # noqa: A002
    """Declare a list of texts; in Python a list will do, too."""
    return field(default=default, converter=_list_to_tuple, metadata={"help": help})


def _list_to_tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _path_to_text(value: str | os.PathLike[str]) -> str:
    """Take a path for what it says; what is neither is left for the check of all types."""
    return os.fspath(value) if isinstance(value, os.PathLike) else value


def _paths_to_texts(value: Sequence[str | os.PathLike[str]]) -> tuple[str, ...]:
    if not isinstance(value, list | tuple):
        wrong: Any = value
        return wrong  # type: ignore[no-any-return]
    return tuple(map(_path_to_text, value))


@frozen(kw_only=True)
class TopicConfig(Checked):
    """Configuration of one topic; field names are Kafka's with '_' for '.'."""

    retention_ms: int = _bounded(
        7 * DAY_MS,
        -1,
        INT64_MAX,
        help="delete segments older; -1: never. A topic that sets it never gives way to others",
    )
    retention_bytes: int = _bounded(
        -1,
        -1,
        INT64_MAX,
        help="delete oldest segments above this size per partition; -1: no limit. A topic that "
        "sets it never gives way to others",
    )
    segment_bytes: int = _bounded(
        GIB,
        KIB,
        INT32_MAX,
        help="roll to a new segment at this size, or before if the topic may have to give way and "
        "does not set it",
    )
    segment_ms: int = _bounded(7 * DAY_MS, 1, INT64_MAX, help="roll to a new segment at this age")
    index_interval_bytes: int = _bounded(
        4 * KIB, 0, INT32_MAX, help="log bytes between two entries of the offset index"
    )
    max_message_bytes: int = _bounded(
        1_048_588, 0, INT32_MAX, help="largest record batch accepted, with its 12-byte prefix"
    )
    cleanup_policy: str = _described("delete", help="delete (compact is not supported yet)")
    compression_type: str = _described("producer", help="producer: batches are stored as sent")
    message_timestamp_type: TimestampType = _described(
        TimestampType.CREATE_TIME, help="CreateTime or LogAppendTime"
    )
    message_timestamp_before_max_ms: int = _bounded(
        INT64_MAX, 0, INT64_MAX, help="refuse records this much older than now"
    )
    message_timestamp_after_max_ms: int = _bounded(
        3_600_000, 0, INT64_MAX, help="refuse records this much newer than now"
    )
    min_insync_replicas: int = _bounded(1, 1, INT32_MAX, help="replicas that acks=all waits for")
    file_delete_delay_ms: int = _bounded(
        60_000, 0, INT64_MAX, help="deleted segments stay on disk this long, unless it is full"
    )
    durability: Durability | None = _described(
        None, help="fsync, interval or os; unset: the broker's storage.durability"
    )

    def _rules(self) -> Iterator[ConfigFault]:
        if self.cleanup_policy != "delete":
            reason = f"must be 'delete': {self.cleanup_policy!r} is not supported yet"
            yield ConfigFault(reason, ("cleanup_policy",))
        if self.compression_type != "producer":
            reason = "must be 'producer': batches are stored as sent"
            yield ConfigFault(reason, ("compression_type",))


def kafka_config_name(attribute_name: str) -> str:
    """Return Kafka's name of a `TopicConfig` field: ``retention_ms`` is ``retention.ms``."""
    return attribute_name.replace("_", ".")


@frozen(kw_only=True)
class NetworkConfig(Checked):
    """Sockets and frames."""

    connections_max: int = _bounded(
        10_000, 1, 1_000_000, help="connections open at once, if RLIMIT_NOFILE leaves room for them"
    )
    connections_per_address_max: int = _bounded(1_000, 1, 1_000_000, help="the same per client IP")
    connection_idle_seconds: float = _bounded(600, 1, 1e6, help="close after this long without use")
    frame_seconds_max: float = _bounded(30, 1, 1e6, help="a started request must arrive within")
    send_stall_seconds_max: float = _bounded(
        30, 1, 1e6, help="close a client that takes nothing of its response for this long"
    )
    produce_frame_bytes_max: int = _bounded(
        100 * MIB, KIB, INT32_MAX, help="largest Produce request (Kafka: socket.request.max.bytes)"
    )
    frame_bytes_max: int = _bounded(4 * MIB, KIB, INT32_MAX, help="largest request of other APIs")
    produce_requests_in_flight_max: int = _bounded(5, 1, 1000, help="per connection")
    produce_bytes_in_flight_max: int = _bounded(8 * MIB, KIB, INT32_MAX, help="per connection")
    request_memory_bytes: int = _bounded(
        256 * MIB, MIB, INT64_MAX, help="requests being received or waiting for the disk, in all"
    )
    response_memory_bytes: int = _bounded(
        128 * MIB, MIB, INT64_MAX, help="fetch responses being sent, in all"
    )
    fetch_bytes_max: int = _bounded(
        57_671_680, KIB, INT32_MAX, help="largest fetch response (Kafka: fetch.max.bytes)"
    )


@frozen(kw_only=True)
class StorageConfig(Checked):
    """Disks."""

    durability: Durability = _described(Durability.FSYNC, help="default mode of topics")
    shards_per_log_dir: int = _bounded(2, 1, 64, help="writers, each with a thread, per log dir")
    commit_bytes_max: int = _bounded(8 * MIB, 64 * KIB, GIB, help="bytes in one group commit")
    reserve_bytes_max: int = _bounded(
        8 * MIB, 0, GIB, help="room on the disk set aside behind each log that grows fast; 0: none"
    )
    write_queue_bytes_max: int = _bounded(64 * MIB, MIB, GIB, help="bytes queued per shard")
    flush_interval_ms: int = _bounded(
        100, 1, 60_000, help="durability=interval: flush, before anything else, at this age"
    )
    flush_interval_bytes: int = _bounded(
        MIB, 4 * KIB, GIB, help="durability=interval: the same at this many unflushed bytes"
    )
    recovery_point_bytes: int = _bounded(
        64 * MIB, MIB, GIB, help="write a recovery point after this many bytes of a log"
    )
    operation_seconds_max: float = _bounded(
        30, 0.1, 3600, help="a system call slower than this takes its shard offline"
    )
    ballast_bytes: int = _bounded(
        0,
        64 * KIB,
        GIB,
        special=(-1, 0),
        help="room kept per log dir for when its disk is full; -1: 5 %, at most 64 MiB; 0: none",
        why="giving back less helps nobody on a full disk",
    )
    bytes_max: int = _bounded(
        -1,
        MIB,
        INT64_MAX,
        special=(-1,),
        help="bytes of all logs; -1: 80 % of each log dir's disk",
        why="what gives way are whole segments, and in less there is no room for any that could",
    )
    open_files_max: int = _bounded(
        -1,
        1,
        1_000_000,
        special=(-1,),
        help="segment files kept open; -1: half of what RLIMIT_NOFILE leaves, at most 16,384",
        why="a log that is written needs its file",
    )


@frozen(kw_only=True)
class LimitsConfig(Checked):
    """Bounds on what clients may create."""

    partitions_max: int = _bounded(10_000, 1, 1_000_000, help="partitions on this broker")
    partitions_per_topic_max: int = _bounded(1_000, 1, 100_000, help="partitions of one topic")
    topic_mutations_per_second: float = _bounded(
        50,
        0.001,
        1e6,
        special=(-1,),
        help="topics that clients create, grow or delete; -1: no limit",
        why="clients would never be done with it; auto_create_topics=false keeps them from "
        "creating topics by the way",
    )
    topic_mutations_burst: int = _bounded(
        500, 1, 1_000_000, help="as many of them at once, if there were none for a while"
    )
    producer_ids_per_partition_max: int = _bounded(
        10_000, 5, 10_000_000, help="idempotent producers remembered per partition"
    )
    producer_id_expiration_ms: int = _bounded(
        86_400_000,
        60_000,
        INT64_MAX,
        help="forget an idempotent producer after this long",
        why="a batch that its producer sends again after that is stored twice",
    )
    offset_metadata_bytes_max: int = _bounded(4096, 0, INT32_MAX, help="per committed offset")
    offsets_bytes_max: int = _bounded(
        256 * MIB, 64 * KIB, INT64_MAX, help="committed offsets of all groups, in memory"
    )
    groups_max: int = _bounded(10_000, 1, 10_000_000, help="consumer groups")


@frozen(kw_only=True)
class GroupConfig(Checked):
    """Consumer groups and their offsets."""

    offsets_topic_partitions: int = _bounded(
        4, 1, 1000, help="partitions of __consumer_offsets when it is first created"
    )
    offsets_topic_segment_bytes: int = _bounded(
        100 * MIB,
        KIB,
        INT32_MAX,
        help="segment size of __consumer_offsets when it is first created",
    )
    initial_rebalance_delay_ms: int = _bounded(
        0, 0, 600_000, help="the first members of an empty group wait this long for others"
    )
    session_timeout_min_ms: int = _bounded(
        6_000, 1, INT32_MAX, help="shortest session timeout a member may ask for"
    )
    session_timeout_max_ms: int = _bounded(
        1_800_000, 1, INT32_MAX, help="longest session timeout a member may ask for"
    )
    group_size_max: int = _bounded(500, 1, 100_000, help="members of one group")
    member_metadata_bytes_max: int = _bounded(
        64 * KIB, 256, 16 * MIB, help="what one member says of itself when it joins"
    )
    membership_bytes_max: int = _bounded(
        256 * MIB, 64 * KIB, INT64_MAX, help="metadata and assignments of all members, in all"
    )
    offsets_retention_ms: int = _bounded(
        7 * DAY_MS,
        60_000,
        INT64_MAX,
        help="keep committed offsets of groups without members this long",
        why="a group whose members restart would begin anew",
    )
    offsets_retention_check_interval_ms: int = _bounded(
        600_000,
        1_000,
        INT64_MAX,
        help="look for expired offsets this often",
        why="each look goes through all that is committed",
    )

    def _rules(self) -> Iterator[ConfigFault]:
        least, most = self.session_timeout_min_ms, self.session_timeout_max_ms
        if least > most:
            yield ConfigFault(
                f"must not exceed session_timeout_max_ms ({most}), but is {least}",
                ("session_timeout_min_ms", "session_timeout_max_ms"),
            )


@frozen(kw_only=True)
class ShutdownConfig(Checked):
    """An orderly stop: one deadline, and each phase's share of it."""

    deadline_seconds: float = _bounded(30, 0.1, 3600, help="everything ends within")
    ready_grace_seconds: float = _bounded(
        0, 0, 600, help="between answering 503 on readiness and closing listeners; not counted"
    )
    listeners_share: float = _bounded(0.05, 0.01, 1, help="share for closing listeners")
    drain_share: float = _bounded(0.35, 0.01, 1, help="share for requests under way")
    background_share: float = _bounded(0.1, 0.01, 1, help="share for background work")
    flush_share: float = _bounded(0.4, 0.01, 1, help="share for flushing logs")
    close_share: float = _bounded(0.1, 0.01, 1, help="share for closing files")

    def _rules(self) -> Iterator[ConfigFault]:
        total = sum(self.shares().values())
        if total > 1 + 1e-9:
            reason = (
                f"the shares of the stop phases add up to {total:.2f}; lower some, to at most 1"
            )
            yield ConfigFault(reason, tuple(f"{name}_share" for name in self.shares()))

    def shares(self) -> dict[str, float]:
        """Return each phase's share, by its name."""
        return {
            name.removesuffix("_share"): getattr(self, name)
            for name in (attribute.name for attribute in attrs.fields(type(self)))
            if name.endswith("_share")
        }


@frozen(kw_only=True)
class HttpConfig(Checked):
    """Health and metrics over HTTP."""

    listen: str | None = _described(None, help="address of health and metrics; unset: none")
    token: str | None = field(
        default=None,
        repr=False,
        metadata={
            "help": "what 'Authorization: Bearer' must carry for all but the probes",
            "secret": True,
        },
    )
    host_names: tuple[str, ...] = _texts(
        (), help="names that Host headers may have, besides addresses, localhost and advertised"
    )
    connections_max: int = _bounded(32, 1, 10_000, help="connections open at once")
    header_bytes_max: int = _bounded(16 * KIB, KIB, MIB, help="longest request line and headers")
    body_bytes_max: int = _bounded(64 * KIB, 0, MIB, help="longest body; none is ever needed")
    request_seconds_max: float = _bounded(10, 0.1, 3600, help="a request must arrive within")
    send_seconds_max: float = _bounded(10, 0.1, 3600, help="a client must take its answer within")

    def _rules(self) -> Iterator[ConfigFault]:
        if self.token is not None and not _TOKEN.fullmatch(self.token):
            reason = f"must be {TOKEN_CHARACTERS_MIN} to 1000 printable ASCII characters, no blanks"
            yield ConfigFault(reason, ("token",))
        if self.listen is None:
            return
        if fault := address_fault(self.listen):
            yield ConfigFault(fault, ("listen",))
        elif self.token is None and not is_loopback(split_address(self.listen)[0]):
            reason = (
                f"{self.listen!r} can be reached from other machines, and what is served there "
                "says much about this one: set 'http.token' (TRIO_BROKER_HTTP__TOKEN, 16 "
                "characters or more), or listen on 127.0.0.1"
            )
            yield ConfigFault(reason, ("listen", "token"))


@frozen(kw_only=True)
class MetricsConfig(Checked):
    """What a scrape of the metrics shows."""

    per_partition: bool = _described(True, help="series for each partition and committed offset")
    per_partition_max: int = _bounded(
        1_000, 0, 1_000_000, help="most partitions, and most committed offsets, with series"
    )
    compat: tuple[str, ...] = _texts((), help="the same values under further names: kafka_exporter")

    def _rules(self) -> Iterator[ConfigFault]:
        for name in self.compat:
            if name not in METRICS_COMPAT:
                yield ConfigFault(f"{name!r} is not known, use 'kafka_exporter'", ("compat",))


@frozen(kw_only=True)
class BrokerConfig(Checked):
    """Everything a broker needs to know before it starts.

    Attributes:
        data_dir: directory of the metadata store and, unless `log_dirs` is given, of the logs. A
            `pathlib.Path` will do, here and in `log_dirs`.
        log_dirs: directories of logs, one per disk.
        listeners: addresses to bind, ``host:port``; port 0 picks a free one. Empty: no sockets.
        advertised: address clients are told to use, ``host:port``; None: the bound address.
        node_id: this broker's id.
        cluster_id: None: generated at the first start and then kept.
    """

    # Declared at length, for type checkers to see that paths may be given.
    data_dir: str = field(
        default="data",
        converter=_path_to_text,
        metadata={"help": "directory of metadata and, by default, of logs"},
    )
    log_dirs: tuple[str, ...] = field(
        default=(),
        converter=_paths_to_texts,
        metadata={"help": "directories of logs; empty: data_dir/logs"},
    )
    listeners: tuple[str, ...] = _texts(("127.0.0.1:9092",), help="addresses to bind")
    advertised: str | None = _described(None, help="address told to clients")
    node_id: int = _bounded(0, 0, INT32_MAX, help="id of this broker")
    cluster_id: str | None = _described(None, help="id of the cluster, generated if unset")
    auto_create_topics: bool = _described(True, help="create topics that clients ask for")
    num_partitions: int = _bounded(1, 1, 100_000, help="partitions of topics created without")
    shutdown: ShutdownConfig = field(factory=ShutdownConfig)
    topic: TopicConfig = field(
        factory=TopicConfig, metadata={"help": "What topics have unless they say otherwise."}
    )
    network: NetworkConfig = field(factory=NetworkConfig)
    storage: StorageConfig = field(factory=StorageConfig)
    limits: LimitsConfig = field(factory=LimitsConfig)
    group: GroupConfig = field(factory=GroupConfig)
    http: HttpConfig = field(factory=HttpConfig)
    metrics: MetricsConfig = field(factory=MetricsConfig)

    def _rules(self) -> Iterator[ConfigFault]:
        yield from self._directory_rules()
        yield from self._address_rules()
        yield from self._size_rules()
        if self.cluster_id is not None and not _CLUSTER_ID.fullmatch(self.cluster_id):
            reason = "must be 1 to 100 printable ASCII characters, no blanks"
            yield ConfigFault(reason, ("cluster_id",))

    def _directory_rules(self) -> Iterator[ConfigFault]:
        for key, paths in (("data_dir", (self.data_dir,)), ("log_dirs", self.log_dirs)):
            if not all(paths):
                yield ConfigFault("must not be an empty text", (key,))
            if any("\0" in path for path in paths):
                yield ConfigFault("must not contain a character NUL", (key,))
        log_dirs = [posixpath.normpath(path) for path in self.log_dirs]
        for path, count in Counter(log_dirs).items():
            if count > 1:
                reason = f"{path!r} is listed {count} times; each directory can be used once"
                yield ConfigFault(reason, ("log_dirs",))
            for outer in {*log_dirs, posixpath.normpath(f"{self.data_dir}/metadata")}:
                if path.startswith(f"{outer}/"):
                    reason = f"{path!r} lies inside {outer!r}; name directories beside each other"
                    yield ConfigFault(reason, ("log_dirs",))

    def _address_rules(self) -> Iterator[ConfigFault]:
        faulty = False
        for text in self.listeners:
            if reason := address_fault(text):
                faulty = True
                yield ConfigFault(reason, ("listeners",))
        if self.advertised is not None and (reason := advertised_fault(self.advertised)):
            yield ConfigFault(reason, ("advertised",))
        if faulty:
            return
        addresses = [split_address(text) for text in self.listeners]
        for (host, port), count in Counter(addresses).items():
            if count > 1 and port:
                reason = f"'{host}:{port}' is listed {count} times; an address can be bound once"
                yield ConfigFault(reason, ("listeners",))
        http_listen = self.http.listen
        if http_listen is not None and (address := split_address(http_listen)) in addresses:
            if address[1]:
                reason = f"{http_listen!r} is one of 'listeners', too; choose another port"
                yield ConfigFault(reason, ("http.listen", "listeners"))
        if self.advertised is None and any(host in EVERY_INTERFACE for host, _ in addresses):
            yield ConfigFault(
                "an address that means 'every interface' cannot be told to clients; set "
                "'advertised' to the host:port that they can reach (`serve --advertise`)",
                ("listeners", "advertised"),
            )

    def _size_rules(self) -> Iterator[ConfigFault]:
        """Yield what could never work: limits that stand in each other's way."""
        limits = self.limits
        for name in ("partitions_per_topic_max", "partitions_max"):
            if self.num_partitions > (most := getattr(limits, name)):
                yield ConfigFault(
                    f"must not exceed limits.{name} ({most}), but is {self.num_partitions}",
                    ("num_partitions", f"limits.{name}"),
                )
        offsets_partitions = self.group.offsets_topic_partitions
        for name in ("partitions_per_topic_max", "partitions_max"):
            if offsets_partitions > (most := getattr(limits, name)):
                yield ConfigFault(
                    f"must not exceed limits.{name} ({most}), but is {offsets_partitions}; no "
                    "group could ever commit",
                    ("group.offsets_topic_partitions", f"limits.{name}"),
                )
        yield from self._topic_rules()
        frame_bytes = self.network.produce_frame_bytes_max
        if self.topic.max_message_bytes > frame_bytes:
            yield ConfigFault(
                f"must not exceed network.produce_frame_bytes_max ({frame_bytes}), in which a "
                f"batch has to arrive, but is {self.topic.max_message_bytes}",
                ("topic.max_message_bytes", "network.produce_frame_bytes_max"),
            )

    @property
    def metadata_directory(self) -> str:
        """Where the broker keeps its metadata."""
        return f"{self.data_dir}/metadata"

    def _topic_rules(self) -> Iterator[ConfigFault]:
        """Yield what a single topic may have, but all of them by default would be a mistake."""
        if self.topic.retention_ms == 0:
            yield ConfigFault(
                "must be -1, or at least 1, not 0: all topics would lose their records at once; "
                "-1 keeps them for ever",
                ("topic.retention_ms",),
            )
        if self.topic.max_message_bytes < KIB:
            yield ConfigFault(
                f"must be at least {KIB}, not {self.topic.max_message_bytes}: hardly any batch "
                "could be produced",
                ("topic.max_message_bytes",),
            )

    @property
    def log_directories(self) -> tuple[str, ...]:
        """Where logs live: `log_dirs`, or the default inside `data_dir`."""
        return self.log_dirs or (f"{self.data_dir}/logs",)

    def with_values(self, **changes: Any) -> Self:
        """Return a copy with some fields replaced."""
        return attrs.evolve(self, **changes)


# The checks of types need these, not their names.
for _cls in (
    TopicConfig,
    NetworkConfig,
    StorageConfig,
    LimitsConfig,
    GroupConfig,
    ShutdownConfig,
    HttpConfig,
    MetricsConfig,
    BrokerConfig,
):
    attrs.resolve_types(_cls)
