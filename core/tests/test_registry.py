"""Look-ups of components by kind and name: what is found, what is built, and what is said of what is missing."""

from __future__ import annotations

import json
import runpy
import sys
from importlib.resources import files
from types import SimpleNamespace
from typing import Any

import pytest

from leyden import Component, hookimpl
from leyden.plugin_system.manager import PluginInfo, PluginManager
from leyden.utilities import MisconfigurationException
from leyden.utilities.exceptions import UnknownComponentError


class Lamp:
    """What the components of these tests make."""

    class Shade:
        """Something within something."""

    def __init__(self, watts: int = 40, colour: str = "white") -> None:
        self.watts, self.colour = watts, colour


def brings(*components: Component) -> Any:
    """A plugin with these components."""
    return SimpleNamespace(leyden_components=hookimpl(lambda: components))


def registry(*components: Component) -> PluginManager:
    """The components of one plugin."""
    manager = PluginManager()
    manager.admit(PluginInfo("shop", "acme-shop", "2.0", plugin=brings(*components)))
    return manager


def lamp(name: str, **options: Any) -> Component:
    return Component("lamp", name, f"{__name__}:Lamp", options)


# -- what is there ----------------------------------------------------------------------------------------


def test_names_are_sorted_and_without_aliases():
    shop = registry(lamp("table"), lamp("floor", aliases=["standard"]), Component("chair", "stool", "nowhere:Stool"))
    assert shop.names("lamp") == ["floor", "table"]
    assert shop.names("sofa") == []
    assert [part.name for part in shop.components("lamp")] == ["table", "floor"]


def test_a_component_is_got_by_its_name_and_by_its_aliases():
    shop = registry(lamp("floor", aliases=["standard", "FloorLamp"]))
    assert {shop.component("lamp", name).name for name in ("floor", "standard", "FloorLamp")} == {"floor"}


def test_an_alias_can_stand_for_several():
    shop = registry(lamp("floor", aliases=["any"]), lamp("table", aliases=["any"]))
    assert [part.name for part in shop.named("lamp", "any")] == ["floor", "table"]
    with pytest.raises(MisconfigurationException, match="'any' is brought by"):
        shop.component("lamp", "any")


def test_the_target_is_imported_when_it_is_loaded(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "late_lamp.py").write_text("class Late: ...", encoding="utf-8")
    part = registry(Component("lamp", "late", "late_lamp:Late")).component("lamp", "late")
    assert "late_lamp" not in sys.modules
    assert part.load().__name__ == "Late"
    del sys.modules["late_lamp"]


def test_a_target_can_be_within_a_class():
    assert Component("lamp", "shade", f"{__name__}:Lamp.Shade").load() is Lamp.Shade


# -- building ---------------------------------------------------------------------------------------------


def test_building_by_name_takes_the_components_arguments_and_the_callers_over_them():
    shop = registry(lamp("party", arguments={"watts": 60, "colour": "red"}))
    made = shop.build("lamp", "party", colour="green")
    assert (made.watts, made.colour) == (60, "green")


def test_a_class_is_built_and_an_instance_is_taken():
    manager = registry()
    own = Lamp(5)
    assert manager.build("lamp", own) is own
    assert manager.build("lamp", Lamp).watts == 40


# -- what is missing --------------------------------------------------------------------------------------


def said(shop: PluginManager, kind: str, name: str) -> str:
    with pytest.raises(UnknownComponentError) as caught:
        shop.component(kind, name)
    return str(caught.value)


def test_an_unknown_name_is_answered_with_the_known_ones_and_the_nearest():
    message = said(registry(lamp("table"), lamp("floor")), "lamp", "tabel")
    assert message == "There is no lamp 'tabel'; installed: floor, table. Did you mean 'table'?"


def test_the_nearest_may_be_an_alias():
    assert "Did you mean 'TableLamp'?" in said(registry(lamp("table", aliases=["TableLamp"])), "lamp", "TableLmp")


