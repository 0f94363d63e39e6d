"""Faults of single requests: answer with an error, hold up, cut the connection.

`RequestFaults` is an `Interceptor`: give it to a broker when it starts and add faults to it while
the broker runs. Everything here belongs to the broker's own Trio run; `broker_thread` brings calls
of other threads into it.
"""

from __future__ import annotations

import math
from difflib import get_close_matches
from typing import TYPE_CHECKING, NamedTuple

import trio
from attrs import define, field

from trio_broker.broker.handlers.table import answer
from trio_broker.broker.interception import Intervention
from trio_broker.errors import ErrorCode, ProtocolError
from trio_broker.names import ZERO_TOPIC_ID
from trio_broker.testing.error_replies import decode_request, error_reply, spoil_metadata
from trio_broker.wire.api import APIS, ApiKey
from trio_broker.wire.fields import Kind

if TYPE_CHECKING:
    from collections.abc import Iterator

    from trio_broker.broker.session import Session
    from trio_broker.broker.state import BrokerState
    from trio_broker.wire.headers import RequestHeader
    from trio_broker.wire.message import Message, Struct

_DROPPED = "a fault was injected"
_API_NAMES = {api.name.lower(): api.key for api in APIS.values()}


def api_key(api: ApiKey | str) -> ApiKey:
    """Return an API by its number or by Kafka's name, such as ``Produce`` or ``FIND_COORDINATOR``.

    Raises:
        ValueError: there is no such API.
    """
    if isinstance(api, ApiKey):
        return api
    found = _API_NAMES.get(api.replace("_", "").lower())
    if found is None:
        names = [each.name for each in APIS.values()]
        near = get_close_matches(api.replace("_", ""), names, 1, 0.4)
        hint = f", is it {near[0]!r}?" if near else f"; there are {', '.join(sorted(names))}"
        raise ValueError(f"there is no API {api!r}{hint}")
    return found


def error_code(code: ErrorCode | str) -> ErrorCode:
    """Return an error by its code or by Kafka's name, such as ``NOT_LEADER_OR_FOLLOWER``.

    Raises:
        ValueError: there is no such error.
    """
    if isinstance(code, str):
        try:
            return ErrorCode[code]
        except KeyError:
            near = get_close_matches(code.upper(), ErrorCode.__members__, 1, 0.4)
            hint = f", is it {near[0]!r}?" if near else ""
            raise ValueError(f"there is no error {code!r}{hint}") from None
    return ErrorCode(code)


class Asked(NamedTuple):
    """A request that has come in, undecoded."""

    state: BrokerState
    session: Session
    header: RequestHeader
    frame: memoryview


