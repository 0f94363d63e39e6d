"""Raw values into those of a configuration, and back into text; nothing is taken for another thing.

Raw values are texts (environment, ``-X``) or what TOML knows. cattrs finds the reader of a
field's type; its own would take 5.7 for 5 and any text for True.
"""

from __future__ import annotations

import difflib
import re
from datetime import date, datetime, time
from enum import Enum, StrEnum
from functools import partial
from operator import eq
from typing import TYPE_CHECKING, Any, NewType

import cattrs

from trio_broker.settings.units import Unit, parse_quantity, quantity_text

if TYPE_CHECKING:
    from collections.abc import Callable
    from fractions import Fraction

    from trio_broker.settings.table import Setting

_TRUE = {"true", "yes", "on", "1"}
_FALSE = {"false", "no", "off", "0"}
_WHOLE = re.compile(r"[+-]?[0-9](?:_?[0-9])*\Z")
_NUMBER = re.compile(r"[+-]?[0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]{1,3})?\Z")
#: More digits than any limit has; longer ones take Python quadratic time.
_DIGITS_MAX = 30
_SHOWN_CHARACTERS = 100

#: Kinds of numbers that have a unit, for cattrs to tell apart.
_Milliseconds = NewType("_Milliseconds", int)
_Seconds = NewType("_Seconds", float)
_Bytes = NewType("_Bytes", int)
_UNIT_KINDS: dict[Unit, Any] = {
    Unit.MILLISECONDS: _Milliseconds,
    Unit.SECONDS: _Seconds,
    Unit.BYTES: _Bytes,
}


def read_value(setting: Setting, raw: object, *, is_text: bool) -> object:
    """Turn a raw value into that of a setting.

    Args:
        setting: whose.
        raw: a text, or what TOML knows.
        is_text: whether it comes from where there are only texts; in TOML numbers have no quotes.

    Raises:
        ValueError: it is not of the setting's type, or outside its limits; says how to write it.
    """
    if raw == "" and setting.is_optional:
        return None
    if isinstance(raw, str):
        raw = raw.strip() if is_text else raw
    kind = setting.value_type if setting.unit is None else _UNIT_KINDS[setting.unit]
    value: Any = (_from_text if is_text else _from_toml).structure(raw, kind)
    if setting.limits is not None and (fault := setting.limits.fault(value)):
        raise ValueError(fault)
    return value


def _shown(raw: object) -> str:
    if isinstance(raw, bool):
        return str(raw).lower()
    if isinstance(raw, dict):
        return "a table"
    if isinstance(raw, datetime | date | time):
        return "a date or time"
    text = repr(raw)
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}..."


# ------------------------------------------------------------------------------- from texts only
def _whole(text: str, *, also: str = "") -> int:
    if len(text) > _DIGITS_MAX or not _WHOLE.match(text):
        raise ValueError(f"{_shown(text)} is not a whole number{also}")
    return int(text)


def _number(text: str) -> float:
    if len(text) > _DIGITS_MAX or not _NUMBER.match(text):
        raise ValueError(f"{_shown(text)} is not a number")
    return float(text)


def _bool_from_text(text: str, _: object) -> bool:
    lowered = text.lower()
    if lowered not in _TRUE | _FALSE:
        raise ValueError(f"{_shown(text)} is neither true nor false")
    return lowered in _TRUE


def _texts_from_text(text: str, _: object) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _enum(raw: object, kind: Any) -> Enum:
    choices = [str(choice.value) for choice in kind]
    if raw not in choices:
        near = difflib.get_close_matches(str(raw)[:_SHOWN_CHARACTERS], choices, n=1)
        hint = f", did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"{_shown(raw)} is not one of {', '.join(choices)}{hint}")
    member: Enum = kind(raw)
    return member


def _quantity_from_text(text: str, unit: Unit) -> float:
    """Read a plain number in the field's unit, or a text with units."""
    plain = _NUMBER if unit is Unit.SECONDS else _WHOLE
    if len(text) <= _DIGITS_MAX and plain.match(text):
        return float(text) if unit is Unit.SECONDS else int(text)
    if not text:
        raise ValueError(f"an empty text is no number; write {unit.value}, or {unit.examples}")
    amount = parse_quantity(text, unit)
    return _in_unit(text, amount, unit)


def _in_unit(text: str, amount: Fraction, unit: Unit) -> float:
    if unit is Unit.SECONDS:
        return float(amount)
    if amount.denominator != 1:
        raise ValueError(f"{text!r} is not a whole number of {unit.value}")
    return int(amount)


# ----------------------------------------------------------------------------------- from TOML
def _bool_from_toml(raw: object, _: object) -> bool:
    if not isinstance(raw, bool):
        raise ValueError(f"{_shown(raw)} is neither true nor false; write them without quotes")
    return raw


def _int_from_toml(raw: object, _: object) -> int:
    if isinstance(raw, bool) or not isinstance(raw, int):
        raise ValueError(f"{_shown(raw)} is not a whole number{_unquoted(raw, _WHOLE)}")
    return raw


