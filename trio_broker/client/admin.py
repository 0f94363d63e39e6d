"""The admin client: topics, configs, records, groups, brokers.

Every call retries what is worth a retry for the client's `call_timeout_seconds`, returns a typed
result, and raises `RequestError` with Kafka's code for everything that a broker refuses. Calls that
name several partitions raise at the first one that is refused for good.
"""

from __future__ import annotations

from trio_broker.client.admin_configs import ConfigAdmin
from trio_broker.client.admin_groups import GroupAdmin
from trio_broker.client.admin_topics import TopicAdmin


class Admin(TopicAdmin, ConfigAdmin, GroupAdmin):
    """Admin calls; `Client.admin` has one."""

    def __repr__(self) -> str:
        return f"<Admin of {self._cluster!r}>"
