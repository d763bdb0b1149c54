"""The processes of a machine: which see each other, which are alive, and what is said of one that is not."""

from __future__ import annotations

import os
import platform
import uuid
from contextlib import suppress


def machine() -> str:
    """What is the same in two processes if and only if they see each other's process ids."""
    names = [platform.node()]
    try:
        with open("/proc/sys/kernel/random/boot_id") as file:
            names += [file.read().strip(), os.readlink("/proc/self/ns/pid")]
    except OSError:
        names += [str(uuid.getnode())]
    return "/".join(names)


def is_alive(pid: int) -> bool:
    """Whether a process of this machine runs; one that has ended and is not yet collected does not."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    with suppress(OSError), open(f"/proc/{pid}/stat") as file:
        return file.read().rpartition(")")[2].split()[0] not in ("Z", "X")
    return True


def epitaph(rank: int, pid: int) -> str:
    """What is said of a rank whose process has died."""
    return (
        f"The process of rank {rank} ({pid}) was killed, as the system does when memory runs out, or ended without a "
        "word. If PyTorch's own message above speaks of a mismatch of collectives, LEYDEN_DEBUG_COLLECTIVES=1 says "
        "which ones differ."
    )
