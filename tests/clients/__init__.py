"""Unmodified Kafka clients against a real server process."""
