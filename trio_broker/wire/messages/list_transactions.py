"""ListTransactions (API 66): versions 0 to 2, all flexible."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trio_broker.wire.fields import Kind, array, int16, int32, int64, string
from trio_broker.wire.message import Request, Response, Struct

if TYPE_CHECKING:
    from collections.abc import Sequence


class ListTransactionsRequest(Request, api_key=66, versions=(0, 2), flexible=0):
    """What a client asks with ListTransactions."""

    state_filters: Sequence[str] = array(Kind.STRING)
    producer_id_filters: Sequence[int] = array(Kind.INT64)
    duration_filter: int = int64(since=1, default=-1)
    transactional_id_pattern: str | None = string(since=2, nullable_since=2, default=None)


class TransactionState(Struct):
    """One of the `transaction_states` of `ListTransactionsResponse`."""

    transactional_id: str = string()
    producer_id: int = int64()
    transaction_state: str = string()


class ListTransactionsResponse(Response, api_key=66, versions=(0, 2), flexible=0):
    """What it is answered."""

    throttle_time_ms: int = int32(default=0)
    error_code: int = int16()
    unknown_state_filters: Sequence[str] = array(Kind.STRING)
    transaction_states: Sequence[TransactionState] = array(TransactionState)
