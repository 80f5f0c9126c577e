"""A bucket of S3 as a source."""

from datastream.sources.s3.source import S3Source, open_s3

__all__ = [
    "S3Source",
    "open_s3",
]