@define(eq=False, kw_only=True)
class RequestFault:
    """One fault, and which requests meet it.

    Attributes:
        api: requests of this API only; Kafka's name of it will do.
        times: so many of them, math.inf: all.
        topic: only those that name this topic.
        group: only those that name this group.
        client_id: only those of clients that call themselves so.
        met: how many have met it.
    """

    api: ApiKey = field(converter=api_key)
    times: float = 1
    topic: str | None = None
    group: str | None = None
    client_id: str | None = None
    met: int = 0
    _changed: trio.Event = field(factory=trio.Event, init=False)
    _is_over: bool = field(default=False, init=False)

    async def intervene(self, asked: Asked) -> Intervention | None:
        """Do what this fault does to a request that it concerns; None: go on to the next fault."""
        raise NotImplementedError

    @property
    def is_over(self) -> bool:
        """Whether it concerns no further request."""
        return self._is_over or self.met >= self.times

    def end(self) -> None:
        """Concern no further request, and let those go that are being held up. Idempotent."""
        self._is_over = True
        self._tell()

    def count(self) -> None:
        """Take note that a request has met it."""
        self.met += 1
        self._tell()

    async def wait_met(self, times: int = 1) -> None:
        """Wait until so many requests have met it, or it is over."""
        while self.met < times and not self._is_over:
            await self._changed.wait()

    async def wait_over(self) -> None:
        """Wait until it was ended."""
        while not self._is_over:
            await self._changed.wait()

    def _tell(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    def concerns(self, asked: Asked) -> bool:
        """Tell whether a request is one of those that meet it."""
        header = asked.header
        if self.is_over or header.api_key != self.api:
            return False
        if self.client_id is not None and header.client_id != self.client_id:
            return False
        if self.topic is None and self.group is None:
            return True
        request = decode_request(header, asked.frame)
        if self.group is not None and self.group not in _groups(request):
            return False
        return self.topic is None or self.topic in _topics(asked.state, request)


@define(eq=False, kw_only=True)
class ErrorFault(RequestFault):
    """Answers with an error; the request is not carried out.

    A request that names nothing which could have failed passes untouched.

    Attributes:
        code: the error; Kafka's name of it will do.
    """

    code: ErrorCode = field(converter=error_code)

    async def intervene(self, asked: Asked) -> Intervention | None:
        """Make the answer."""
        state, session, header, frame = asked
        if header.api_key == ApiKey.METADATA:
            reply = spoil_metadata(
                header, await answer(state, session, header, frame), self.code, self.topic
            )
        else:
            request = decode_request(header, frame)
            if header.api_key == ApiKey.PRODUCE and getattr(request, "acks", 1) == 0:
                self.count()
                return Intervention(close_reason=_DROPPED)  # the only answer that there is
            reply = error_reply(header, request, self.code)
        if reply is None:
            return None
        self.count()
        return Intervention(reply=[reply])


@define(eq=False, kw_only=True)
class DelayFault(RequestFault):
    """Holds a request up before it is carried out.

    Attributes:
        seconds: for so long, math.inf: until the fault is undone.
    """

    seconds: float = math.inf

    async def intervene(self, _asked: Asked) -> Intervention | None:
        """Wait."""
        self.count()
        with trio.move_on_after(self.seconds):
            await self.wait_over()
        return None


@define(eq=False, kw_only=True)
class CloseFault(RequestFault):
    """Closes the connection instead of answering.

    Attributes:
        carry_out: do what was asked first: only the answer gets lost.
    """

    carry_out: bool = False

    async def intervene(self, _asked: Asked) -> Intervention | None:
        """Close."""
        await trio.lowlevel.checkpoint()
        self.count()
        return Intervention(carry_out=self.carry_out, close_reason=_DROPPED)


class RequestFaults:
    """The faults of one broker's requests, in the order in which they were added."""

    def __init__(self) -> None:
        self._faults: dict[RequestFault, None] = {}

    def __repr__(self) -> str:
        return f"<RequestFaults {list(self._faults)}>"

    def add(self, fault: RequestFault) -> None:
        """Let requests meet a fault from now on."""
        self._faults[fault] = None

    def remove(self, fault: RequestFault) -> None:
        """End a fault. Idempotent."""
        fault.end()
        self._faults.pop(fault, None)

    def clear(self) -> None:
        """End all faults."""
        for fault in list(self._faults):
            self.remove(fault)

    async def intercept(
        self, state: BrokerState, session: Session, header: RequestHeader, frame: memoryview
    ) -> Intervention | None:
        """See `Interceptor.intercept`."""
        asked = Asked(state, session, header, frame)
        for fault in list(self._faults):
            try:
                if not fault.concerns(asked):
                    continue
                intervention = await fault.intervene(asked)
            except ProtocolError:
                return None  # the handler is going to say so
            if intervention is not None:
                return intervention
        return None


def _groups(request: Message) -> set[str]:
    """Return the groups that a request names."""
    found = {getattr(request, "group_id", ""), getattr(request, "key", "")}
    found.update(getattr(request, "coordinator_keys", ()))
    found.update(getattr(request, "groups_names", ()))
    for group in getattr(request, "groups", ()):
        found.add(group if isinstance(group, str) else group.group_id)
    return found


def _topics(state: BrokerState, request: Message) -> set[str]:
    """Return the topics that a request names, by name or by id."""
    found = set(getattr(request, "topic_names", ()))
    for structure in _structures(request):
        for name in ("name", "topic", "resource_name"):
            value = getattr(structure, name, None)
            if value:
                found.add(value)
        topic_id = getattr(structure, "topic_id", ZERO_TOPIC_ID)
        routed = state.router.by_id.get(topic_id)
        if routed is not None:
            found.add(routed.name)
    return found


def _structures(structure: Struct) -> Iterator[Struct]:
    """Yield a structure and all that are in its lists."""
    yield structure
    for name, declared in type(structure).__kafka_fields__.items():
        if declared.is_array and not isinstance(declared.element, Kind):
            for element in getattr(structure, name) or ():
                yield from _structures(element)
