"""The page about topic configs says what is true, and names tests that exist."""

from __future__ import annotations

import ast

from tests.broker import topic_configs_page
from trio_broker.config_catalog import TOPIC_CONFIGS, Treatment


def test_page_is_up_to_date() -> None:
    assert topic_configs_page.PAGE.read_text("utf-8") == topic_configs_page.render(), (
        "write it again: python -m tests.broker.topic_configs_page"
    )


def test_every_config_that_is_honoured_has_its_test() -> None:
    source = (topic_configs_page.ROOT / topic_configs_page.TESTS).read_text("utf-8")
    tests = {node.name for node in ast.parse(source).body if isinstance(node, ast.AsyncFunctionDef)}
    honoured = [
        name for name, entry in TOPIC_CONFIGS.items() if entry.treatment is Treatment.HONOURED
    ]
    assert tests.issuperset(topic_configs_page.test_name(name) for name in honoured)
