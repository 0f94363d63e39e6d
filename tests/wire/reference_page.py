"""Writes docs/reference/protocol-support.md: ``python -m tests.wire.reference_page``."""

from __future__ import annotations

from pathlib import Path

from trio_broker.broker.handlers.table import SERVED
from trio_broker.wire.support import render_support

PAGE = Path(__file__).resolve().parents[2] / "docs" / "reference" / "protocol-support.md"


def text() -> str:
    """What the page must say."""
    return render_support({key: (api.min_version, api.max_version) for key, api in SERVED.items()})


if __name__ == "__main__":
    PAGE.write_text(text())
