"""What every class of configuration checks of itself: types, limits, and the shape of addresses."""

from __future__ import annotations

import ipaddress
import re
from enum import Enum
from typing import TYPE_CHECKING, Any, NamedTuple

import attrs

from trio_broker.errors import ConfigError, ConfigFault

if TYPE_CHECKING:
    from collections.abc import Iterable

#: Limits from here on are those of the type; nobody is told such a number.
_UNLIMITED = 2**63 - 1


class Limits(NamedTuple):
    """Which numbers a setting may have.

    Attributes:
        least: lowest one.
        most: highest one.
        special: further ones, which mean something of their own.
        why: what is wrong with lower ones, "" where that needs no saying.
    """

    least: float
    most: float
    special: tuple[float, ...] = ()
    why: str = ""

    def fault(self, value: float) -> str | None:
        """Say what is wrong with a number and what is allowed, or return None."""
        if self.least <= value <= self.most or value in self.special:
            return None
        special = ", ".join(map(number_text, self.special)) + ", or " if self.special else ""
        if self.most >= _UNLIMITED:
            allowed = f"{special}at least {number_text(self.least)}"
        else:
            allowed = f"{special}between {number_text(self.least)} and {number_text(self.most)}"
        why = f": {self.why}" if self.why and value < self.least else ""
        return f"must be {allowed}, not {value}{why}"


def number_text(number: float) -> str:
    """Write a number without a fraction that says nothing."""
    return str(int(number)) if number == int(number) else str(number)


def _type_fault(kind: Any, value: object) -> str | None:
    """Say what is wrong with a value that is not of its field's type, or return None.

    A text in the place of a list would be taken for a list of letters, and the text of a mode is
    equal to the mode without being it.
    """
    optional = type(None) in getattr(kind, "__args__", ())
    if optional:
        if value is None:
            return None
        kind = next(part for part in kind.__args__ if part is not type(None))
    if kind == tuple[str, ...]:
        if isinstance(value, tuple) and all(isinstance(part, str) for part in value):
            return None
        return f"must be a list of texts, not {value!r}"
    if kind is bool or issubclass(kind, Enum) or attrs.has(kind):
        right = isinstance(value, kind)
    elif kind is float:
        right = isinstance(value, int | float) and not isinstance(value, bool)
    else:
        right = isinstance(value, kind) and not isinstance(value, bool)
    if right:
        return None
    names = {bool: "True or False", int: "a whole number", float: "a number", str: "a text"}
    return f"must be {names.get(kind, f'a {kind.__name__}')}, not {value!r}"


class Checked:
    """A class of configuration that refuses to exist with mistakes in it, all told at once."""

    __slots__ = ()

    def __attrs_post_init__(self) -> None:
        """Refuse values of a wrong type or outside their limits, and broken rules."""
        fields = attrs.fields(type(self))  # type: ignore[arg-type]
        faults = [
            fault
            for attribute in fields
            if (fault := _field_type_fault(attribute, getattr(self, attribute.name)))
        ]
        if not faults:  # rules need types that are right
            faults = [
                ConfigFault(reason, (attribute.name,))
                for attribute in fields
                if (limits := attribute.metadata.get("limits")) is not None
                and (reason := limits.fault(getattr(self, attribute.name)))
            ]
            known = {key for fault in faults for key in fault.keys}
            faults += [fault for fault in self._rules() if known.isdisjoint(fault.keys)]
        if faults:
            raise ConfigError(faults)

    def _rules(self) -> Iterable[ConfigFault]:
        """Yield what is wrong although each value, seen alone, is right."""
        return ()


def _field_type_fault(attribute: attrs.Attribute[Any], value: object) -> ConfigFault | None:
    reason = _type_fault(attribute.type, value)
    if reason is None:
        return None
    if attribute.metadata.get("secret"):
        reason = reason.partition(", not ")[0]
    return ConfigFault(reason, (attribute.name,))


#: Addresses to bind that are none to connect to.
EVERY_INTERFACE = frozenset({"", "0.0.0.0", "::"})  # noqa: S104 - refused, not bound
_PORT_MAX = 65535
#: RFC 1123, and '_', which container networks use; names in other scripts have an ASCII form.
_HOST = re.compile(r"[A-Za-z0-9_-]{1,63}(?:\.[A-Za-z0-9_-]{1,63})*\.?\Z")
_HOST_CHARACTERS_MAX = 253
_SHOWN = 100
_PORT = re.compile(r"[0-9]{1,5}\Z")


def split_address(text: str) -> tuple[str, int]:
    """Split ``host:port`` (``[v6]:port`` for IPv6).

    Raises:
        ValueError: there is no port, or it is not one.
    """
    host, separator, port_text = text.rpartition(":")
    if not separator:
        raise ValueError(f"{text[:_SHOWN]!r} is not host:port")
    if not _PORT.match(port_text) or int(port_text) > _PORT_MAX:
        raise ValueError(f"port {port_text[:_SHOWN]!r} is not between 0 and {_PORT_MAX}")
    return host.strip("[]"), int(port_text)


def is_loopback(host: str) -> bool:
    """Tell whether only this machine can reach an address; of a name nobody can tell."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def address_fault(text: str) -> str | None:
    """Say why nothing can be bound to an address, or return None."""
    protocol, separator, rest = text.partition("://")
    if separator:
        return f"{text!r}: write {rest!r}, without {protocol + separator!r}"
    try:
        split_address(text)
    except ValueError as error:
        return f"{text[:_SHOWN]!r} is not an address like 127.0.0.1:9092 ({error})"
    host = text.rpartition(":")[0]
    if host.startswith("[") and host.endswith("]"):
        try:
            ipaddress.IPv6Address(host[1:-1])
        except ValueError:
            return f"{text!r} is not an address like [::1]:9092 (no IPv6 address in the brackets)"
    elif ":" in host:
        return f"{text!r} is not an address like [::1]:9092 (IPv6 goes into brackets)"
    elif host and (len(host) > _HOST_CHARACTERS_MAX or not _HOST.match(host)):
        return f"{text[:_SHOWN]!r} is not an address like 127.0.0.1:9092 (no name of a host)"
    return None


def advertised_fault(text: str) -> str | None:
    """Say why clients could not connect to an address, or return None."""
    if reason := address_fault(text):
        return reason
    host, port = split_address(text)
    if host in EVERY_INTERFACE or port == 0:
        return f"{text!r} leads clients nowhere; it must be a host and a port that they can reach"
    return None
