"""A document whose leaves are keys, as a source."""

from datastream._formats import is_document
from datastream.sources.document.source import DocumentSource

__all__ = ["DocumentSource", "is_document"]
