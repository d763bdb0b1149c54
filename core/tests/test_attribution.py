"""Whose error it is: what a plugin's hook raises has a note with the plugin; what it raises stays what it was."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import leyden as pl
from leyden import hookimpl
from leyden_testing.fake_plugins import PluginSite, new_plugin_site
from leyden_testing.models import Batches, SmallModel
from leyden_testing.training import quiet_trainer

OWNER = "the plugin 'acme' of acme-broken 1.2.3."


@pytest.fixture
def plugin_site(tmp_path: Path) -> Iterator[PluginSite]:
    with new_plugin_site(tmp_path / "site") as site:
        yield site


def error_of(tmp_path: Path, model: Any = None, **options: Any) -> BaseException:
    """What a fit raises."""
    with pytest.raises(ZeroDivisionError) as caught:
        quiet_trainer(tmp_path, **options).fit(model or SmallModel(), Batches(3))
    return caught.value


def notes(error: BaseException) -> list[str]:
    return getattr(error, "__notes__", [])


HOOKS = {
    "a hook": ("on_train_batch_end", "def on_train_batch_end(batch_idx):\n    return 1 / 0"),
    "a step": ("leyden_optimize_batch", "def leyden_optimize_batch():\n    return 1 / 0"),
    "a configuration": ("leyden_configure", "def leyden_configure(trainer):\n    return 1 / 0"),
    "a default": ("leyden_default_callbacks", "def leyden_default_callbacks():\n    yield 1 / 0"),
    "a default logger": ("leyden_default_logger", "def leyden_default_logger():\n    return 1 / 0"),
    "something deeper": ("on_fit_start", "def on_fit_start():\n    return deeper()\n\ndef deeper():\n    return 1 / 0"),
}


@pytest.mark.parametrize("case", HOOKS)
def test_the_error_of_a_plugin_s_hook_names_the_plugin(plugin_site: PluginSite, tmp_path, case):
    hook, source = HOOKS[case]
    plugin_site.add("acme-broken", f"@hookimpl(tryfirst=True)\n{source}")
    error = error_of(tmp_path, logger=True, log_every_n_steps=1)
    assert notes(error) == [f"Raised within {hook!r} of {OWNER}"]
    assert str(error) == "division by zero"
    assert traceback.extract_tb(error.__traceback__)[-1].filename.endswith("acme_broken_module.py")


def test_a_wrapper_s_own_error_is_the_wrapper_s(plugin_site: PluginSite, tmp_path):
    plugin_site.add("acme-broken", "@hookimpl(wrapper=True)\ndef on_train_start():\n    yield\n    1 / 0")
    assert notes(error_of(tmp_path)) == [f"Raised within 'on_train_start' of {OWNER}"]


def test_what_passes_through_a_wrapper_is_not_the_wrapper_s(plugin_site: PluginSite, tmp_path):
    plugin_site.add(
        "acme-around", "@hookimpl(wrapper=True)\ndef on_train_start():\n    return (yield)", plugin="around"
    )
    plugin_site.add("acme-broken", "@hookimpl\ndef on_train_start():\n    1 / 0")
    assert notes(error_of(tmp_path)) == [f"Raised within 'on_train_start' of {OWNER}"]


class Failing(SmallModel):
    def training_step(self, batch, batch_idx):
        return 1 / 0


class FailingCallback(pl.Callback):
    def on_train_start(self, trainer, pl_module):
        self.fail()

    def fail(self) -> None:
        raise ZeroDivisionError


@pytest.mark.parametrize(
    "options", [{"model": Failing()}, {"callbacks": FailingCallback()}], ids=["a model", "a callback"]
)
def test_the_user_s_own_error_is_nobody_else_s(plugin_site: PluginSite, tmp_path, options):
    """Also where a plugin's wrapper, or its own step, calls what raises."""
    source = """
    @hookimpl(wrapper=True)
    def on_train_start():
        return (yield)

    @hookimpl
    def leyden_optimize_batch(pl_module, batch, batch_idx):
        return {"loss": pl_module.training_step(batch, batch_idx)}
    """
    plugin_site.add("acme-around", source)
    assert notes(error_of(tmp_path, **options)) == []


def test_a_plugin_that_was_given_is_named_too(tmp_path):
    given = SimpleNamespace(__name__="mine", on_train_end=hookimpl(lambda: 1 / 0))
    assert notes(error_of(tmp_path, plugins=given)) == ["Raised within '<lambda>' of the plugin 'mine'."]
