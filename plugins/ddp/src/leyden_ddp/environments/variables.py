"""Reading what a launcher wrote into the process's environment, and saying in a sentence what is wrong with it."""

from __future__ import annotations

import os
import random
import socket
from contextlib import suppress

from leyden.utilities.exceptions import MisconfigurationException

_PORTS = range(20000, 30000)


def text(name: str, setter: str) -> str:
    """An environment variable.

    Args:
        name: The variable.
        setter: Who sets it, for the error's sentence.

    Raises:
        MisconfigurationException: It is missing or empty.
    """
    value = os.environ.get(name, "").strip()
    if not value:
        raise MisconfigurationException(
            f"The environment variable {name} is missing; {setter} sets it in every process of a run."
        )
    return value


def integer(name: str, setter: str, default: int | None = None) -> int:
    """An environment variable that is a number from 0 up.

    Args:
        name: The variable.
        setter: Who sets it, for the error's sentence.
        default: What it is where it is missing; None needs it.

    Raises:
        MisconfigurationException: It is missing without a default, or no such number.
    """
    if default is not None and name not in os.environ:
        return default
    value = text(name, setter)
    if not (value.isascii() and value.isdigit()):
        raise MisconfigurationException(
            f"The environment variable {name} should be an integer from 0 up and is {value!r}; {setter} sets it."
        )
    return int(value)


def port(name: str, setter: str) -> int:
    """An environment variable that is the number of a TCP port.

    Raises:
        MisconfigurationException: It is missing, or not within 1 and 65535.
    """
    number = integer(name, setter)
    if not 1 <= number <= 65535:
        raise MisconfigurationException(
            f"The environment variable {name} should be a port from 1 to 65535 and is {number}; {setter} sets it."
        )
    return number


def free_port() -> int:
    """A TCP port of this host that nothing listened on a moment ago.

    It is not one that systems give to outgoing connections, of which one may take it before the processes meet there.
    """
    chance = random.SystemRandom()  # the user's seeds, and what they draw, stay as they are
    for number in chance.sample(_PORTS, 100):
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("", number))
            return number
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])
