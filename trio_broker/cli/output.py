"""Results on stdout: a table for people, JSON for programs. Everything else goes to stderr.

A result is a list of rows, or one object, of plain values whose names are in `shapes`. A table
shows a choice of them. On a terminal rich lays it out; elsewhere columns are padded with spaces and
never cut, so that `awk` and `cut` work.
"""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any, NamedTuple

from trio_broker.cli.options import JSON, TABLE

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")
_KIB = 1024
_ABSENT = "-"


def text_of(value: object) -> str:
    """Write a value for people."""
    if value is None:
        return _ABSENT
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return ",".join(str(item) for item in value) or _ABSENT
    return str(value)


def counted(count: int, what: str) -> str:
    """Write a number of things: ``1 record``, ``2 records``."""
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def size_text(size_bytes: object) -> str:
    """Write a number of bytes for people: ``1.5 MiB``."""
    if not isinstance(size_bytes, int):
        return _ABSENT
    size = float(size_bytes)
    for unit in _UNITS:
        if size < _KIB or unit == _UNITS[-1]:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= _KIB
    raise AssertionError("unreachable")


def seconds_text(seconds: object) -> str:
    """Write a time for people: ``12 s``, ``3 m 5 s``, ``2 h 10 m``, ``7 d 3 h``."""
    if not isinstance(seconds, int | float):
        return _ABSENT
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    parts: list[str] = []
    for size, unit in ((86_400, "d"), (3600, "h"), (60, "m"), (1, "s")):
        count, whole = divmod(whole, size)
        if count or parts:
            parts.append(f"{count} {unit}")
    return " ".join(parts[:2])


class Column(NamedTuple):
    """A column of a table.

    Attributes:
        field: name of the value in a row.
        heading: what stands above it.
        is_right: whether numbers stand in it.
        text: how a value is written.
    """

    field: str
    heading: str
    is_right: bool = False
    text: Callable[[object], str] = text_of


def show_rows(
    output: str, rows: Sequence[Mapping[str, Any]], columns: Sequence[Column], *, none: str
) -> None:
    """Write a list of rows in the form that was asked for.

    Args:
        output: table, json or jsonl.
        rows: values by field.
        columns: of the table; JSON has all fields.
        none: what a person is told, on stderr, if there are no rows.
    """
    if output == TABLE:
        if rows:
            print_table(columns, rows)
        else:
            print(none, file=sys.stderr)
    elif output == JSON:
        print(json.dumps(rows, indent=2, ensure_ascii=False))
    else:
        for row in rows:
            print(json.dumps(row, ensure_ascii=False))


def show_object(output: str, value: Mapping[str, Any], as_text: Callable[[], None]) -> None:
    """Write one object: as text for people, or as JSON."""
    if output == TABLE:
        as_text()
    else:
        print(json.dumps(value, indent=2 if output == JSON else None, ensure_ascii=False))


def indented(sentence: str) -> str:
    """Set a sentence in; on a terminal it is broken between words, elsewhere it stays one line."""
    if not sys.stdout.isatty():
        return f"  {sentence}"
    import shutil
    import textwrap

    width = shutil.get_terminal_size().columns
    return textwrap.fill(sentence, width, initial_indent="  ", subsequent_indent="    ")


def print_facts(facts: Sequence[tuple[str, str]]) -> None:
    """Print names and values below each other."""
    width = max(len(name) for name, _ in facts)
    for name, value in facts:
        print(f"{name:<{width}}  {value}")


def print_table(columns: Sequence[Column], rows: Sequence[Mapping[str, Any]]) -> None:
    """Print a table for people, or for programs that split lines."""
    cells = [[column.text(row[column.field]) for column in columns] for row in rows]
    if sys.stdout.isatty():
        _print_rich(columns, cells)
        return
    lines = [[column.heading for column in columns], *cells]
    widths = [max(len(line[index]) for line in lines) for index in range(len(columns))]
    for line in lines:
        padded = [
            cell.rjust(width) if column.is_right else cell.ljust(width)
            for cell, width, column in zip(line, widths, columns, strict=True)
        ]
        print("  ".join(padded).rstrip())


def _print_rich(columns: Sequence[Column], cells: Sequence[Sequence[str]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for column in columns:
        table.add_column(
            column.heading, justify="right" if column.is_right else "left", overflow="fold"
        )
    for line in cells:
        # As it is: a "[bold]" in somebody's client id is no markup.
        table.add_row(*map(Text, line))
    Console(highlight=False).print(table)


def say(message: str) -> None:
    """Tell a person something that is no result."""
    print(message, file=sys.stderr)
