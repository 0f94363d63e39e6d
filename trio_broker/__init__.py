"""trio-broker: a message broker on Trio that speaks the Apache Kafka protocol.

Only public names, each loaded when it is first used (PEP 562), so that importing one subpackage
pulls in nothing else.
"""

from __future__ import annotations
