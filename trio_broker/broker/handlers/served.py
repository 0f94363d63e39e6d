"""What "served" means: an API, its versions, and its handler."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeAlias

from attrs import frozen

from trio_broker.wire.api import APIS, ApiKey

if TYPE_CHECKING:
    from trio_broker.broker.session import Session
    from trio_broker.broker.state import BrokerState
    from trio_broker.wire.message import Response

Handler: TypeAlias = Callable[["BrokerState", "Session", int, Any], Awaitable["Response"]]


@frozen
class ServedApi:
    """One API as it is served.

    Attributes:
        min_version: oldest version answered.
        max_version: newest version answered.
        handler: None for Produce and Fetch, which have paths of their own.
    """

    key: ApiKey
    min_version: int
    max_version: int
    handler: Handler | None

    @property
    def advertised_min_version(self) -> int:
        """Oldest version to name in ApiVersions."""
        return min(self.min_version, APIS[self.key].advertised_min_version)
