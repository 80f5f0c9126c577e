"""Points in time, as `Source.at` and `Source.replay` take them."""

from __future__ import annotations

from datetime import datetime

from datastream.errors import InvalidValue


def parse_time(point: str | datetime) -> datetime | None:
    """The time that `point` means, None if it is no time.

    Args:
        point: a datetime with time zone, or a text in ISO 8601 with one.

    Raises:
        InvalidValue: it is a time without time zone.
    """
    if isinstance(point, str):
        try:
            point = datetime.fromisoformat(point)
        except ValueError:
            return None
    return check_zone(point)


def check_zone(moment: datetime) -> datetime:
    """`moment`, which needs a time zone.

    Raises:
        InvalidValue: it has none.
    """
    # A tzinfo may exist and still know no offset; comparing such a time raises, too.
    if moment.utcoffset() is None:
        raise InvalidValue(
            f"{moment} has no time zone; write {moment.replace(tzinfo=None).isoformat()}Z for UTC"
        )
    return moment
