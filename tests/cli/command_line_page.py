"""Writes the lower part of docs/reference/command-line.md from the code.

``python -m tests.cli.command_line_page``

From the declarations of the commands, the fields of their JSON, and the letters of formats.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import click

from trio_broker.cli import exits, shapes
from trio_broker.cli.commands import command_line
from trio_broker.cli.record_text import FIELDS
from trio_broker.cli.shapes import Fields

PAGE = Path(__file__).resolve().parents[2] / "docs" / "reference" / "command-line.md"
MARK = "<!-- Below: written by python -m tests.cli.command_line_page -->\n"

#: Options that every command has that talks to a broker.
OF_CLIENTS = {"bootstrap", "timeout_seconds"}

#: What is told of each exit code, in order.
EXIT_CODES = {
    exits.EXIT_DONE: "done",
    exits.EXIT_FAILED: "failed; stderr has the reason, beginning with Kafka's name for it",
    exits.EXIT_USAGE: "the arguments or the configuration make no sense; nothing was done",
    exits.EXIT_UNREACHABLE: "no broker answers, or the cluster is not healthy",
    exits.EXIT_INTERRUPTED: "SIGINT",
    exits.EXIT_BROKEN_PIPE: "whoever read stdout has gone",
    exits.EXIT_TERMINATED: "SIGTERM",
}


def render() -> str:
    """Return everything below the mark."""
    lines = [
        "",
        "## Exit codes of everything but `serve`",
        "",
        "| Exit code | Meaning |",
        "|---|---|",
        *(f"| {code} | {meaning} |" for code, meaning in EXIT_CODES.items()),
        "",
        "## All commands",
        "",
        "Options of clients:",
        "",
        "| Option | Meaning |",
        "|---|---|",
        *(
            _option(one)
            for one in command_line.commands["consume"].params
            if one.name in OF_CLIENTS
        ),
    ]
    for words, command in _commands(command_line, ()):
        lines += ["", *_section(words, command)]
        while not lines[-1]:
            lines.pop()
    lines += ["", "## JSON", "", JSON_HEAD]
    for name, fields in shapes.BY_COMMAND.items():
        lines += ["", f"### `{name}`", "", "| Field | Meaning |", "|---|---|", *_fields("", fields)]
    lines += ["", "## Formats of `consume -f`", "", "| | |", "|---|---|"]
    lines += [f"| `%{letter}` | {meaning} |" for letter, (meaning, _) in FIELDS.items()]
    lines += [r"| `%%` | a percent sign |", r"| `\n \t \r \0 \e \\ \xNN` | that byte |", ""]
    return "\n".join(lines)


JSON_HEAD = """\
`-O json` writes one document, `-O jsonl` one line for each row of a list (or one line for a single
object). Fields are added, and never renamed or removed within a major version. A dot leads into
the objects of a list."""


def _commands(
    command: click.Command, words: tuple[str, ...]
) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    if not isinstance(command, click.Group):
        yield words, command
        return
    for name, below in sorted(command.commands.items()):
        yield from _commands(below, (*words, name))


def _section(words: tuple[str, ...], command: click.Command) -> Iterator[str]:
    context = click.Context(command, info_name=" ".join(("trio-broker", *words)))
    usage = " ".join(command.collect_usage_pieces(context))
    yield f"### `{' '.join(words)}`"
    yield ""
    yield f"    trio-broker {' '.join(words)} {usage}"
    yield ""
    yield from _help(command.help or "")
    options = [one for one in command.params if isinstance(one, click.Option) and not one.hidden]
    if any(one.name in OF_CLIENTS for one in options):
        yield "Options of clients, and:"
        yield ""
    options = [one for one in options if one.name not in OF_CLIENTS]
    if options:
        yield "| Option | Meaning |"
        yield "|---|---|"
        yield from map(_option, options)


def _help(text: str) -> Iterator[str]:
    """Turn help as click shows it into Markdown: examples keep their lines."""
    for paragraph in re.split(r"\n\s*\n", text.strip()):
        if paragraph.lstrip().startswith("\b"):
            lines = [line.strip() for line in paragraph.replace("\b", "").strip().splitlines()]
            yield from (f"    {line}" for line in lines)
        else:
            yield " ".join(paragraph.split())
        yield ""


def _option(option: click.Option) -> str:
    names = ", ".join(option.opts)
    if not option.is_flag:
        names += f" {_placeholder(option)}"
    parts = [" ".join((option.help or "").split())]
    if option.show_default and option.default is not None and not option.is_flag:
        parts.append(f"Default: `{option.default}`.")
    if option.envvar and option.show_envvar:
        parts.append(f"Environment: `{option.envvar}`.")
    cells = [f"`{names}`", " ".join(filter(None, parts))]
    return "| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |"


def _placeholder(option: click.Option) -> str:
    """Say what is to be written behind an option."""
    if option.metavar:
        return option.metavar
    if isinstance(option.type, click.Choice):
        return "|".join(map(str, option.type.choices))
    return {"integer range": "N", "integer": "N", "float range": "N"}.get(
        option.type.name, option.type.name.upper()
    )


def _fields(before: str, fields: Fields) -> Iterator[str]:
    for name, meaning in fields.items():
        if isinstance(meaning, dict):
            yield f"| `{before}{name}` | a list of objects |"
            yield from _fields(f"{before}{name}.", meaning)
        else:
            yield f"| `{before}{name}` | {meaning.replace('|', chr(92) + '|')} |"


def written() -> str:
    """Return the page as it is, below the mark."""
    return PAGE.read_text("utf-8").partition(MARK)[2]


if __name__ == "__main__":
    page = PAGE.read_text("utf-8")
    PAGE.write_text(page.partition(MARK)[0] + MARK + render(), "utf-8")
    print(f"wrote {PAGE}")
