"""Writes docs/reference/configuration.md from the code: ``python -m tests.cli.reference_page``."""

from __future__ import annotations

from itertools import groupby
from pathlib import Path

from trio_broker.config_catalog import BROKER_CONFIGS
from trio_broker.settings.page import limits_text
from trio_broker.settings.sources import ENVIRONMENT_OF_COMMANDS
from trio_broker.settings.table import OTHER_KAFKA_NAMES, Setting, sections, settings
from trio_broker.settings.values import plain_text

PAGE = Path(__file__).resolve().parents[2] / "docs" / "reference" / "configuration.md"

HEAD = """\
# Configuration

Written by `python -m tests.cli.reference_page` from `trio_broker/config.py`; a test compares. How
to use it: [configure a broker](../how-to/configure.md).

## Where values come from

Each source wins over those before it:

1. defaults; where those of `trio-broker serve` differ from those of an embedded broker, the tables
   name both
2. a TOML file: `trio-broker serve -c broker.toml`
3. the environment: `TRIO_BROKER_NETWORK__CONNECTIONS_MAX=100`, `__` between section and key
4. `-X key=value`; the last one of a key counts
5. the options `--data-dir`, `--listen`, `--advertise`, `--http` and `--http-token`

All of them are read and checked before anything is opened, and every mistake of all of them is
told, also in values that another source overrides. In Python a section is a class:
`BrokerConfig(network=NetworkConfig(connections_max=100))`; `load_config` reads the sources that it
is given and no others.

## How values are written

| Kind | In the file | Environment, `-X` |
|---|---|---|
| whole number, number | `10`, `1_000`, `0.5` | the same |
| duration (`_ms`, `_seconds`) | `"7d"`, `"1h30m"`, `"250ms"`, or a number | without quotes |
| size (`_bytes`) | `"64MiB"`, `"1 GiB"`, or a number | without quotes |
| yes or no | `true`, `false` | `true`, `yes`, `on`, `1`; `false`, `no`, `off`, `0` |
| text | `"data"` | `data` |
| list | `["127.0.0.1:9092", "[::1]:9092"]` | separated by commas |
| no value | `""` | nothing behind the `=` |

A plain number is in the unit of the key: milliseconds, seconds or bytes. Units of durations: `w`,
`d`, `h`, `m` or `min`, `s`, `ms`, or their names; the larger ones first. Units of sizes: `B`,
`KiB`, `MiB`, `GiB`, `TiB` (times 1024) and `kB`, `MB`, `GB`, `TB` (times 1000); `M` alone is
refused, because it is read in both ways. Nothing is converted silently: `"10"` is no number in the
file, and `10` is no text.

The keys under `topic` are the defaults of topics. Clients know them by Kafka's names, which may be
used here too (`topic.retention.ms`), and may set them for each topic:
[topic configs](topic-configs.md).
"""


def render() -> str:
    """Return the page."""
    lines = [HEAD]
    for section, members in groupby(settings().values(), lambda setting: setting.section):
        lines.append(f"## {section or 'Broker'}\n")
        if section:
            lines.append(f"{sections()[section]}\n")
        lines += [
            "| Key, environment | Default | Limits | Meaning | Kafka |",
            "|---|---|---|---|---|",
            *map(_row, members),
            "",
        ]
    lines += _other_variables()
    lines += _kafka_names()
    return "\n".join(lines)


def _row(setting: Setting) -> str:
    default = _code(plain_text(setting, setting.default))
    if setting.serve_default != setting.default:
        default += f"; `serve`: {_code(plain_text(setting, setting.serve_default))}"
    kafka = ", ".join(f"`{name}`" for name in setting.kafka_names)
    return (
        f"| `{setting.key}`<br>`{setting.environment_name}` | {default} | {limits_text(setting)} "
        f"| {setting.help} | {kafka} |"
    )


def _code(text: str) -> str:
    return f"`{text}`" if text else "none"


def _other_variables() -> list[str]:
    return [
        "## Other variables",
        "",
        (
            f"{', '.join(f'`{name}`' for name in sorted(ENVIRONMENT_OF_COMMANDS))} are options of "
            "commands; what"
        ),
        "Kubernetes sets for a service named `trio-broker` (`TRIO_BROKER_SERVICE_HOST`,",
        "`TRIO_BROKER_PORT=tcp://...`) is left alone. Every other variable that begins with",
        "`TRIO_BROKER_` and names no key is a mistake, since whoever set it expects something.",
        "",
    ]


def _kafka_names() -> list[str]:
    known = sorted(
        [(name, entry.key) for name, entry in BROKER_CONFIGS.items() if entry.key]
        + list(OTHER_KAFKA_NAMES.items())
    )
    fixed = [(name, entry) for name, entry in BROKER_CONFIGS.items() if not entry.key]
    return [
        "## Kafka's broker configs",
        "",
        "`trio-broker config import server.properties` translates these, and says of every other",
        "one why it has no effect.",
        "",
        "| Kafka | Here |",
        "|---|---|",
        *(f"| `{name}` | `{key}` |" for name, key in known),
        *(f"| `{name}` | cannot be set: {entry.documentation} |" for name, entry in fixed),
        "",
    ]


if __name__ == "__main__":
    PAGE.write_text(render(), "utf-8")
    print(f"wrote {PAGE}")
