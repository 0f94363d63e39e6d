"""``trio-broker cluster``: what each command is called with. What they do is in `cluster_calls`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from trio_broker.cli.options import client_options, output_option

if TYPE_CHECKING:
    from trio_broker.cli.options import Connect


@click.group()
def cluster() -> None:
    """Look at the brokers."""


@cluster.command("info")
@output_option
@client_options
def info(*, output: str, connect: Connect) -> None:
    """Show the brokers, their log dirs, and how much there is."""
    from trio_broker.cli import cluster_calls
    from trio_broker.cli.running import run_client

    run_client("cluster info", connect, lambda client: cluster_calls.info(client, output))


@cluster.command("health")
@click.option("--wait", is_flag=True, help="Wait until all is well, at most --timeout seconds.")
@output_option
@client_options
def health(*, wait: bool, output: str, connect: Connect) -> None:
    """Say whether every partition is served; exit code 0 if so, 4 if not or if nobody answers.

    With --wait it is what a script does after it has started a broker.
    """
    from trio_broker.cli import cluster_calls
    from trio_broker.cli.running import START_SECONDS_MAX, run_client

    run_client(
        "cluster health",
        connect,
        lambda client: cluster_calls.health(
            client, output, wait_seconds=connect.timeout_seconds if wait else 0
        ),
        find_seconds_max=connect.timeout_seconds if wait else START_SECONDS_MAX,
    )
