"""Suites inside of tests run without pytest-asyncio, which warns where it is not configured."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def _without_pytest_asyncio(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    if "pytester" in request.fixturenames:
        request.getfixturevalue("pytester")  # which forgets the options of the suite around it
        monkeypatch.setenv("PYTEST_ADDOPTS", "-p no:asyncio")
