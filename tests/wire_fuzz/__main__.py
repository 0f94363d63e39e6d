"""Rounds of hostile requests, seed after seed: ``python -m tests.wire_fuzz --minutes 10 --seed 1``.

Each round is a broker in simulation of its own (see `attack`), so that a failure is repeated by
``--seed N --rounds 1`` with the seed that is printed. ``--versions`` compares neighbouring versions
of all APIs instead (see `versions`). Ends with 1 if anything was found.
"""

from __future__ import annotations

import argparse
import random
import resource
import time
import traceback
from collections import Counter
from typing import TYPE_CHECKING

from tests.wire_fuzz.attack import Tally, run_round
from tests.wire_fuzz.versions import compare, pairs
from trio_broker.wire.api import APIS

if TYPE_CHECKING:
    from collections.abc import Callable

_MIB = 1024


def main() -> None:
    """Run as a command."""
    parser = argparse.ArgumentParser(prog="python -m tests.wire_fuzz", description=__doc__)
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**32))
    parser.add_argument("--rounds", type=int, default=2**62, help="at most so many")
    parser.add_argument("--versions", action="store_true", help="compare versions instead")
    options = parser.parse_args()
    print(f"seed {options.seed}")
    work = _versions if options.versions else _attacks
    failures = work(options.seed, options.rounds, time.perf_counter() + 60 * options.minutes)
    raise SystemExit(1 if failures else 0)


def _attacks(seed: int, rounds: int, deadline: float) -> int:
    tally = Tally()
    done = failures = 0
    while done < rounds and time.perf_counter() < deadline:
        failures += not _passes(f"seed {seed + done}", lambda: run_round(seed + done, tally))  # noqa: B023
        done += 1
    print(f"{sum(tally.sent.values())} requests in {done} rounds, {failures} failed")
    for name, count in sorted(tally.sent.items()):
        print(f"  {name:24} {count:8} sent {tally.legal[name]:8} legal {_codes(tally, name)}")
    answered = Counter(name for name, _ in tally.versions)
    print(f"versions answered: {sum(answered.values())}; outcomes: {dict(tally.outcomes)}")
    largest = max(tally.largest.items(), key=lambda entry: entry[1], default=("", 0))
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // _MIB
    print(f"largest answer: {largest[1]} bytes of {largest[0]}; most memory used: {used} MiB")
    return failures


def _codes(tally: Tally, name: str) -> str:
    found = {code: count for (api, code), count in tally.codes.items() if api == name}
    return " ".join(f"{code}:{count}" for code, count in sorted(found.items()))


def _versions(seed: int, rounds: int, deadline: float) -> int:
    compared = failures = done = 0
    while done < rounds and time.perf_counter() < deadline:
        for api_key, newer in pairs():
            if time.perf_counter() >= deadline:
                break

            def work(api_key: int = api_key, newer: int = newer, seed: int = seed + done) -> None:
                nonlocal compared
                compared += compare(api_key, newer, seed)

            what = f"seed {seed + done}, {APIS[api_key].name} {newer - 1} and {newer}"
            failures += not _passes(what, work)
        done += 1
    print(f"{compared} answers compared over {len(pairs())} pairs of versions, {failures} failed")
    return failures


def _passes(what: str, work: Callable[[], object]) -> bool:
    """Do something; print what it failed with, if it did."""
    try:
        work()
    except Exception as error:  # noqa: BLE001 - whatever it is, it has been found
        print(f"FAILED: {what}")
        print("".join(traceback.format_exception(error))[-20_000:], flush=True)
        return False
    return True


if __name__ == "__main__":
    main()
