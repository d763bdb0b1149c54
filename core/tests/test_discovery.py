"""Discovery: plugins are found by their entry points; broken ones are set aside and said so."""

from __future__ import annotations

import math
import pickle
import subprocess
import sys
import traceback
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

import leyden as pl
from leyden.plugin_system.discovery import discover
from leyden.plugin_system.manager import PluginInfo
from leyden.utilities.exceptions import MisconfigurationException
from leyden_testing.fake_plugins import PluginSite, new_plugin_site
from leyden_testing.models import Batches, SmallModel
from leyden_testing.training import quiet_trainer


@pytest.fixture
def plugin_site(tmp_path: Path) -> Iterator[PluginSite]:
    with new_plugin_site(tmp_path / "site") as site:
        yield site


NPU = """
    @hookimpl
    def leyden_components():
        yield Component("accelerator", "npu", "acme_device:NPU")
"""
NPU_DEVICE = """
    from leyden.accelerators import CPUAccelerator

    class NPU(CPUAccelerator):
        @classmethod
        def name(cls):
            return "npu"
"""


def record(name: str, distribution: str = "") -> PluginInfo:
    """What discovery knows of one plugin."""
    return next(r for r in discover().infos if r.name == name and distribution in ("", r.distribution))


def warnings_of_discovery() -> list[str]:
    """Every warning that discovering the plugins gives."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        discover()
        discover()
    return [str(warning.message) for warning in caught]


# -- plugins that work ------------------------------------------------------------------------------------


def test_a_plugin_is_found_and_imported_when_it_is_asked_for(plugin_site: PluginSite, tmp_path):
    plugin_site.add("acme-npu", NPU)
    plugin_site.module("acme_device", NPU_DEVICE)

    quiet_trainer(tmp_path)
    assert record("acme").state == "active"
    assert "acme_device" not in sys.modules

    trainer = quiet_trainer(tmp_path, accelerator="npu")
    assert "acme_device" in sys.modules
    trainer.fit(SmallModel(), Batches())
    assert (trainer.accelerator.name(), trainer.global_step) == ("npu", 2)


PARTS = {
    "accelerator": ("from leyden.accelerators import CPUAccelerator as Base", "accelerator"),
    "strategy": ("from leyden.strategies import Strategy as Base", "strategy"),
    "precision": ("from leyden.plugins import Precision as Base", "precision_plugin"),
    "profiler": ("from leyden.profilers import Profiler as Base", "profiler"),
    "logger": ("from leyden.loggers import DummyLogger as Base", "logger"),
    "callbacks": ("from leyden import Callback as Base", "callbacks"),
    "plugins": ("from leyden.plugins import CheckpointIO as Base", "strategy.checkpoint_io"),
}
KINDS = {"callbacks": "callback", "plugins": "checkpoint_io"}


@pytest.mark.parametrize("argument", PARTS)
def test_a_part_of_each_kind_is_used_by_its_name(plugin_site: PluginSite, tmp_path, argument):
    base, attribute = PARTS[argument]
    kind = KINDS.get(argument, argument)
    plugin_site.add(
        "acme-parts",
        f"""
        @hookimpl
        def leyden_components():
            yield Component("{kind}", "acme-part", "acme_part:Part", {{"aliases": ["acme-alias"]}})
        """,
    )
    methods = "save_checkpoint = load_checkpoint = remove_checkpoint = lambda *_, **__: None"
    plugin_site.module("acme_part", f"{base}\nclass Part(Base):\n    {methods}\n")
    for name in ("acme-part", "acme-alias"):
        value = quiet_trainer(tmp_path, **{argument: name})
        for step in attribute.split("."):
            value = getattr(value, step)
        assert type(value[0] if argument == "callbacks" else value).__name__ == "Part"


@pytest.mark.parametrize("argument", [argument for argument in PARTS if argument != "plugins"])
def test_a_part_that_needs_arguments_can_not_be_built_by_its_name(plugin_site: PluginSite, tmp_path, argument):
    base, kind = PARTS[argument][0], KINDS.get(argument, argument)
    part = f'Component("{kind}", "acme-part", "acme_part:Part", {{"priority": 99}})'
    plugin_site.add("acme-parts", f"@hookimpl\ndef leyden_components():\n    yield {part}\n")
    plugin_site.module("acme_part", f"{base}\nclass Part(Base):\n    def __init__(self, size): ...\n")
    for name in {"acme-part", "auto" if argument == "accelerator" else "acme-part"}:
        with pytest.raises(MisconfigurationException, match=f"^The {kind} 'acme-part' can't be built: .*'size'; give"):
            quiet_trainer(tmp_path, **{argument: name})


def test_a_third_party_may_add_a_kind(plugin_site: PluginSite):
    plugin_site.add(
        "acme-tools",
        """
        @hookimpl
        def leyden_components():
            yield Component("scheduler", "cosine", "math:cos")
        """,
    )
    assert discover().component("scheduler", "cosine").load() is math.cos


def test_an_object_of_a_module_can_be_the_plugin(plugin_site: PluginSite, tmp_path):
    plugin_site.add(
        "acme-object",
        """
        class Plugin:
            @hookimpl
            def leyden_configure(self, trainer):
                trainer.seen_by_acme = True

        plugin = Plugin()
        """,
        attribute="plugin",
    )
    assert quiet_trainer(tmp_path).seen_by_acme


def test_plugins_are_in_the_same_order_everywhere(plugin_site: PluginSite):
    for name in ("zeta", "alpha", "mike"):
        plugin_site.add(f"acme-{name}", "", plugin=name)
    names = [r.name for r in discover().infos]
    assert names[0] == "core"
    assert names[1:] == sorted(names[1:])
    assert {"zeta", "alpha", "mike"} < set(names)


def test_the_core_is_a_plugin_like_others():
    core = discover().infos[0]
    assert (core.name, core.distribution, core.version, core.state) == ("core", "leyden-core", pl.__version__, "active")
    assert ("strategy", "single_device") in {(part.kind, part.name) for part in core.components}


# -- plugins that do not ----------------------------------------------------------------------------------

BROKEN = {
    "its module raises": ("raise RuntimeError('no flux capacitor')", "RuntimeError: no flux capacitor"),
    "it misses a dependency": ("import acme_is_not_installed", "No module named 'acme_is_not_installed'"),
    "it exits": ("raise SystemExit(3)", "SystemExit: 3"),
    "it is no Python": ("def", "SyntaxError"),
    "a hook is misspelt": ("@hookimpl\ndef on_train_epoch_strat(trainer): ...", "did it mean 'on_train_epoch_start'?"),
    "a hook is of no name": ("@hookimpl\ndef zzz(): ...", "'zzz', which is no hook"),
    "a hook takes too much": ("@hookimpl\ndef on_fit_start(trainer, colour): ...", "{'colour'}"),
    "a part is none": ("@hookimpl\ndef leyden_components():\n    yield 7", "yields 7, which is no Component"),
    "its parts raise": ("@hookimpl\ndef leyden_components():\n    yield 1 / 0", "ZeroDivisionError"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_plugin_is_set_aside_with_one_warning(plugin_site: PluginSite, tmp_path, case):
    source, cause = BROKEN[case]
    plugin_site.add("acme-broken", source)
    plugin_site.add("acme-sound", "", plugin="sound")

    (message,) = warnings_of_discovery()
    for part in ("'acme'", "acme-broken", "1.2.3", cause, "LEYDEN_PLUGINS_DISABLED=acme."):
        assert part in message
    assert record("acme").state == "set aside"
    assert record("sound").state == "active"
    trainer = quiet_trainer(tmp_path)
    trainer.fit(SmallModel(), Batches())
    assert trainer.global_step == 2


def test_nothing_of_a_broken_plugin_is_left_behind(plugin_site: PluginSite, tmp_path):
    plugin_site.add(
        "acme-broken",
        """
        @hookimpl
        def leyden_configure(trainer):
            raise AssertionError("a plugin that was set aside is called")

        @hookimpl
        def on_train_epoch_strat(trainer):
            pass
        """,
    )
    with pytest.warns(RuntimeWarning, match="set aside"):
        quiet_trainer(tmp_path)


def test_a_missing_attribute_of_the_entry_point(plugin_site: PluginSite):
    plugin_site.add("acme-broken", "", attribute="plugin")
    (message,) = warnings_of_discovery()
    assert "AttributeError" in message
    assert "has no attribute 'plugin'" in message


@pytest.mark.parametrize(
    "requirement",
    [
        "leyden-core>=99",
        "leyden-core<0.1",
        "leyden_core (>=99,<100)",
        "Leyden.Core==99.*",
        "leyden-core>=99 ; python_version>'3'",
    ],
)
def test_a_plugin_for_another_core_is_not_imported(plugin_site: PluginSite, requirement):
    module = plugin_site.add("acme-future", "", requires=["torch", requirement])
    (message,) = warnings_of_discovery()
    assert record("acme").state == "set aside"
    assert module not in sys.modules
    assert f"leyden-core is {pl.__version__}" in message
    assert "LEYDEN_PLUGINS_DISABLED=acme" in message


@pytest.mark.parametrize(
    "requirement",
    [f"leyden-core=={pl.__version__}", "leyden-core", "leyden-core-extras>=99", "leyden-core>=99 ; extra == 'next'"],
)
def test_a_plugin_for_this_core_is_imported(plugin_site: PluginSite, requirement):
    module = plugin_site.add("acme-now", "", requires=[requirement])
    assert warnings_of_discovery() == []
    assert module in sys.modules


def test_a_requirement_that_is_none_sets_the_plugin_aside(plugin_site: PluginSite):
    plugin_site.add("acme-odd", "", requires=["leyden-core at least one"])
    (message,) = warnings_of_discovery()
    assert "InvalidRequirement" in message


@pytest.mark.parametrize("plugin", ["npu", "acme"])
def test_asking_for_a_part_of_a_broken_plugin_raises_its_own_error(plugin_site: PluginSite, tmp_path, plugin):
    """Whether the plugin has the part's name or another one."""
    plugin_site.add("acme-npu", "raise RuntimeError('no flux capacitor')", plugin=plugin)
    with pytest.warns(RuntimeWarning, match="set aside"):
        discover()
    with pytest.raises(
        pl.utilities.MisconfigurationException, match=r"no accelerator 'npu'.*acme-npu 1\.2\.3"
    ) as caught:
        quiet_trainer(tmp_path, accelerator="npu")
    cause = caught.value.__cause__
    assert isinstance(cause, RuntimeError)
    assert traceback.extract_tb(cause.__traceback__)[-1].filename.endswith("acme_npu_module.py")


