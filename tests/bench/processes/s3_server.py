"""moto's S3 server with as many objects as are wanted; prints nothing but answers."""

from __future__ import annotations

import os
from contextlib import ExitStack

from tests.bench.child import answer_requests
from tests.servers.s3 import fill, new_bucket, s3_server


def bucket(count: int, size: int) -> str:
    """A new bucket of objects named ``k/000000.txt`` and so on."""
    name = str(new_bucket(URL))
    change(name, 0, count, size)
    return name


def change(name: str, start: int, count: int, size: int) -> None:
    """Put other content into some of them, past HTTP."""
    content = os.urandom(size // 2).hex().encode()
    fill(name, {f"k/{number:06d}.txt": content for number in range(start, start + count)})


def url() -> str:
    return URL


if __name__ == "__main__":
    with ExitStack() as stack:
        URL = stack.enter_context(s3_server())
        answer_requests({"bucket": bucket, "change": change, "url": url})
