"""Modules below ``leyden`` that plugins bring, as components of the kind "module_paths"."""

from __future__ import annotations

import importlib
import importlib.util
import os
import pkgutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import leyden as pl
from leyden.plugin_system.discovery import discover
from leyden_testing.fake_plugins import PluginSite, new_plugin_site

GONGS = """
    @hookimpl
    def leyden_components():
        yield Component("module_paths", "Gongs", "acme_paths:find")
"""
PATHS = """
    from functools import partial
    from importlib import import_module
    from types import ModuleType

    PLACES = {
        "acme": "acme_gongs",
        "loggers.gong": "acme_gongs",
        "trainer.gong": "acme_gongs",
        "utilities.gong": "acme_gongs",
        "loggers.broken": "acme_missing",
    }


    def find(path):
        if path in PLACES:
            return partial(import_module, PLACES[path])
        return partial(ModuleType, f"leyden.{path}", "made for this") if path == "made" else None
"""
NAMES = ("leyden.acme", "leyden.loggers.gong", "leyden.trainer.gong", "leyden.utilities.gong", "leyden.made")


@pytest.fixture
def plugin_site(tmp_path: Path) -> Iterator[PluginSite]:
    with new_plugin_site(tmp_path / "site") as site:
        site.add("acme-gongs", GONGS)
        site.module("acme_paths", PATHS)
        site.module("acme_gongs", "class Gong: ...")
        yield site
    for name in NAMES:
        sys.modules.pop(name, None)
        parent, _, child = name.rpartition(".")
        vars(sys.modules[parent]).pop(child, None)


def test_a_module_of_a_plugin_is_imported_by_its_path_below_leyden(plugin_site: PluginSite) -> None:
    import acme_gongs
    import leyden.acme
    from leyden.loggers.gong import Gong

    from leyden.trainer import gong

    assert leyden.acme is gong is acme_gongs
    assert Gong is acme_gongs.Gong


@pytest.mark.parametrize("below", ["loggers", "trainer", "utilities"])
def test_it_is_an_attribute_of_the_module_above_it(below: str, plugin_site: PluginSite) -> None:
    assert getattr(pl, below).gong.Gong is pl.acme.Gong


def test_a_plugin_makes_a_module(plugin_site: PluginSite) -> None:
    assert importlib.import_module("leyden.made") is pl.made
    assert pl.made.__doc__ == "made for this"


def test_it_is_found_without_being_imported(plugin_site: PluginSite) -> None:
    assert importlib.util.find_spec("leyden.loggers.gong") is not None
    assert "acme_gongs" not in sys.modules
    assert "leyden.loggers.gong" not in sys.modules


def test_a_plugin_s_own_module_may_import_one(plugin_site: PluginSite) -> None:
    plugin_site.add("aaa-early", "import leyden.acme", plugin="aaa")
    assert "aaa" in [record.name for record in discover().active]
    assert pl.loggers.gong is sys.modules["acme_gongs"]


@pytest.mark.parametrize("statement", ["from leyden.loggers.gong import Nope", "from leyden.loggers import Nope"])
def test_a_name_that_is_not_there_is_none(statement: str, plugin_site: PluginSite) -> None:
    with pytest.raises(ImportError, match=r"cannot import name 'Nope' from 'acme_gongs'|There is no logger .*'Nope'"):
        exec(statement)


def test_a_module_that_can_t_be_imported_says_why(plugin_site: PluginSite) -> None:
    with pytest.raises(ImportError, match="acme_missing"):
        importlib.import_module("leyden.loggers.broken")


def test_a_path_that_no_plugin_knows_is_no_module(plugin_site: PluginSite) -> None:
    for name in ("leyden.nonesuch", "leyden.trainer.nonesuch", "leyden.loggers.nonesuch"):
        assert importlib.util.find_spec(name) is None
        with pytest.raises(ModuleNotFoundError, match=rf"^No module named '{name}'$"):
            importlib.import_module(name)
    for module in (pl, pl.trainer):
        assert not hasattr(module, "nonesuch")
        with pytest.raises(AttributeError, match=rf"module '{module.__name__}' has no attribute 'nonesuch'"):
            _ = module.nonesuch


def test_the_distribution_that_has_known_paths_is_named_where_it_is_not_installed(
    plugin_site: PluginSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = "leyden.callbacks.a_path_of_some_framework"
    monkeypatch.setenv("LEYDEN_PLUGINS_DISABLED", "leyden-lightning")
    with pytest.raises(
        ModuleNotFoundError, match=rf"^No module named '{asked}'; .* is disabled by LEYDEN_PLUGINS_DISAB"
    ):
        importlib.import_module(asked)
    discover().infos[:] = [info for info in discover().infos if info.state == "active"]
    said = rf"^No module named '{asked}'; if the path is lightning's: pip install leyden-lightning\.$"
    with pytest.raises(ModuleNotFoundError, match=said):
        importlib.import_module(asked)
    with pytest.raises(AttributeError, match="if the path is lightning's: pip install leyden-lightning"):
        _ = pl.a_path_of_some_framework
    with pytest.raises(ImportError, match=r"There is no callback 'Nope'; installed: "):
        exec("from leyden.callbacks import Nope")


def test_importing_what_exists_discovers_no_plugin() -> None:
    """In a process in which discovery fails."""
    modules = [m.name for m in pkgutil.walk_packages(pl.__path__, "leyden.") if not m.name.endswith("__main__")]
    script = f"from importlib import import_module\nfor name in {modules}: import_module(name)\nimport leyden.nonesuch"
    ran = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "LEYDEN_PLUGINS": "no_such_plugin"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "LEYDEN_PLUGINS asks for 'no_such_plugin'" in ran.stderr.splitlines()[-1]
    assert 'File "<string>", line 3' in ran.stderr