def _float_from_toml(raw: object, _: object) -> float:
    if isinstance(raw, bool) or not isinstance(raw, int | float):
        raise ValueError(f"{_shown(raw)} is not a number{_unquoted(raw, _NUMBER)}")
    return float(raw)


def _unquoted(raw: object, number: re.Pattern[str]) -> str:
    """Say how to write a number that stands in quotes."""
    if isinstance(raw, str) and number.match(raw.strip()):
        return f"; without quotes: {raw.strip()[:_SHOWN_CHARACTERS]}"
    return ""


def _text_from_toml(raw: object, _: object) -> str:
    if not isinstance(raw, str):
        hint = f'; in quotes: "{raw}"' if isinstance(raw, int | float) else ""
        raise ValueError(f"{_shown(raw)} is not a text{hint}")
    return raw


def _texts_from_toml(raw: object, _: object) -> tuple[str, ...]:
    if isinstance(raw, str):
        parts = ", ".join(toml_text(part) for part in _texts_from_text(raw, None))
        raise ValueError(f"{_shown(raw)} is not a list; in brackets: [{parts}]")
    if not isinstance(raw, list):
        raise ValueError(f'{_shown(raw)} is not a list of texts like ["one", "two"]')
    for part in raw:
        if not isinstance(part, str):
            raise ValueError(f"{_shown(part)} in the list is not a text in quotes")
    return tuple(raw)


def _quantity_from_toml(raw: object, unit: Unit) -> float:
    if isinstance(raw, str):
        return _quantity_from_text(raw.strip(), unit)
    is_number = isinstance(raw, int | float if unit is Unit.SECONDS else int)
    if isinstance(raw, bool) or not is_number:
        whole = "" if unit is Unit.SECONDS else "whole "
        raise ValueError(
            f"{_shown(raw)} is not a {whole}number of {unit.value}, nor a text like {unit.examples}"
        )
    return float(raw) if unit is Unit.SECONDS else raw  # type: ignore[arg-type, return-value]


def _converter(
    readers: dict[Any, Callable[[Any, Any], object]], quantity: Callable[[Any, Unit], float]
) -> cattrs.Converter:
    made = cattrs.Converter(detailed_validation=False)
    for kind, reader in readers.items():
        if isinstance(kind, type):
            made.register_structure_hook(kind, reader)
        else:
            made.register_structure_hook_func(partial(eq, kind), reader)
    made.register_structure_hook(StrEnum, _enum)
    units = {kind: unit for unit, kind in _UNIT_KINDS.items()}
    made.register_structure_hook_func(
        lambda kind: kind in _UNIT_KINDS.values(), lambda raw, kind: quantity(raw, units[kind])
    )
    return made


_from_text = _converter(
    {
        bool: _bool_from_text,
        int: lambda text, _: _whole(text),
        float: lambda text, _: _number(text),
        str: lambda text, _: text,
        tuple[str, ...]: _texts_from_text,
    },
    _quantity_from_text,
)
_from_toml = _converter(
    {
        bool: _bool_from_toml,
        int: _int_from_toml,
        float: _float_from_toml,
        str: _text_from_toml,
        tuple[str, ...]: _texts_from_toml,
    },
    _quantity_from_toml,
)


# ------------------------------------------------------------------------------------ and back
def plain_text(setting: Setting, value: object) -> str:
    """Write a value as `read_value` reads it from a text, the short way where there is one."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Enum):
        return str(value.value)
    if isinstance(value, tuple):
        return ",".join(value)
    if isinstance(value, int | float):
        return _quantity(setting, value) or _number_text(value)
    return str(value)


def toml_value(setting: Setting, value: object) -> str:
    """Write a value as `read_value` reads it from TOML; None is an empty text."""
    if isinstance(value, tuple):
        return f"[{', '.join(toml_text(part) for part in value)}]"
    if isinstance(value, int | float) and not isinstance(value, bool):
        short = _quantity(setting, value)
        return toml_text(short) if short else _number_text(value)
    text = plain_text(setting, value)
    return text if isinstance(value, bool) else toml_text(text)


def _quantity(setting: Setting, value: float) -> str | None:
    return quantity_text(value, setting.unit) if setting.unit else None


def _number_text(value: float) -> str:
    """Write a number so that reading it gives the same one."""
    return str(int(value)) if value == int(value) and abs(value) < 1e15 else repr(value)


_ESCAPES = {'"': '\\"', "\\": "\\\\", "\b": "\\b", "\t": "\\t", "\n": "\\n", "\f": "\\f"}
_ESCAPES["\r"] = "\\r"


def toml_text(text: str) -> str:
    """Write a text as a basic string of TOML (https://toml.io/en/v1.0.0#string)."""
    characters = []
    for character in text:
        if character in _ESCAPES:
            characters.append(_ESCAPES[character])
        elif ord(character) < 0x20 or ord(character) == 0x7F:
            characters.append(f"\\u{ord(character):04x}")
        else:
            characters.append(character)
    return f'"{"".join(characters)}"'