def test_a_broken_part_is_an_error_only_where_it_is_asked_for(plugin_site: PluginSite, tmp_path):
    plugin_site.add("acme-npu", NPU)
    plugin_site.module("acme_device", "import acme_is_not_installed")
    quiet_trainer(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="acme_is_not_installed"):
        quiet_trainer(tmp_path, accelerator="npu")
    with pytest.warns(RuntimeWarning, match=r"'npu' is passed over.*acme_is_not_installed"):
        trainer = quiet_trainer(tmp_path, accelerator="auto")
    assert trainer.accelerator.name() != "npu"


# -- one name, two plugins --------------------------------------------------------------------------------


def test_two_plugins_of_one_name(plugin_site: PluginSite, monkeypatch):
    plugin_site.add("acme-one", "", plugin="twin")
    second = plugin_site.add("acme-two", "", plugin="twin")
    (message,) = warnings_of_discovery()
    for part in ("'twin'", "acme-two", "acme-one has a plugin of that name", "LEYDEN_PLUGINS_DISABLED=acme-two."):
        assert part in message
    assert second not in sys.modules

    discover.cache_clear()
    monkeypatch.setenv("LEYDEN_PLUGINS_DISABLED", "acme-one")
    assert warnings_of_discovery() == []
    assert (record("twin", "acme-one").state, record("twin", "acme-two").state) == ("disabled", "active")


