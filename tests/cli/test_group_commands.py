"""`trio-broker group` against a real server."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, Any

from tests.cli.commands import PATIENCE_SECONDS, Commands, check_shape
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable


def consumed(commands: Commands, topic: str, group: str, count: int) -> None:
    """Let a group process some of ten records in partition 0."""
    lines = "".join(f"{number}\n" for number in range(10)).encode()
    commands.call("produce", topic, "-p", "0", given=lines)
    commands.call("consume", topic, "-G", group, "-n", str(count))


def only(rows: list[Any], **wanted: object) -> Any:
    """Return the one row with these values."""
    [row] = [row for row in rows if wanted.items() <= row.items()]
    return row


def test_lag_is_told_in_records_and_seconds(
    commands: Commands, new_topic: Callable[..., str]
) -> None:
    topic = new_topic(2)
    group = f"{topic}-readers"
    consumed(commands, topic, group, 4)
    value = commands.json("group", "describe", group)
    check_shape("group describe", value)
    assert (value["state"], value["members"], value["lag"]) == ("Empty", [], 6)
    row = only(value["offsets"], partition=0)
    assert (row["committed_offset"], row["end_offset"], row["lag"]) == (4, 10, 6)
    assert 0 <= row["lag_seconds"] == value["lag_seconds"] < 600
    text = commands.call("group", "describe", group).stdout
    assert "Lag          6 records" in text

    check_shape("group list", commands.json("group", "list"))
    rows = commands.json("group", "list", "--long", "--state", "empty")
    check_shape("group list --long", rows)
    assert only(rows, group=group)["lag"] == 6

    # What retention has taken is no lag any more, and people should know.
    commands.call("topic", "truncate", topic, "-p", "0", "--before-offset", "7", "-y")
    row = only(commands.json("group", "describe", group)["offsets"], partition=0)
    assert (row["lag"], row["lost_records"]) == (3, 3)
    assert (
        "3 records went before being processed" in commands.call("group", "describe", group).stderr
    )


def test_seek_moves_what_is_committed(commands: Commands, new_topic: Callable[..., str]) -> None:
    topic = new_topic()
    group = f"{topic}-readers"
    consumed(commands, topic, group, 5)

    def sought(*arguments: str) -> tuple[int, str | None]:
        rows = commands.json("group", "seek", group, *arguments)
        check_shape("group seek", rows)
        [row] = rows
        return row["new_offset"], row["note"]

    def committed() -> int:
        [row] = commands.json("group", "describe", group)["offsets"]
        return int(row["committed_offset"])

    assert sought("--to-beginning", "--dry-run") == (0, None)
    assert committed() == 5
    assert sought("--by", "-2", "-y") == (3, None)
    assert committed() == 3
    assert sought("--by", "-9", "-y") == (0, "-6 is before the beginning")
    assert sought("--to-offset", "99", "-y") == (10, "99 is behind the end")
    assert sought("--to-time", "1h", "-y") == (0, None)
    assert sought("--to-time", "2h", "--topic", f"{topic}:0", "-y") == (0, None)
    assert sought("--to-end", "-y") == (10, None)
    assert commands.call("consume", topic, "-G", group, "-e").stdout == ""
    asked = commands.call("group", "seek", group, "--to-beginning", code=2)
    assert "BEFORE" in asked.stdout  # the preview
    assert "give --yes" in asked.stderr
    commands.call("group", "seek", group, code=2)


def test_a_group_that_nobody_used_can_be_given_offsets(
    commands: Commands, new_topic: Callable[..., str]
) -> None:
    topic = new_topic(2)
    group = f"{topic}-readers"
    failed = commands.call("group", "seek", group, "--to-end", "-y", code=1)
    assert "GROUP_ID_NOT_FOUND" in failed.stderr
    commands.call("group", "seek", group, "--to-end", "-t", topic, "-y")
    assert len(commands.json("group", "describe", group)["offsets"]) == 2
    commands.call("group", "delete", group, "-y")
    assert "GROUP_ID_NOT_FOUND" in commands.call("group", "describe", group, code=1).stderr


def test_a_group_with_members_is_left_alone(
    commands: Commands, new_topic: Callable[..., str]
) -> None:
    topic = new_topic()
    group = f"{topic}-readers"
    consumed(commands, topic, group, 5)
    with commands.start("consume", topic, "-G", group, stdout=-3) as member:
        wait_until(
            lambda: commands.json("group", "describe", group)["members"],
            seconds=PATIENCE_SECONDS,
            what="the member to join",
        )
        value = commands.json("group", "describe", group)
        check_shape("group describe", value)
        assert only(value["offsets"], partition=0)["client_id"] == "trio-broker-cli"
        for arguments in (["seek", group, "--to-beginning", "-y"], ["delete", group, "-y"]):
            refused = commands.call("group", *arguments, code=1)
            assert "NON_EMPTY_GROUP" in refused.stderr
            assert "Stop its consumers first" in refused.stderr
        member.send_signal(signal.SIGINT)
        assert member.wait(PATIENCE_SECONDS) == 130
    # It has committed what it wrote, and left: nobody waits for its session to time out.
    value = commands.json("group", "describe", group)
    assert (value["members"], value["lag"]) == ([], 0)
    commands.call("group", "delete", group, "-y")
