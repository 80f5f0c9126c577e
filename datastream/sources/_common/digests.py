"""Digests by which values of different backends are compared."""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import md5, sha1

ALGORITHMS = ("git", "etag")
"""The id of a blob in git; the MD5 that S3 gives as ETag of what was sent in one part."""


def digest_of(algorithm: str, size: int, pieces: Iterable[bytes]) -> str:
    """The digest of a value in pieces, as ``ALGORITHM:HEX``; "" if the algorithm is not known."""
    if algorithm not in ALGORITHMS:
        return ""
    hasher = md5(usedforsecurity=False)
    if algorithm == "git":
        hasher = sha1(b"blob %d\0" % size, usedforsecurity=False)
    for piece in pieces:
        hasher.update(piece)
    return f"{algorithm}:{hasher.hexdigest()}"
