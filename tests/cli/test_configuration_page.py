"""docs/reference/configuration.md is what the code says."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from tests.cli.reference_page import PAGE, render
from trio_broker.errors import ConfigError
from trio_broker.host.config_file import load_config
from trio_broker.settings.resolve import resolve
from trio_broker.settings.sources import read_environment, read_file
from trio_broker.settings.table import ENVIRONMENT_PREFIX

HOW_TO = Path(__file__).resolve().parents[2] / "docs" / "how-to"
CONFIGURE = (HOW_TO / "configure.md").read_text("utf-8")


def test_the_reference_page_is_up_to_date() -> None:
    assert PAGE.read_text("utf-8") == render(), "run: python -m tests.cli.reference_page"


def test_the_file_that_is_shown_is_right() -> None:
    [example] = re.findall(r"```toml\n(.*?)```", CONFIGURE, re.DOTALL)
    config = resolve([read_file("broker.toml", example.encode())], serve=True).config
    assert config.advertised == "broker.example.org:9092"
    assert config.topic.retention_bytes == 20 * 1024**3


def test_the_program_that_is_shown_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    [program] = re.findall(r"```python\n(.*?)```", CONFIGURE, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    for name in list(os.environ):
        if name.startswith(ENVIRONMENT_PREFIX):
            monkeypatch.delenv(name)
    exec(compile(program, "configure.md", "exec"), {})
    assert "broker.toml: there is no such file" in capsys.readouterr().out
    (tmp_path / "broker.toml").write_text("num_partitions = 6")
    names: dict[str, object] = {}
    exec(compile(program, "configure.md", "exec"), names)
    assert names["config"] == load_config(assignments=["num_partitions=6", "node_id=1"])


def test_the_messages_that_are_shown_are_what_one_gets() -> None:
    shown = re.findall(r"(?m)^    configuration: (.*)$", CONFIGURE)
    sources = [
        read_file("broker.toml", b"retension = 1\ntopic.retention_ms = '7 dayz'"),
        read_environment({"TRIO_BROKER_NODE_ID": "-4"}),
    ]
    with pytest.raises(ConfigError) as caught:
        resolve(sources)
    assert list(caught.value.faults) == shown


def test_settings_that_pages_mention_are_settings() -> None:
    """What the unit, the container and the pages set is accepted, and is what they need."""
    pages = [*HOW_TO.glob("*.md"), HOW_TO / "Containerfile", HOW_TO / "trio-broker.service"]
    variables: dict[str, str] = {}
    assignments = []
    for page in pages:
        text = page.read_text("utf-8")
        variables |= dict(re.findall(r"(TRIO_BROKER_\w+__\w+|TRIO_BROKER_NODE_ID)=([\w.]+)", text))
        assignments += re.findall(r"-X ([a-z_.]+=[^\s`]+)", text)
    assert len(variables) >= 2
    assert assignments
    load_config(environ=variables, assignments=assignments, serve=True)
