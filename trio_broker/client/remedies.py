"""What to do about each error code and each failure of a connection: one table for all.

The codes are those that Apache Kafka's client retries (the subclasses of RetriableException); what
is not in the table is final. Callers add what only they know: to an admin call that asks for a
topic "unknown topic" is an answer, to a producer that has just written to it it is not.
"""

from __future__ import annotations

from enum import Flag, auto
from types import MappingProxyType
from typing import TYPE_CHECKING

from trio_broker.client.connection import ConnectionLost
from trio_broker.client.errors import RequestTimedOut, Unreachable
from trio_broker.errors import ErrorCode

if TYPE_CHECKING:
    from collections.abc import Mapping


class Remedy(Flag):
    """What may help."""

    #: Nothing: the error is final.
    NONE = 0
    #: The same request again, a little later.
    RETRY = auto()
    #: New metadata: somebody else leads the partition, or is the controller.
    REFRESH = auto()
    #: Looking for the group's coordinator again.
    FIND_COORDINATOR = auto()


_AGAIN = Remedy.RETRY
_ELSEWHERE = Remedy.RETRY | Remedy.REFRESH
_COORDINATOR = Remedy.RETRY | Remedy.FIND_COORDINATOR

REMEDIES: Mapping[int, Remedy] = MappingProxyType(
    {
        ErrorCode.CORRUPT_MESSAGE: _AGAIN,
        ErrorCode.UNKNOWN_TOPIC_OR_PARTITION: _ELSEWHERE,
        ErrorCode.LEADER_NOT_AVAILABLE: _ELSEWHERE,
        ErrorCode.NOT_LEADER_OR_FOLLOWER: _ELSEWHERE,
        ErrorCode.REQUEST_TIMED_OUT: _AGAIN,
        ErrorCode.BROKER_NOT_AVAILABLE: _ELSEWHERE,
        ErrorCode.REPLICA_NOT_AVAILABLE: _ELSEWHERE,
        ErrorCode.NETWORK_EXCEPTION: _ELSEWHERE,
        ErrorCode.COORDINATOR_LOAD_IN_PROGRESS: _AGAIN,
        ErrorCode.COORDINATOR_NOT_AVAILABLE: _COORDINATOR,
        ErrorCode.NOT_COORDINATOR: _COORDINATOR,
        ErrorCode.NOT_ENOUGH_REPLICAS: _AGAIN,
        ErrorCode.NOT_ENOUGH_REPLICAS_AFTER_APPEND: _AGAIN,
        ErrorCode.NOT_CONTROLLER: _ELSEWHERE,
        ErrorCode.CONCURRENT_TRANSACTIONS: _AGAIN,
        ErrorCode.KAFKA_STORAGE_ERROR: _ELSEWHERE,
        ErrorCode.FETCH_SESSION_ID_NOT_FOUND: _AGAIN,
        ErrorCode.INVALID_FETCH_SESSION_EPOCH: _AGAIN,
        ErrorCode.LISTENER_NOT_FOUND: _ELSEWHERE,
        ErrorCode.FENCED_LEADER_EPOCH: _ELSEWHERE,
        ErrorCode.UNKNOWN_LEADER_EPOCH: _ELSEWHERE,
        ErrorCode.OFFSET_NOT_AVAILABLE: _AGAIN,
        ErrorCode.PREFERRED_LEADER_NOT_AVAILABLE: _ELSEWHERE,
        ErrorCode.ELIGIBLE_LEADERS_NOT_AVAILABLE: _ELSEWHERE,
        ErrorCode.UNSTABLE_OFFSET_COMMIT: _AGAIN,
        ErrorCode.THROTTLING_QUOTA_EXCEEDED: _AGAIN,
        ErrorCode.UNKNOWN_TOPIC_ID: _ELSEWHERE,
        ErrorCode.INCONSISTENT_TOPIC_ID: _ELSEWHERE,
        ErrorCode.FETCH_SESSION_TOPIC_ID_ERROR: _ELSEWHERE,
    }
)

#: Failures to reach a broker, or to get its answer; all of them are worth another attempt.
CONNECTION_FAILURES = (ConnectionLost, Unreachable, RequestTimedOut, OSError)


def remedy_for(code: int) -> Remedy:
    """Return what may help against an error code."""
    return REMEDIES.get(code, Remedy.NONE)
