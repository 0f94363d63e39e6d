"""`trio-broker topic` against a real server."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from tests.cli.commands import Commands, check_shape

if TYPE_CHECKING:
    from collections.abc import Callable


def fill(commands: Commands, topic: str, count: int) -> None:
    lines = "".join(f"{number}\n" for number in range(count)).encode()
    commands.call("produce", topic, "-p", "0", given=lines)


def test_create_tells_people_on_stderr_and_programs_on_stdout(
    commands: Commands, new_name: Callable[[], str]
) -> None:
    made, too, this = (new_name() for _ in range(3))
    told = commands.call("topic", "create", made, "-p", "2", "-c", "retention.ms=3600000")
    assert (told.stdout, told.stderr) == ("", f"topic {made} created with 2 partitions\n")
    rows = commands.json("topic", "create", too, this, "-p", "1")
    check_shape("topic create", rows)
    assert [(row["name"], row["partitions"]) for row in rows] == [(too, 1), (this, 1)]
    configs = commands.json("topic", "describe", made)["configs"]
    assert ("retention.ms", "3600000", "TOPIC") in [
        (row["name"], row["value"], row["source"]) for row in configs
    ]


def test_what_is_refused_ends_with_1_and_kafka_s_name(
    commands: Commands, new_topic: Callable[..., str]
) -> None:
    topic = new_topic()
    for arguments, name in (
        (["topic", "create", topic], "TOPIC_ALREADY_EXISTS"),
        (["topic", "create", "a/b"], "INVALID_TOPIC_EXCEPTION"),
        (["topic", "create", "x", "--set", "retention.mss=1"], "INVALID_CONFIG"),
        (["topic", "create", "x", "-r", "3"], "INVALID_REPLICATION_FACTOR"),
        (["topic", "describe", "not-there"], "UNKNOWN_TOPIC_OR_PARTITION"),
        (["topic", "alter", topic, "-s", "cleanup.policy=shred"], "INVALID_CONFIG"),
        (["topic", "add-partitions", topic, "--to", "1"], "INVALID_PARTITIONS"),
        (["topic", "truncate", topic, "-p", "7", "--everything"], "UNKNOWN_TOPIC_OR_PARTITION"),
        (["topic", "truncate", topic, "--before-offset", "9"], "OFFSET_OUT_OF_RANGE"),
        (["topic", "delete", topic, "not-there", "-y"], "UNKNOWN_TOPIC_OR_PARTITION"),
    ):
        outcome = commands.call(*arguments, code=1)
        assert outcome.stdout == ""
        assert f"trio-broker {' '.join(arguments[:2])}: {name}: " in outcome.stderr
    assert topic in commands.call("topic", "list").stdout


def test_create_can_be_repeated_and_rehearsed(
    commands: Commands, new_topic: Callable[..., str]
) -> None:
    topic = new_topic(3)
    again = commands.json("topic", "create", topic, "-p", "5", "--if-not-exists")
    check_shape("topic create", again)
    assert again[0]["partitions"] == 3
    rehearsed = commands.call("topic", "create", "only-thought-of", "--dry-run")
    assert "would be created" in rehearsed.stderr
    assert "only-thought-of" not in commands.call("topic", "list").stdout


def test_list_shows_what_there_is(commands: Commands, new_topic: Callable[..., str]) -> None:
    topic = new_topic(2)
    fill(commands, topic, 5)
    rows = commands.json("topic", "list")
    check_shape("topic list", rows)
    assert all(not row["is_internal"] for row in rows)
    rows = commands.call("topic", "list", "--long", "-O", "jsonl").rows
    check_shape("topic list --long", rows)
    [row] = [row for row in rows if row["name"] == topic]
    assert (row["partitions"], row["records"]) == (2, 5)
    assert row["size_bytes"] > 0
    table = commands.call("topic", "list", "-l").stdout.splitlines()
    assert table[0].split() == ["TOPIC", "PARTITIONS", "REPLICAS", "RECORDS", "SIZE"]
    assert [topic, "2", "1", "5"] in [line.split()[:4] for line in table]


def test_describe_shows_offsets_sizes_configs_and_what_retention_does(
    commands: Commands, new_topic: Callable[..., str]
) -> None:
    topic = new_topic(2, "-c", "segment.bytes=1048576")
    fill(commands, topic, 4)
    value = commands.json("topic", "describe", topic)
    check_shape("topic describe", value)
    assert [(row["start_offset"], row["end_offset"]) for row in value["partitions"]] == [
        (0, 4),
        (0, 0),
    ]
    assert value["records"] == 4
    assert value["size_bytes"] == sum(row["size_bytes"] for row in value["partitions"])
    text = commands.call("topic", "describe", topic).stdout
    assert re.search(r"^segment.bytes +1048576 +TOPIC$", text, re.MULTILINE)
    assert "index.interval.bytes" not in text  # nobody has set it

    commands.only_ours()
    assert any("The next deletion because of age is due at" in one for one in value["retention"])
    assert any("Nothing was deleted" in one for one in value["retention"])

    assert "Retention\n" in text
    everything = commands.call("topic", "describe", topic, "--all").stdout
    assert "log bytes between two entries of the offset index" in everything


def test_alter_sets_and_unsets(commands: Commands, new_topic: Callable[..., str]) -> None:
    topic = new_topic(1, "-c", "retention.ms=1000000")
    rows = commands.json(
        "topic", "alter", topic, "-s", "segment.ms=60000", "-u", "retention.ms", "--dry-run"
    )
    check_shape("topic alter", rows)
    rows = commands.json("topic", "alter", topic, "-s", "segment.ms=60000", "-u", "retention.ms")
    check_shape("topic alter", rows)
    unset, changed = rows
    assert (unset["name"], unset["before"]) == ("retention.ms", "1000000")
    assert unset["source"] != "TOPIC"
    assert (changed["name"], changed["after"], changed["source"]) == (
        "segment.ms",
        "60000",
        "TOPIC",
    )
    for wrong in (["alter", topic], ["alter", topic, "-s", "a=1", "-u", "a"]):
        assert commands.call("topic", *wrong, code=2).stdout == ""
    commands.only_ours()
    assert (unset["after"], unset["source"]) == ("604800000", "DEFAULT")
    assert (
        "is it 'segment.ms'?"
        in commands.call("topic", "alter", topic, "-s", "segment.mss=1", code=1).stderr
    )


def test_durations_and_sizes_are_written_as_people_do(
    commands: Commands, new_topic: Callable[..., str]
) -> None:
    topic = new_topic(1, "-c", "retention.ms=1h30m")
    rows = commands.json(
        "topic", "alter", topic, "-s", "retention.ms=7d", "-s", "retention.bytes=20GiB"
    )
    assert [(row["before"], row["after"]) for row in rows] == [
        ("-1", "21474836480"),
        ("5400000", "604800000"),
    ]
    refused = commands.call("topic", "alter", topic, "-s", "retention.ms=7 dayz", code=1)
    assert "INVALID_CONFIG" in refused.stderr


def test_partitions_are_added(commands: Commands, new_topic: Callable[..., str]) -> None:
    topic = new_topic(2)
    value = commands.json("topic", "add-partitions", topic, "--by", "3")
    check_shape("topic add-partitions", value)
    assert value["partitions"] == 5
    assert "6 partitions" in commands.call("topic", "add-partitions", topic, "--to", "6").stderr
    commands.call("topic", "add-partitions", topic, code=2)


def test_truncate_deletes_the_oldest_records(
    commands: Commands, new_topic: Callable[..., str]
) -> None:
    topic = new_topic(2)
    fill(commands, topic, 10)
    rows = commands.json("topic", "truncate", topic, "--everything", "--dry-run")
    check_shape("topic truncate", rows)
    assert [row["deleted_records"] for row in rows] == [10, 0]
    rows = commands.json("topic", "truncate", topic, "-p", "0", "--before-offset", "4", "-y")
    assert [(row["partition"], row["start_offset"], row["deleted_records"]) for row in rows] == [
        (0, 4, 4)
    ]
    rows = commands.json("topic", "truncate", topic, "--before-time", "2000-01-01", "-y")
    assert [row["deleted_records"] for row in rows] == [0, 0]
    rows = commands.json("topic", "truncate", topic, "--everything", "-y")
    assert [row["deleted_records"] for row in rows] == [6, 0]
    assert commands.json("topic", "describe", topic)["records"] == 0


def test_what_destroys_asks_first(commands: Commands, new_topic: Callable[..., str]) -> None:
    topic = new_topic()
    fill(commands, topic, 3)
    for arguments in (["delete", topic], ["truncate", topic, "--everything"]):
        refused = commands.call("topic", *arguments, code=2)
        assert "Nobody is there to be asked: give --yes." in refused.stderr
    assert commands.json("topic", "describe", topic)["records"] == 3
    rows = commands.json("topic", "delete", topic, "-y")
    check_shape("topic delete", rows)
    assert rows == [{"name": topic, "partitions": 1, "records": 3}]
    assert (
        "there is no topic" in commands.call("topic", "delete", topic, "-y", "--if-exists").stderr
    )
