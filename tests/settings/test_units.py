"""Durations and sizes: what people write, what is refused, and that nothing is lost on the way."""

from __future__ import annotations

from contextlib import suppress
from fractions import Fraction

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from trio_broker.settings.table import settings
from trio_broker.settings.units import Unit, parse_quantity, quantity_text, unit_of

DAY = 86_400


@pytest.mark.parametrize(
    "text, seconds",
    [
        ("7d", 7 * DAY),
        ("1h30m", 5400),
        ("250ms", Fraction(1, 4)),
        ("1w 2 days", 9 * DAY),
        ("  90 min ", 5400),
        ("1.5h", 5400),
        ("0s", 0),
        ("2weeks3d4h5m6s7ms", 17 * DAY + 4 * 3600 + 5 * 60 + 6 + Fraction(7, 1000)),
    ],
)
def test_durations(text: str, seconds: Fraction) -> None:
    assert parse_quantity(text, Unit.SECONDS) == seconds
    assert parse_quantity(text, Unit.MILLISECONDS) == seconds * 1000


@pytest.mark.parametrize(
    "text, size_bytes",
    [
        ("64MiB", 64 * 1024**2),
        ("1 GiB", 1024**3),
        ("1gib", 1024**3),
        ("10 kB", 10_000),
        ("5MB", 5_000_000),
        ("1.5KiB", 1536),
        ("12B", 12),
        ("2TiB", 2 * 1024**4),
    ],
)
def test_sizes(text: str, size_bytes: int) -> None:
    assert parse_quantity(text, Unit.BYTES) == size_bytes


@pytest.mark.parametrize(
    "text",
    [
        "7 dayz",
        "",
        " ",
        "7",
        "d",
        "7D",
        "-7d",
        "1h-30m",
        "7d!",
        "1e3s",
        "٧d",
        "7 d,",
        "9" * 101 + "s",
    ],
)
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(ValueError, match=r"is not a duration like '7d', '1h30m' or '250ms'"):
        parse_quantity(text, Unit.MILLISECONDS)


@pytest.mark.parametrize("text", ["64 MIBB", "seven", "1h", "-1KiB", "1,5KiB"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(ValueError, match="is not a size like '64MiB' or '1 GiB'"):
        parse_quantity(text, Unit.BYTES)


def test_a_size_that_may_mean_two_things_is_refused_with_both() -> None:
    with pytest.raises(ValueError, match=r"'64MiB' \(times 1024\) or '64MB' \(times 1000\)"):
        parse_quantity("64m", Unit.BYTES)


@pytest.mark.parametrize("text", ["30m1h", "1h1h", "1ms 1s"])
def test_units_stand_in_order(text: str) -> None:
    with pytest.raises(ValueError, match="larger units first"):
        parse_quantity(text, Unit.SECONDS)


@given(st.integers(0, 2**63 - 1), st.sampled_from([Unit.MILLISECONDS, Unit.BYTES]))
@example(2**63 - 1, Unit.MILLISECONDS)
@example(604_800_000, Unit.MILLISECONDS)
@example(1024**3, Unit.BYTES)
def test_what_is_written_reads_back_as_the_same(amount: int, unit: Unit) -> None:
    text = quantity_text(amount, unit)
    assert text is None or parse_quantity(text, unit) == amount


@given(st.floats(0, 1e9, allow_nan=False))
@example(0.1)
@example(5e-324)
def test_seconds_with_a_fraction_read_back_as_the_same(amount: float) -> None:
    text = quantity_text(amount, Unit.SECONDS)
    assert text is None or float(parse_quantity(text, Unit.SECONDS)) == amount


@given(st.text(alphabet="0123456789. dhmsMiBwek-", max_size=12), st.sampled_from(Unit))
def test_any_text_is_a_quantity_or_a_mistake(text: str, unit: Unit) -> None:
    with suppress(ValueError):
        assert parse_quantity(text, unit) >= 0


def test_short_forms_are_short() -> None:
    assert quantity_text(604_800_000, Unit.MILLISECONDS) == "7d"
    assert quantity_text(5_400_000, Unit.MILLISECONDS) == "1h30m"
    assert quantity_text(0.25, Unit.SECONDS) == "250ms"
    assert quantity_text(57_671_680, Unit.BYTES) == "55MiB"
    assert quantity_text(1_048_588, Unit.BYTES) is None
    assert quantity_text(0, Unit.BYTES) is None
    assert quantity_text(-1, Unit.MILLISECONDS) is None


def test_each_field_that_names_a_unit_has_it() -> None:
    """A field named in another way would silently take plain numbers only."""
    assert unit_of("retention_ms") is Unit.MILLISECONDS
    assert unit_of("frame_seconds_max") is Unit.SECONDS
    assert unit_of("produce_bytes_in_flight_max") is Unit.BYTES
    assert unit_of("topic_mutations_per_second") is None
    for setting in settings().values():
        words = setting.name.split("_")
        named = [word for word in words if word in {"ms", "seconds", "bytes"}]
        assert len(named) == (setting.unit is not None), setting.key
        other = {"minutes", "hours", "days", "size", "kib", "mib", "sec", "millis", "timeout"}
        if setting.unit is None:
            # `group_size_max` counts members.
            assert other.isdisjoint(words) or setting.name == "group_size_max", setting.key
        if setting.unit is Unit.SECONDS:
            assert setting.type is float, setting.key
        elif setting.unit is not None:
            assert setting.type is int, setting.key
