"""Nothing is accepted and ignored: each field of the configuration is read somewhere."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import trio_broker
from trio_broker.config import ShutdownConfig
from trio_broker.settings.table import Setting, settings

PACKAGE = Path(trio_broker.__file__).parent
#: What declares, reads and writes configuration, and has no effect of its own.
ABOUT_CONFIGURATION = ("config.py", "config_catalog.py", "settings/", "cli/", "client/", "testing/")
#: Only one value is legal, and any other is refused.
ONE_VALUE = {"topic.cleanup_policy", "topic.compression_type"}


def names_read() -> set[str]:
    """Return every name that the running code reads as an attribute."""
    found = set()
    for path in PACKAGE.rglob("*.py"):
        if str(path.relative_to(PACKAGE)).startswith(ABOUT_CONFIGURATION):
            continue
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
                found.add(node.attr)
    return found


NAMES_READ = names_read()


@pytest.mark.parametrize("setting", settings().values(), ids=lambda setting: setting.key)
def test_the_broker_reads(setting: Setting) -> None:
    if setting.key in ONE_VALUE:
        return
    if setting.section == "shutdown" and setting.name.endswith("_share"):
        assert setting.name.removesuffix("_share") in ShutdownConfig().shares()
        return
    assert setting.name in NAMES_READ
