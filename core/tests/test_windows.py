"""Windows: ``from leyden.callbacks import …`` and its like show what installed plugins bring."""

from __future__ import annotations

import importlib
import pickle
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import leyden as pl
from leyden.plugin_system.discovery import discover
from leyden_testing.fake_plugins import PluginSite, new_plugin_site

CHIMES = """
    @hookimpl
    def leyden_components():
        yield Component("callback", "Chimes", "acme_chimes:Chimes")
        yield Component("logger", "gong", "acme_chimes:Gong", {"aliases": ["GongLogger"]})
"""


@pytest.fixture
def plugin_site(tmp_path: Path) -> Iterator[PluginSite]:
    with new_plugin_site(tmp_path / "site") as site:
        site.add("acme-chimes", CHIMES)
        site.module("acme_chimes", "class Chimes: ...\nclass Gong: ...")
        yield site


def test_a_class_is_imported_by_its_name(plugin_site):
    from leyden.callbacks import Chimes
    from leyden.loggers import GongLogger

    assert (Chimes.__module__, GongLogger.__name__) == ("acme_chimes", "Gong")
    assert pl.callbacks.Chimes is Chimes


def test_dir_lists_what_is_installed_and_imports_nothing(plugin_site):
    assert {"Callback", "Chimes"} <= set(dir(pl.callbacks))
    names = dir(pl.loggers)
    assert {"Logger", "GongLogger", "gong"} <= set(names)
    assert names == sorted(names)
    assert "acme_chimes" not in sys.modules


WINDOWS = {
    "accelerators": ("Accelerator", "accelerator"),
    "callbacks": ("Callback", "callback"),
    "loggers": ("Logger", "logger"),
    "plugins": ("Precision", "precision"),
    "profilers": ("Profiler", "profiler"),
    "strategies": ("Strategy", "strategy"),
}


@pytest.mark.parametrize("name", WINDOWS)
def test_every_window_has_its_base_class_and_names_what_it_has_not(name):
    base, kind = WINDOWS[name]
    module = importlib.import_module(f"leyden.{name}")
    assert base in dir(module)
    assert getattr(module, base).__module__.startswith("leyden.")
    with pytest.raises(ImportError, match=rf"There is no {kind}.* 'Nonesuch'; installed: "):
        exec(f"from leyden.{name} import Nonesuch")


def test_authors_find_what_the_readme_says_that_they_derive_from():
    readme = Path(__file__).parents[1].joinpath("README.md").read_text(encoding="utf-8")
    section = readme.partition("## What a part derives from")[2].partition("\n## ")[0]
    named = set(re.findall(r"`leyden\.(\w+)\.(\w+)`", section))
    assert {window for window, _ in named} == {*WINDOWS}
    for window, name in named:
        module = importlib.import_module(f"leyden.{window}")
        assert name in module.__all__
        assert getattr(module, name).__doc__
    also = re.findall(r"`(\w+)`", section.partition("`leyden.utilities` has ")[2].partition(" and their like")[0])
    assert also
    assert set(also) <= {*importlib.import_module("leyden.utilities").__all__}


def test_the_core_s_own_parts_are_there_by_their_class_names():
    from leyden.interfaces.strategy import Strategy
    from leyden.plugins import TorchCheckpointIO
    from leyden.strategies import SingleDeviceStrategy

    assert SingleDeviceStrategy is Strategy
    assert TorchCheckpointIO.__name__ == "TorchCheckpointIO"


def test_a_missing_class_is_named_with_the_distribution_that_has_it(plugin_site, monkeypatch):
    monkeypatch.setenv("LEYDEN_PLUGINS_AUTOLOAD", "0")
    with pytest.raises(ImportError, match=r"leyden-callbacks \S+ is disabled by LEYDEN_PLUGINS_AUTOLOAD=0"):
        from leyden.callbacks import EarlyStopping
    discover().infos[:] = discover().infos[:1]  # as if only the core were installed
    with pytest.raises(ImportError, match=r"It comes with leyden-callbacks: pip install leyden-callbacks\."):
        from leyden.callbacks import EarlyStopping  # noqa: F401


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        ("from leyden.cli import LightningCLI", "no cli 'LightningCLI'.* planned for leyden-cli "),
        ("from leyden.tuner import Tuner", "no tuner 'Tuner'.* planned for leyden-tuner "),
    ],
)
def test_a_part_that_no_distribution_brings_yet_is_named_with_the_one_that_will(statement, said):
    with pytest.raises(ImportError, match=rf"^There is {said}") as caught:
        exec(statement)
    assert "\n" not in str(caught.value)


def test_a_misspelt_class_is_answered_with_the_nearest(plugin_site):
    with pytest.raises(ImportError, match=r"There is no callback 'Chimse'; .*Did you mean 'Chimes'\?"):
        from leyden.callbacks import Chimse  # noqa: F401


def test_a_class_of_a_broken_plugin_is_imported_with_that_plugin_s_error(plugin_site):
    plugin_site.add("acme-tuner", "raise RuntimeError('out of tune')", plugin="tuner")
    with pytest.warns(RuntimeWarning, match="set aside"), pytest.raises(ImportError, match="out of tune") as caught:
        from leyden.callbacks import TuningFork  # noqa: F401
    assert isinstance(caught.value.__cause__, RuntimeError)


def test_whoever_looks_through_modules_gets_the_answer_that_there_is_none():
    """``hasattr`` and ``getattr`` with a default, and so pickle, which asks every module for a function's name."""
    assert not hasattr(pl.callbacks, "nonesuch")
    assert getattr(pl.loggers, "nonesuch", 7) == 7
    with pytest.raises(AttributeError, match="There is no callback 'nonesuch'"):
        _ = pl.callbacks.nonesuch
    assert not hasattr(pl.callbacks, "__wrapped__")


def test_pickling_a_function_that_does_not_know_its_module():
    def helper() -> None:
        """Found in no module, so that pickle looks for it in all of them."""

    helper.__module__ = None
    helper.__qualname__ = "no_such_function_anywhere"
    with pytest.raises((pickle.PicklingError, AttributeError)) as caught:
        pickle.dumps(helper)
    assert "There is no callback" not in str(caught.value)


def test_a_star_import_brings_the_window_s_own_names():
    names: dict[str, object] = {}
    exec("from leyden.loggers import *", names)
    assert {"DummyLogger", "Logger"} <= set(names)
