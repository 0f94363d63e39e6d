"""``trio-broker topic``: what each command is called with. What they do is in `topic_calls`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from trio_broker.cli.options import (
    Assignment,
    Moment,
    MomentType,
    client_options,
    output_option,
    yes_option,
)

if TYPE_CHECKING:
    from trio_broker.cli.options import Connect


@click.group()
def topic() -> None:
    """Create, list, describe, change and delete topics."""


_TOPIC = click.argument("name", metavar="TOPIC")
_TOPICS = click.argument("names", metavar="TOPIC...", nargs=-1, required=True)
_DRY_RUN = click.option("--dry-run", is_flag=True, help="Only say whether it would work.")


@topic.command("create")
@_TOPICS
@click.option(
    "-p", "--partitions", type=click.IntRange(min=1), help="How many (default: the broker's)."
)
@click.option(
    "-r",
    "--replication-factor",
    type=click.IntRange(min=1, max=32767),
    help="How many brokers have each partition (default: the broker's).",
)
@click.option(
    "-c",
    "--config",
    "--set",  # as `alter` has it
    "configs",
    metavar="KEY=VALUE",
    type=Assignment(),
    multiple=True,
    help="Set a topic config, such as retention.ms=7d or retention.bytes=20GiB.",
)
@click.option("--if-not-exists", is_flag=True, help="Leave a topic that exists as it is.")
@_DRY_RUN
@output_option
@client_options
def create(
    names: tuple[str, ...],
    partitions: int | None,
    replication_factor: int | None,
    configs: tuple[tuple[str, str], ...],
    *,
    if_not_exists: bool,
    dry_run: bool,
    output: str,
    connect: Connect,
) -> None:
    """Create topics; when this is done, every partition can be written and read."""
    from trio_broker.cli import topic_calls
    from trio_broker.cli.running import run_client

    wanted = topic_calls.NewTopics(
        names, partitions, replication_factor, dict(configs), if_not_exists, dry_run
    )
    run_client("topic create", connect, lambda client: topic_calls.create(client, wanted, output))


@topic.command("list")
@click.option("--internal", is_flag=True, help="Also those in which brokers keep their records.")
@click.option("-l", "--long", "is_long", is_flag=True, help="With numbers of records and sizes.")
@output_option
@client_options
def list_(*, internal: bool, is_long: bool, output: str, connect: Connect) -> None:
    """List topics."""
    from trio_broker.cli import topic_calls
    from trio_broker.cli.running import run_client

    run_client(
        "topic list",
        connect,
        lambda client: topic_calls.list_topics(
            client, output, include_internal=internal, is_long=is_long
        ),
    )


@topic.command("describe")
@_TOPIC
@click.option("-a", "--all", "show_all", is_flag=True, help="All configs, with their meaning.")
@output_option
@client_options
def describe(name: str, *, show_all: bool, output: str, connect: Connect) -> None:
    """Show a topic: partitions, offsets, sizes, configs, and what retention deletes next."""
    from trio_broker.cli import topic_calls
    from trio_broker.cli.running import run_client

    run_client(
        "topic describe",
        connect,
        lambda client: topic_calls.describe(client, name, output, show_all=show_all),
    )


@topic.command("alter")
@_TOPIC
@click.option(
    "-s",
    "--set",
    "to_set",
    metavar="KEY=VALUE",
    type=Assignment(),
    multiple=True,
    help="Set a config, such as retention.ms=7d or retention.bytes=20GiB.",
)
@click.option(
    "-u",
    "--unset",
    "to_unset",
    metavar="KEY",
    multiple=True,
    help="Let a config have its default again.",
)
@_DRY_RUN
@output_option
@client_options
def alter(
    name: str,
    to_set: tuple[tuple[str, str], ...],
    to_unset: tuple[str, ...],
    *,
    dry_run: bool,
    output: str,
    connect: Connect,
) -> None:
    """Change configs of a topic, all of them or none; they count at once."""
    if not to_set and not to_unset:
        raise click.UsageError("nothing to change: give --set KEY=VALUE or --unset KEY")
    changes: dict[str, str | None] = dict(to_set)
    if both := sorted(changes.keys() & set(to_unset)):
        raise click.UsageError(f"{', '.join(both)}: either --set or --unset")
    changes |= dict.fromkeys(to_unset)
    from trio_broker.cli import topic_calls
    from trio_broker.cli.running import run_client

    run_client(
        "topic alter",
        connect,
        lambda client: topic_calls.alter(client, name, changes, output, dry_run=dry_run),
    )


@topic.command("add-partitions")
@_TOPIC
@click.option("--to", "total", type=click.IntRange(min=1), help="How many it has afterwards.")
@click.option("--by", "more", type=click.IntRange(min=1), help="How many more.")
@_DRY_RUN
@output_option
@client_options
def add_partitions(
    name: str,
    total: int | None,
    more: int | None,
    *,
    dry_run: bool,
    output: str,
    connect: Connect,
) -> None:
    """Give a topic more partitions.

    Records of a key may go to another partition from then on, so that their order is kept within
    the old and within the new one only.
    """
    if (total is None) == (more is None):
        raise click.UsageError("give either --to TOTAL or --by MORE")
    from trio_broker.cli import topic_calls
    from trio_broker.cli.running import run_client

    run_client(
        "topic add-partitions",
        connect,
        lambda client: topic_calls.add_partitions(
            client, name, output, total=total, more=more, dry_run=dry_run
        ),
    )


@topic.command("truncate")
@_TOPIC
@click.option(
    "-p", "--partition", "partitions", type=click.IntRange(min=0), multiple=True, help="Only these."
)
@click.option("--before-offset", type=click.IntRange(min=0), help="Delete what comes before it.")
@click.option(
    "--before-time",
    type=MomentType(),
    help="Delete what comes before the first record of this time: milliseconds since 1970, "
    "2026-11-29T16:00:00Z, or 2h ago.",
)
@click.option("--everything", is_flag=True, help="Delete every record there is.")
@click.option("--dry-run", is_flag=True, help="Only say what would be deleted.")
@yes_option
@output_option
@client_options
def truncate(
    name: str,
    partitions: tuple[int, ...],
    before_offset: int | None,
    before_time: Moment | None,
    *,
    everything: bool,
    dry_run: bool,
    yes: bool,
    output: str,
    connect: Connect,
) -> None:
    """Delete the oldest records of a topic (DeleteRecords). Offsets stay as they are."""
    if (before_offset is not None) + (before_time is not None) + everything != 1:
        raise click.UsageError("give one of --before-offset, --before-time and --everything")
    from trio_broker.cli import topic_calls
    from trio_broker.cli.running import run_client

    cut = topic_calls.Cut(name, partitions, before_offset, before_time, dry_run)
    run_client(
        "topic truncate",
        connect,
        lambda client: topic_calls.truncate(client, cut, output, yes=yes),
    )


@topic.command("delete")
@_TOPICS
@click.option("--if-exists", is_flag=True, help="A topic that is not there is no failure.")
@yes_option
@output_option
@client_options
def delete(
    names: tuple[str, ...], *, if_exists: bool, yes: bool, output: str, connect: Connect
) -> None:
    """Delete topics with everything in them; when this is done, they are gone."""
    from trio_broker.cli import topic_calls
    from trio_broker.cli.running import run_client

    run_client(
        "topic delete",
        connect,
        lambda client: topic_calls.delete(client, names, output, if_exists=if_exists, yes=yes),
    )
