"""The names that users import: all there, none of them loaded before it is used."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from trio_broker.testing import sim

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "simulation.md"


def test_every_public_name_is_there_and_on_the_page() -> None:
    page = PAGE.read_text("utf-8")
    for name in sim.__all__:
        assert getattr(sim, name) is not None
        assert f"`{name}" in page, f"{name} is not described in {PAGE.name}"
    assert set(sim.__all__) <= set(dir(sim))


def test_importing_it_loads_nothing() -> None:
    code = "import sys, trio_broker.testing.sim; sys.exit('trio' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_it_is_general() -> None:
    code = (
        "import sys; from trio_broker.testing.sim import *;"
        "loaded = {name.split('.')[1] for name in sys.modules if name.startswith('trio_broker.')};"
        "sys.exit(repr(sorted(loaded - {'testing', 'host', 'errors', 'names'})))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.stderr.strip() == "[]"
