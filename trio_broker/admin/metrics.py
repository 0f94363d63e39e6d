"""Metrics: statistics as text for Prometheus, through prometheus-client.

Nothing is counted here: a scrape turns one snapshot into text, about 5 microseconds for each
series, so it is done off the event loop (`broker.http_server`). There is no registry and no child
object that could outlive what it counts: a topic that is gone from the statistics has no series.

Base units, counters end in ``_total``, and no label has a value that clients can choose freely
except names of topics and groups, whose numbers are bounded. The per-partition families have a cap.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
)
from prometheus_client.exposition import choose_encoder

from trio_broker.admin import kafka_exporter
from trio_broker.admin.families import Family, Row, Shown
from trio_broker.admin.fault_families import FAULT_FAMILIES
from trio_broker.admin.storage_families import BUDGET_FAMILIES, RETENTION_FAMILIES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prometheus_client.metrics_core import Metric

    from trio_broker.admin.statistics import LogDirStatistics, RequestStatistics, ShardStatistics

#: What `metrics.compat` may name.
COMPATIBLE: Final = {"kafka_exporter": kafka_exporter.FAMILIES}
#: Value of trio_broker_disk_alert, by the state of a log dir; anything else counts as degraded.
DISK_ALERTS: Final = {"ok": 0, "low": 1, "degraded": 2, "failed": 3}
PHASES: Final = ("starting", "recovering", "serving", "draining", "stopping", "stopped")

_TOPIC = ("topic",)
_PARTITION = ("topic", "partition")
_OFFSET = ("group", "topic", "partition")
_LOG_DIR = ("log_dir",)
_SHARD = ("log_dir", "shard")


def _per_partition(name: str, help_text: str, attribute: str) -> Family:
    """Declare a gauge that every partition has while its log is open."""

    def rows(shown: Shown) -> Iterator[Row]:
        for topic, partition in shown.partitions:
            value: int = getattr(partition, attribute)
            if value >= 0:
                yield (topic.name, str(partition.partition)), value

    return Family(f"trio_broker_partition_{name}", "gauge", _PARTITION, help_text, rows)


def _per_log_dir(name: str, kind: str, help_text: str, attribute: str) -> Family:
    def rows(shown: Shown) -> Iterator[Row]:
        for log_dir in shown.statistics.log_dirs:
            value: int | None = getattr(log_dir, attribute)
            if value is not None:
                yield (log_dir.path,), value

    return Family(f"trio_broker_{name}", kind, _LOG_DIR, help_text, rows)


def _per_shard(name: str, kind: str, help_text: str, attribute: str) -> Family:
    def rows(shown: Shown) -> Iterator[Row]:
        for log_dir, shard in _shards(shown):
            yield (log_dir.path, str(shard.index)), getattr(shard, attribute)

    return Family(f"trio_broker_shard_{name}", kind, _SHARD, help_text, rows)


def _single(name: str, kind: str, help_text: str, attribute: str) -> Family:
    """Declare a value of the broker as a whole; `attribute` may have dots."""
    path = attribute.split(".")

    def rows(shown: Shown) -> Iterator[Row]:
        value = shown.statistics
        for part in path:
            value = getattr(value, part)
        yield (), value  # type: ignore[misc]  # the last part is a number

    return Family(f"trio_broker_{name}", kind, (), help_text, rows)


def _process(name: str, kind: str, help_text: str, attribute: str) -> Family:
    def rows(shown: Shown) -> Iterator[Row]:
        if shown.process is not None:
            yield (), getattr(shown.process, attribute)

    return Family(f"process_{name}", kind, (), help_text, rows)


def _shards(shown: Shown) -> Iterator[tuple[LogDirStatistics, ShardStatistics]]:
    for log_dir in shown.statistics.log_dirs:
        for shard in log_dir.shards:
            yield log_dir, shard


def _phase_rows(shown: Shown) -> Iterator[Row]:
    for phase in PHASES:
        yield (phase,), phase == shown.statistics.phase


def _partition_counts(shown: Shown) -> Iterator[Row]:
    counts = {"online": 0, "offline": 0}
    for topic in shown.statistics.topics:
        for partition in topic.partitions:
            counts[partition.state] = counts.get(partition.state, 0) + 1
    for state, count in counts.items():
        yield (state,), count


def _under_replicated(shown: Shown) -> Iterator[Row]:
    for topic, partition in shown.partitions:
        is_short = partition.in_sync_replicas < partition.replicas
        yield (topic.name, str(partition.partition)), is_short


def _is_online(shown: Shown) -> Iterator[Row]:
    for topic, partition in shown.partitions:
        yield (topic.name, str(partition.partition)), partition.state == "online"


def _request_bytes(shown: Shown) -> Iterator[Row]:
    for topic in shown.statistics.topics:
        yield (topic.name, "produce"), topic.produced_bytes
        yield (topic.name, "fetch"), topic.fetched_bytes


def _produced_records(shown: Shown) -> Iterator[Row]:
    for topic in shown.statistics.topics:
        yield (topic.name, "produce"), topic.produced_records


def _produced_batches(shown: Shown) -> Iterator[Row]:
    for topic in shown.statistics.topics:
        yield (topic.name, "produce"), topic.produced_batches


def _fetches(shown: Shown) -> Iterator[Row]:
    for topic in shown.statistics.topics:
        yield (topic.name,), topic.fetches


def _committed(shown: Shown) -> Iterator[Row]:
    for group, found in shown.offsets:
        yield (group.group_id, found.topic, str(found.partition)), found.offset


def _lag(shown: Shown) -> Iterator[Row]:
    for group, found in shown.offsets:
        if found.lag_records is not None:
            yield (group.group_id, found.topic, str(found.partition)), found.lag_records


def _lag_seconds(shown: Shown) -> Iterator[Row]:
    for group, found in shown.offsets:
        if found.lag_seconds is not None:
            yield (group.group_id, found.topic, str(found.partition)), found.lag_seconds


def _lag_sum(shown: Shown) -> Iterator[Row]:
    for group in shown.statistics.groups[: shown.series_max]:
        yield (group.group_id,), group.lag_records


def _members(shown: Shown) -> Iterator[Row]:
    for group in shown.statistics.groups[: shown.series_max]:
        if group.members is not None:
            yield (group.group_id,), group.members


def _disk_alert(shown: Shown) -> Iterator[Row]:
    for log_dir in shown.statistics.log_dirs:
        yield (log_dir.path,), DISK_ALERTS.get(log_dir.state, DISK_ALERTS["degraded"])


def _memory(attribute: str) -> Family:
    def rows(shown: Shown) -> Iterator[Row]:
        for pool in shown.statistics.memory:
            yield (pool.name,), getattr(pool, attribute)

    help_text = {
        "used_bytes": "Memory that requests or responses hold now.",
        "limit_bytes": "Memory above which no further request or response is begun.",
    }[attribute]
    return Family(f"trio_broker_memory_pool_{attribute}", "gauge", ("pool",), help_text, rows)


def _per_owner(name: str, help_text: str, attribute: str) -> Family:
    def rows(shown: Shown) -> Iterator[Row]:
        for found in shown.statistics.owners:
            yield (found.owner,), getattr(found, attribute)

    return Family(f"trio_broker_{name}", "gauge", ("owner",), help_text, rows)


def _open_segment_files(shown: Shown) -> Iterator[Row]:
    files = (each.open_files for each in shown.statistics.owners if each.owner == "replica")
    yield (), sum(files)


def _descriptors(shown: Shown) -> Iterator[Row]:
    budget = shown.statistics.descriptors
    yield ("connections",), budget.connections_max
    yield ("segment_files",), budget.files_max
    yield ("reserved",), budget.reserved


def _stop_seconds(shown: Shown) -> Iterator[Row]:
    for phase, seconds in shown.statistics.stop_seconds:
        yield (phase,), seconds


def _omitted(shown: Shown) -> Iterator[Row]:
    yield (), shown.omitted


FAMILIES: Final = (
    Family(
        "trio_broker_phase",
        "gauge",
        ("phase",),
        "1 for the phase the broker is in, 0 for the others.",
        _phase_rows,
    ),
    _single("uptime_seconds", "gauge", "Time since the broker began to start.", "uptime_seconds"),
    Family(
        "trio_broker_partitions",
        "gauge",
        ("state",),
        "Partitions by what they do: only online ones serve.",
        _partition_counts,
    ),
    # --- partitions
    _per_partition("log_start_offset", "Offset of the oldest record kept.", "log_start_offset"),
    _per_partition(
        "high_watermark", "Offset after the newest record that can be read.", "high_watermark"
    ),
    _per_partition("size_bytes", "Size of the partition's segments.", "size_bytes"),
    _per_partition("segments", "Number of the partition's segments.", "segments"),
    _per_partition("leader", "Id of the broker that leads the partition.", "leader"),
    _per_partition("leader_epoch", "The leader's term of office.", "leader_epoch"),
    _per_partition(
        "in_sync_replicas", "Replicas that have every record readable.", "in_sync_replicas"
    ),
    Family(
        "trio_broker_partition_under_replicated",
        "gauge",
        _PARTITION,
        "1 while fewer replicas are in sync than there should be.",
        _under_replicated,
    ),
    Family(
        "trio_broker_partition_online",
        "gauge",
        _PARTITION,
        "1 while the partition serves requests.",
        _is_online,
    ),
    # --- traffic
    Family(
        "trio_broker_request_bytes_total",
        "counter",
        ("topic", "request"),
        "Record batches stored (produce) and sent (fetch).",
        _request_bytes,
    ),
    Family(
        "trio_broker_request_records_total",
        "counter",
        ("topic", "request"),
        "Records stored (produce); those sent are not counted, since batches leave unopened.",
        _produced_records,
    ),
    Family(
        "trio_broker_request_batches_total",
        "counter",
        ("topic", "request"),
        "Record batches stored (produce).",
        _produced_batches,
    ),
    Family(
        "trio_broker_fetches_total",
        "counter",
        _TOPIC,
        "Partitions' parts of Fetch responses that held records.",
        _fetches,
    ),
    *RETENTION_FAMILIES,
    # --- groups
    Family(
        "trio_broker_group_committed_offset",
        "gauge",
        _OFFSET,
        "Offset of the record that the group reads next.",
        _committed,
    ),
    Family("trio_broker_group_lag", "gauge", _OFFSET, "Records that the group has not read.", _lag),
    Family(
        "trio_broker_group_lag_seconds",
        "gauge",
        _OFFSET,
        "How long the oldest record that the group has not read has been there. No series where "
        "telling would take a look at the disk.",
        _lag_seconds,
    ),
    Family(
        "trio_broker_group_lag_sum",
        "gauge",
        ("group",),
        "Records that the group has not read, over all partitions.",
        _lag_sum,
    ),
    Family("trio_broker_group_members", "gauge", ("group",), "Consumers in the group.", _members),
    # --- clients
    _single("connections", "gauge", "Open connections of Kafka clients.", "connections.open"),
    _single(
        "connections_accepted_total", "counter", "Connections accepted.", "connections.accepted"
    ),
    _single(
        "connections_refused_total",
        "counter",
        "Connections closed at once because there were too many.",
        "connections.refused",
    ),
    _memory("used_bytes"),
    _memory("limit_bytes"),
    # --- disks
    Family(
        "trio_broker_disk_alert",
        "gauge",
        _LOG_DIR,
        "0: all is well, 1: space is low, 2: produce is refused, 3: the disk has failed.",
        _disk_alert,
    ),
    _per_log_dir("disk_free_bytes", "gauge", "Space left on the filesystem.", "free_bytes"),
    _per_log_dir("disk_total_bytes", "gauge", "Size of the filesystem.", "total_bytes"),
    _per_log_dir(
        "disk_write_failures_total",
        "counter",
        "Writes that the system refused; nothing of them was kept.",
        "write_failures",
    ),
    *BUDGET_FAMILIES,
    _per_shard("queue_bytes", "gauge", "Batches waiting for the writer.", "queued_bytes"),
    _per_shard("commits_total", "counter", "Partitions' parts of group commits.", "commits"),
    _per_shard("batches_total", "counter", "Record batches committed.", "committed_batches"),
    _per_shard("bytes_total", "counter", "Bytes committed.", "committed_bytes"),
    _per_shard(
        "missing_replicas",
        "gauge",
        "Replicas whose directories have vanished: offline until an operator has decided.",
        "missing_replicas",
    ),
    _per_shard("running", "gauge", "0 between a fault and the next start, else 1.", "is_running"),
    _per_shard("restarts_total", "counter", "Restarts after a fault.", "restarts"),
    _per_shard(
        "stuck_seconds",
        "gauge",
        "How long the system call that the shard is in has been running.",
        "stuck_seconds",
    ),
    # --- inside
    _per_owner("open_files", "Files open, by the kind of their owner.", "open_files"),
    _per_owner(
        "open_file_bytes",
        "Size of these files: what the disk could not have back if they were removed.",
        "open_bytes",
    ),
    _per_owner("owned_tasks", "Trio tasks of the broker, by the kind of their owner.", "tasks"),
    Family(
        "trio_broker_descriptors_max",
        "gauge",
        ("use",),
        "How the descriptors that the process may have were divided at the start.",
        _descriptors,
    ),
    Family(
        "trio_broker_open_segment_files",
        "gauge",
        (),
        "Files of partitions' logs that are open.",
        _open_segment_files,
    ),
    _single(
        "fd_leak_suspected",
        "gauge",
        "Owners that hold files for longer than they may.",
        "leaks_suspected",
    ),
    _single("tasks", "gauge", "Trio tasks of the whole program.", "tasks"),
    _single(
        "event_loop_lag_seconds",
        "gauge",
        "Longest time that a ready task waited for its turn, in the last 15 s.",
        "event_loop_lag_seconds",
    ),
    *FAULT_FAMILIES,
    Family(
        "trio_broker_drain_phase_seconds",
        "gauge",
        ("phase",),
        "What the phases of the stop have taken, while the broker stops.",
        _stop_seconds,
    ),
    Family(
        "trio_broker_series_omitted",
        "gauge",
        (),
        "Partitions and committed offsets without series of their own: beyond "
        "metrics.per_partition_max, or all of them with metrics.per_partition off.",
        _omitted,
    ),
    # --- the process, under the names that dashboards know
    _process("cpu_seconds_total", "counter", "CPU time, user and system.", "cpu_seconds"),
    _process("resident_memory_bytes", "gauge", "Memory of the process.", "resident_bytes"),
    _process("open_fds", "gauge", "Open descriptors: files, sockets and all.", "open_descriptors"),
    _process("max_fds", "gauge", "How many descriptors it may have.", "descriptors_max"),
    _process("threads", "gauge", "Threads of the process.", "threads"),
    _process("start_time_seconds", "gauge", "When it began, since the Unix epoch.", "started_at"),
)

#: The two families that are no plain rows: name, labels, help.
INFO: Final = (
    "trio_broker_info",
    ("cluster_id", "node_id", "version"),
    "Always 1; who this is.",
)
REQUEST_SECONDS: Final = (
    "trio_broker_request_seconds",
    ("api",),
    "From a request being there to its answer being ready, waiting for disk or data included.",
)


class StatisticsCollector:
    """What prometheus-client asks for metrics: one snapshot, used once."""

    def __init__(self, shown: Shown, compat: tuple[str, ...] = ()) -> None:
        self._shown = shown
        self._compat = compat

    def collect(self) -> Iterator[Metric]:
        """Yield every family that has rows."""
        shown = self._shown
        yield _info(shown)
        for family in FAMILIES:
            yield from _metrics_of(family, shown)
        yield _request_seconds(shown.statistics.requests)
        for name in self._compat:
            for family in COMPATIBLE[name]:
                yield from _metrics_of(family, shown)


def _metrics_of(family: Family, shown: Shown) -> Iterator[Metric]:
    rows = list(family.rows(shown))
    if not rows:
        return
    metric: GaugeMetricFamily | CounterMetricFamily
    if family.kind == "counter":
        metric = CounterMetricFamily(family.name, family.help, labels=family.labels)
    else:
        metric = GaugeMetricFamily(family.name, family.help, labels=family.labels)
    for labels, value in rows:
        metric.add_metric(labels, value)
    yield metric


def _info(shown: Shown) -> Metric:
    name, _, help_text = INFO
    statistics = shown.statistics
    return InfoMetricFamily(
        name.removesuffix("_info"),
        help_text,
        value={
            "cluster_id": statistics.cluster_id or "",
            "node_id": str(statistics.node_id),
            "version": statistics.version,
        },
    )


def _request_seconds(requests: tuple[RequestStatistics, ...]) -> Metric:
    name, labels, help_text = REQUEST_SECONDS
    metric = HistogramMetricFamily(name, help_text, labels=labels)
    for request in requests:
        buckets: list[tuple[str, float]] = []
        cumulative = 0
        for bound, count in zip(request.bounds_seconds, request.counts, strict=False):
            cumulative += count
            buckets.append((str(bound), cumulative))
        buckets.append(("+Inf", request.count))
        metric.add_metric([request.api], buckets, request.seconds)
    return metric


#: What is asked for on behalf of a scraper that knows OpenMetrics, in words that are understood.
_OPENMETRICS: Final = "application/openmetrics-text; version=1.0.0"


def render(shown: Shown, *, accept: str = "", compat: tuple[str, ...] = ()) -> tuple[bytes, str]:
    """Return the page and its content type.

    Args:
        shown: what it shows.
        accept: the scraper's Accept header, which may ask for OpenMetrics.
        compat: further names for the same values, from `COMPATIBLE`.
    """
    encode, content_type = choose_encoder(_OPENMETRICS if "openmetrics-text" in accept else "")
    return encode(StatisticsCollector(shown, compat)), content_type