def test_nothing_near_is_not_guessed_at():
    assert said(registry(lamp("table")), "lamp", "zzz") == "There is no lamp 'zzz'; installed: table."


def test_where_nothing_is_installed():
    assert said(registry(), "lamp", "table") == "There is no lamp 'table'; installed: none."


CATALOGUE = json.loads(files("leyden.plugin_system").joinpath("catalogue.json").read_text(encoding="utf-8"))


def catalogued(section: str) -> list[tuple[str, str, str]]:
    """One name of each kind, with its distribution."""
    return [(kind, *next(iter(names.items()))) for kind, names in CATALOGUE[section].items() if names]


@pytest.mark.parametrize(("kind", "name", "distribution"), catalogued("published"))
def test_what_another_distribution_has_is_said_with_the_command(kind, name, distribution):
    assert said(registry(), kind, name).endswith(f"It comes with {distribution}: pip install {distribution}.")


@pytest.mark.parametrize(("kind", "name", "distribution"), catalogued("planned"))
def test_what_is_planned_is_not_offered_for_installation(kind, name, distribution):
    message = said(registry(), kind, name)
    assert message.endswith(f"It is planned for {distribution} and not published yet.")
    assert "pip install" not in message


def test_a_misspelt_name_of_what_is_not_installed():
    message = said(registry(), "callback", "EarlyStoping")
    assert message.endswith("Did you mean 'EarlyStopping' (pip install leyden-callbacks)?")


def test_several_kinds_are_looked_through_together():
    shop = registry(lamp("table"), Component("chair", "stool", "nowhere:Stool"))
    message = str(shop.unknown(("lamp", "chair"), "stol"))
    assert message == "There is no lamp or chair 'stol'; installed: table, stool. Did you mean 'stool'?"


def test_the_error_can_be_caught_as_users_expect():
    """A configuration error; a ValueError, as in Lightning; an ImportError for ``from leyden.callbacks import …``."""
    for kind in (MisconfigurationException, ValueError, ImportError):
        with pytest.raises(kind, match="no strategy 'x'"):
            registry().component("strategy", "x")


# -- two of one name --------------------------------------------------------------------------------------


def test_two_of_one_name_are_an_error_that_names_both_distributions():
    manager = registry(lamp("table"), lamp("floor"))
    manager.admit(PluginInfo("market", "acme-market", "3.1", plugin=brings(lamp("table"))))
    assert manager.component("lamp", "floor").name == "floor"
    with pytest.raises(MisconfigurationException) as caught:
        manager.component("lamp", "table")
    assert str(caught.value) == (
        "The lamp 'table' is brought by the plugin 'shop' of acme-shop 2.0 and the plugin 'market' of acme-market 3.1; "
        "uninstall or disable one of them (LEYDEN_PLUGINS_DISABLED=market)."
    )


def test_an_alias_that_is_another_ones_name_is_an_error_too():
    manager = registry(lamp("table"))
    manager.admit(PluginInfo("market", "acme-market", "3.1", plugin=brings(lamp("desk", aliases=["table"]))))
    with pytest.raises(MisconfigurationException, match=r"acme-shop 2\.0.*acme-market 3\.1"):
        manager.component("lamp", "table")


def test_the_same_name_of_another_kind_is_no_conflict():
    manager = registry(lamp("table"))
    manager.admit(PluginInfo("market", plugin=brings(Component("chair", "table", "nowhere:Table"))))
    assert manager.component("lamp", "table").kind == "lamp"


def test_the_command_that_is_not_installed_is_answered_with_its_distribution(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib_metadata.entry_points", lambda **wanted: [])
    monkeypatch.setattr("leyden.plugin_system.discovery.discover", PluginManager)
    with pytest.raises(SystemExit) as ended:
        runpy.run_module("leyden", run_name="__main__")
    assert ended.value.code == (
        "python -m leyden: There is no command 'leyden'; installed: none. "
        "It comes with leyden-command: pip install leyden-command."
    )
