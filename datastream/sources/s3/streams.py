"""Objects in pieces, never whole in memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from datastream.errors import KeyNotFound, SourceUnavailable, shown
from datastream.sources._common.file_types import type_of_name
from datastream.sources.s3.bucket import Bucket

PART = 8 << 20
"""Bytes of one request; a server takes 5 MiB at least, and 10,000 parts at most."""


def read_pieces(bucket: Bucket, name: str) -> Iterator[bytes]:
    """The content of one object, all of one version.

    Raises:
        KeyNotFound: it is not there.
        SourceUnavailable: it was replaced before its end.
    """
    (head,) = bucket.head_many([name])
    if head is None:
        raise KeyNotFound(f"there is no object {shown(name)} any more")
    for start in range(0, head.size, PART):
        part = {"Range": f"bytes={start}-{min(start + PART, head.size) - 1}", "IfMatch": head.etag}
        (there,) = bucket.together(lambda asked: bucket.get(name, **asked), [part])
        if there is None:
            raise SourceUnavailable(f"the object {shown(name)} went away while it was read")
        yield there.data


def put_pieces(bucket: Bucket, name: str, pieces: Iterable[bytes]) -> None:
    """Put one object, in parts if it is large; it is seen whole, or not at all."""
    parts = _parts(pieces)
    first = next(parts, b"")
    kind = type_of_name(name) or "application/octet-stream"
    if len(first) < PART:
        bucket.call("put_object", Key=name, Body=first, ContentType=kind)
        return
    upload = bucket.call("create_multipart_upload", Key=name, ContentType=kind)["UploadId"]
    try:
        made = _upload(bucket, name, upload, first, parts)
        whole = {"Parts": made}
        bucket.call("complete_multipart_upload", Key=name, UploadId=upload, MultipartUpload=whole)
    except BaseException:
        bucket.call("abort_multipart_upload", Key=name, UploadId=upload)
        raise


def _upload(
    bucket: Bucket, name: str, upload: str, first: bytes, parts: Iterator[bytes]
) -> list[dict[str, object]]:
    made: list[dict[str, object]] = []
    part: bytes | None = first
    while part:
        number = len(made) + 1
        answer = bucket.call("upload_part", Key=name, UploadId=upload, PartNumber=number, Body=part)
        made.append({"ETag": answer["ETag"], "PartNumber": number})
        part = next(parts, None)
    return made


def _parts(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """The same in pieces of `PART` bytes; the last one has the rest."""
    gathered = bytearray()
    for piece in pieces:
        gathered += piece
        while len(gathered) >= PART:
            yield bytes(gathered[:PART])
            del gathered[:PART]
    if gathered:
        yield bytes(gathered)
