"""Durations as users write them."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from leyden.utilities.exceptions import MisconfigurationException


def parse_duration(value: Any, name: str) -> timedelta | None:
    """A duration as users write it.

    Args:
        value: ``"DD:HH:MM:SS"`` (days, hours, minutes, seconds), a mapping of :class:`~datetime.timedelta`'s arguments
            such as ``{"hours": 2}``, or a timedelta.
        name: What the value is called in an error.

    Returns:
        The duration; None for None.

    Raises:
        MisconfigurationException: The value is not understood, or negative.
    """
    if value is None:
        return None
    duration = value if isinstance(value, timedelta) else _read_duration(value)
    if duration is None or duration < timedelta(0):
        raise MisconfigurationException(
            f'{name}={value!r} is no duration; write "DD:HH:MM:SS", a timedelta or a dict of its arguments.'
        )
    return duration


def _read_duration(value: Any) -> timedelta | None:
    """The duration of a text or a dict; None of anything else."""
    parts = value.split(":") if isinstance(value, str) else []
    if len(parts) == 4 and all(part.strip().isdecimal() for part in parts):
        value = dict(zip(("days", "hours", "minutes", "seconds"), map(int, parts), strict=True))
    try:
        return timedelta(**value)
    except (TypeError, ValueError, OverflowError):
        return None
