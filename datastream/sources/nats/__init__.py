"""NATS JetStream key-value buckets as a Source."""

from datastream.sources.nats.source import NatsSource, open_nats

__all__ = ["NatsSource", "open_nats"]
