"""Groups of real consumers through joining, leaving, crashes, static restarts and rolling bounces.

See `group_story` for the stories; here the timeouts are short.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.clients.group_member import MEMBERS
from tests.clients.group_story import (
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
from tests.support.requirements import missing_programs, skip_loudly

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def clients() -> list[str]:
    """All clients that are installed."""
    return [client for client in MEMBERS if client != "kcat" or not missing_programs("kcat")]


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory, clients: list[str]) -> Iterator[Story]:
    """Everything that happens to groups, one thing after the other."""
    with told(Story(tmp_path_factory.mktemp("groups"), clients)) as story:
        tell_of_coming_and_going(story)
        yield story


@pytest.fixture(params=MEMBERS)
def client(request: pytest.FixtureRequest, clients: list[str]) -> str:
    """Each client in turn."""
    name = str(request.param)
    if name not in clients:
        skip_loudly("groups of kcat", missing_programs("kcat"))
    return name


def test_every_record_is_read_in_the_order_of_its_partition(story: Story, client: str) -> None:
    check_reading(story, client)


def test_committed_offsets_never_go_back(story: Story, client: str) -> None:
    check_commits(story, client)


def test_no_partition_is_owned_twice_in_one_generation(story: Story, client: str) -> None:
    check_owners(story, client)


@pytest.fixture(scope="module")
def static_story(
    tmp_path_factory: pytest.TempPathFactory, clients: list[str]
) -> Iterator[tuple[Story, dict[str, list[set[int]]]]]:
    """Static members of all groups, of which one comes back; and what they had before."""
    with told(Story(tmp_path_factory.mktemp("static-groups"), clients)) as story:
        before = tell_of_static_members(story)
        story.server.kill()
        yield story, before


def test_a_static_member_restarts_without_a_rebalance(
    static_story: tuple[Story, dict[str, list[set[int]]]], client: str
) -> None:
    story, before = static_story
    check_static_restart(story, read_offsets_topic(story.data_dir), client, before[client])
