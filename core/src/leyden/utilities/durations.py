"""Reads durations that users write."""

from contextlib import suppress
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
    duration = value
    if isinstance(value, str) and len(parts := value.split(":")) == 4 and all(p.strip().isdecimal() for p in parts):
        duration = dict(zip(("days", "hours", "minutes", "seconds"), map(int, parts), strict=True))
    with suppress(TypeError, ValueError, OverflowError):
        duration = duration if isinstance(duration, timedelta) else timedelta(**duration)
        if duration >= timedelta(0):
            return duration
    raise MisconfigurationException(
        f'{name}={value!r} is not a duration; write "DD:HH:MM:SS", a timedelta or a dict of its arguments.'
    )
