"""Reading the environment variables that a launcher has set; a wrong one raises an error that names it."""

from __future__ import annotations

import os
import random
import socket
from contextlib import suppress

from leyden.utilities.exceptions import MisconfigurationException

_PORTS = range(20000, 30000)


def text(name: str, setter: str) -> str:
    """The value of an environment variable.

    Args:
        name: The variable.
        setter: What sets it, for the error message.

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
    """The value of an environment variable that must be an integer from 0 up.

    Args:
        name: The variable.
        setter: What sets it, for the error message.
        default: The value if the variable is missing; None makes it an error.

    Raises:
        MisconfigurationException: The variable is missing and there is no default, or it is no such integer.
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
    """The value of an environment variable that must be the number of a TCP port.

    Args:
        name: The variable.
        setter: What sets it, for the error message.

    Raises:
        MisconfigurationException: The variable is missing, or not a number from 1 to 65535.
    """
    number = integer(name, setter)
    if not 1 <= number <= 65535:
        raise MisconfigurationException(
            f"The environment variable {name} should be a port from 1 to 65535 and is {number}; {setter} sets it."
        )
    return number


def free_port() -> int:
    """A TCP port of this host on which nothing listened a moment ago.

    It is outside of the range that systems use for outgoing connections, one of which could take the port before the
    processes meet there.
    """
    chance = random.SystemRandom()  # does not change the state of the user's random generators
    for number in chance.sample(_PORTS, 100):
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("", number))
            return number
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])
