"""``trio-broker group``: what each command is called with. What they do is in `group_calls`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from trio_broker.cli.options import (
    Moment,
    MomentType,
    TopicPartitions,
    client_options,
    output_option,
    yes_option,
)

if TYPE_CHECKING:
    from trio_broker.cli.options import Connect

STATES = ("Empty", "PreparingRebalance", "CompletingRebalance", "Stable", "Dead")


@click.group()
def group() -> None:
    """List, describe, move and delete groups of consumers."""


_GROUP = click.argument("name", metavar="GROUP")


@group.command("list")
@click.option(
    "-s",
    "--state",
    "states",
    type=click.Choice(STATES, case_sensitive=False),
    multiple=True,
    help="Only groups in this state; may be repeated.",
)
@click.option("-l", "--long", "is_long", is_flag=True, help="With members and lag.")
@output_option
@client_options
def list_(states: tuple[str, ...], *, is_long: bool, output: str, connect: Connect) -> None:
    """List groups."""
    from trio_broker.cli import group_calls
    from trio_broker.cli.running import run_client

    run_client(
        "group list",
        connect,
        lambda client: group_calls.list_groups(client, output, states=states, is_long=is_long),
    )


@group.command("describe")
@_GROUP
@output_option
@client_options
def describe(name: str, *, output: str, connect: Connect) -> None:
    """Show a group: members, committed offsets, and lag in records and seconds.

    Lag in seconds is the age of the oldest record that is not processed yet, by its own timestamp.
    """
    from trio_broker.cli import group_calls
    from trio_broker.cli.running import run_client

    run_client("group describe", connect, lambda client: group_calls.describe(client, name, output))


@group.command("seek")
@_GROUP
@click.option(
    "-t",
    "--topic",
    "topics",
    metavar="TOPIC[:PARTITIONS]",
    type=TopicPartitions(),
    multiple=True,
    help="What to move, such as orders or orders:0,3 (default: all that the group has committed).",
)
@click.option("--to-beginning", is_flag=True, help="To the oldest records there are.")
@click.option("--to-end", is_flag=True, help="Behind the newest record.")
@click.option("--to-offset", type=click.IntRange(min=0), help="To this offset.")
@click.option(
    "--to-time",
    type=MomentType(),
    help="To the first record of this time or later: milliseconds since 1970, "
    "2026-11-29T16:00:00Z, or 2h (ago).",
)
@click.option("--by", "shift", type=int, help="By so many records, negative: back.")
@click.option("--dry-run", is_flag=True, help="Only show what would happen.")
@yes_option
@output_option
@client_options
def seek(
    name: str,
    topics: tuple[tuple[str, tuple[int, ...]], ...],
    *,
    to_beginning: bool,
    to_end: bool,
    to_offset: int | None,
    to_time: Moment | None,
    shift: int | None,
    dry_run: bool,
    yes: bool,
    output: str,
    connect: Connect,
) -> None:
    """Commit other offsets for a group without members, so that it reads on elsewhere.

    Shows what will change, and asks. A group that nobody has used yet can be given offsets with
    --topic.
    """
    chosen = [
        *(["beginning"] if to_beginning else []),
        *(["end"] if to_end else []),
        *(["offset"] if to_offset is not None else []),
        *(["time"] if to_time is not None else []),
        *(["shift"] if shift is not None else []),
    ]
    if len(chosen) != 1:
        raise click.UsageError(
            "give one of --to-beginning, --to-end, --to-offset, --to-time and --by"
        )
    from trio_broker.cli import group_calls
    from trio_broker.cli.running import run_client

    target = group_calls.Target(chosen[0], to_offset, to_time, shift)
    run_client(
        "group seek",
        connect,
        lambda client: group_calls.seek(
            client, name, topics, target, output, dry_run=dry_run, yes=yes
        ),
    )


@group.command("delete")
@click.argument("names", metavar="GROUP...", nargs=-1, required=True)
@yes_option
@client_options
def delete(names: tuple[str, ...], *, yes: bool, connect: Connect) -> None:
    """Delete groups without members, with the offsets they have committed."""
    from trio_broker.cli import group_calls
    from trio_broker.cli.running import run_client

    run_client("group delete", connect, lambda client: group_calls.delete(client, names, yes=yes))
