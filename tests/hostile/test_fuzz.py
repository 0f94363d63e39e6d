"""A few thousand random mutations; `python -m tests.hostile.fuzz` goes on for as long as told."""

from __future__ import annotations

import random

import pytest

from tests.hostile.conftest import Target
from tests.hostile.frames import legal_requests
from tests.hostile.fuzz import Fuzzer

STEPS = 2_000


def test_mutated_requests_are_answered_or_refused(
    target: Target, offered: dict[int, tuple[int, int]], seed: int
) -> None:
    if target.server is None:
        pytest.skip("Apache Kafka 4.1 never answers some of them (null records)")
    fuzzer = Fuzzer(target.address, list(legal_requests(offered)), random.Random(seed))
    try:
        for _ in range(STEPS):
            fuzzer.step()
    finally:
        fuzzer.close()
    assert fuzzer.seen["answered"] > STEPS // 20
    assert fuzzer.seen["closed"] > STEPS // 20
    assert "Traceback" not in target.server.stderr()
