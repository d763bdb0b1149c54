"""Two network namespaces with a cable between them: two machines, as far as the network is concerned."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from functools import cache
from pathlib import Path

CLONE_NEWNET = 0x40000000


class Networks:
    """Two namespaces; they are there from ``make`` to ``remove``."""

    def __init__(self) -> None:
        self.names = [f"leyden{os.getpid()}{side}" for side in "ab"]
        self.interfaces = [f"ley{os.getpid() % 10**7}{side}" for side in "ab"]
        self.addresses = ["10.211.7.1", "10.211.7.2"]

    def make(self) -> None:
        for name in self.names:
            _ip("netns", "add", name)
        _ip("link", "add", self.interfaces[0], "type", "veth", "peer", "name", self.interfaces[1])
        for name, interface, address in zip(self.names, self.interfaces, self.addresses, strict=True):
            _ip("link", "set", interface, "netns", name)
            _ip("-n", name, "addr", "add", f"{address}/24", "dev", interface)
            _ip("-n", name, "link", "set", interface, "up")
            _ip("-n", name, "link", "set", "lo", "up")

    def remove(self) -> None:
        for name in self.names:
            if Path(f"/run/netns/{name}").exists():
                _ip("netns", "delete", name)

    def enter(self, side: int) -> None:
        """Have this process, and what it starts, live in a namespace."""
        namespace = os.open(f"/run/netns/{self.names[side]}", os.O_RDONLY)
        if ctypes.CDLL(None, use_errno=True).setns(namespace, CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), "setns")


@cache
def why_no_networks() -> str:
    """Why namespaces can't be made here, or "" where they can: it takes Linux, root and iproute2."""
    if shutil.which("ip") is None:
        return "network namespaces need `ip` of iproute2, which is not installed here"
    networks = Networks()
    try:
        networks.make()
    except subprocess.CalledProcessError as error:
        return f"network namespaces can't be made here: {error.stderr.decode().strip()}"
    finally:
        networks.remove()
    return ""


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)
