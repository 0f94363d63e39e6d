"""Tells systemd, or whoever speaks its protocol, how the broker is: sd_notify(3).

One task, started by `server_main` when the environment names a socket. It sends a datagram at each
change of phase, asks for more time while the broker recovers, and feeds the watchdog, if there is
one, as long as the event loop turns and every shard gets on. A disk that hangs or is full does not
stop the feeding: a new process would find it the same.
"""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING

import trio
from attrs import frozen

from trio_broker.broker.phase import Phase

if TYPE_CHECKING:
    from collections.abc import Mapping

    from trio_broker.broker.shard import Shard
    from trio_broker.broker.state import BrokerState

logger = logging.getLogger("trio_broker.service")

#: While recovering, this much more time is asked for, so often.
EXTENSION_SECONDS = 30.0
_EXTEND_EVERY_SECONDS = 10.0


@frozen
class ServiceManager:
    """Who started this process, as the environment tells.

    Attributes:
        socket_path: where to send datagrams; '@' at the beginning stands for an abstract socket.
        watchdog_seconds: after this long without a sign of life it ends the process; None: never.
    """

    socket_path: str
    watchdog_seconds: float | None = None

    @classmethod
    def from_environment(
        cls, environment: Mapping[str, str], process_id: int
    ) -> ServiceManager | None:
        """Read NOTIFY_SOCKET, WATCHDOG_USEC and WATCHDOG_PID; None if nobody wants to know."""
        path = environment.get("NOTIFY_SOCKET", "")
        if not path.startswith(("/", "@")):
            return None
        interval = environment.get("WATCHDOG_USEC", "")
        is_ours = environment.get("WATCHDOG_PID", str(process_id)) == str(process_id)
        has_watchdog = is_ours and interval.isdecimal() and int(interval) > 0
        return cls(path, int(interval) / 1e6 if has_watchdog else None)


class ServiceNotifier:
    """Sends what there is to tell."""

    def __init__(self, state: BrokerState, manager: ServiceManager) -> None:
        self._state = state
        self._manager = manager
        self._told: Phase | None = None
        self._is_alive = True
        self._progress: dict[Shard, tuple[int, int]] = {}

    async def run(self) -> None:
        """Tell of every change, and give signs of life in between, until cancelled."""
        while True:
            self.tell()
            with trio.move_on_after(self._pause_seconds()) as pause:
                await self._state.phase_changes.wait_transition()
            if pause.cancelled_caught:
                self._is_alive = self._every_shard_gets_on()

    def tell(self) -> None:
        """Send what is new, and a sign of life if one is wanted. Never blocks, never raises."""
        phase = self._state.phase
        lines = []
        if phase is not self._told:
            self._told = phase
            if phase is Phase.SERVING:
                lines.append("READY=1")
            elif phase is Phase.DRAINING:
                lines.append("STOPPING=1")
            lines.append(f"STATUS={self._status()}")
        if phase in {Phase.STARTING, Phase.RECOVERING}:
            lines.append(f"EXTEND_TIMEOUT_USEC={int(EXTENSION_SECONDS * 1e6)}")
        if self._manager.watchdog_seconds is not None and self._is_alive:
            lines.append("WATCHDOG=1")
        if not lines:
            return
        payload = "\n".join(lines).encode()
        try:
            self._state.host.network.send_datagram(self._manager.socket_path, payload)
        except OSError as error:
            logger.warning("cannot notify %s: %s", self._manager.socket_path, error)

    def _pause_seconds(self) -> float:
        watchdog = self._manager.watchdog_seconds
        pause = math.inf if watchdog is None else watchdog / 2
        if self._state.phase in {Phase.STARTING, Phase.RECOVERING}:
            pause = min(pause, _EXTEND_EVERY_SECONDS)
        return pause

    def _status(self) -> str:
        text = self._state.phase.value
        if self._state.phase is Phase.SERVING:
            listening = ", ".join(f"{host}:{port}" for host, port in self._state.bound)
            text += f" {listening or 'without listeners'}"
        return text

    def _every_shard_gets_on(self) -> bool:
        """Tell whether each shard that has work has done some since the last look, a pause ago.

        One whose thread is in a system call is excused, and so is one whose disk has failed.
        """
        gets_on = True
        for log_dir in self._state.log_dirs:
            for shard in log_dir.shards:
                before = self._progress.get(shard)
                self._progress[shard] = now = (shard.commits, log_dir.write_failures)
                excused = log_dir.is_failed or shard.lane.stuck_seconds > 0
                if now == before and shard.queued_bytes > 0 and not excused:
                    logger.error("%r has not done anything for a while", shard)
                    gets_on = False
        return gets_on
