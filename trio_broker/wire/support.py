"""Which parts of the Kafka protocol are served, as a page for people.

Pure text from the declarations and from what `trio_broker.broker.handlers` says that it serves;
docs/reference/protocol-support.md is written with it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from trio_broker.wire.api import APIS, NEVER_FLEXIBLE, Api

if TYPE_CHECKING:
    from collections.abc import Mapping

_INTRODUCTION = """\
# Protocol support

Written by `python -m tests.wire.reference_page` from the code; a test compares.

Versions are those of Apache Kafka 4.3. ApiVersions names the APIs of the first table and nothing
else. A request for anything else closes the connection, as it does in Kafka; only ApiVersions
itself is answered in every version, with an error that names the versions to use.

"Offered" are the versions that ApiVersions names, "answered" those that get an answer. They differ
for Produce: librdkafka before 2.11 sends gzip, snappy and lz4 uncompressed to a broker whose range
does not begin at 0, yet never uses those versions. "Flexible" versions have compact encodings and
tagged fields (KIP-482).

## Served

| Key | API | Offered | Answered | Flexible |
|---:|---|---|---|---|
"""

_NOT_SERVED = """
## Not served yet

The bytes of these are known to `trio_broker.wire`, but nothing answers them.

| Key | API | Versions | Flexible |
|---:|---|---|---|
"""

_NOT_DECLARED = """
## Not part of this broker

| API | Why |
|---|---|
| Describe-, Create-, DeleteAcls (29-31), delegation tokens (38-41), SCRAM users (50, 51) | there is no authorizer |
| AlterReplicaLogDirs (34), ElectLeaders (43), AlterPartitionReassignments (45), ListPartitionReassignments (46) | one replica per partition, nothing to move |
| DescribeClientQuotas (48), AlterClientQuotas (49) | there are no quotas |
| GetTelemetrySubscriptions (71), PushTelemetry (72) | a broker may leave them out, which saves clients a round of requests |
| UpdateFeatures (57) | there are no features to finalize |
| Vote to FetchSnapshot (52-56, 58, 59), broker and controller registration (62-64, 67, 70, 73, 80-82) | spoken between Kafka's own nodes |
| Share groups (76-79, 83-87, 90-92), streams groups (88, 89) | queues and Kafka Streams' own protocol |
"""  # noqa: E501 - a table


def render_support(served: Mapping[int, tuple[int, int]]) -> str:
    """Return the page as Markdown.

    Args:
        served: first and last version answered, by API key.
    """
    page = [_INTRODUCTION]
    for key, (least, most) in sorted(served.items()):
        api = APIS[key]
        offered = _versions(min(least, api.advertised_min_version), most)
        page.append(_row(api, offered, _versions(least, most)))
    missing = [api for key, api in sorted(APIS.items()) if key not in served]
    if missing:
        page.append(_NOT_SERVED)
    for api in missing:
        page.append(_row(api, _versions(api.min_version, api.max_version)))
    page.append(_NOT_DECLARED)
    return "".join(page)


def _row(api: Api, *versions: str) -> str:
    return f"| {' | '.join((str(int(api.key)), api.name, *versions, _flexible(api)))} |\n"


def _versions(least: int, most: int) -> str:
    return str(most) if least == most else f"{least}-{most}"


def _flexible(api: Api) -> str:
    return "never" if api.flexible_version == NEVER_FLEXIBLE else f"{api.flexible_version}+"
