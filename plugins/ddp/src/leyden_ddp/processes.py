"""The processes of a machine: which of them see each other, and which are alive."""

from __future__ import annotations

import os
import platform
import uuid
from contextlib import suppress


def machine() -> str:
    """A name of this machine: two processes have the same one if and only if they see each other's process ids."""
    names = [platform.node()]
    try:
        with open("/proc/sys/kernel/random/boot_id") as file:
            names += [file.read().strip(), os.readlink("/proc/self/ns/pid")]
    except OSError:
        names += [str(uuid.getnode())]
    return "/".join(names)


def is_alive(pid: int) -> bool:
    """Whether a process of this machine runs; one that has ended and that its parent has not waited for does not."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    with suppress(OSError), open(f"/proc/{pid}/stat") as file:
        return file.read().rpartition(")")[2].split()[0] not in ("Z", "X")
    return True


def describe_death(rank: int, pid: int, parting: str = "") -> str:
    """A sentence about a rank whose process has died.

    Args:
        rank: The rank.
        pid: The id of its process.
        parting: A sentence about how it had come to another collective than others; "" if it had not.
    """
    if parting:
        return (
            f"The process of rank {rank} ({pid}) has died in another collective than the others: all ranks must come "
            f"to the same collectives in the same order. {parting}"
        )
    return (
        f"The process of rank {rank} ({pid}) was killed, as the system does when memory runs out, or ended without an "
        "error message. If PyTorch's own message above speaks of a mismatch of collectives, LEYDEN_DEBUG_COLLECTIVES=1 "
        "says which ones differ."
    )
