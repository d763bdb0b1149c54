"""For Leyden's own tests: makes distributions for one test, each a module and its metadata in a directory."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from textwrap import dedent

import pytest

from leyden.plugins import discover

PRELUDE = "from leyden import Component, hookimpl\n"


class PluginSite:
    """A directory in which distributions are installed.

    Args:
        path: The directory.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def module(self, name: str, source: str) -> None:
        """Write a module.

        Args:
            name: Its name, with "/" between the parts.
            source: Its source code, which may be indented.
        """
        (self.path / f"{name}.py").write_text(dedent(source), encoding="utf-8")

    def add(
        self,
        distribution: str,
        source: str,
        plugin: str = "acme",
        version: str = "1.2.3",
        requires: Sequence[str] = (),
        attribute: str = "",
    ) -> str:
        """Install a distribution with one plugin.

        Args:
            distribution: The distribution's name.
            source: The source code of the plugin's module; ``Component`` and ``hookimpl`` are already imported.
            plugin: The name of the entry point.
            version: The distribution's version.
            requires: Its requirements, as they are written in the metadata.
            attribute: The attribute of the module that is the plugin; by default the module itself.

        Returns:
            The name of the plugin's module.
        """
        module = f"{distribution.replace('-', '_')}_module"
        self.module(module, PRELUDE + dedent(source))
        info = self.path / f"{distribution.replace('-', '_')}-{version}.dist-info"
        info.mkdir()
        needs = "".join(f"Requires-Dist: {requirement}\n" for requirement in requires)
        (info / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n{needs}", encoding="utf-8"
        )
        target = f"{module}:{attribute}" if attribute else module
        (info / "entry_points.txt").write_text(f"[leyden]\n{plugin} = {target}\n", encoding="utf-8")
        return module


@contextmanager
def new_plugin_site(path: Path) -> Iterator[PluginSite]:
    """Provide a site for plugins within a block; the next ``discover()`` finds them and the real ones.

    Args:
        path: The site's directory, which must not exist yet.
    """
    path.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(path)
        patch.delenv("LEYDEN_PLUGINS_DISABLED", raising=False)
        patch.delenv("LEYDEN_PLUGINS_AUTOLOAD", raising=False)
        discover.cache_clear()
        yield PluginSite(path)
    discover.cache_clear()
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", None) or "").startswith(str(path)):
            del sys.modules[name]
