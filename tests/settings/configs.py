"""Configurations made up by Hypothesis, legal ones only."""

from __future__ import annotations

from enum import Enum
from typing import Any

from hypothesis import strategies as st

from trio_broker.config import METRICS_COMPAT, BrokerConfig
from trio_broker.errors import ConfigError
from trio_broker.settings.resolve import resolve
from trio_broker.settings.sources import Source, option
from trio_broker.settings.table import Setting, settings

_ADDRESSES = st.sampled_from(["127.0.0.1:0", "127.0.0.1:19092", "[::1]:19093", "localhost:0"])
#: No surrogates, which no file in UTF-8 can have.
_TEXTS = st.text(st.characters(codec="utf-8"), min_size=1, max_size=12)
_SPECIAL: dict[str, st.SearchStrategy[Any]] = {
    "listeners": st.lists(_ADDRESSES, max_size=3, unique=True).map(tuple),
    "advertised": st.none() | st.sampled_from(["broker.example:9092", "[::1]:1"]),
    "http.listen": st.none() | st.sampled_from(["127.0.0.1:0", "0.0.0.0:9644"]),
    "http.token": st.none() | st.text("!~aZ\"'\\#", min_size=16, max_size=30),
    "metrics.compat": st.lists(st.sampled_from(METRICS_COMPAT), max_size=1).map(tuple),
    "topic.retention_ms": st.just(-1) | st.integers(1, 2**63 - 1),
    "topic.max_message_bytes": st.integers(1024, 2**31 - 1),
    "topic.cleanup_policy": st.just("delete"),
    "topic.compression_type": st.just("producer"),
    "log_dirs": st.lists(_TEXTS, max_size=3, unique=True).map(tuple),
    "cluster_id": st.none() | st.text("!~aZ\"'\\#", min_size=1, max_size=9),
    "http.host_names": st.lists(_TEXTS, max_size=3).map(tuple),
}


def values_of(setting: Setting) -> st.SearchStrategy[Any]:
    """Return legal values of one setting."""
    if setting.key in _SPECIAL:
        return _SPECIAL[setting.key]
    kind = setting.value_type
    limits = setting.limits
    if kind is bool:
        found: st.SearchStrategy[Any] = st.booleans()
    elif kind is int:
        found = st.integers(int(limits.least), int(limits.most))
    elif kind is float:
        found = st.floats(limits.least, limits.most)
    elif issubclass(kind, Enum):
        found = st.sampled_from(kind)
    else:
        found = _TEXTS
    if limits is not None and limits.special:
        found |= st.sampled_from(limits.special)
    return st.none() | found if setting.is_optional else found


@st.composite
def configs(draw: st.DrawFn) -> BrokerConfig:
    """Draw a configuration in which a handful of settings differ from their defaults."""
    keys = draw(st.lists(st.sampled_from(list(settings())), max_size=8, unique=True))
    entries = []
    for key in keys:
        value = draw(values_of(settings()[key]))
        raw = "" if value is None else list(value) if isinstance(value, tuple) else value
        entries.append(option("drawn", key, raw)._replace(is_text=False))
        try:
            resolve([Source(tuple(entries))])
        except ConfigError:  # breaks a rule together with the others
            entries.pop()
    return resolve([Source(tuple(entries))]).config
