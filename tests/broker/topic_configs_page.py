"""Writes docs/reference/topic-configs.md: ``python -m tests.broker.topic_configs_page``."""

from __future__ import annotations

from pathlib import Path

from trio_broker.config import BrokerConfig
from trio_broker.config_catalog import (
    BROKER_CONFIGS,
    REMOVED_TOPIC_CONFIGS,
    TOPIC_CONFIGS,
    Treatment,
)

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "reference" / "topic-configs.md"
#: Has one test for each config that is honoured, named after it.
TESTS = "tests/broker/test_admin_topic_configs.py"

_INTRODUCTION = """\
# Topic configs and broker configs

Written by `python -m tests.broker.topic_configs_page` from `trio_broker/config_catalog.py`; a test
compares.

Clients know the configuration of topics and brokers by Kafka's names. Every topic config of Apache
Kafka 4.0 to 4.3 is in one of the tables below, and nothing is accepted and then ignored.

- CreateTopics, AlterConfigs and IncrementalAlterConfigs take topic configs. A name that is not
  below and a value that cannot be are refused with INVALID_CONFIG (40) and a message that says
  why.
- DescribeConfigs lists all of them with where each value comes from: the topic, the broker's own
  configuration, or the default.
- An alteration is answered when it is on stable storage and holds: open logs and the next requests
  follow it, and retention looks at the topic anew.

## Honoured

Defaults of topics that say nothing are set in the broker's configuration, see
[configuration](configuration.md): `retention.ms` is `topic.retention_ms` there. Each config has a
test of its name in `{tests}`.

| Topic config | Type | Default | What it does | Test |
|---|---|---|---|---|
"""
_KEPT = """
## Kept

Stored and reported for tools that set them; there is nothing here that they could have an effect
on.

| Topic config | Type | Default | Why |
|---|---|---|---|
"""
_FIXED = """
## Only their default

Reported read-only. Setting one to the value that it has is accepted, so that scripts made for
Kafka go on working; any other value is refused.

| Topic config | Type | The value | Why there is no other |
|---|---|---|---|
"""
_REMOVED = """
## Gone since Kafka 4.0

| Topic config | Instead |
|---|---|
"""
_INTERNAL = """
## The broker's own topics

Of `__consumer_offsets` only `file.delete.delay.ms`, `segment.bytes` and `segment.ms` can be
altered: anything else could let go of committed offsets. Whoever creates it, its `retention.ms` and
`retention.bytes` are -1.

## Broker configs

What DescribeConfigs tells about a broker. All of it is read-only for clients: AlterConfigs answers
INVALID_CONFIG and says which setting of the [configuration](configuration.md) to change, for which
the broker has to be started again. The values are those of a broker with default settings.

| Broker config | Type | Value | Set by | What it does |
|---|---|---|---|---|
"""


def test_name(config: str) -> str:
    """Return the name of the test of an honoured config."""
    return "test_" + config.replace(".", "_")


def render() -> str:
    """Return the page."""
    tables: dict[Treatment, list[str]] = {treatment: [] for treatment in Treatment}
    for entry in TOPIC_CONFIGS.values():
        cells = [
            f"`{entry.name}`",
            entry.type.name.lower(),
            f"`{entry.default}`" if entry.default else "",
            entry.documentation,
        ]
        if entry.treatment is Treatment.HONOURED:
            cells.append(f"`{test_name(entry.name)}`")
        tables[entry.treatment].append(_row(cells))
    removed = [_row([f"`{name}`", why]) for name, why in REMOVED_TOPIC_CONFIGS.items()]
    page = [
        _INTRODUCTION.format(tests=TESTS),
        *tables[Treatment.HONOURED],
        _KEPT,
        *tables[Treatment.KEPT],
        _FIXED,
        *tables[Treatment.FIXED],
        _REMOVED,
        *removed,
        _INTERNAL,
    ]
    defaults = BrokerConfig()
    for broker_entry in BROKER_CONFIGS.values():
        page.append(
            _row(
                [
                    f"`{broker_entry.name}`",
                    broker_entry.type.name.lower(),
                    f"`{broker_entry.text(defaults)}`",
                    f"`{broker_entry.key}`" if broker_entry.key else "",
                    broker_entry.documentation,
                ]
            )
        )
    return "".join(page)


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |\n".replace("|  |", "| |")


if __name__ == "__main__":
    PAGE.write_text(render(), "utf-8")
    print(f"wrote {PAGE}")