@pytest.mark.parametrize(
    ("kind", "argument"), [("accelerator", "accelerator"), ("strategy", "strategy"), ("logger", "logger")]
)
def test_two_parts_of_one_name(plugin_site: PluginSite, tmp_path, kind, argument):
    for number in ("one", "two"):
        source = f"""
        @hookimpl
        def leyden_components():
            yield Component("{kind}", "twin", "acme_{number}:Part", {{"priority": -1}})
        """
        plugin_site.add(f"acme-{number}", source, plugin=number)
        plugin_site.module(f"acme_{number}", "")
    quiet_trainer(tmp_path)
    with pytest.raises(pl.utilities.MisconfigurationException, match=r"acme-one.*acme-two") as caught:
        quiet_trainer(tmp_path, **{argument: "twin"})
    assert f"{kind} 'twin'" in str(caught.value)
    assert not {"acme_one", "acme_two"} & set(sys.modules)


def test_a_part_with_the_name_of_one_of_the_core_is_no_silent_replacement(plugin_site: PluginSite, tmp_path):
    plugin_site.add(
        "acme-shadow",
        """
        @hookimpl
        def leyden_components():
            yield Component("strategy", "single_device", "acme_shadow:Part")
        """,
        plugin="shadow",
    )
    with pytest.raises(pl.utilities.MisconfigurationException, match="LEYDEN_PLUGINS_DISABLED=shadow"):
        quiet_trainer(tmp_path, strategy="single_device")


