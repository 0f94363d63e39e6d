"""Which APIs are served, in which versions, and by whom.

What is listed here is what ApiVersions advertises, and nothing else is answered: like Apache
Kafka, the broker closes the connection of a client that sends an API or a version it was not
offered. ApiVersions itself is the exception, since that is how a client finds out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING

from trio_broker.broker.handlers import (
    alter_configs,
    api_versions,
    create_partitions,
    create_topics,
    delete_groups,
    delete_records,
    delete_topics,
    describe_cluster,
    describe_configs,
    describe_groups,
    describe_log_dirs,
    describe_producers,
    describe_topic_partitions,
    find_coordinator,
    heartbeat,
    incremental_alter_configs,
    init_producer_id,
    join_group,
    leave_group,
    list_config_resources,
    list_groups,
    list_offsets,
    metadata,
    offset_commit,
    offset_delete,
    offset_fetch,
    offset_for_leader_epoch,
    sync_group,
)
from trio_broker.broker.handlers.fetch import answer_fetch
from trio_broker.broker.handlers.served import Handler, ServedApi
from trio_broker.errors import ErrorCode, ProtocolError
from trio_broker.wire.api import APIS, ApiKey
from trio_broker.wire.message import Message, Response, encode_response, encoding_response

if TYPE_CHECKING:
    from trio_broker.broker.session import Session
    from trio_broker.broker.state import BrokerState
    from trio_broker.host.interface import Buffer
    from trio_broker.wire.headers import RequestHeader


#: Larger requests are decoded piece by piece.
_PIECEWISE_BYTES = 8 * 1024
#: APIs whose handlers wait for nothing but their turn, or give it up before: a large answer begins
#: with the first piece of its request. All others begin it with the first piece of the response.
_MADE_AT_ONCE = frozenset(
    {
        ApiKey.LIST_OFFSETS,
        ApiKey.METADATA,
        ApiKey.OFFSET_FETCH,
        ApiKey.DESCRIBE_CONFIGS,
        ApiKey.OFFSET_FOR_LEADER_EPOCH,
        ApiKey.DESCRIBE_LOG_DIRS,
        ApiKey.DESCRIBE_PRODUCERS,
        ApiKey.DESCRIBE_TOPIC_PARTITIONS,
    }
)


def _served(key: ApiKey, handler: Handler | None) -> tuple[int, ServedApi]:
    api = APIS[key]
    return int(key), ServedApi(key, api.min_version, api.max_version, handler)


SERVED: Mapping[int, ServedApi] = MappingProxyType(
    dict(
        [
            _served(ApiKey.PRODUCE, None),
            _served(ApiKey.FETCH, None),
            _served(ApiKey.LIST_OFFSETS, list_offsets.handle),
            _served(ApiKey.METADATA, metadata.handle),
            _served(ApiKey.OFFSET_COMMIT, offset_commit.handle),
            _served(ApiKey.OFFSET_FETCH, offset_fetch.handle),
            _served(ApiKey.FIND_COORDINATOR, find_coordinator.handle),
            _served(ApiKey.JOIN_GROUP, join_group.handle),
            _served(ApiKey.HEARTBEAT, heartbeat.handle),
            _served(ApiKey.LEAVE_GROUP, leave_group.handle),
            _served(ApiKey.SYNC_GROUP, sync_group.handle),
            _served(ApiKey.DESCRIBE_GROUPS, describe_groups.handle),
            _served(ApiKey.LIST_GROUPS, list_groups.handle),
            _served(ApiKey.API_VERSIONS, api_versions.handle),
            _served(ApiKey.CREATE_TOPICS, create_topics.handle),
            _served(ApiKey.DELETE_TOPICS, delete_topics.handle),
            _served(ApiKey.INIT_PRODUCER_ID, init_producer_id.handle),
            _served(ApiKey.DESCRIBE_CONFIGS, describe_configs.handle),
            _served(ApiKey.DELETE_GROUPS, delete_groups.handle),
            _served(ApiKey.OFFSET_DELETE, offset_delete.handle),
            _served(ApiKey.DESCRIBE_CLUSTER, describe_cluster.handle),
            _served(ApiKey.DELETE_RECORDS, delete_records.handle),
            _served(ApiKey.OFFSET_FOR_LEADER_EPOCH, offset_for_leader_epoch.handle),
            _served(ApiKey.ALTER_CONFIGS, alter_configs.handle),
            _served(ApiKey.DESCRIBE_LOG_DIRS, describe_log_dirs.handle),
            _served(ApiKey.CREATE_PARTITIONS, create_partitions.handle),
            _served(ApiKey.INCREMENTAL_ALTER_CONFIGS, incremental_alter_configs.handle),
            _served(ApiKey.DESCRIBE_PRODUCERS, describe_producers.handle),
            _served(ApiKey.LIST_CONFIG_RESOURCES, list_config_resources.handle),
            _served(ApiKey.DESCRIBE_TOPIC_PARTITIONS, describe_topic_partitions.handle),
        ]
    )
)


def served_api(header: RequestHeader) -> ServedApi:
    """Return who serves a request.

    Raises:
        ProtocolError: nobody does; the connection closes.
    """
    served = SERVED.get(header.api_key)
    if served is None:
        raise ProtocolError(f"API {header.api_key} is not served")
    if not served.min_version <= header.api_version <= served.max_version:
        raise ProtocolError(f"{served.key.name} version {header.api_version} is not served")
    return served


async def answer(
    state: BrokerState, session: Session, header: RequestHeader, frame: memoryview
) -> Sequence[Buffer]:
    """Answer one request, except Produce, with the buffers of its response.

    Cancellation: as the handler says.

    Raises:
        ProtocolError: the request is not legal, or not served.
    """
    if header.api_key == ApiKey.FETCH:
        served_api(header)
        return await answer_fetch(state, header, frame)
    version = header.api_version
    if header.api_key == ApiKey.API_VERSIONS and not APIS[header.api_key].supports(version):
        response: Response = api_versions.respond(SERVED, ErrorCode.UNSUPPORTED_VERSION)
        return [encode_response(header.api_key, 0, header.correlation_id, response)]
    served = served_api(header)
    assert served.handler is not None, "Produce and Fetch have paths of their own"
    session.client_id = header.client_id or ""
    try:
        request = await _decode(state, served, header, frame)
        response = await served.handler(state, session, version, request)
        encoding = encoding_response(header.api_key, version, header.correlation_id, response)
        return [await state.large_answers.make(encoding)]
    finally:
        state.large_answers.done()


async def _decode(
    state: BrokerState, served: ServedApi, header: RequestHeader, frame: memoryview
) -> Message:
    """Decode a request; one that is large piece by piece."""
    request_type = APIS[served.key].request_type
    if len(frame) <= _PIECEWISE_BYTES:
        return request_type.decode(frame, header.api_version, header.body_start)
    decoding = request_type.decoding(frame, header.api_version, header.body_start)
    request = await state.large_answers.make(decoding)
    if served.key not in _MADE_AT_ONCE:
        state.large_answers.done()
    return request
