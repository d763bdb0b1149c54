"""Plugins that are written for other hooks are refused before their import; authors hear of deprecated hooks, once."""

from __future__ import annotations

import re
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import leyden as pl
from leyden.plugin_system import hooks
from leyden.plugin_system.discovery import discover, refusal
from leyden_testing.fake_plugins import PluginSite, new_plugin_site
from leyden_testing.models import Batches, SmallModel
from leyden_testing.training import quiet_trainer

OTHER = hooks.HOOKS_VERSION + 1


@pytest.fixture
def plugin_site(tmp_path: Path) -> Iterator[PluginSite]:
    with new_plugin_site(tmp_path / "site") as site:
        yield site


def said(category: type[Warning] = Warning) -> list[str]:
    """Every warning of a category that discovering the plugins gives."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        discover()
        discover()
    return [str(warning.message) for warning in caught if issubclass(warning.category, category)]


# -- the version of the hooks -----------------------------------------------------------------------------


def test_a_plugin_for_other_hooks_is_refused_before_its_import(plugin_site: PluginSite):
    module = plugin_site.add("acme-future", "", requires=[f"leyden-core[hooks-{OTHER}]>=0.1"])
    (message,) = said()
    assert module not in sys.modules
    for part in (
        "plugin 'acme' of acme-future 1.2.3 is set aside",
        f"written for version {OTHER} of the hooks, and leyden-core {pl.__version__} has version {hooks.HOOKS_VERSION}",
        "(pip install --upgrade leyden-core acme-future)",
    ):
        assert part in message


@pytest.mark.parametrize("extras", [f"hooks-{hooks.HOOKS_VERSION}", f"hooks-1,hooks-{OTHER}", "colours", "hooks-next"])
def test_a_plugin_for_these_hooks_is_imported(plugin_site: PluginSite, extras):
    module = plugin_site.add("acme-now", "", requires=[f"leyden-core[{extras}]>=0.1"])
    assert said() == []
    assert module in sys.modules


def test_a_requirement_that_does_not_apply_here_says_nothing():
    assert refusal([f"leyden-core[hooks-{OTHER}] ; python_version < '3'"], "0.1") == ""
    assert refusal(["torch>=99"], "0.1") == ""


def test_the_core_s_metadata_offers_the_version_of_its_hooks():
    """So that pip knows what ``leyden-core[hooks-1]`` asks for."""
    text = (Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8")
    assert f"\nhooks-{hooks.HOOKS_VERSION} = []" in text


# -- deprecations -----------------------------------------------------------------------------------------


@pytest.fixture
def deprecated_hook(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A hook that is going to go, and one whose argument is."""

    def on_test_end(self: Any, trainer: Any, pl_module: Any) -> None:
        """Testing is over."""

    def on_fit_start(self: Any, trainer: Any, pl_module: Any) -> None:
        """The fit begins."""

    whole = DeprecationWarning("on_test_end goes; implement on_test_epoch_end")
    argument = DeprecationWarning("pl_module goes; ask trainer.lightning_module")
    monkeypatch.setattr(hooks.Observation, "on_test_end", hooks.hookspec(warn_on_impl=whole)(on_test_end))
    marked = hooks.hookspec(warn_on_impl_args={"pl_module": argument})(on_fit_start)
    monkeypatch.setattr(hooks.Observation, "on_fit_start", marked)
    discover.cache_clear()
    yield
    discover.cache_clear()


def test_the_author_of_a_plugin_is_told_once(deprecated_hook, plugin_site: PluginSite, tmp_path):
    source = "@hookimpl\ndef on_test_end(trainer): ...\n@hookimpl\ndef on_fit_start(pl_module): ..."
    plugin_site.add("acme-old", source)
    plugin_site.add("acme-new", "@hookimpl\ndef on_fit_start(trainer): ...", plugin="new")
    assert sorted(said(DeprecationWarning)) == [
        "on_test_end goes; implement on_test_epoch_end", "pl_module goes; ask trainer.lightning_module",
    ]  # fmt: skip
    given = SimpleNamespace(on_train_end=hooks.hookimpl(lambda: None))
    quiet_trainer(tmp_path, plugins=given).fit(SmallModel(), Batches())  # and not again


def test_the_warning_points_to_the_implementation(deprecated_hook, plugin_site: PluginSite):
    plugin_site.add("acme-old", "\n\n@hookimpl\ndef on_test_end(trainer): ...")
    with pytest.warns(DeprecationWarning, match="on_test_end") as caught:
        discover()
    assert caught[0].filename.endswith("acme_old_module.py")


def test_the_author_of_a_callback_is_told_once(deprecated_hook, tmp_path):
    class Own(pl.Callback):
        def on_test_end(self, trainer, pl_module):
            pass

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        for _ in range(2):
            quiet_trainer(tmp_path, callbacks=Own()).fit(SmallModel(), Batches())
    (told,) = [warning for warning in caught if warning.category is DeprecationWarning]
    assert re.match(r"The Callback .*Own implements 'on_test_end': on_test_end goes;", str(told.message))
