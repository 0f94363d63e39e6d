"""The Kafka protocol as bytes: frames, headers, message declarations and hot-path codecs.

Pure code without I/O: `trio_broker.broker` and `trio_broker.client` feed it bytes and send what it
returns. Nothing here knows what a request means. Bytes that are not a legal message raise
`trio_broker.errors.ProtocolError`, and nothing else does.
"""
