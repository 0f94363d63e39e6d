"""What the commands of ``trio-broker group`` do. Called by `group`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from trio_broker.cli.group_lag import extents_that_are, lag_row, lags
from trio_broker.cli.now import now_ms
from trio_broker.cli.options import TABLE, confirm
from trio_broker.cli.output import (
    Column,
    counted,
    print_facts,
    print_table,
    say,
    seconds_text,
    show_object,
    show_rows,
    text_of,
)
from trio_broker.cli.running import Failed
from trio_broker.cli.watermarks import check_partitions
from trio_broker.client.types import TopicPartition
from trio_broker.errors import ErrorCode, RequestError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from trio_broker.cli.options import Moment
    from trio_broker.cli.watermarks import Extent
    from trio_broker.client.admin_results import GroupDescription, GroupListing
    from trio_broker.client.client import Client
    from trio_broker.client.types import CommittedOffset

_LIST_COLUMNS = (
    Column("group", "GROUP"),
    Column("state", "STATE"),
    Column("protocol_type", "PROTOCOL"),
)
_LONG_LIST_COLUMNS = (
    *_LIST_COLUMNS,
    Column("members", "MEMBERS", is_right=True),
    Column("lag", "LAG", is_right=True),
)
_OFFSET_COLUMNS = (
    Column("topic", "TOPIC"),
    Column("partition", "PARTITION", is_right=True),
    Column("committed_offset", "COMMITTED", is_right=True),
    Column("end_offset", "END", is_right=True),
    Column("lag", "LAG", is_right=True),
    Column("lag_seconds", "BEHIND", is_right=True, text=seconds_text),
    Column("client_id", "CLIENT"),
    Column("client_host", "HOST"),
)
_MEMBER_COLUMNS = (
    Column("member_id", "MEMBER"),
    Column("client_id", "CLIENT"),
    Column("client_host", "HOST"),
    Column("partitions", "PARTITIONS"),
)
_SEEK_COLUMNS = (
    Column("topic", "TOPIC"),
    Column("partition", "PARTITION", is_right=True),
    Column("committed_offset", "BEFORE", is_right=True),
    Column("new_offset", "AFTER", is_right=True),
    Column("end_offset", "END", is_right=True),
    Column("lag", "LAG", is_right=True),
    Column("note", "NOTE"),
)
#: A group in one of these has nobody who could be disturbed.
_IDLE_STATES = frozenset({"Empty", "Dead"})


# ------------------------------------------------------------------------------------------- list
async def list_groups(client: Client, output: str, *, states: Sequence[str], is_long: bool) -> None:
    """List groups."""
    listed = await client.admin.list_groups(states=states)
    rows = [_listed(group) for group in listed]
    if is_long:
        for row in rows:
            row |= await _members_and_lag(client, row["group"])
    columns = _LONG_LIST_COLUMNS if is_long else _LIST_COLUMNS
    show_rows(output, rows, columns, none="there are no groups")


def _listed(group: GroupListing) -> dict[str, Any]:
    return {
        "group": group.group_id,
        "state": group.state or None,
        "protocol_type": group.protocol_type,
        "group_type": group.group_type or None,
    }


async def _members_and_lag(client: Client, group: str) -> dict[str, Any]:
    described = await client.admin.describe_group(group)
    committed = await client.admin.group_offsets(group)
    found = await extents_that_are(client, committed)
    behind = [
        max(0, extent.end - max(committed[place].offset, extent.start))
        for place, extent in found.items()
    ]
    return {"members": len(described.members), "lag": sum(behind) if behind else None}


# --------------------------------------------------------------------------------------- describe
async def describe(client: Client, group: str, output: str) -> None:
    """Show a group with its lag.

    Raises:
        RequestError: GROUP_ID_NOT_FOUND.
    """
    described = await client.admin.describe_group(group)
    committed = await client.admin.group_offsets(group)
    readers = {place: member for member in described.members for place in member.partitions}
    found = await lags(client, committed, [*committed, *readers])
    offsets = []
    for place, lag in found.items():
        reader = readers.get(place)
        offsets.append(
            {
                **lag_row(place, lag),
                "member_id": reader.member_id if reader else None,
                "client_id": reader.client_id if reader else None,
                "client_host": reader.client_host if reader else None,
            }
        )
    known_seconds = [lag.seconds for lag in found.values() if lag.seconds is not None]
    value = {
        "group": group,
        "state": described.state,
        "protocol_type": described.protocol_type,
        "assignor": described.assignor or None,
        "coordinator": described.coordinator,
        "lag": sum(lag.records or 0 for lag in found.values()),
        "lag_seconds": max(known_seconds, default=None),
        "members": _members(described),
        "offsets": offsets,
    }
    show_object(output, value, lambda: _print_description(value))


def _members(described: GroupDescription) -> list[dict[str, Any]]:
    return [
        {
            "member_id": member.member_id,
            "instance_id": member.instance_id,
            "client_id": member.client_id,
            "client_host": member.client_host,
            "partitions": [str(place) for place in sorted(member.partitions)],
        }
        for member in described.members
    ]


def _print_description(value: Mapping[str, Any]) -> None:
    print_facts(
        [
            ("Group", value["group"]),
            ("State", value["state"]),
            ("Assignor", text_of(value["assignor"])),
            ("Coordinator", f"broker {value['coordinator']}"),
            ("Members", str(len(value["members"]))),
            ("Lag", counted(value["lag"], "record")),
            ("Behind", seconds_text(value["lag_seconds"])),
        ]
    )
    if value["offsets"]:
        print()
        print_table(_OFFSET_COLUMNS, value["offsets"])
    lost = {
        f"{row['topic']}-{row['partition']}": row["lost_records"]
        for row in value["offsets"]
        if row["lost_records"]
    }
    for place, count in lost.items():
        say(f"{place}: {counted(count, 'record')} went before being processed")
    if value["members"]:
        print()
        print_table(_MEMBER_COLUMNS, value["members"])


# ------------------------------------------------------------------------------------------- seek
class Target(NamedTuple):
    """Where to; see the options of ``group seek``. `kind`: beginning, end, offset, time, shift."""

    kind: str
    offset: int | None
    moment: Moment | None
    shift: int | None


async def seek(
    client: Client,
    group: str,
    topics: Sequence[tuple[str, tuple[int, ...]]],
    target: Target,
    output: str,
    *,
    dry_run: bool,
    yes: bool,
) -> None:
    """Commit other offsets for a group, after a look at them.

    Raises:
        Failed: the group has members, or there is nothing to move.
        RequestError: there is no such topic or partition.
    """
    await _check_idle(client, group, is_new=bool(topics))
    committed = await client.admin.group_offsets(group)
    places = await _places(client, topics) if topics else sorted(committed)
    if not places:
        raise Failed(
            f"group {group!r} has committed nothing; --topic says which partitions to give it"
        )
    found = await extents_that_are(client, places)
    wanted = await _wanted(client, target, committed, found)
    rows = [
        _seek_row(place, committed.get(place), wanted[place], found[place])
        for place in places
        if place in found
    ]
    for gone in (place for place in places if place not in found):
        say(f"{gone} is gone, and stays as it is")
    if output == TABLE:
        show_rows(output, rows, _SEEK_COLUMNS, none="")
    changes = {
        TopicPartition(row["topic"], row["partition"]): row["new_offset"]
        for row in rows
        if row["new_offset"] != row["committed_offset"]
    }
    if dry_run or not changes:
        say("nothing was changed")
    else:
        confirm(f"Commit these offsets for group {group}?", yes=yes)
        try:
            await client.admin.alter_group_offsets(group, changes)
        except RequestError as error:
            if error.code == ErrorCode.UNKNOWN_MEMBER_ID:  # somebody has joined meanwhile
                raise RequestError(ErrorCode.NON_EMPTY_GROUP, f"group {group!r}") from error
            raise
        say(f"group {group}: {counted(len(changes), 'offset')} committed")
    if output != TABLE:
        show_rows(output, rows, (), none="")


async def _check_idle(client: Client, group: str, *, is_new: bool) -> None:
    try:
        described = await client.admin.describe_group(group)
    except RequestError as error:
        if error.code == ErrorCode.GROUP_ID_NOT_FOUND and is_new:
            return
        raise
    if described.state not in _IDLE_STATES or described.members:
        count = len(described.members)
        raise RequestError(
            ErrorCode.NON_EMPTY_GROUP,
            f"group {group!r} is {described.state} with {counted(count, 'member')}, who would go "
            "on where they are",
        )


async def _places(
    client: Client, topics: Sequence[tuple[str, tuple[int, ...]]]
) -> list[TopicPartition]:
    places = set()
    for name, indexes in topics:
        topic = await client.admin.describe_topic(name)
        check_partitions(topic, indexes)
        places |= {TopicPartition(name, index) for index in indexes or topic.partitions}
    return sorted(places)


async def _wanted(
    client: Client,
    target: Target,
    committed: Mapping[TopicPartition, CommittedOffset],
    found: Mapping[TopicPartition, Extent],
) -> dict[TopicPartition, int]:
    """Return what was asked for, which the log may not have."""
    if target.kind == "beginning":
        return {place: extent.start for place, extent in found.items()}
    if target.kind == "end":
        return {place: extent.end for place, extent in found.items()}
    if target.kind == "offset":
        assert target.offset is not None
        return dict.fromkeys(found, target.offset)
    if target.kind == "time":
        assert target.moment is not None
        listed = await client.admin.list_offsets(
            dict.fromkeys(found, target.moment.at_ms(now_ms()))
        )
        return {
            place: found[place].end if answer.offset < 0 else answer.offset
            for place, answer in listed.items()
        }
    assert target.shift is not None
    unknown = [place for place in found if place not in committed]
    if unknown:
        raise Failed(f"{unknown[0]}: --by moves committed offsets, and there is none")
    return {place: committed[place].offset + target.shift for place in found}


def _seek_row(
    place: TopicPartition, before: CommittedOffset | None, wanted: int, extent: Extent
) -> dict[str, Any]:
    new = min(max(wanted, extent.start), extent.end)
    note = None
    if new != wanted:
        note = f"{wanted} is {'before the beginning' if wanted < new else 'behind the end'}"
    return {
        "topic": place.topic,
        "partition": place.partition,
        "committed_offset": None if before is None else before.offset,
        "new_offset": new,
        "end_offset": extent.end,
        "lag": extent.end - new,
        "note": note,
    }


# ----------------------------------------------------------------------------------------- delete
async def delete(client: Client, groups: Sequence[str], *, yes: bool) -> None:
    """Delete groups, one after another, after a question about all of them.

    Raises:
        RequestError: NON_EMPTY_GROUP, GROUP_ID_NOT_FOUND; groups before it are gone.
    """
    names = list(dict.fromkeys(groups))
    for name in names:
        await client.admin.describe_group(name)
    confirm(f"Delete group {', '.join(names)} with its committed offsets?", yes=yes)
    for name in names:
        await client.admin.delete_group(name)
        say(f"group {name} deleted")
