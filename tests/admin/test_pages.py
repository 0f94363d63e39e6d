"""The pages about health and metrics say what is: names, files, and times that belong together."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.admin.reference_page import PAGE, render_page
from trio_broker.admin.health import PROBES
from trio_broker.admin.metrics import FAMILIES, INFO, REQUEST_SECONDS
from trio_broker.host.config_file import load_config

HOW_TO = Path(__file__).resolve().parents[2] / "docs" / "how-to"
NAMES = {family.name for family in FAMILIES} | {INFO[0], REQUEST_SECONDS[0]}
SUFFIXES = ("_bucket", "_count", "_sum")


def test_the_reference_page_is_what_the_code_says() -> None:
    page = PAGE.read_text("utf-8")
    assert page == render_page(page), "run python -m tests.admin.reference_page"


@pytest.mark.parametrize("page", ["operate.md", "prometheus-alerts.yml"])
def test_metrics_that_are_mentioned_exist(page: str) -> None:
    text = (HOW_TO / page).read_text("utf-8")
    mentioned = set(re.findall(r"\b(?:trio_broker|process)_[a-z_]+", text))
    mentioned -= {"trio_broker"}
    assert len(mentioned) > 8
    for name in mentioned:
        plain = next((name.removesuffix(s) for s in SUFFIXES if name.endswith(s)), name)
        assert plain in NAMES, name


def test_paths_that_are_mentioned_exist() -> None:
    for page in ("operate.md", "Containerfile"):
        text = (HOW_TO / page).read_text("utf-8")
        for path in re.findall(r"/health(?:/[a-z]+)?", text):
            assert path in {*PROBES, "/health"}, path


def stop_seconds() -> float:
    """Return how long `serve` may take to stop at the defaults."""
    shutdown = load_config(serve=True).shutdown
    return shutdown.ready_grace_seconds + shutdown.deadline_seconds


def test_whoever_stops_the_broker_waits_for_long_enough() -> None:
    unit = (HOW_TO / "trio-broker.service").read_text("utf-8")
    operate = (HOW_TO / "operate.md").read_text("utf-8")
    [by_systemd] = re.findall(r"^TimeoutStopSec=(\d+)$", unit, re.MULTILINE)
    [by_kubernetes] = re.findall(r"terminationGracePeriodSeconds: (\d+)", operate)
    assert int(by_systemd) >= stop_seconds() + 10
    assert int(by_kubernetes) >= stop_seconds() + 10


def test_the_unit_fits_what_the_broker_does() -> None:
    unit = (HOW_TO / "trio-broker.service").read_text("utf-8")
    for line in (
        "Type=notify",
        "RestartPreventExitStatus=2",
        "LimitNOFILE=65536",
        "StartLimitIntervalSec=0",
    ):
        assert line in unit.splitlines()
    assert not re.search(r"\\$", unit, re.MULTILINE)


def test_the_container_is_told_to_stop_and_has_no_shell_between() -> None:
    lines = (HOW_TO / "Containerfile").read_text("utf-8").splitlines()
    assert "STOPSIGNAL SIGTERM" in lines
    [entry] = [line for line in lines if line.startswith("ENTRYPOINT")]
    assert entry == 'ENTRYPOINT ["trio-broker"]'
    assert any(re.match(r"USER \d+", line) for line in lines)
