"""Reads durations that users write."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from leyden.utilities.exceptions import MisconfigurationException


def parse_duration(value: Any, name: str) -> timedelta | None:
    """Read a duration.

    Args:
        value: ``"DD:HH:MM:SS"`` (days, hours, minutes, seconds), a mapping of :class:`~datetime.timedelta`'s arguments
            such as ``{"hours": 2}``, or a timedelta. None is allowed too.
        name: The value's name in an error.

    Returns:
        The duration; None if the value is None.

    Raises:
        MisconfigurationException: The value has another form, or is negative.
    """
    if value is None:
        return None
    duration = value if isinstance(value, timedelta) else _read_duration(value)
    if duration is None or duration < timedelta(0):
        raise MisconfigurationException(
            f'{name}={value!r} is not a duration; write "DD:HH:MM:SS", a timedelta or a dict of its arguments.'
        )
    return duration


def _read_duration(value: Any) -> timedelta | None:
    """Return the duration that a text or a dict describes; None if it describes none."""
    parts = value.split(":") if isinstance(value, str) else []
    if len(parts) == 4 and all(part.strip().isdecimal() for part in parts):
        value = dict(zip(("days", "hours", "minutes", "seconds"), map(int, parts), strict=True))
    try:
        return timedelta(**value)
    except (TypeError, ValueError, OverflowError):
        return None
