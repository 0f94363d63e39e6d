"""Health: what each probe says in each state. Pure."""

from __future__ import annotations

import json

import pytest

from trio_broker.admin.health import (
    PROBES,
    HealthFacts,
    LogDirHealth,
    ShardHealth,
    health,
    live,
    ready,
    startup,
)
from trio_broker.admin.metrics import PHASES
from trio_broker.broker.phase import Phase

MIB = 1024 * 1024


def shard(*, offline: int = 0, stuck_seconds: float = 0.0) -> ShardHealth:
    return ShardHealth(
        index=0, replicas=3, offline_replicas=offline, restarts=0, stuck_seconds=stuck_seconds
    )


def log_dir(
    state: str = "ok", cause: str = "", *, path: str = "/a", **of_shard: float
) -> LogDirHealth:
    return LogDirHealth(
        path=path,
        state=state,
        cause=cause,
        free_bytes=MIB,
        total_bytes=2 * MIB,
        shards=(shard(**of_shard),),
    )


def facts(
    *log_dirs: LogDirHealth, phase: Phase = Phase.SERVING, leaks: tuple[str, ...] = ()
) -> HealthFacts:
    return HealthFacts(phase=phase.value, uptime_seconds=1.0, log_dirs=log_dirs, leaks=leaks)


@pytest.mark.parametrize(
    "phase, live_status, ready_status, startup_status",
    [
        (Phase.STARTING, 200, 503, 503),
        (Phase.RECOVERING, 200, 503, 503),
        (Phase.SERVING, 200, 200, 200),
        (Phase.DRAINING, 200, 503, 200),
        (Phase.STOPPING, 200, 503, 200),
        (Phase.STOPPED, 200, 503, 200),
    ],
)
def test_each_phase_has_its_answers(
    phase: Phase, live_status: int, ready_status: int, startup_status: int
) -> None:
    of_phase = facts(log_dir(), phase=phase)
    assert live(of_phase).status == live_status
    assert ready(of_phase).status == health(of_phase).status == ready_status
    assert startup(of_phase).status == startup_status
    for question in (live, ready, startup, health):
        assert question(of_phase).body["phase"] == phase.value


def test_the_names_of_the_phases_are_the_same_everywhere() -> None:
    assert tuple(phase.value for phase in Phase) == PHASES


def test_a_full_disk_is_no_reason_to_send_consumers_away() -> None:
    answer = ready(facts(log_dir("degraded", "12 bytes are free")))
    assert answer.status == 200
    assert answer.body["status"] == "degraded"
    assert answer.body["reasons"] == ["log dir /a is degraded: 12 bytes are free"]


def test_one_broken_disk_of_two_leaves_the_broker_ready() -> None:
    broken = log_dir("failed", "fsync failed", offline=3)
    answer = ready(facts(broken, log_dir(path="/b")))
    assert answer.status == 200
    assert answer.body["reasons"] == ["log dir /a is failed: fsync failed"]


def test_without_any_disk_that_works_it_is_not_ready_but_lives() -> None:
    broken = facts(log_dir("failed", "fsync failed"), log_dir("failed", "too", path="/b"))
    assert ready(broken).status == 503
    assert len(ready(broken).body["reasons"]) == 2
    assert live(broken).status == 200


@pytest.mark.parametrize(
    "found, words",
    [
        (facts(log_dir(stuck_seconds=12.0)), "one system call for 12 s"),
        (facts(log_dir(offline=2)), "2 of 3 offline"),
        (facts(log_dir(), leaks=("replica/x is gone, and holds 1: /f",)), "replica/x is gone"),
    ],
)
def test_what_is_not_in_order_is_named(found: HealthFacts, words: str) -> None:
    answer = ready(found)
    assert answer.status == 200
    assert answer.body["status"] == "degraded"
    [reason] = answer.body["reasons"]
    assert words in reason


def test_nothing_is_ready_before_there_is_a_log_dir() -> None:
    assert ready(facts(phase=Phase.STARTING)).status == 503


def test_the_details_are_complete_and_json() -> None:
    body = health(facts(log_dir("low", "little room"), log_dir(path="/b"))).body
    assert json.loads(json.dumps(body)) == body
    assert [found["path"] for found in body["log_dirs"]] == ["/a", "/b"]
    assert body["log_dirs"][0]["state"] == "low"
    assert body["log_dirs"][0]["shards"][0]["replicas"] == 3
    assert body["uptime_seconds"] == 1.0


@pytest.mark.parametrize("question", PROBES.values())
def test_strangers_learn_nothing_but_yes_or_no(question: object) -> None:
    found = facts(log_dir("failed", "cause"), phase=Phase.SERVING)
    shown = question(found).without_details()
    assert set(shown.body) == {"status", "phase"}
