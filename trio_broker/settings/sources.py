"""Where settings come from: a TOML file, the environment, assignments, options of a command.

Each reader turns its source into entries, none of them believed yet, and the mistakes that keep it
from being read at all. `trio_broker.settings.resolve` puts them together.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from enum import Enum
from typing import NamedTuple

from trio_broker.config_catalog import BROKER_CONFIGS
from trio_broker.errors import ConfigFault
from trio_broker.settings.table import (
    ENVIRONMENT_PREFIX,
    environment_name,
    find_setting,
    settings,
    unknown_key,
)

#: A configuration is a page of text; this is a hundred of them.
FILE_BYTES_MAX = 1024 * 1024


class SourceKind(Enum):
    """Kinds of sources, each winning over those before it."""

    DEFAULT = "default"
    SERVE_DEFAULT = "default of serve"
    FILE = "file"
    ENVIRONMENT = "environment"
    ASSIGNMENT = "-X"
    OPTION = "option"


class Origin(NamedTuple):
    """Where a value was set.

    Attributes:
        kind: which kind of source.
        name: of the file, the variable or the option.
    """

    kind: SourceKind
    name: str = ""

    def __str__(self) -> str:
        return self.name or self.kind.value


DEFAULT = Origin(SourceKind.DEFAULT)
SERVE_DEFAULT = Origin(SourceKind.SERVE_DEFAULT)


class Entry(NamedTuple):
    """One value that a source sets.

    Attributes:
        origin: where.
        key: as it was written.
        raw: the value as it was written.
        is_text: whether the source has only texts.
    """

    origin: Origin
    key: str
    raw: object
    is_text: bool = True


class Source(NamedTuple):
    """What one source has to say, and what is wrong with it."""

    entries: tuple[Entry, ...] = ()
    faults: tuple[ConfigFault, ...] = ()


# ------------------------------------------------------------------------------------------ files
def read_file(name: str, content: bytes) -> Source:
    """Read the content of a TOML file."""
    origin = Origin(SourceKind.FILE, name)

    def refused(reason: str) -> Source:
        return Source(faults=(ConfigFault(reason, place=name),))

    if len(content) > FILE_BYTES_MAX:
        return refused(f"more than {FILE_BYTES_MAX} bytes are no configuration")
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        return refused(f"line {line} is not UTF-8; save the file as UTF-8")
    try:
        tables = tomllib.loads(text.removeprefix("\ufeff"))
        found = list(_flattened(tables, ""))
    except tomllib.TOMLDecodeError as error:
        return refused(_syntax_fault(text, str(error)))
    except RecursionError:
        return refused("its brackets or keys are nested too deeply")
    except ValueError:  # Python reads no numbers of thousands of digits
        return refused("there is a number in it with too many digits")
    entries = tuple(Entry(origin, key, value, is_text=False) for key, value in found)
    return Source(entries, tuple(_set_twice(entries, name)))


def _flattened(table: Mapping[str, object], prefix: str) -> Iterator[tuple[str, object]]:
    """Yield dotted keys and values; ``retention.ms = 5`` under ``[topic]`` is a table for TOML."""
    for name, value in table.items():
        key = f"{prefix}{name}"
        if isinstance(value, dict) and find_setting(key) is None:
            yield from _flattened(value, f"{key}.")
        else:
            yield key, value


def _set_twice(entries: Iterable[Entry], name: str) -> Iterator[ConfigFault]:
    """TOML refuses a key that is set twice, but does not know that a key has two spellings."""
    spellings: dict[str, str] = {}
    for entry in entries:
        setting = find_setting(entry.key)
        if setting is None:
            continue
        if (other := spellings.setdefault(setting.key, entry.key)) != entry.key:
            reason = f"is set twice, as {other!r} and as {entry.key!r}; remove one of them"
            yield ConfigFault(reason, (setting.key,), name)


_POSITION = re.compile(r"(.*) \(at (?:line (\d+), column \d+|end of document)\)\Z", re.DOTALL)
_ASSIGNED = re.compile(r"\s*([\w.\"'-]+)\s*([=:])\s*(.*?)\s*\Z")
_STARTS_LIKE_TOML = re.compile(r"[\"'\[{]|(?:true|false|inf|nan)\b|[+-]?[0-9._]+\s*(?:#.*)?\Z")
#: What the parser says, and what it means to somebody who wrote the file.
_MEANINGS: Mapping[str, str] = {
    "Cannot overwrite a value": "this key is set twice in the file; remove one of them",
    "Unterminated string": "a text has no closing quote",
    "Unclosed array": "a list has no closing bracket",
}


def _syntax_fault(text: str, message: str) -> str:
    """Say where a file stops being TOML, and what may be meant there."""
    found = _POSITION.match(message)
    if found is None:
        return f"is not TOML: {message}"
    lines = text.rstrip().split("\n")
    if any((key := _ASSIGNED.match(line)) and _is_of_kafka(key[1]) for line in lines):
        return (
            "is not TOML, it looks like Kafka's server.properties; `trio-broker config import "
            "FILE` translates one"
        )
    number = int(found[2]) if found[2] else len(lines)
    line = lines[min(number, len(lines)) - 1].strip()
    return f"line {number} is not TOML: {_shown_line(line)}{_syntax_hint(line, found[1])}"


def _is_of_kafka(key: str) -> bool:
    return key in BROKER_CONFIGS and "." in key


def _shown_line(line: str) -> str:
    """Show a line of a file, unless there is a secret in it."""
    names = [setting.name for setting in settings().values() if setting.secret]
    return "" if any(name in line for name in names) else f"{line[:100]!r}: "


def _syntax_hint(line: str, message: str) -> str:
    message = _MEANINGS.get(message, message)
    plain = message[0].lower() + message[1:]
    assigned = _ASSIGNED.match(line)
    if assigned is None:
        return plain
    key, sign, value = assigned.groups()
    value = value.partition("#")[0].strip()
    if sign == ":":
        return f"TOML has '=' between key and value: {key} = ..."
    if not value:
        return f"there is no value; write one, or remove the line to keep the default of {key}"
    if value.lower() in {"yes", "no", "on", "off", "none", "null", "true", "false"}:
        return f'write {key} = true or false, or "" for no value'
    if value.startswith("[") and "invalid value" in plain:
        return f'texts in a list need quotes: {key} = ["one", "two"]'
    if not _STARTS_LIKE_TOML.match(value):
        shown = "..." if _shown_line(line) == "" else value
        return f'texts, durations and sizes need quotes: {key} = "{shown}"'
    return plain


# ------------------------------------------------------------------------------------ environment
#: Variables with our prefix that are not settings of the broker: options of commands.
ENVIRONMENT_OF_COMMANDS = frozenset(
    f"{ENVIRONMENT_PREFIX}{name}" for name in ("BOOTSTRAP", "CONFIG", "LOG_FORMAT", "LOG_LEVEL")
)
#: Variables that others make up from our name.
_OF_KUBERNETES = re.compile(
    # https://kubernetes.io/docs/concepts/services-networking/service/#environment-variables
    rf"{ENVIRONMENT_PREFIX}(?:\w+_)?(?:SERVICE_HOST|SERVICE_PORT(?:_\w+)?|PORT_[0-9]+_(?:TCP|UDP|SCTP)\w*)\Z"
)
_PORT_OF_KUBERNETES = re.compile(r"(?:tcp|udp|sctp)://")
_OF_TESTS = f"{ENVIRONMENT_PREFIX}TEST_"


def read_environment(environ: Mapping[str, str]) -> Source:
    """Read the variables that begin with ``TRIO_BROKER_``."""
    known = {setting.environment_name: setting.key for setting in settings().values()}
    entries, faults = [], []
    for name in sorted(environ):
        if not name.upper().startswith(ENVIRONMENT_PREFIX) or _is_for_others(name, environ[name]):
            continue
        if (key := known.get(name)) is not None:
            entries.append(Entry(Origin(SourceKind.ENVIRONMENT, name), key, environ[name]))
        else:
            faults.append(ConfigFault(_unknown_variable(name, known)))
    return Source(tuple(entries), tuple(faults))


def _is_for_others(name: str, value: str) -> bool:
    if name in ENVIRONMENT_OF_COMMANDS or name.startswith(_OF_TESTS):
        return True
    if _OF_KUBERNETES.match(name):
        return True
    return name.endswith("_PORT") and _PORT_OF_KUBERNETES.match(value) is not None


def _unknown_variable(name: str, known: Mapping[str, str]) -> str:
    fault = f"unknown environment variable {name[:200]!r}"
    if name.upper() in known:
        return f"{fault}, write {name.upper()!r}"
    if name.upper() in {environment_name(key.rpartition(".")[0]) for key in settings()}:
        return f"{fault}: it names a section; the keys in it follow behind '__'"
    by_letters = {variable.replace("_", ""): variable for variable in known}
    meant = by_letters.get(name.upper().replace("_", ""))
    if meant is None:
        close = difflib.get_close_matches(name[:200].upper(), known, n=1, cutoff=0.8)
        meant = close[0] if close else None
    if meant is None:
        last_parts = {key.rpartition(".")[2].upper(): variable for variable, key in known.items()}
        last = name.upper().removeprefix(ENVIRONMENT_PREFIX).rpartition("__")[2]
        close = difflib.get_close_matches(last[:200], last_parts, n=1, cutoff=0.75)
        meant = last_parts[close[0]] if close else None
    if meant is not None:
        return f"{fault}, did you mean {meant!r}?"
    return f"{fault}; unset it, or see the names in `trio-broker config explain`"


# -------------------------------------------------------------------------- assignments and options
def read_assignments(assignments: Iterable[str]) -> Source:
    """Read ``key=value`` texts; the last one of a key counts."""
    origin = Origin(SourceKind.ASSIGNMENT, "-X")
    entries, faults = [], []
    for assignment in assignments:
        key, separator, text = assignment.partition("=")
        if separator:
            entries.append(Entry(origin, key.strip(), text))
        else:
            reason = f"{assignment[:100]!r} is not key=value, like node_id=1"
            faults.append(ConfigFault(reason, place="-X"))
    return Source(tuple(entries), tuple(faults))


def option(name: str, key: str, raw: object) -> Entry:
    """Make an entry of an option of a command; lists are taken as they are."""
    return Entry(Origin(SourceKind.OPTION, name), key, raw, is_text=isinstance(raw, str))


def fault_of_key(entry: Entry) -> ConfigFault:
    """Say that an entry's key is unknown."""
    return ConfigFault(unknown_key(entry.key), place=str(entry.origin))
