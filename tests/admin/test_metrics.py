"""The metrics page: its form, what is on it, and what is not any more. Pure."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from tests.admin.samples import committed, group, log_dir, partition, statistics, topic
from trio_broker.admin.families import ProcessUsage, Shown
from trio_broker.admin.metrics import COMPATIBLE, FAMILIES, INFO, REQUEST_SECONDS, render
from trio_broker.config import METRICS_COMPAT, MetricsConfig
from trio_broker.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

USAGE = ProcessUsage(
    cpu_seconds=1.5,
    resident_bytes=10_000,
    open_descriptors=30,
    descriptors_max=1024,
    threads=5,
    started_at=1_700_000_000.0,
)
OPENMETRICS = "application/openmetrics-text;version=1.0.0;q=0.8,text/plain;q=0.5"


def samples(page: bytes) -> Mapping[tuple[str, frozenset[tuple[str, str]]], float]:
    """Parse a page; a series that is there twice is an error."""
    found: dict[tuple[str, frozenset[tuple[str, str]]], float] = {}
    for family in parse_text(page.decode()):
        for sample in family.samples:
            key = (sample.name, frozenset(sample.labels.items()))
            assert key not in found, key
            found[key] = sample.value
    return found


def value(page: bytes, name: str, **labels: str) -> float | None:
    return samples(page).get((name, frozenset(labels.items())))


def names(page: bytes) -> set[str]:
    return {name for name, _ in samples(page)}


def test_both_formats_are_what_the_parsers_expect() -> None:
    shown = Shown(statistics(stop_seconds=(("drain", 0.25),)), USAGE)
    page, content_type = render(shown, compat=METRICS_COMPAT)
    assert content_type.startswith("text/plain; version=")
    assert samples(page)
    page, content_type = render(shown, accept=OPENMETRICS, compat=METRICS_COMPAT)
    assert content_type.startswith("application/openmetrics-text; version=1.0.0; charset=utf-8")
    families = {family.name for family in parse_openmetrics(page.decode())}
    assert "trio_broker_request_seconds" in families


@pytest.mark.parametrize(
    "accept",
    ["", "text/html", "*/*", "\x00", "application/openmetrics-text; version=many", ";;,,=,;q"],
)
def test_any_accept_header_gets_a_page(accept: str) -> None:
    page, content_type = render(Shown(statistics()), accept=accept)
    assert page
    assert content_type.isprintable()


def test_values_stand_under_the_promised_names() -> None:
    page, _ = render(Shown(statistics(), USAGE))
    at = {"topic": "orders", "partition": "0"}
    assert value(page, "trio_broker_partition_high_watermark", **at) == 110
    assert value(page, "trio_broker_partition_log_start_offset", **at) == 10
    assert value(page, "trio_broker_partition_under_replicated", **at) == 0
    assert value(page, "trio_broker_partition_leader", **at) == 0
    assert value(page, "trio_broker_group_lag", group="readers", **at) == 10
    assert value(page, "trio_broker_group_committed_offset", group="readers", **at) == 100
    assert value(page, "trio_broker_group_members", group="readers") == 3
    assert value(page, "trio_broker_request_bytes_total", topic="orders", request="fetch") == 2000
    assert value(page, "trio_broker_disk_free_bytes", log_dir="/data/logs") == 600
    assert value(page, "trio_broker_disk_alert", log_dir="/data/logs") == 0
    assert value(page, "trio_broker_phase", phase="serving") == 1
    assert value(page, "trio_broker_phase", phase="draining") == 0
    assert value(page, "trio_broker_open_segment_files") == 3
    assert value(page, "trio_broker_faults_total", boundary="replica") == 3
    assert value(page, "trio_broker_faults_total", boundary="shard") == 0
    assert value(page, "process_open_fds") == 30
    assert value(page, "process_max_fds") == 1024


def test_latencies_are_a_cumulative_histogram() -> None:
    page, _ = render(Shown(statistics()))
    counts = [
        value(page, "trio_broker_request_seconds_bucket", api="Produce", le=bound)
        for bound in ("0.001", "0.01", "+Inf")
    ]
    assert counts == [3, 5, 6]
    assert value(page, "trio_broker_request_seconds_count", api="Produce") == 6
    assert value(page, "trio_broker_request_seconds_sum", api="Produce") == 0.5


@pytest.mark.parametrize(
    "state, alert", [("ok", 0), ("low", 1), ("degraded", 2), ("failed", 3), ("new", 2)]
)
def test_the_disk_alert_is_a_number(state: str, alert: int) -> None:
    page, _ = render(Shown(statistics(log_dirs=(log_dir(state=state),))))
    assert value(page, "trio_broker_disk_alert", log_dir="/data/logs") == alert


def test_series_of_a_topic_that_is_gone_are_gone() -> None:
    both = statistics(topics=(topic("audit"), topic("orders")))
    assert b"audit" in render(Shown(both), compat=METRICS_COMPAT)[0]
    without = statistics(topics=(topic("orders"),), faults=())  # the broker forgets those as well
    assert b"audit" not in render(Shown(without), compat=METRICS_COMPAT)[0]


def test_what_is_not_known_has_no_series() -> None:
    offline = partition(state="offline", log_start_offset=-1, high_watermark=-1)
    found = statistics(
        topics=(attrs.evolve(topic(), partitions=(offline,)),),
        groups=(group("g", committed(lag_records=None, lag_seconds=None), members=None),),
        log_dirs=(log_dir(free_bytes=None, total_bytes=None),),
    )
    page, _ = render(Shown(found), compat=METRICS_COMPAT)
    unknown = {
        "trio_broker_partition_high_watermark",
        "trio_broker_group_lag",
        "trio_broker_group_lag_seconds",
        "trio_broker_group_members",
        "trio_broker_disk_free_bytes",
        "process_open_fds",
        "kafka_topic_partition_current_offset",
        "kafka_consumergroup_lag",
    }
    assert not unknown & names(page)
    assert value(page, "trio_broker_partition_online", topic="orders", partition="0") == 0
    assert value(page, "trio_broker_partitions", state="offline") == 1


def test_a_cap_keeps_the_page_small_and_says_so() -> None:
    offsets = tuple(committed(index=index) for index in range(30))
    found = statistics(topics=(topic("a", 30), topic("b", 30)), groups=(group("g", *offsets),))
    page, _ = render(Shown(found, series_max=40))
    series = samples(page)
    assert sum(name == "trio_broker_partition_high_watermark" for name, _ in series) == 40
    assert sum(name == "trio_broker_group_lag" for name, _ in series) == 30
    assert value(page, "trio_broker_series_omitted") == 20
    assert value(page, "trio_broker_group_lag_sum", group="g") == 300
    page, _ = render(Shown(found, per_partition=False))
    assert value(page, "trio_broker_series_omitted") == 90
    assert not any("partition" in dict(labels) for _, labels in samples(page))


def test_the_exporter_s_names_are_there_when_asked_for() -> None:
    plain, _ = render(Shown(statistics()))
    assert not any(name.startswith("kafka_") for name in names(plain))
    page, _ = render(Shown(statistics()), compat=("kafka_exporter",))
    at = {"topic": "orders", "partition": "0"}
    assert value(page, "kafka_brokers") == 1
    assert value(page, "kafka_topic_partitions", topic="orders") == 1
    assert value(page, "kafka_topic_partition_current_offset", **at) == 110
    assert value(page, "kafka_topic_partition_oldest_offset", **at) == 10
    assert value(page, "kafka_topic_partition_in_sync_replica", **at) == 1
    assert value(page, "kafka_topic_partition_under_replicated_partition", **at) == 0
    assert value(page, "kafka_consumergroup_lag", consumergroup="readers", **at) == 10
    assert value(page, "kafka_consumergroup_lag_sum", consumergroup="readers", topic="orders") == 10
    assert value(page, "kafka_consumergroup_members", consumergroup="readers") == 3


#: What may come as UTF-8: no half surrogate pairs.
TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30)


@given(group_id=TEXT, path=TEXT)
def test_any_name_survives_as_a_label(group_id: str, path: str) -> None:
    found = statistics(groups=(group(group_id),), log_dirs=(log_dir(path),))
    page, _ = render(Shown(found))
    labels = [dict(found) for name, found in samples(page) if name == "trio_broker_group_members"]
    assert [found["group"] for found in labels] == [group_id]


def test_names_keep_prometheus_rules() -> None:
    units = ("_seconds", "_bytes", "_total")
    seen = set()
    for family in (*FAMILIES, *COMPATIBLE["kafka_exporter"]):
        assert re.fullmatch(r"[a-z][a-z_]*", family.name)
        assert (family.kind == "counter") == family.name.endswith("_total")
        assert family.help
        assert family.name not in seen
        seen.add(family.name)
        for word in ("_ms", "_kb", "_percent"):
            assert word not in family.name
    assert INFO[0].endswith("_info")
    assert REQUEST_SECONDS[0].endswith(units)


def test_only_known_names_are_compatible() -> None:
    assert set(COMPATIBLE) == set(METRICS_COMPAT)
    with pytest.raises(ConfigError, match="burrow"):
        MetricsConfig(compat=("burrow",))
