"""Health: from what a broker knows of itself to an HTTP status and a JSON object. Pure.

Three questions, because three machines act on the answers. *Live*: must the process be killed? No,
as long as the event loop turns, above all not while it drains. *Ready*: may clients be sent here?
*Startup*: is it past recovery, so that the other two begin to count? A disk that is full or failed
makes neither of them say no while anything else can still be served: restarting would not empty it,
and consumers must go on reading. `HEALTH` is for people and holds all of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from http import HTTPStatus
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias

from attrs import frozen

if TYPE_CHECKING:
    from trio_broker.admin.statistics import FaultStatistics

#: Phases of `broker.phase.Phase`, by what they mean here.
_SERVING: Final = "serving"
_STARTED: Final = frozenset({"serving", "draining", "stopping", "stopped"})
_DISK_OK: Final = "ok"
_DISK_FAILED: Final = "failed"
#: A system call that has been running for longer than this is worth a reason.
_STUCK_SECONDS: Final = 5.0
#: Boundaries, those that stopped a fault last, and offline replicas of each shard, of which the
#: details are told.
FAULTS_SHOWN: Final = 50
OFFLINE_SHOWN: Final = 20
#: And of those that wait to be started again.
DOWN_SHOWN: Final = 20


@frozen(kw_only=True)
class ShardHealth:
    """One writer of a log dir.

    Attributes:
        index: its number.
        replicas: how many it serves.
        offline_replicas: how many of them it cannot serve now.
        restarts: how often it failed and was started again.
        stuck_seconds: how long the system call it is in has been running.
        is_running: False between a fault and the next start.
        offline: some of those replicas, and why each is offline.
        missing: those whose directories have vanished, which wait for an operator.
    """

    index: int
    replicas: int
    offline_replicas: int
    restarts: int
    stuck_seconds: float
    is_running: bool = True
    offline: tuple[tuple[str, str], ...] = ()
    missing: tuple[str, ...] = ()


@frozen(kw_only=True)
class LogDirHealth:
    """One log dir: its disk and its writers.

    Attributes:
        path: where it is.
        state: ok, or what is wrong with it.
        cause: why it is not ok, else empty.
        over_budget: why its logs may not grow, although the disk has room; else empty.
        free_bytes: None until measured.
        total_bytes: None until measured.
        shards: by index.
    """

    path: str
    state: str
    cause: str
    free_bytes: int | None
    total_bytes: int | None
    shards: tuple[ShardHealth, ...]
    over_budget: str = ""


@frozen(kw_only=True)
class HealthFacts:
    """What health is judged by.

    Attributes:
        phase: value of `broker.phase.Phase`.
        uptime_seconds: since the broker began to start.
        log_dirs: empty until they have been opened.
        leaks: a sentence for each owner that holds files for longer than it may.
        faults: what boundaries of the task tree have stopped; the newest last.
        down: which of them run nothing until they are started again, and why.
    """

    phase: str
    uptime_seconds: float
    log_dirs: tuple[LogDirHealth, ...]
    leaks: tuple[str, ...] = ()
    faults: tuple[FaultStatistics, ...] = ()
    down: tuple[tuple[str, str], ...] = ()


class Answer(NamedTuple):
    """An HTTP status and the JSON object that goes with it."""

    status: HTTPStatus
    body: dict[str, Any]

    def without_details(self) -> Answer:
        """Return what a stranger may know: no paths, no causes."""
        return Answer(self.status, {key: self.body[key] for key in ("status", "phase")})


def live(facts: HealthFacts) -> Answer:
    """Answer whether the process works at all: who reads this has the proof."""
    return Answer(HTTPStatus.OK, {"status": "live", "phase": facts.phase})


def startup(facts: HealthFacts) -> Answer:
    """Answer whether the broker has come through its start; it stays so during a stop."""
    if facts.phase in _STARTED:
        return Answer(HTTPStatus.OK, {"status": "started", "phase": facts.phase})
    return _not_ready(facts, [f"the broker is {facts.phase}"])


def ready(facts: HealthFacts) -> Answer:
    """Answer whether clients may be sent here, and what they will not find in order."""
    if facts.phase != _SERVING:
        return _not_ready(facts, [f"the broker is {facts.phase}"])
    found = reasons(facts)
    if facts.log_dirs and all(log_dir.state == _DISK_FAILED for log_dir in facts.log_dirs):
        return _not_ready(facts, found)
    status = "degraded" if found else "ready"
    return Answer(HTTPStatus.OK, {"status": status, "phase": facts.phase, "reasons": found})


def health(facts: HealthFacts) -> Answer:
    """Answer everything; the status is that of `ready`."""
    verdict = ready(facts)
    return Answer(
        verdict.status,
        {
            "status": verdict.body["status"],
            "phase": facts.phase,
            "uptime_seconds": round(facts.uptime_seconds, 3),
            "reasons": verdict.body["reasons"],
            "leaks": list(facts.leaks),
            "log_dirs": [_log_dir(log_dir) for log_dir in facts.log_dirs],
            "faults": [
                {"boundary": fault.boundary, "count": fault.count, "last_cause": fault.last_cause}
                for fault in reversed(facts.faults[-FAULTS_SHOWN:])
            ],
        },
    )


def _not_ready(facts: HealthFacts, why: list[str]) -> Answer:
    body = {"status": "not ready", "phase": facts.phase, "reasons": why}
    return Answer(HTTPStatus.SERVICE_UNAVAILABLE, body)


def reasons(facts: HealthFacts) -> list[str]:
    """Say what is not as it should be, a sentence each."""
    found = []
    for log_dir in facts.log_dirs:
        if log_dir.state != _DISK_OK:
            why = f": {log_dir.cause}" if log_dir.cause else ""
            found.append(f"log dir {log_dir.path} is {log_dir.state}{why}")
        if log_dir.over_budget:
            found.append(f"log dir {log_dir.path} takes no records: {log_dir.over_budget}")
        for shard in log_dir.shards:
            name = f"shard {shard.index} of log dir {log_dir.path}"
            if shard.stuck_seconds > _STUCK_SECONDS:
                found.append(f"{name} has been in one system call for {shard.stuck_seconds:.0f} s")
            if not shard.is_running:
                found.append(f"{name} has failed and will be started again")
            if shard.offline_replicas and log_dir.state != _DISK_FAILED:
                found.append(f"{name}: {shard.offline_replicas} of {shard.replicas} offline")
            if shard.missing:
                more = len(shard.missing) - OFFLINE_SHOWN
                named = ", ".join(shard.missing[:OFFLINE_SHOWN])
                named += f" and {more} more" if more > 0 else ""
                found.append(f"{name}: the directories of {named} have vanished, see the log")
    found += [
        f"{boundary} has failed and will be started again: {cause}"
        for boundary, cause in facts.down[:DOWN_SHOWN]
    ]
    if len(facts.down) > DOWN_SHOWN:
        found.append(f"{len(facts.down) - DOWN_SHOWN} more like these")
    found += [f"files held: {leak}" for leak in facts.leaks]
    return found


def _log_dir(log_dir: LogDirHealth) -> dict[str, Any]:
    return {
        "path": log_dir.path,
        "state": log_dir.state,
        "cause": log_dir.cause,
        "free_bytes": log_dir.free_bytes,
        "total_bytes": log_dir.total_bytes,
        "shards": [
            {
                "index": shard.index,
                "replicas": shard.replicas,
                "offline_replicas": shard.offline_replicas,
                "missing_replicas": len(shard.missing),
                "restarts": shard.restarts,
                "stuck_seconds": round(shard.stuck_seconds, 3),
                "is_running": shard.is_running,
                "offline": [{"partition": name, "cause": why} for name, why in shard.offline],
            }
            for shard in log_dir.shards
        ],
    }


#: One question about health.
Question: TypeAlias = Callable[[HealthFacts], Answer]

#: Path to question: what probes ask. Answered to anybody, since a probe cannot keep a secret.
PROBES: Mapping[str, Question] = MappingProxyType(
    {"/health/live": live, "/health/ready": ready, "/health/startup": startup}
)
