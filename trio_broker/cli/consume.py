"""``trio-broker consume``: what it is called with. What it does is in `consume_records`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import click

from trio_broker.cli.options import Moment, client_options, parse_moment

if TYPE_CHECKING:
    from trio_broker.cli.options import Connect

_BEGINNINGS = frozenset({"beginning", "earliest", "start"})
_ENDS = frozenset({"end", "latest"})


class Place(NamedTuple):
    """Where to begin or to end.

    Attributes:
        offset: from the beginning, or, if negative, from the end; None: see `moment`.
        moment: the first record of this time or later; None: with no offset either, the end.
        is_stop: whether reading ends there instead.
    """

    offset: int | None = None
    moment: Moment | None = None
    is_stop: bool = False


class PlaceType(click.ParamType):  # type: ignore[type-arg]  # since click 8.2
    """beginning, end, N, -N, s@TIME, e@TIME: as kcat has them."""

    name = "offset"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> Place:
        """Return the place."""
        if isinstance(value, Place):
            return value
        text = str(value).strip()
        if text in _BEGINNINGS:
            return Place(0)
        if text in _ENDS:
            return Place()
        if text[:2] in {"s@", "e@"}:
            try:
                return Place(None, parse_moment(text[2:]), is_stop=text[0] == "e")
            except ValueError as error:
                self.fail(str(error), param, ctx)
        try:
            return Place(int(text))
        except ValueError:
            self.fail(
                f"{text!r} is none of beginning, end, N, -N (N records before the end), s@TIME "
                "and e@TIME",
                param,
                ctx,
            )


@click.command()
@click.argument("topics", metavar="TOPIC...", nargs=-1, required=True)
@click.option(
    "-p", "--partition", "partitions", type=click.IntRange(min=0), multiple=True, help="Only these."
)
@click.option(
    "-o",
    "--offset",
    "places",
    type=PlaceType(),
    multiple=True,
    help="Where to begin: beginning (the default), end, N, -N (N before the end), s@TIME; "
    "e@TIME: where to stop. TIME is milliseconds since 1970, 2026-11-29T16:00:00Z, or 2h (ago). "
    "With --group: where partitions without a committed offset begin, beginning or end.",
)
@click.option("-e", "--exit", "stops_at_end", is_flag=True, help="Stop at the end as it is now.")
@click.option(
    "-n",
    "-c",
    "--count",
    type=click.IntRange(min=0),
    help="Stop after so many records.",
)
@click.option(
    "-f",
    "--format",
    "template",
    metavar="FORMAT",
    help=r"How to write a record: %t topic, %p partition, %o offset, %k key, %s value, %h headers, "
    r"%T timestamp, %K and %S sizes, %R size as int32, %% \n \t \r \0 \xNN.",
)
@click.option("-J", "--json", "as_json", is_flag=True, help="Write one JSON object a record.")
@click.option("-K", "--key-delimiter", metavar="TEXT", help="Write keys too, followed by this.")
@click.option(
    "-D",
    "--delimiter",
    metavar="TEXT",
    default=r"\n",
    show_default=True,
    help="What follows each record.",
)
@click.option("-G", "--group", help="Be a member of this group, and commit what was written.")
@click.option(
    "--isolation",
    type=click.Choice(["committed", "uncommitted"]),
    default="committed",
    show_default=True,
    help="Whether records of open and aborted transactions are shown.",
)
@client_options
def consume(
    topics: tuple[str, ...],
    partitions: tuple[int, ...],
    places: tuple[Place, ...],
    *,
    stops_at_end: bool,
    count: int | None,
    template: str | None,
    as_json: bool,
    key_delimiter: str | None,
    delimiter: str,
    group: str | None,
    isolation: str,
    connect: Connect,
) -> None:
    """Write records to stdout, a line each, and wait for more.

    \b
    trio-broker consume orders -e                    # everything there is now
    trio-broker consume orders -o -10 -e             # the last ten of each partition
    trio-broker consume orders -o s@1h -f '%T %k %s\\n'
    trio-broker consume orders -G billing            # go on where the group left off
    trio-broker consume orders -e --json | trio-broker produce copy --json
    """  # noqa: D301 - for click a \\b keeps lines as they are
    starts = [place for place in places if not place.is_stop]
    stops = [place for place in places if place.is_stop]
    if len(starts) > 1 or len(stops) > 1:
        raise click.UsageError("--offset: one place to begin and one (e@TIME) to stop")
    if as_json and (template is not None or key_delimiter is not None):
        raise click.UsageError("--json goes with neither --format nor --key-delimiter")
    if group is not None:
        if partitions or stops:
            raise click.UsageError(
                "--group: the group says which partitions are read, and there is no e@TIME"
            )
        if starts and starts[0] not in {Place(0), Place()}:
            raise click.UsageError("--group: --offset may be beginning or end")
    from trio_broker.cli import consume_records
    from trio_broker.cli.running import run_client

    try:
        write = consume_records.writer_for(
            template=template,
            as_json=as_json,
            key_delimiter=key_delimiter,
            delimiter=delimiter,
        )
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    wanted = consume_records.Wanted(
        topics=tuple(dict.fromkeys(topics)),
        partitions=tuple(sorted(set(partitions))),
        start=starts[0] if starts else Place(0),
        stop=stops[0].moment if stops else None,
        stops_at_end=stops_at_end,
        records_max=count,
        isolation=f"read_{isolation}",
        group=group,
        timeout_seconds=connect.timeout_seconds,
    )
    run_client("consume", connect, lambda client: consume_records.consume(client, wanted, write))
