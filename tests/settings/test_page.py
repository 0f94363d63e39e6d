"""A configuration as TOML: it reads back as the same, and nothing secret is in it."""

from __future__ import annotations

import re
import tomllib

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.settings.configs import configs, values_of
from trio_broker.config import BrokerConfig, HttpConfig
from trio_broker.host.config_file import load, load_config
from trio_broker.settings import table
from trio_broker.settings.page import show_page, template_page
from trio_broker.settings.resolve import Resolved, resolve
from trio_broker.settings.sources import (
    DEFAULT,
    Origin,
    SourceKind,
    read_assignments,
    read_environment,
    read_file,
)
from trio_broker.settings.table import Setting
from trio_broker.settings.values import plain_text, read_value, toml_text, toml_value

ALL = list(table.settings().values())
TOKEN = "a-token-of-some-length"


def as_resolved(config: BrokerConfig) -> Resolved:
    origin = Origin(SourceKind.FILE, "broker.toml")
    return Resolved(config, {setting.key: origin for setting in ALL})


def read_back(page: str) -> BrokerConfig:
    return resolve([read_file("page", page.encode())]).config


@settings(deadline=None, max_examples=60)
@given(configs(), st.booleans())
def test_what_is_shown_reads_back_as_the_same(config: BrokerConfig, with_sources: bool) -> None:
    page = show_page(as_resolved(config), effective=True, with_sources=with_sources)
    without_secret = attrs.evolve(config.http, token=None, listen=None)
    if config.http.token is not None:
        assert config.http.token not in page
        # Without its secret it may be one that no broker would start with.
        page = re.sub(r'(?m)^listen = ".*"', 'listen = ""', page)
        config = attrs.evolve(config, http=without_secret)
    assert read_back(page) == config


@settings(deadline=None, max_examples=200)
@given(
    st.sampled_from(ALL).flatmap(lambda setting: st.tuples(st.just(setting), values_of(setting)))
)
def test_each_value_reads_back_from_toml_and_from_text(drawn: tuple[Setting, object]) -> None:
    setting, value = drawn
    raw = tomllib.loads(f"x = {toml_value(setting, value)}")["x"]
    assert read_value(setting, raw, is_text=False) == value
    in_parts = isinstance(value, tuple)
    if in_parts and any("," in part or part != part.strip() for part in value):
        return  # a comma in a name can be said in a file only
    if isinstance(value, str) and value != value.strip():
        return
    assert read_value(setting, plain_text(setting, value), is_text=True) == value


@given(st.text(st.characters(codec="utf-8")))
def test_any_text_can_be_written(text: str) -> None:
    assert tomllib.loads(f"x = {toml_text(text)}") == {"x": text}


def test_only_what_was_set_is_shown(tmp_path) -> None:
    path = tmp_path / "broker.toml"
    path.write_text('[topic]\nretention.ms = "36h"\n')
    resolved = load(
        path,
        environ={"TRIO_BROKER_NODE_ID": "3"},
        assignments=["num_partitions=6"],
        serve=True,
    )
    page = show_page(resolved, effective=False, with_sources=True)
    assert page == (
        "node_id = 3  # TRIO_BROKER_NODE_ID\n"
        "num_partitions = 6  # -X\n"
        "\n[topic]\n"
        f'retention_ms = "1d12h"  # {path}\n'
    )
    everything = show_page(resolved, effective=True, with_sources=True)
    assert len(re.findall(r"(?m)^\w+ = ", everything)) == len(ALL)
    assert "connections_max = 10000  # default" in everything
    assert "ballast_bytes = -1  # default of serve" in everything


def test_nothing_set_is_an_empty_page_that_says_so() -> None:
    page = show_page(load(serve=True), effective=False, with_sources=False)
    assert page == "# Nothing was set; --effective shows the defaults.\n"


@pytest.mark.parametrize("with_sources", [False, True])
def test_a_secret_is_not_shown(with_sources: bool) -> None:
    resolved = load(environ={"TRIO_BROKER_HTTP__TOKEN": TOKEN}, serve=True)
    page = show_page(resolved, effective=True, with_sources=with_sources)
    assert TOKEN not in page
    assert '# token = "..."  # ' in page
    assert resolved.config.http.token == TOKEN
    assert TOKEN not in repr(resolved.config)
    assert read_back(page) == attrs.evolve(
        resolved.config, http=attrs.evolve(resolved.config.http, token=None)
    )


def test_the_template_changes_nothing_and_has_everything(tmp_path) -> None:
    page = template_page()
    assert resolve([read_file("page", page.encode())], serve=True).config == load_config(serve=True)
    filled = re.sub(r"(?m)^#(?=\w)", "", page)
    source = read_file("page", filled.encode())
    assert not source.faults
    assert [entry.key for entry in source.entries] == [setting.key for setting in ALL]
    assert resolve([source]).config == load_config(serve=True)
    for setting in ALL:
        for name in setting.kafka_names:
            assert name in page
    assert all(len(line) <= 100 for line in page.splitlines())


@pytest.mark.parametrize("setting", ALL, ids=lambda setting: setting.key)
def test_every_default_can_be_written_in_each_source(setting: Setting) -> None:
    text = plain_text(setting, setting.default)
    for source in (
        read_assignments([f"{setting.key}={text}"]),
        read_environment({setting.environment_name: text}),
        read_file("f", f"{setting.key} = {toml_value(setting, setting.default)}".encode()),
    ):
        resolved = resolve([source])
        assert resolved.config == BrokerConfig()
        assert [key for key, origin in resolved.origins.items() if origin != DEFAULT] == [
            setting.key
        ]


def test_the_classes_know_what_is_secret() -> None:
    assert [setting.key for setting in ALL if setting.secret] == ["http.token"]
    assert "token" not in repr(HttpConfig(token=TOKEN))
