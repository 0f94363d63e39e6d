"""Writes docs/reference/configuration.md from the code: ``python -m tests.cli.reference_page``."""

from __future__ import annotations

from pathlib import Path

from trio_broker.cli.configuration import describe_settings

PAGE = Path(__file__).resolve().parents[2] / "docs" / "reference" / "configuration.md"

HEAD = """\
# Configuration

Written by `python -m tests.cli.reference_page` from `trio_broker/config.py`; a test compares.

On the command line `-X key=value` sets a value; in Python the part before the dot is a class:
`BrokerConfig(network=NetworkConfig(connections_max=100))`. Lists are separated by commas.
The keys under `topic` are the defaults of topics; clients know them by Kafka's names, with dots
for underscores (`retention.ms`), and may set them for each topic.
"""


def render() -> str:
    """Return the page."""
    lines = [HEAD]
    section = None
    for key, default, text in describe_settings():
        name = key.rpartition(".")[0]
        if name != section:
            section = name
            lines.append(
                f"\n## {section or 'broker'}\n\n| Key | Default | Meaning |\n|---|---|---|"
            )
        shown = f"`{default}`" if default else ""
        lines.append(f"| `{key}` | {shown} | {text} |")
    return "\n".join(lines).replace("\n\n\n", "\n\n") + "\n"


if __name__ == "__main__":
    PAGE.write_text(render(), "utf-8")
    print(f"wrote {PAGE}")
