"""``python -m leyden`` is the command ``leyden``, which an installed distribution brings."""

import sys

from importlib_metadata import entry_points

from leyden.plugin_system.discovery import discover

if __name__ == "__main__":
    # Found as a program and not as a component: which plugins are discovered is for the command's options to say.
    programs = list(entry_points(group="console_scripts", name="leyden"))
    sys.exit(programs[0].load()() if programs else f"python -m leyden: {discover().unknown(('command',), 'leyden')}")
