"""Spans of time as people write them: ``"5m"``."""

from __future__ import annotations

import re
from datetime import timedelta

from datastream.errors import InvalidValue, shown

Span = str | float | timedelta

_UNITS = {"": 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86_400.0}
_LONGEST = 366 * 86_400.0


def seconds(span: Span) -> float:
    """Seconds of a span.

    Args:
        span: ``"5m"``, ``"1.5h"``, ``"30s"``, ``"2d"``, ``"500ms"``; a number of seconds; a
            timedelta.

    Raises:
        InvalidValue: it is none, or not between a millisecond and a year.
    """
    found = span.total_seconds() if isinstance(span, timedelta) else _parsed(span)
    if found is None or not 0.001 <= found <= _LONGEST:
        raise InvalidValue(
            f'{shown(str(span))} is no span of time; give one such as "30s", "5m" or "1h"'
        )
    return found


def _parsed(span: str | float) -> float | None:
    if isinstance(span, int | float):
        return None if isinstance(span, bool) else float(span)
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(\w*)\s*", str(span))
    unit = _UNITS.get(match[2]) if match else None
    return None if match is None or unit is None else float(match[1]) * unit
