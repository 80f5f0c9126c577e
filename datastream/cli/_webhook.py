"""``watch --webhook``: a request for each change."""

from __future__ import annotations

import os
from collections.abc import Callable

from tenacity import Retrying, retry_if_exception_type, wait_random_exponential

import datastream
from datastream import DatastreamError, Entry, SourceUnavailable
from datastream.cli._exit import say
from datastream.errors import shown

SECRET = "DATASTREAM_WEBHOOK_SECRET"  # noqa: S105
"""The variable that has it: arguments can be read by every user of the machine."""
LONGEST_PAUSE = 30.0


def poster(url: str) -> Callable[[Entry], None]:
    """What POSTs one change to `url`.

    A receiver that does not answer is tried again until it does; of a key that changes meanwhile
    it gets the newest entry. What it refuses is said, and the watch goes on.
    """
    webhook = datastream.webhook(url, secret=os.environ.get(SECRET) or None)
    retrying = Retrying(
        retry=retry_if_exception_type(SourceUnavailable),
        wait=wait_random_exponential(max=LONGEST_PAUSE),
        before_sleep=lambda state: say(f"{state.outcome and state.outcome.exception()}; retrying"),
        reraise=True,
    )

    def post(entry: Entry) -> None:
        try:
            retrying(webhook, entry)
        except DatastreamError as error:
            say(f"{shown(entry.key)}: {error}")

    return post
