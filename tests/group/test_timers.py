from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from trio_broker.group.timers import Timers


def test_a_deadline_that_is_pushed_back_counts() -> None:
    timers: Timers[str] = Timers()
    timers.set("a", 10)
    timers.set("b", 20)
    timers.set("a", 30)
    assert timers.next_ms() == 20
    assert [timers.pop_due(30), timers.pop_due(30), timers.pop_due(30)] == ["b", "a", None]
    assert timers.next_ms() is None
    timers.set("a", 5)
    timers.clear()
    assert timers.next_ms() is None


def test_keys_that_come_and_go_leave_nothing_behind() -> None:
    timers: Timers[int] = Timers()
    for key in range(10_000):
        timers.set(key, 1_000_000)
        if key % 2:
            timers.cancel(key)
            timers.cancel(key - 1)
    assert len(timers) == 0
    assert len(timers._heap) < 200
    assert len(timers._queued_ms) < 200


KEYS = st.integers(0, 5)
STEPS = st.lists(
    st.tuples(st.just("set"), KEYS, st.integers(0, 50))
    | st.tuples(st.just("cancel"), KEYS, st.just(0))
    | st.tuples(st.just("pop"), st.just(0), st.integers(0, 50)),
    max_size=60,
)


@given(STEPS)
def test_against_a_dictionary(steps: list[tuple[str, int, int]]) -> None:
    timers: Timers[int] = Timers()
    model: dict[int, int] = {}
    for what, key, at_ms in steps:
        if what == "set":
            timers.set(key, at_ms)
            model[key] = at_ms
        elif what == "cancel":
            timers.cancel(key)
            model.pop(key, None)
        else:
            due = timers.pop_due(at_ms)
            first_ms = min(model.values(), default=None)
            if due is None:
                assert first_ms is None or first_ms > at_ms
            else:
                assert model.pop(due) == first_ms
        assert timers.next_ms() == min(model.values(), default=None)
        assert len(timers) == len(model)
        assert all((key in timers) == (key in model) for key in range(6))
        assert all(timers.deadline_ms(key) == model.get(key) for key in range(6))
