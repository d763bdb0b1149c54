"""What every part has to do, whatever its kind: be found, be built, be missed by name, leave no trace."""

from __future__ import annotations

import gc
import inspect
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar
from unittest import mock

import pytest
import torch

import leyden as pl
from leyden.interfaces.component import Component
from leyden.plugin_system.discovery import CORE_DISTRIBUTION, discover
from leyden.plugin_system.manager import PluginInfo
from leyden.utilities.exceptions import MisconfigurationException
from leyden.utilities.rank_zero import rank_zero_only
from leyden_testing import discovery, traces
from leyden_testing.training import FailingModel, Model, reference_trainer, rows


def sentence(error: BaseException, *mentioned: str) -> str:
    """The text of an error, which fails unless it is one line of words that mentions what it is about.

    Args:
        error: What was raised.
        mentioned: What the sentence has to contain.
    """
    text = str(error)
    assert len(text.split()) > 3, f"{type(error).__name__}({text!r}) is no sentence"
    assert "\n" not in text.strip(), f"the error is no single sentence: {text}"
    for part in mentioned:
        assert part in text, f"{text!r} does not mention {part!r}"
    return text


class Conformance:
    """The checks of every kind; the class of a kind adds its own.

    An author subclasses the class of a kind and overrides the fixture :meth:`name`, and others where the part needs it.

    Attributes:
        kind: The kind of component.
        interface: What its target has to be a subclass of.
    """

    kind: ClassVar[str]
    interface: ClassVar[type]

    # -- what an author overrides ---------------------------------------------------------------------------

    @pytest.fixture
    def name(self) -> str:
        """The name of the component, as users write it."""
        pytest.fail(f"{type(self).__name__} must override the fixture `name` with the name of a {self.kind}.")

    @pytest.fixture
    def arguments(self, tmp_path: Path) -> dict[str, Any]:
        """Keyword arguments with which the part is built; none by default."""
        return {}

    @pytest.fixture
    def available(self) -> None:
        """Skips, with the reason, where this machine lacks what the part runs on; nothing lacks by default."""

    # -- what the checks use --------------------------------------------------------------------------------

    @pytest.fixture(autouse=True)
    def _a_process_as_it_was(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        """A check that seeds everything, or is another rank, leaves the process to the next one as it found it."""
        monkeypatch.setattr(rank_zero_only, "rank", 0)
        with mock.patch.dict(os.environ):
            yield

    @pytest.fixture
    def component(self, name: str) -> Component:
        """The component of that name among the installed plugins."""
        return discover().component(self.kind, name)

    @pytest.fixture
    def info(self, component: Component) -> PluginInfo:
        """What the manager knows of the plugin that brings it."""
        return next(info for info in discover().infos if component in info.components)

    @pytest.fixture
    def build_part(self, name: str, arguments: dict[str, Any], available: None) -> Callable[[], Any]:
        """Builds the part by its name, a new one in every call."""
        return partial(discover().build, self.kind, name, **arguments)

    @pytest.fixture
    def part(self, build_part: Callable[[], Any]) -> Any:
        """The part that runs are made with."""
        return build_part()

    @pytest.fixture
    def discovered_anew(self) -> Iterator[None]:
        """Plugins are discovered anew after the check."""
        yield
        discover.cache_clear()

    @pytest.fixture
    def settings_put_back(self) -> Iterator[None]:
        """What a Trainer sets for its user, and so leaves, is put back after the check."""
        deterministic = torch.are_deterministic_algorithms_enabled()
        warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
        benchmark = torch.backends.cudnn.benchmark
        yield
        torch.use_deterministic_algorithms(deterministic, warn_only=warn_only)
        torch.backends.cudnn.benchmark = benchmark

    def trainer_arguments(self, value: Any) -> dict[str, Any]:
        """The arguments by which a Trainer takes a part; none for one that it finds when it needs it."""
        return {}

    def model(self, part: Any) -> Model:
        """What the runs train with the part."""
        return Model()

    def failing_model(self, part: Any) -> Model:
        """One that raises ``ValueError("the model's own error")`` in its second training batch."""
        return FailingModel()

    def trainer(self, root: Path, value: Any, **options: Any) -> pl.Trainer:
        """A quiet Trainer with the part.

        Args:
            root: Its default_root_dir.
            value: The part, its class or its name.
            options: Further arguments of the Trainer.
        """
        return reference_trainer(root, **{**self.trainer_arguments(value), **options})

    def warm_up(self, root: Path, part: Any) -> None:
        """Have PyTorch do what it does at its first use, which is no trace of the part's."""
        reference_trainer(root).fit(Model(), rows(), rows(8))

    def run_everything(self, root: Path, part: Any) -> None:
        """One run of every stage with the part."""
        trainer, model = self.trainer(root, part), self.model(part)
        trainer.fit(model, rows(), rows(8))
        trainer.validate(model, rows(8), verbose=False)
        trainer.test(model, rows(8), verbose=False)
        trainer.predict(model, rows(8))

    @staticmethod
    def seed() -> None:
        """Put all random numbers at the beginning of a run that is compared with others."""
        pl.seed_everything(7, verbose=False)

    # -- found ----------------------------------------------------------------------------------------------

    def test_a_distribution_brings_it(self, info: PluginInfo) -> None:
        """Its plugin was found by an entry point, is active, and says of what distribution and version it is."""
        assert info.state == "active"
        assert info.distribution, f"the plugin {info.name!r} comes with no distribution"
        assert info.version, f"the distribution {info.distribution!r} has no version"

    def test_it_answers_to_all_its_names(self, component: Component) -> None:
        """The name and each alias are words that a user can write, and lead to this component alone, or to a group."""
        for name in component.names:
            assert isinstance(name, str), f"{name!r} is no word that a user can write"
            assert name, "the empty name is no word that a user can write"
            assert not any(sign.isspace() or sign == "," for sign in name), f"{name!r} is no word that a user can write"
            assert component in discover().named(self.kind, name)
        assert component.name != "auto", "'auto' means the best that is available"

    def test_its_target_is_what_its_kind_says(self, component: Component) -> None:
        """The target is a class, of the kind's interface, with nothing abstract left in it."""
        target = component.load()
        assert isinstance(target, type), f"{component.target} is {target!r}, which is no class"
        assert issubclass(target, self.interface), f"{component.target} is no subclass of {self.interface.__name__}"
        assert not inspect.isabstract(target), (
            f"{component.target} leaves out {getattr(target, '__abstractmethods__', ())}"
        )

    # -- apart from the others ------------------------------------------------------------------------------

    def test_discovering_it_imports_none_of_its_parts(self, component: Component, info: PluginInfo) -> None:
        """A fresh process that discovers the plugin imports neither the part's module nor any other package."""
        modules = discovery.imported_by(info.name)
        target = component.target.partition(":")[0]
        assert info.distribution == CORE_DISTRIBUTION or target not in modules, f"discovery imports {target}"
        foreign = discovery.foreign(modules, target.partition(".")[0])
        assert foreign == [], f"discovery imports {', '.join(foreign)}"

    def test_disabled_it_is_missed_and_the_others_work(
        self, name: str, info: PluginInfo, monkeypatch: pytest.MonkeyPatch, discovered_anew: None, tmp_path: Path
    ) -> None:
        """With LEYDEN_PLUGINS_DISABLED its name is unknown, no other plugin is set aside, and a Trainer trains."""
        self._skip_the_core(info)
        working = self._others(info)
        monkeypatch.setenv("LEYDEN_PLUGINS_DISABLED", info.name)
        discover.cache_clear()
        self._is_missed(name, working, tmp_path)

    def test_broken_it_is_missed_and_the_others_work(
        self, name: str, info: PluginInfo, monkeypatch: pytest.MonkeyPatch, discovered_anew: None, tmp_path: Path
    ) -> None:
        """Where the plugin can't be imported, one warning names it, no other is set aside, and a Trainer trains."""
        self._skip_the_core(info)
        working = self._others(info)
        for other in discover().infos:  # so that those that need this one would fail with it
            if other.distribution != CORE_DISTRIBUTION and isinstance(other.plugin, ModuleType):
                monkeypatch.delitem(sys.modules, other.plugin.__name__)
        monkeypatch.setitem(sys.modules, info.plugin.__name__, None)
        discover.cache_clear()
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            discover()
        said = [str(warning.message) for warning in warned]
        assert any(f"plugin {info.name!r}" in text for text in said)
        assert len(said) == 1, f"more than one plugin is set aside: {said}"
        self._is_missed(name, working, tmp_path)

    def _is_missed(self, name: str, working: set[tuple[str, str]], root: Path) -> None:
        assert self._others(None) >= working
        assert discover().named(self.kind, name) == [], f"{name!r} is still there"
        with pytest.raises(MisconfigurationException) as raised:
            discover().component(self.kind, name)
        sentence(raised.value, repr(name))
        reference_trainer(root, max_epochs=1).fit(Model(), rows(), rows(8))

    @staticmethod
    def _others(info: PluginInfo | None) -> set[tuple[str, str]]:
        """The plugins but for one, and their states."""
        return {(r.name, str(r.state)) for r in discover().infos if info is None or r.name != info.name}

    @staticmethod
    def _skip_the_core(info: PluginInfo) -> None:
        if info.distribution == CORE_DISTRIBUTION:
            pytest.skip("the core is always there")

    # -- runs -----------------------------------------------------------------------------------------------

    def test_a_run_leaves_the_process_as_it_was(self, part: Any, build_part: Callable[[], Any], tmp_path: Path) -> None:
        """No run changes a setting of the process for good, or leaves threads, processes or open files behind.

        PyTorch has done before what it does at first use. The files and threads of a second run are compared with
        those of the first, which may have opened what is opened once.
        """
        self.warm_up(tmp_path, part)
        before = traces.settings()
        self.run_everything(tmp_path / "first", part)
        assert traces.changed(before, traces.settings()) == []
        gc.collect()
        held = traces.held()
        other = build_part()
        self.run_everything(tmp_path / "second", other)
        gc.collect()
        assert traces.left_behind(held) == []

    def test_a_model_that_raises_is_heard_and_leaves_the_process_as_it_was(self, part: Any, tmp_path: Path) -> None:
        """The model's own error comes out of a run with the part, the settings are put back, and it trains again."""
        self.warm_up(tmp_path, part)
        before = traces.settings()
        trainer = self.trainer(tmp_path / "first", part)
        with pytest.raises(ValueError, match="the model's own error"):
            trainer.fit(self.failing_model(part), rows(), rows(8))
        assert traces.changed(before, traces.settings()) == []
        self.trainer(tmp_path / "second", part).fit(self.model(part), rows(), rows(8))


class TrainerPartConformance(Conformance):
    """The checks of what a Trainer is given: by its name, by its class or as an instance."""

    def trainer_arguments(self, value: Any) -> dict[str, Any]:
        """The arguments by which a Trainer takes a part of this kind, given by name, class or instance."""
        return {self.kind: value}

    def held_by(self, trainer: pl.Trainer) -> Any:
        """The part of this kind that a Trainer has."""
        return getattr(trainer, self.kind)

    def test_a_trainer_takes_its_name_its_class_and_an_instance(
        self, component: Component, arguments: dict[str, Any], part: Any, tmp_path: Path
    ) -> None:
        """A Trainer builds it from its name and from its class, and keeps an instance as it is.

        What can't be built without arguments is refused with a sentence that says so.
        """
        target = component.load()
        assert self.held_by(self.trainer(tmp_path, part)) is part
        for value in (component.name, target):
            try:
                held = self.held_by(self.trainer(tmp_path, value))
            except MisconfigurationException as error:
                alone = {} if value is target else component.options.get("arguments", {})
                with pytest.raises(TypeError):
                    inspect.signature(target).bind(**alone)
                sentence(error, "can't be built", "give an instance")
            else:
                assert type(held) is target, f"{value!r} gives a {type(held).__name__}"

    def test_a_misspelt_name_is_answered_with_it(self, name: str, tmp_path: Path) -> None:
        """Who writes its name with one letter too many is asked whether it was meant."""
        with pytest.raises(MisconfigurationException) as raised:
            self.trainer(tmp_path, name + name[-1:])
        sentence(raised.value, repr(name))
