"""Declarations of messages, one module per API; imported when the API is first used."""
