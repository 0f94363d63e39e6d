"""Draws as decisions: recording changes nothing, replaying repeats it, anything else is plain."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_broker.testing.sim.draws import DrawBook, apply_code, order_code
from trio_broker.testing.sim.replay import Replay
from trio_broker.testing.sim.streams import RandomStreams

if TYPE_CHECKING:
    from collections.abc import Callable

#: Every kind of draw, with what it gives in the plainest run.
DRAWS: dict[str, tuple[Callable[[random.Random], Any], Any]] = {
    "random": (lambda draws: draws.random(), 1 - 2**-53),
    "uniform": (lambda draws: draws.uniform(2, 5), 2),
    "expovariate": (lambda draws: draws.expovariate(3), 0),
    "gauss": (lambda draws: draws.gauss(7, 2), 7),
    "normalvariate": (lambda draws: draws.normalvariate(7, 2), 7),
    "getrandbits": (lambda draws: draws.getrandbits(9), 0),
    "randrange": (lambda draws: draws.randrange(3, 30, 4), 3),
    "randint": (lambda draws: draws.randint(3, 9), 3),
    "choice": (lambda draws: draws.choice("abc"), "a"),
    "choices": (lambda draws: draws.choices("abc", k=3), ["a", "a", "a"]),
    "choices by weight": (lambda draws: draws.choices("abc", (0, 2, 1), k=2), ["b", "b"]),
    "choices by sums": (lambda draws: draws.choices("abc", cum_weights=(0, 2, 3)), ["b"]),
    "shuffle": (lambda draws: _shuffled(draws), [0, 1, 2, 3, 4, 5]),
    "sample": (lambda draws: draws.sample("abcdef", 3), ["a", "b", "c"]),
    "sample by counts": (lambda draws: draws.sample("ab", 3, counts=(2, 2)), ["a", "a", "b"]),
    "triangular": (lambda draws: draws.triangular(0, 1), None),
    "betavariate": (lambda draws: draws.betavariate(1, 2), None),
    "gammavariate": (lambda draws: draws.gammavariate(2, 2), None),
    "lognormvariate": (lambda draws: draws.lognormvariate(0, 1), None),
    "vonmisesvariate": (lambda draws: draws.vonmisesvariate(1, 4), None),
    "paretovariate": (lambda draws: draws.paretovariate(2), None),
    "weibullvariate": (lambda draws: draws.weibullvariate(2, 2), None),
}


def _shuffled(draws: random.Random) -> list[int]:
    items = list(range(6))
    draws.shuffle(items)
    return items


@pytest.mark.parametrize("kind", DRAWS)
def test_a_recorded_draw_is_the_same_and_can_be_repeated(kind: str) -> None:
    draw, plainest = DRAWS[kind]
    plain = [draw(RandomStreams(7).stream("x")) for _ in range(1)]
    book = DrawBook()
    ordinary, recording = RandomStreams(7).stream("x"), RandomStreams(7, book).stream("x")
    expected = [draw(ordinary) for _ in range(20)]
    assert [draw(recording) for _ in range(20)] == expected
    assert expected[0] == plain[0]
    token = Replay.of(7, book.taken).token()
    replay = Replay.from_token(token)
    again = DrawBook(replay.decisions)
    replaying = RandomStreams(replay.seed, again).stream("x")
    assert [draw(replaying) for _ in range(20)] == expected
    assert {decision.place for decision in again.taken} == set(replay.decisions)
    assert all(decision.text for decision in again.taken)
    empty = RandomStreams(7, DrawBook({})).stream("x")
    if plainest is not None:
        assert draw(empty) == plainest
    assert draw(empty) == draw(empty)


def test_names_and_payloads_differ_even_in_the_plainest_run() -> None:
    stream = RandomStreams(7, DrawBook({})).stream("names")
    assert len({stream.getrandbits(128) for _ in range(100)}) == 100
    assert stream.randbytes(20) != stream.randbytes(20)


def test_a_program_that_draws_until_it_likes_what_it_gets_ends() -> None:
    stream = RandomStreams(7, DrawBook({})).stream("picky")
    while stream.random() > 0.5:
        pass


@given(st.permutations(list(range(8))))
def test_orders_and_their_codes(order: list[int]) -> None:
    assert apply_code(order_code(order), sorted(order)) == order
    assert (order_code(order) == ()) == (order == sorted(order))


@given(st.lists(st.integers(0, 20), max_size=12), st.lists(st.integers(), max_size=8))
def test_every_code_is_an_order_of_anything(code: list[int], items: list[int]) -> None:
    assert sorted(apply_code(code, items)) == sorted(items)


@given(
    st.integers(0, 2**70),
    st.dictionaries(
        st.tuples(st.text(min_size=1), st.integers(0, 10**6)),
        st.one_of(
            st.integers(0, 2**200),
            st.floats(allow_nan=False, allow_infinity=False),
            st.lists(st.integers(0, 99), min_size=1).map(tuple),
        ),
        max_size=20,
    ),
)
def test_tokens_say_all(seed: int, decisions: dict[Any, Any]) -> None:
    replay = Replay(seed, decisions)
    token = replay.token()
    assert Replay.from_token(f" {token}\n") == replay
    assert all(letter.isalnum() or letter in ":-_" for letter in token)


def test_what_is_no_token_is_refused() -> None:
    whole = Replay(7, {("x", 3): 5}).token()
    bomb = Replay(7, {("x" * (20 << 20), 3): 5}).token()
    for token in ("", "7", "tb2:xx", "tb1:", "tb1:%%", whole[:-4], whole[:-9] + whole[-8:], bomb):
        with pytest.raises(ValueError, match="token"):
            Replay.from_token(token)


def test_a_replayed_draw_fits_whatever_the_program_asks_now() -> None:
    values: list[Any] = [5, -3, 0.25, 1e300, (9, 9, 9), (0,), 2**80]
    for value in values:
        for draw, _ in DRAWS.values():
            places = {("x", number): value for number in range(3)}
            draw(RandomStreams(1, DrawBook(places)).stream("x"))


def test_streams_are_what_the_seed_says() -> None:
    stream = RandomStreams(7, DrawBook()).stream("x")
    with pytest.raises(TypeError, match="seed of the run"):
        stream.seed(5)
    with pytest.raises(ValueError, match="empty range"):
        stream.randrange(0)
    with pytest.raises(IndexError):
        stream.choice([])
    with pytest.raises(ValueError, match="larger than population"):
        stream.sample([1], 2)