# -- turning plugins off ----------------------------------------------------------------------------------


@pytest.mark.parametrize("value", ["npu", "acme-npu", " other , npu ", "npu,"])
def test_a_disabled_plugin_is_not_imported(plugin_site: PluginSite, tmp_path, monkeypatch, value):
    module = plugin_site.add("acme-npu", NPU, plugin="npu")
    monkeypatch.setenv("LEYDEN_PLUGINS_DISABLED", value)
    assert warnings_of_discovery() == []
    assert record("npu").state == "disabled"
    assert module not in sys.modules
    with pytest.raises(pl.utilities.MisconfigurationException, match=r"acme-npu 1\.2\.3 is disabled by LEYDEN"):
        quiet_trainer(tmp_path, accelerator="npu")


def test_disabling_silences_a_broken_plugin(plugin_site: PluginSite, monkeypatch):
    plugin_site.add("acme-broken", "raise RuntimeError")
    monkeypatch.setenv("LEYDEN_PLUGINS_DISABLED", "acme")
    assert warnings_of_discovery() == []


def test_no_plugin_but_the_core_is_loaded_where_autoload_is_off(plugin_site: PluginSite, tmp_path, monkeypatch):
    module = plugin_site.add("acme-npu", NPU)
    monkeypatch.setenv("LEYDEN_PLUGINS_AUTOLOAD", "0")
    states = {r.name: r.state for r in discover().infos}
    assert states.pop("core") == "active"
    assert set(states.values()) == {"disabled"}
    assert module not in sys.modules


@pytest.mark.parametrize("name", ["npu", "acme-npu"])
def test_a_plugin_is_named_where_autoload_is_off(plugin_site: PluginSite, monkeypatch, name):
    """As pytest's ``-p`` loads one with ``PYTEST_DISABLE_PLUGIN_AUTOLOAD``."""
    plugin_site.add("acme-npu", NPU, plugin="npu")
    monkeypatch.setenv("LEYDEN_PLUGINS_AUTOLOAD", "0")
    monkeypatch.setenv("LEYDEN_PLUGINS", name)
    assert [r.name for r in discover().infos if r.state == "active"] == ["core", "npu"]


def test_a_module_that_is_not_installed_is_named(plugin_site: PluginSite, tmp_path, monkeypatch):
    plugin_site.module("acme_extra", "from leyden import hookimpl\n@hookimpl\ndef leyden_configure(trainer):\n    "
                       "trainer.seen_by_acme = True\n")  # fmt: skip
    monkeypatch.setenv("LEYDEN_PLUGINS", "acme_extra")
    assert quiet_trainer(tmp_path).seen_by_acme
    assert (record("acme_extra").distribution, record("acme_extra").state) == ("", "active")
    assert pickle.loads(pickle.dumps(discover())) is discover()  # another process has the variable too


def test_what_is_named_and_not_there_is_an_error(plugin_site: PluginSite, tmp_path, monkeypatch):
    monkeypatch.setenv("LEYDEN_PLUGINS", "acme_nowhere")
    with pytest.raises(pl.utilities.MisconfigurationException, match="no installed plugin and no module has that name"):
        quiet_trainer(tmp_path)


@pytest.mark.parametrize("installed", [True, False])
def test_what_is_named_and_broken_is_an_error_with_its_traceback(plugin_site: PluginSite, monkeypatch, installed):
    source = "raise RuntimeError('no flux capacitor')"
    module = plugin_site.add("acme-npu", source, plugin="npu") if installed else "acme_extra"
    plugin_site.module("acme_extra", source)
    monkeypatch.setenv("LEYDEN_PLUGINS", "npu" if installed else module)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        with pytest.raises(pl.utilities.MisconfigurationException, match="RuntimeError: no flux capacitor") as caught:
            discover()
    assert traceback.extract_tb(caught.value.__cause__.__traceback__)[-1].filename.endswith(f"{module}.py")


