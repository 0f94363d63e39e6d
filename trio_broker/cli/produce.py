"""``trio-broker produce``: what it is called with. What it does is in `produce_records`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from trio_broker.cli.options import Assignment, client_options

if TYPE_CHECKING:
    from trio_broker.cli.options import Connect

CODECS = ("none", "gzip", "snappy", "lz4", "zstd")


@click.command()
@click.argument("topic")
@click.argument("files", metavar="[FILE]...", nargs=-1, type=click.Path(allow_dash=True))
@click.option("-k", "--key", metavar="TEXT", help="Key of every record.")
@click.option("-K", "--key-delimiter", metavar="TEXT", help="What ends the key in each line.")
@click.option(
    "-D",
    "--delimiter",
    metavar="TEXT",
    default=r"\n",
    show_default=True,
    help="What ends a record.",
)
@click.option("-J", "--json", "as_json", is_flag=True, help="Each line is a JSON object.")
@click.option(
    "-H",
    "--header",
    "headers",
    metavar="NAME=VALUE",
    type=Assignment(),
    multiple=True,
    help="Header of every record; may be repeated.",
)
@click.option("-p", "--partition", type=click.IntRange(min=0), help="Where all of them go.")
@click.option(
    "--keep-partitions",
    is_flag=True,
    help="With --json: a record goes where its field 'partition' says, not where its key leads.",
)
@click.option("-Z", "--null", "empty_is_null", is_flag=True, help="An empty value is null.")
@click.option("--whole", is_flag=True, help="Each FILE is one record.")
@click.option("-z", "--compression", type=click.Choice(CODECS), default="none", show_default=True)
@click.option(
    "-a",
    "--acks",
    type=click.Choice(["all", "1", "0"]),
    default="all",
    show_default=True,
    help="Who must have a record before it counts: all in-sync replicas, the leader, nobody.",
)
@click.option("-n", "-c", "--count", type=click.IntRange(min=0), help="Stop after so many records.")
@click.option(
    "--record-bytes-max",
    type=click.IntRange(min=1, max=100 * 1024 * 1024),
    default=1024 * 1024,
    show_default=True,
    help="Largest record, before compression.",
)
@click.option("-v", "--verbose", is_flag=True, help="Say how many were sent, even in a script.")
@client_options
def produce(
    topic: str,
    files: tuple[str, ...],
    *,
    key: str | None,
    key_delimiter: str | None,
    delimiter: str,
    as_json: bool,
    headers: tuple[tuple[str, str], ...],
    partition: int | None,
    keep_partitions: bool,
    empty_is_null: bool,
    whole: bool,
    compression: str,
    acks: str,
    count: int | None,
    record_bytes_max: int,
    verbose: bool,
    connect: Connect,
) -> None:
    """Send each line of stdin, or of files, as a record.

    Ends with 0 when everything is acknowledged. At the first record that is refused it stops
    reading, and names the line.

    \b
    echo hello | trio-broker produce greetings
    printf 'a:1\\nb:2\\n' | trio-broker produce orders -K :
    trio-broker produce pictures --whole --key cat cat.png
    echo '{"key": "a", "value": {"base64": "AP8="}}' | trio-broker produce orders --json
    """  # noqa: D301 - for click a \\b keeps lines as they are
    if as_json and (
        key is not None or key_delimiter is not None or whole or empty_is_null or headers
    ):
        raise click.UsageError(
            "--json goes with none of --key, --key-delimiter, --header, --null and --whole: "
            "the objects say it all"
        )
    if key is not None and key_delimiter is not None:
        raise click.UsageError("give either --key or --key-delimiter")
    if keep_partitions and (not as_json or partition is not None):
        raise click.UsageError("--keep-partitions goes with --json, and without --partition")
    if whole and (not files or key_delimiter is not None):
        raise click.UsageError("--whole needs FILEs, and goes without --key-delimiter")
    from trio_broker.cli import produce_records
    from trio_broker.cli.running import run_interruptible

    try:
        records = produce_records.Reading(
            files=tuple(None if name == "-" else name for name in files) or (None,),
            delimiter=None if whole else produce_records.delimiter_of(delimiter),
            key_delimiter=(
                None if key_delimiter is None else produce_records.delimiter_of(key_delimiter)
            ),
            as_json=as_json,
            key=None if key is None else key.encode(),
            headers=tuple((name, value.encode()) for name, value in headers),
            partition=partition,
            keeps_partitions=keep_partitions,
            empty_is_null=empty_is_null,
            records_max=count,
            record_bytes_max=record_bytes_max,
        )
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    sending = produce_records.Sending(topic, compression, acks, verbose, connect.timeout_seconds)
    run_interruptible(
        "produce",
        connect,
        lambda client, interruption: produce_records.produce(
            client, interruption, records, sending
        ),
    )
