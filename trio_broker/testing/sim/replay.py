"""Replay tokens: the decisions of a run as one word that can be pasted.

``tb1:`` and base64 of packed JSON: the seed, and per stream the numbers and values of the draws
that differ from the plainest. Everything else in the run is the plainest there is.
"""

from __future__ import annotations

import base64
import json
import zlib
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Any

from attrs import frozen

from trio_broker.testing.sim.draws import Place, Value

if TYPE_CHECKING:
    from collections.abc import Iterable

    from trio_broker.testing.sim.draws import Decision

_PREFIX = "tb1:"
#: Unpacked size beyond which a token is refused: nobody pastes such a one.
_TOKEN_BYTES_MAX = 16 << 20


@frozen
class Replay:
    """A run to repeat.

    Attributes:
        seed: of the run that it came from.
        decisions: draws that are not the plainest.
    """

    seed: int
    decisions: dict[Place, Value]

    @classmethod
    def of(cls, seed: int, decisions: Iterable[Decision]) -> Replay:
        """Return a run from its recorded decisions."""
        return cls(seed, {decision.place: decision.value for decision in decisions})

    def token(self) -> str:
        """Return this run as one word."""
        streams: dict[str, list[tuple[int, Value]]] = {}
        for (name, index), value in sorted(self.decisions.items(), key=lambda item: item[0]):
            streams.setdefault(name, []).append((index, value))
        packed = {}
        for name, draws in streams.items():
            indexes = [0, *(index for index, _ in draws)]
            steps = [after - before for before, after in pairwise(indexes)]
            packed[name] = [steps, [value for _, value in draws]]
        text = json.dumps([self.seed, packed], separators=(",", ":"))
        data = zlib.compress(text.encode(), 9)
        return _PREFIX + base64.urlsafe_b64encode(data).decode().rstrip("=")

    @classmethod
    def from_token(cls, token: str) -> Replay:
        """Return the run that a token stands for.

        Raises:
            ValueError: it is not a token, or of another version.
        """
        token = token.strip()
        if not token.startswith(_PREFIX):
            raise ValueError(f"a replay token begins with {_PREFIX!r}, not {token[:12]!r}")
        word = token.removeprefix(_PREFIX)
        try:
            data = base64.b64decode(word + "=" * (-len(word) % 4), "-_", validate=True)
            unpacker = zlib.decompressobj()
            text = unpacker.decompress(data, _TOKEN_BYTES_MAX)
            if not unpacker.eof:
                raise ValueError("its end is missing")
            seed, packed = json.loads(text)
            decisions: dict[Place, Value] = {}
            for name, (steps, values) in packed.items():
                for index, value in zip(accumulate(steps), values, strict=True):
                    decisions[str(name), int(index)] = _checked(value)
            return cls(int(seed), decisions)
        except (ValueError, TypeError, AttributeError, zlib.error) as error:
            raise ValueError(f"not a whole replay token: {error}") from None


def _checked(value: Any) -> Value:
    if isinstance(value, list):
        return tuple(map(int, value))
    if isinstance(value, int | float):
        return value
    raise ValueError(f"{value!r} cannot have been drawn")
