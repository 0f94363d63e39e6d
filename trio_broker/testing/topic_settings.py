"""What the configuration of a topic may be, as far as its operator knows: part of the shadow model.

The operator sets values one request after the other. A value that was acknowledged is in effect,
there after every restart, and takes the place of those before it. One whose request had no answer,
or was refused for a reason that passes, may come into effect until the broker's life ends.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from trio_broker.config import Durability

if TYPE_CHECKING:
    from collections.abc import Mapping

    from trio_broker.config import TopicConfig

#: What is altered, by the names of `TopicConfig`.
ALTERED = (
    "durability",
    "max_message_bytes",
    "min_insync_replicas",
    "retention_bytes",
    "retention_ms",
    "segment_bytes",
    "segment_ms",
)
#: What acknowledgements promise, the least first.
_PROMISES = (Durability.OS, Durability.INTERVAL, Durability.FSYNC)


def weakest(promises: list[Durability]) -> Durability:
    """Return the least of some promises."""
    return min(promises, key=_PROMISES.index)


def values_of(config: TopicConfig, durability: Durability) -> dict[str, Any]:
    """Return the values that may be altered; the durability is the one in effect."""
    return {name: getattr(config, name) for name in ALTERED} | {"durability": durability}


class TopicSettings:
    """The configuration of one incarnation of a topic."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        """Begin with what it was when it was first seen."""
        self._possible: dict[str, list[Any]] = {name: [value] for name, value in values.items()}
        self._unsure: dict[str, list[Any]] = {name: [] for name in values}
        self._lately = {name: [value] for name, value in values.items()}

    def now(self, name: str) -> list[Any]:
        """Return the values that may be in effect now."""
        return self._possible[name]

    def lately(self, name: str) -> list[Any]:
        """Return the values that may have been in effect since the broker was started."""
        return self._lately[name]

    def mark(self, name: str) -> tuple[list[Any], int]:
        """Remember this moment, for `since`."""
        return list(self._possible[name]), len(self._lately[name])

    def since(self, name: str, mark: tuple[list[Any], int]) -> list[Any]:
        """Return the values that may have been in effect since a moment."""
        possible, count = mark
        # After a restart the list is a new one, and short: then all of it counts.
        return [*possible, *self._lately[name][count:], *self._possible[name]]

    def attempt(self, values: Mapping[str, Any]) -> None:
        """The operator is about to ask for these."""
        for name, value in values.items():
            self._possible[name] = [*self._possible[name], value]
            self._unsure[name].append(value)
            self._lately[name].append(value)

    def acknowledge(self, values: Mapping[str, Any]) -> None:
        """The operator was told that these, asked for last, are in effect."""
        for name, value in values.items():
            if value in self._unsure[name]:
                self._unsure[name].remove(value)
            self._possible[name] = [value, *self._unsure[name]]

    def acknowledged_promise(self, durability: Durability) -> None:
        """From now on only that promise counts: what was written before is durable, too."""
        self._lately["durability"] = [durability, *self._unsure["durability"]]

    def contradiction(self, values: Mapping[str, Any]) -> str:
        """Say which of the values that were found cannot be; empty if all can."""
        wrong = [
            f"{name} is {value}, possible are {self._possible[name]}"
            for name, value in values.items()
            if value not in self._possible[name]
        ]
        return "; ".join(wrong)

    def started(self, values: Mapping[str, Any], *, all_seen: bool) -> None:
        """Take in what a broker has that was just started: nothing is on its way any more.

        Args:
            values: in effect.
            all_seen: every log was looked at, so that what was in effect before is of no
                consequence any more.
        """
        for name, value in values.items():
            self._possible[name] = [value]
            self._unsure[name] = []
            if all_seen:
                self._lately[name] = [value]
