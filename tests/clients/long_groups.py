"""Groups of real consumers at default settings through everything that happens to groups.

``python -m tests.clients.long_groups`` tells the stories of `group_story` with the timeouts that
clients and server have by themselves: a member that was killed is noticed after its session timeout
of 10 or 45 seconds, offsets are committed every five. It takes about two minutes, nearly all of it
waiting, and prints what it found. It ends with 1 if anything did not hold.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.clients.group_member import MEMBERS
from tests.clients.group_story import (
    DEFAULTS,
    PARTITIONS,
    Story,
    check_commits,
    check_owners,
    check_reading,
    check_static_restart,
    read_offsets_topic,
    tell_of_coming_and_going,
    tell_of_static_members,
    told,
)
from tests.support.requirements import missing_programs


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def holds(what: str, check: Callable[[], object]) -> bool:
    """Say whether something holds, and how it does not."""
    try:
        check()
    except AssertionError:
        say(f"  NOT: {what}\n{traceback.format_exc()}")
        return False
    say(f"  {what}")
    return True


def come_and_go(directory: Path, clients: Sequence[str], tell: Callable[[str], None]) -> bool:
    """Tell the story of dynamic members and judge it."""
    with told(Story(directory, clients, DEFAULTS, tell)) as story:
        tell_of_coming_and_going(story)
        good = True
        for client in clients:
            read = sum(len(member.values) for member in story.everybody(client))
            generations = read_offsets_topic(story.data_dir)[client].generations
            say(
                f"{client}: {len(story.everybody(client))} members in turn, "
                f"{PARTITIONS * story.sent} records sent, {read} read, "
                f"{generations[-1].generation} generations"
            )
            for what, check in (
                ("every record was read, in the order of its partition", check_reading),
                ("committed offsets never went back", check_commits),
                ("no partition was owned twice in a generation", check_owners),
            ):
                good &= holds(what, lambda check=check, client=client: check(story, client))  # type: ignore[misc]
        return good


def come_back(directory: Path, clients: Sequence[str], tell: Callable[[str], None]) -> bool:
    """Tell the story of static members and judge it."""
    with told(Story(directory, clients, DEFAULTS, tell)) as story:
        before = tell_of_static_members(story)
        story.server.kill()
        stored = read_offsets_topic(story.data_dir)
        good = True
        for client in clients:
            good &= holds(
                f"{client}: a static member came back to what it had, without a rebalance",
                lambda client=client: check_static_restart(story, stored, client, before[client]),  # type: ignore[misc]
            )
        return good


def main() -> int:
    """Run both stories; return 1 if something did not hold."""
    parser = argparse.ArgumentParser(prog="python -m tests.clients.long_groups")
    parser.add_argument("--client", action="append", choices=MEMBERS, help="only these")
    options = parser.parse_args()
    missing = missing_programs("kcat")
    clients = [one for one in options.client or MEMBERS if one != "kcat" or not missing]
    if missing:
        say(f"NOT TESTED: kcat. MISSING: {', '.join(missing)}")
    began = time.perf_counter()

    def tell(text: str) -> None:
        say(f"{time.perf_counter() - began:6.1f} s  {text}")

    with tempfile.TemporaryDirectory(prefix="groups-") as name:
        for directory in (Path(name, "dynamic"), Path(name, "static")):
            directory.mkdir()
        good = come_and_go(Path(name, "dynamic"), clients, tell)
        good &= come_back(Path(name, "static"), clients, tell)
    tell("all of it held" if good else "SOMETHING DID NOT HOLD")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