def test_what_is_named_and_disabled_is_disabled(plugin_site: PluginSite, monkeypatch):
    plugin_site.add("acme-npu", NPU, plugin="npu")
    monkeypatch.setenv("LEYDEN_PLUGINS", "npu")
    monkeypatch.setenv("LEYDEN_PLUGINS_DISABLED", "npu")
    assert record("npu").state == "disabled"


# -- order ------------------------------------------------------------------------------------------------

ORDERED = """
    @hookimpl{mark}
    def leyden_configure(trainer):
        trainer.__dict__.setdefault("configured", []).append("{name}")

    @hookimpl{mark}
    def on_train_end(trainer):
        trainer.__dict__.setdefault("ended", []).append("{name}")
"""


def test_the_order_of_installed_and_given_plugins(plugin_site: PluginSite, tmp_path):
    """Registration: the latest first; a run: by name. ``tryfirst`` and ``trylast`` go before and after the others."""
    marks = {"a_last": "(trylast=True)", "b": "", "c": "", "d_first": "(tryfirst=True)", "e_last": "(trylast=True)"}
    for name, mark in marks.items():
        plugin_site.add(f"acme-{name}", ORDERED.format(name=name, mark=mark), plugin=name)

    class Given:
        @pl.hookimpl
        def leyden_configure(self, trainer):
            trainer.__dict__.setdefault("configured", []).append("given")

        @pl.hookimpl
        def on_train_end(self, trainer):
            trainer.__dict__.setdefault("ended", []).append("given")

    class Own(pl.Callback):
        def on_train_end(self, trainer, pl_module):
            trainer.__dict__.setdefault("ended", []).append("callback")

    trainer = quiet_trainer(tmp_path, plugins=[Given()], callbacks=Own())
    assert trainer.configured == ["d_first", "given", "c", "b", "a_last", "e_last"]
    trainer.fit(SmallModel(), Batches())
    assert trainer.ended == ["d_first", "b", "c", "given", "callback", "a_last", "e_last"]
    lines = [line.split() for line in trainer.describe_hooks().splitlines()]
    at = next(i for i, line in enumerate(lines) if line[:1] == ["on_train_end"])
    assert lines[at][1:4] == ["1.", "d_first", "(tryfirst)"]
    named = [
        line[1] for line in lines[at + 1 : at + 12] if line[1] in {*marks, "Given", "Own"}
    ]  # installed plugins have the hook too
    assert named == ["b", "c", "Given", "Own", "a_last", "e_last"]


def test_accelerators_of_one_priority_are_not_chosen_between(plugin_site: PluginSite, tmp_path):
    for name, priority in (("one", 90), ("two", 90), ("three", 80)):
        source = f"""
        @hookimpl
        def leyden_components():
            options = {{"priority": {priority}, "aliases": ["chip"]}}
            yield Component("accelerator", "{name}", "acme_device:NPU", options)
        """
        plugin_site.add(f"acme-{name}", source, plugin=name)
    plugin_site.module("acme_device", NPU_DEVICE)
    for value in ("auto", "chip"):
        with pytest.raises(
            pl.utilities.MisconfigurationException, match="could be 'one' or 'two', which have the same"
        ):
            quiet_trainer(tmp_path, accelerator=value)
    assert quiet_trainer(tmp_path, accelerator="three").accelerator.name() == "npu"


def test_the_core_can_not_be_disabled(plugin_site: PluginSite, monkeypatch):
    monkeypatch.setenv("LEYDEN_PLUGINS_DISABLED", "core,leyden-core")
    assert record("core").state == "active"


# -- from a fresh process ---------------------------------------------------------------------------------

SCRIPT = """
import sys
import leyden as pl
assert "leyden.plugin_system.manager" in sys.modules
assert "acme_npu_module" not in sys.modules, "plugins are imported too early"
trainer = pl.Trainer(accelerator="npu", logger=False, enable_checkpointing=False)
print(trainer.accelerator.name())
"""


def test_a_process_finds_a_plugin_on_its_path(plugin_site: PluginSite, tmp_path):
    plugin_site.add("acme-npu", NPU)
    plugin_site.module("acme_device", NPU_DEVICE)
    command = [sys.executable, "-W", "error", "-c", SCRIPT]
    environment = {"PYTHONPATH": str(plugin_site.path), "PATH": "", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "npu\n"
