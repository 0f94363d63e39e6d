"""What the commands of ``trio-broker topic`` do. Called by `topic`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import trio

from trio_broker.cli.now import now_ms
from trio_broker.cli.options import TABLE, confirm
from trio_broker.cli.output import (
    Column,
    counted,
    indented,
    print_facts,
    print_table,
    say,
    show_object,
    show_rows,
    size_text,
    text_of,
)
from trio_broker.cli.running import Failed
from trio_broker.cli.watermarks import (
    Extent,
    check_partitions,
    extents,
    is_served,
    led_places,
    sizes,
    sum_if_complete,
)
from trio_broker.client.admin_results import ConfigSource
from trio_broker.client.errors import request_error
from trio_broker.client.metadata import NOBODY
from trio_broker.client.types import TopicPartition
from trio_broker.config_catalog import TOPIC_CONFIGS
from trio_broker.errors import ErrorCode, RequestError
from trio_broker.names import ZERO_TOPIC_ID
from trio_broker.settings.units import parse_quantity, unit_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from trio_broker.cli.options import Moment
    from trio_broker.client.admin_results import ConfigEntry, CreatedTopic
    from trio_broker.client.client import Client
    from trio_broker.client.metadata import TopicView
    from trio_broker.names import TopicId

#: Shown even if nobody has set them: what people ask about first.
_SHOWN_CONFIGS = frozenset(
    {"cleanup.policy", "retention.ms", "retention.bytes", "segment.bytes", "durability"}
)
#: In their documentation the broker says what comes of them.
_RETENTION = "retention.ms"
_LEARN_SECONDS_MAX = 2.0
_LOOK_AGAIN_SECONDS = 0.05


def plain_value(key: str, text: str) -> str:
    """Turn ``7d`` and ``20GiB`` into the numbers that brokers know, by the unit in a config's name.

    What is neither is left as it is: the broker says what is wrong with it.
    """
    unit = unit_of(key.replace(".", "_"))
    if unit is None:
        return text
    try:
        amount = parse_quantity(text, unit)
    except ValueError:
        return text
    return str(amount.numerator) if amount.denominator == 1 else text


# ----------------------------------------------------------------------------------------- create
class NewTopics(NamedTuple):
    """What to create; see the options of ``topic create``."""

    names: Sequence[str]
    partitions: int | None
    replication_factor: int | None
    configs: Mapping[str, str]
    if_not_exists: bool
    dry_run: bool


async def create(client: Client, wanted: NewTopics, output: str) -> None:
    """Create topics, one after another.

    Raises:
        RequestError: one is refused; those before it exist.
    """
    rows = []
    for name in wanted.names:
        try:
            created = await client.admin.create_topic(
                name,
                partitions=wanted.partitions,
                replication_factor=wanted.replication_factor,
                configs={key: plain_value(key, text) for key, text in wanted.configs.items()},
                validate_only=wanted.dry_run,
            )
        except RequestError as error:
            if error.code != ErrorCode.TOPIC_ALREADY_EXISTS or not wanted.if_not_exists:
                raise
            say(f"topic {name} exists")
            rows.append(_listed(await client.admin.describe_topic(name)))
            continue
        rows.append(_created(created))
        done = "would be created" if wanted.dry_run else "created"
        if output == TABLE:
            say(f"topic {name} {done}{_with_count(created.partition_count)}")
    if output != TABLE:
        fields = ("name", "topic_id", "partitions", "replication_factor")
        show_rows(output, [{field: row[field] for field in fields} for row in rows], (), none="")


def _created(created: CreatedTopic) -> dict[str, Any]:
    return {
        "name": created.name,
        "topic_id": _id_text(created.topic_id),
        "partitions": created.partition_count if created.partition_count > 0 else None,
        "replication_factor": (
            created.replication_factor if created.replication_factor > 0 else None
        ),
    }


def _with_count(partitions: int) -> str:
    if partitions < 1:
        return ""
    return f" with {counted(partitions, 'partition')}"


def _id_text(topic_id: TopicId) -> str | None:
    return None if topic_id == ZERO_TOPIC_ID else str(topic_id)


# ------------------------------------------------------------------------------------------- list
_LIST_COLUMNS = (
    Column("name", "TOPIC"),
    Column("partitions", "PARTITIONS", is_right=True),
    Column("replication_factor", "REPLICAS", is_right=True),
)
_LONG_LIST_COLUMNS = (
    *_LIST_COLUMNS,
    Column("records", "RECORDS", is_right=True),
    Column("size_bytes", "SIZE", is_right=True, text=size_text),
)


async def list_topics(
    client: Client, output: str, *, include_internal: bool, is_long: bool
) -> None:
    """List topics."""
    topics = await client.admin.list_topics(include_internal=include_internal)
    rows = [_listed(topic) for topic in topics]
    if is_long:
        found = await extents(client, led_places(topics))
        size_bytes = await sizes(client, topics)
        for topic, row in zip(topics, rows, strict=True):
            row |= _totals(topic, found, size_bytes)
    columns = _LONG_LIST_COLUMNS if is_long else _LIST_COLUMNS
    show_rows(output, rows, columns, none="there are no topics")


def _listed(topic: TopicView) -> dict[str, Any]:
    replicas = [len(partition.replicas) for partition in topic.partitions.values()]
    return {
        "name": topic.name,
        "topic_id": _id_text(topic.topic_id),
        "is_internal": topic.is_internal,
        "partitions": len(topic.partitions),
        "replication_factor": max(replicas, default=0),
    }


def _totals(
    topic: TopicView,
    found: Mapping[TopicPartition, Extent],
    size_bytes: Mapping[TopicPartition, int],
) -> dict[str, Any]:
    places = [TopicPartition(topic.name, index) for index in topic.partitions]
    return {
        "records": sum(found[place].records for place in places if place in found),
        "size_bytes": sum_if_complete(size_bytes, places),
    }


# --------------------------------------------------------------------------------------- describe
_PARTITION_COLUMNS = (
    Column("partition", "PARTITION", is_right=True),
    Column("leader", "LEADER", is_right=True),
    Column("replicas", "REPLICAS"),
    Column("in_sync", "IN SYNC"),
    Column("start_offset", "START", is_right=True),
    Column("end_offset", "END", is_right=True),
    Column("records", "RECORDS", is_right=True),
    Column("size_bytes", "SIZE", is_right=True, text=size_text),
)
_CONFIG_COLUMNS = (
    Column("name", "CONFIG"),
    Column("value", "VALUE"),
    Column("source", "SOURCE"),
)
_ALL_CONFIG_COLUMNS = (
    *_CONFIG_COLUMNS,
    Column("is_read_only", "READ-ONLY"),
    Column("documentation", "MEANING"),
)


async def describe(client: Client, name: str, output: str, *, show_all: bool) -> None:
    """Show everything about a topic.

    Raises:
        RequestError: there is none.
    """
    topic = await client.admin.describe_topic(name)
    found = await extents(client, led_places([topic]))
    size_bytes = await sizes(client, [topic])
    configs = await client.admin.topic_configs(name)
    retention = _retention_sentences(configs)
    value = {
        **_listed(topic),
        **_totals(topic, found, size_bytes),
        "partitions": [
            _partition_row(topic, index, found, size_bytes) for index in sorted(topic.partitions)
        ],
        "configs": [_config_row(entry) for _, entry in sorted(configs.items())],
        "retention": retention,
    }
    show_object(output, value, lambda: _print_description(value, show_all=show_all))


def _partition_row(
    topic: TopicView,
    index: int,
    found: Mapping[TopicPartition, Extent],
    size_bytes: Mapping[TopicPartition, int],
) -> dict[str, Any]:
    partition = topic.partitions[index]
    place = TopicPartition(topic.name, index)
    extent = found.get(place)
    return {
        "partition": index,
        "leader": None if partition.leader == NOBODY else partition.leader,
        "leader_epoch": None if partition.leader_epoch < 0 else partition.leader_epoch,
        "replicas": list(partition.replicas),
        "in_sync": list(partition.in_sync),
        "offline": list(partition.offline),
        "start_offset": extent.start if extent else None,
        "end_offset": extent.end if extent else None,
        "records": extent.records if extent else None,
        "size_bytes": size_bytes.get(place),
        "error": None if is_served(partition) else _error_name(partition.error_code),
    }


def _error_name(code: int) -> str:
    return request_error(code or ErrorCode.LEADER_NOT_AVAILABLE).code.name


def _config_row(entry: ConfigEntry) -> dict[str, Any]:
    return {
        "name": entry.name,
        "value": entry.value,
        "source": entry.source.name,
        "is_default": entry.is_default,
        "is_read_only": entry.is_read_only,
        "documentation": entry.documentation,
    }


def _retention_sentences(configs: Mapping[str, ConfigEntry]) -> list[str]:
    """Return what this broker adds to the documentation of retention.ms; others add nothing."""
    entry = configs.get(_RETENTION)
    meaning = TOPIC_CONFIGS[_RETENTION].documentation
    if entry is None or not entry.documentation.startswith(f"{meaning}. "):
        return []
    said = entry.documentation.removeprefix(f"{meaning}. ")
    return [f"{sentence.removesuffix('.')}." for sentence in said.split(". ") if sentence]


def _print_description(value: Mapping[str, Any], *, show_all: bool) -> None:
    print_facts(
        [
            ("Topic", value["name"]),
            ("Id", text_of(value["topic_id"])),
            ("Partitions", str(len(value["partitions"]))),
            ("Replicas", str(value["replication_factor"])),
            ("Records", str(value["records"])),
            ("Size", size_text(value["size_bytes"])),
        ]
    )
    print()
    is_well = not any(row["error"] for row in value["partitions"])
    trouble = () if is_well else (Column("error", "ERROR"),)
    print_table((*_PARTITION_COLUMNS, *trouble), value["partitions"])
    configs = value["configs"]
    if not show_all:
        configs = [row for row in configs if not row["is_default"] or row["name"] in _SHOWN_CONFIGS]
    print()
    print_table(_ALL_CONFIG_COLUMNS if show_all else _CONFIG_COLUMNS, configs)
    if value["retention"]:
        print("\nRetention")
        for sentence in value["retention"]:
            print(indented(sentence))


# ------------------------------------------------------------------------------------------ alter
_ALTER_COLUMNS = (
    Column("name", "CONFIG"),
    Column("before", "BEFORE"),
    Column("after", "AFTER"),
    Column("source", "SOURCE"),
)


async def alter(
    client: Client, name: str, changes: Mapping[str, str | None], output: str, *, dry_run: bool
) -> None:
    """Change configs of a topic and show what they were and are.

    Raises:
        RequestError: the broker refuses one of them; none is changed.
    """
    changes = {
        key: None if text is None else plain_value(key, text) for key, text in changes.items()
    }
    before = await client.admin.topic_configs(name)
    await client.admin.alter_topic_configs(name, changes, validate_only=dry_run)
    after = before if dry_run else await _altered(client, name, changes)
    rows = []
    for key in sorted(changes):
        was, now = before.get(key), after.get(key)
        given = changes[key]
        rows.append(
            {
                "name": key,
                "before": was.value if was else None,
                "after": given if dry_run else now.value if now else None,
                "source": ("TOPIC" if given is not None else "DEFAULT")
                if dry_run
                else now.source.name
                if now
                else "UNKNOWN",
            }
        )
    if dry_run:
        say("the broker would accept this; nothing was changed")
    show_rows(output, rows, _ALTER_COLUMNS, none="")


async def _altered(
    client: Client, name: str, changes: Mapping[str, str | None]
) -> Mapping[str, ConfigEntry]:
    """Return the configs once they tell of changes.

    The brokers of a Kafka cluster learn of them a moment after the controller has acknowledged
    them. Who tells something else in the end, in other words for example, is believed.
    """
    deadline = trio.current_time() + _LEARN_SECONDS_MAX
    while True:
        found = await client.admin.topic_configs(name)
        is_told = all(
            key in found
            and (found[key].source is ConfigSource.TOPIC) == (text is not None)
            and text in {None, found[key].value}
            for key, text in changes.items()
        )
        if is_told or trio.current_time() > deadline:
            return found
        await trio.sleep(_LOOK_AGAIN_SECONDS)


async def add_partitions(
    client: Client,
    name: str,
    output: str,
    *,
    total: int | None,
    more: int | None,
    dry_run: bool,
) -> None:
    """Give a topic more partitions.

    Raises:
        RequestError: INVALID_PARTITIONS if it has as many already.
    """
    before = await client.admin.describe_topic(name)
    wanted = total if total is not None else len(before.partitions) + (more or 0)
    await client.admin.add_partitions(name, wanted, validate_only=dry_run)
    if dry_run:
        say("the broker would accept this; nothing was changed")
    if output == TABLE:
        does = "would have" if dry_run else "has"
        say(f"topic {name} {does} {wanted} partitions, before it had {len(before.partitions)}")
        return
    row = _listed(before) | {"partitions": wanted}
    fields = ("name", "topic_id", "partitions", "replication_factor")
    show_object(output, {field: row[field] for field in fields}, lambda: None)


# --------------------------------------------------------------------------------------- truncate
_TRUNCATE_COLUMNS = (
    Column("topic", "TOPIC"),
    Column("partition", "PARTITION", is_right=True),
    Column("start_offset_before", "START BEFORE", is_right=True),
    Column("start_offset", "START", is_right=True),
    Column("end_offset", "END", is_right=True),
    Column("deleted_records", "DELETED", is_right=True),
)


class Cut(NamedTuple):
    """What to delete; see the options of ``topic truncate``. Neither offset nor time: all."""

    name: str
    partitions: Sequence[int]
    before_offset: int | None
    before_time: Moment | None
    dry_run: bool


async def truncate(client: Client, cut: Cut, output: str, *, yes: bool) -> None:
    """Delete the oldest records of a topic.

    Raises:
        RequestError: there is no such partition, or the broker refuses.
    """
    topic = await client.admin.describe_topic(cut.name)
    check_partitions(topic, cut.partitions)
    places = [
        TopicPartition(cut.name, index)
        for index in (sorted(set(cut.partitions)) or sorted(topic.partitions))
    ]
    found = await extents(client, places)
    before = await _first_kept(client, cut, found)
    doomed = sum(before[place] - found[place].start for place in places)
    after = before
    if not cut.dry_run and doomed:
        confirm(
            f"Delete {counted(doomed, 'record')} of topic {cut.name}? This cannot be undone.",
            yes=yes,
        )
        wanted = {place: offset for place, offset in before.items() if offset > found[place].start}
        after = before | await client.admin.delete_records(wanted)
    rows = [
        {
            "topic": cut.name,
            "partition": place.partition,
            "start_offset_before": found[place].start,
            "start_offset": after[place],
            "end_offset": found[place].end,
            "deleted_records": after[place] - found[place].start,
        }
        for place in places
    ]
    if cut.dry_run:
        say("nothing was deleted")
    show_rows(output, rows, _TRUNCATE_COLUMNS, none="")


async def _first_kept(
    client: Client, cut: Cut, found: Mapping[TopicPartition, Extent]
) -> dict[TopicPartition, int]:
    """Return for each partition the first offset that stays."""
    if cut.before_time is not None:
        at_ms = cut.before_time.at_ms(now_ms())
        listed = await client.admin.list_offsets(dict.fromkeys(found, at_ms))
        # Without a record of that time or later, all there are now are older.
        wanted = {
            place: found[place].end if answer.offset < 0 else answer.offset
            for place, answer in listed.items()
        }
    elif cut.before_offset is not None:
        wanted = dict.fromkeys(found, cut.before_offset)
        beyond = [place for place, extent in found.items() if cut.before_offset > extent.end]
        if beyond:
            raise Failed(
                f"OFFSET_OUT_OF_RANGE: {beyond[0]} ends at {found[beyond[0]].end}; "
                "--everything deletes all there is"
            )
    else:
        wanted = {place: extent.end for place, extent in found.items()}
    return {place: max(offset, found[place].start) for place, offset in wanted.items()}


# ----------------------------------------------------------------------------------------- delete
async def delete(
    client: Client, names: Sequence[str], output: str, *, if_exists: bool, yes: bool
) -> None:
    """Delete topics, one after another, after a question about all of them.

    Raises:
        RequestError: there is no such topic; then none was deleted.
    """
    rows = []
    for name in dict.fromkeys(names):
        try:
            topic = await client.admin.describe_topic(name)
        except RequestError as error:
            if error.code != ErrorCode.UNKNOWN_TOPIC_OR_PARTITION or not if_exists:
                raise
            say(f"there is no topic {name}")
            continue
        found = await extents(client, led_places([topic]))
        records = sum(extent.records for extent in found.values())
        rows.append({"name": name, "partitions": len(topic.partitions), "records": records})
    if rows:
        listed = ", ".join(
            f"{row['name']} ({counted(int(str(row['records'])), 'record')})" for row in rows
        )
        confirm(f"Delete {listed}? This cannot be undone.", yes=yes)
    for row in rows:
        await client.admin.delete_topic(str(row["name"]))
        if output == TABLE:
            say(f"topic {row['name']} deleted")
    if output != TABLE:
        show_rows(output, rows, (), none="")
