"""Writes the page of client compatibility from what the tests of this folder and `foreign` find.

``python -m tests.clients.compatibility`` runs them (three to five minutes) and writes
``docs/reference/client-compatibility.md``: which clients in which versions, what was tried with
each, and what came of it. It ends with 1 if anything failed; the page then says so.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ET
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import confluent_kafka

from tests.clients.foreign.__main__ import CLIENTS as FOREIGN
from tests.clients.foreign.__main__ import Outcome, broker_at, build, run_client
from tests.support.requirements import missing_programs

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
PAGE = ROOT / "docs/reference/client-compatibility.md"
FILES = ("test_clients.py", "test_admin_clients.py", "test_groups.py", "test_first_record.py")
#: Names of clients on the page, by how the names of parameters begin.
COLUMNS = {
    "confluent": "confluent-kafka",
    "kcat": "kcat",
    "aiokafka": "aiokafka",
    "kafka-python": "kafka-python",
}
#: Tests that are about one client only.
SINGLE = {
    "test_lists_are_appended_to": "confluent",
    "test_what_only_kafka_python_asks": "kafka-python",
    "test_the_first_record_of_a_default_group_consumer": "confluent",
}
YES, FAILED, SKIPPED, NONE = "yes", "**no**", "not run", ""
LANGUAGES = {"go": "Go", "node": "JavaScript", "java": "Java"}


class Tried(NamedTuple):
    """One test case: the test, the client, and what came of it."""

    test: str
    client: str
    outcome: str


def tests_of(file: str) -> list[str]:
    """Return the names of the tests in a file, in its order."""
    tree = ast.parse((HERE / file).read_text("utf-8"))
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    return [
        node.name for node in tree.body if isinstance(node, kinds) and node.name.startswith("test_")
    ]


def sentence_of(test: str) -> str:
    """Return what a test is about."""
    return test.removeprefix("test_").replace("_", " ")


def client_of(test: str, parameters: str) -> str:
    """Return which client a case is about.

    Raises:
        ValueError: it does not say.
    """
    if test in SINGLE:
        return SINGLE[test]
    for client in COLUMNS:
        if re.search(rf"(^|-){client}(-|$)", parameters):
            return client
    raise ValueError(f"{test}[{parameters}] names no client; is it to be in SINGLE?")


def read_results(report: Path) -> Iterator[Tried]:
    """Read pytest's report."""
    for case in ET.parse(report).iter("testcase"):
        test, _, parameters = case.attrib["name"].partition("[")
        outcome = YES
        if case.find("failure") is not None or case.find("error") is not None:
            outcome = FAILED
        elif case.find("skipped") is not None:
            outcome = SKIPPED
        yield Tried(test, client_of(test, parameters.rstrip("]")), outcome)


def merged(tried: Sequence[Tried]) -> Mapping[tuple[str, str], str]:
    """Return one outcome for each test and client: the worst of all cases."""
    worst: dict[tuple[str, str], str] = defaultdict(str)
    order = (NONE, YES, SKIPPED, FAILED)
    for test, client, outcome in tried:
        place = (test, client)
        worst[place] = max(worst[place], outcome, key=order.index)
    return worst


def versions() -> dict[str, str]:
    """Return the version of each client that is installed."""
    found = {
        "confluent": f"{version('confluent-kafka')}, librdkafka {confluent_kafka.libversion()[0]}",
        "aiokafka": version("aiokafka"),
        "kafka-python": version("kafka-python"),
        "kcat": "not installed",
    }
    if not missing_programs("kcat"):
        said = subprocess.run(["kcat", "-V"], capture_output=True, text=True, check=True).stdout
        match = re.search(r"Version (\S+) .*?librdkafka (\S+)", said)
        assert match is not None, said
        found["kcat"] = f"{match[1]}, librdkafka {match[2]}"
    return found


def render(
    tried: Sequence[Tried], known: Mapping[str, str], foreign: Sequence[tuple[str, str, Outcome]]
) -> str:
    """Return the page.

    Args:
        tried: what the tests found.
        known: version of each client.
        foreign: language, what is missing, and outcome of each client in another language.
    """
    outcomes = merged(tried)
    lines = [
        "# Client compatibility",
        "",
        (
            "Written by `python -m tests.clients.compatibility` from what it found; the tests are "
            "in `tests/clients`. Every client runs unmodified and, but for timeouts in the tests "
            "of groups, at its default settings against `trio-broker serve`. An empty field: the "
            "library has no call for it, or the test is about another one."
        ),
        "",
        "## In the test suite",
        "",
        "| | " + " | ".join(f"{COLUMNS[c]} {known[c]}" for c in COLUMNS) + " |",
        "|---|" + "---|" * len(COLUMNS),
    ]
    for file in FILES:
        for test in tests_of(file):
            cells = [outcomes.get((test, client), NONE) for client in COLUMNS]
            lines.append(f"| {sentence_of(test)} | " + " | ".join(cells) + " |")
    lines += [
        "",
        "## In other languages",
        "",
        (
            "By `python -m tests.clients.foreign`: one program each, which goes on to the next "
            "step only if the one before worked."
        ),
        "",
        "| Client | Language | Version | Works | Steps |",
        "|---|---|---|---|---|",
    ]
    for language, missing, outcome in foreign:
        works = missing or (YES if outcome.passed else FAILED)
        lines.append(
            f"| {outcome.client} | {LANGUAGES[language]} | {outcome.version} | {works} "
            f"| {'; '.join(steps_of(outcome.said))} |"
        )
    return "\n".join([*lines, ""])


def steps_of(said: str) -> list[str]:
    """Return the steps that worked."""
    return [line.removeprefix("ok ") for line in said.splitlines() if line.startswith("ok ")]


def run_foreign(scratch: Path) -> list[tuple[str, str, Outcome]]:
    """Build and run the clients in other languages, as far as this machine can."""
    found = []
    troubles: dict[str, str | None] = {}
    for client, (toolchain, _) in FOREIGN.items():
        directory = scratch / toolchain.folder
        if toolchain.folder not in troubles:
            troubles[toolchain.folder] = build(toolchain, directory)
        trouble = troubles[toolchain.folder]
        if trouble is not None:
            nothing = Outcome(client, "", passed=False, seconds=0.0, said="")
            found.append((toolchain.folder, trouble.partition("\n")[0], nothing))
            continue
        with broker_at(None, scratch / f"data-{len(found)}") as bootstrap:
            outcome = run_client(client, directory, bootstrap)
        found.append((toolchain.folder, "", outcome))
    return found


def main() -> int:
    """Run everything and write the page; return 1 if anything failed."""
    with tempfile.TemporaryDirectory(prefix="compatibility-") as name:
        report = Path(name, "report.xml")
        command = [sys.executable, "-m", "pytest", "-q", f"--junitxml={report}"]
        subprocess.run([*command, *(str(HERE / file) for file in FILES)], cwd=ROOT, check=False)
        tried = list(read_results(report))
        foreign = run_foreign(Path(name))
    PAGE.write_text(render(tried, versions(), foreign), "utf-8")
    failed = [one for one in tried if one.outcome == FAILED]
    failed_foreign = [one.client for _, missing, one in foreign if not missing and not one.passed]
    sys.stdout.write(f"{PAGE.relative_to(ROOT)}: {len(tried)} cases, {len(failed)} failed; ")
    sys.stdout.write(f"failed in other languages: {', '.join(failed_foreign) or 'none'}\n")
    return 1 if failed or failed_foreign else 0


if __name__ == "__main__":
    sys.exit(main())
