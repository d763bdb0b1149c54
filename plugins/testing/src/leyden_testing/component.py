"""Checks of parts of every kind: they are found and built, can be missing, and leave the process unchanged."""

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
from leyden import Component
from leyden.plugins import CORE_DISTRIBUTION, PluginInfo, discover
from leyden.utilities.exceptions import MisconfigurationException
from leyden.utilities.rank_zero import rank_zero_only
from leyden_testing import discovery, traces
from leyden_testing.training import FailingModel, Model, reference_trainer, rows


def check_sentence(error: BaseException, *mentioned: str) -> str:
    """Check that an error's text is one line with several words that contains the given texts; return it.

    Args:
        error: The error that was raised.
        mentioned: The texts that it must contain.
    """
    text = str(error)
    assert len(text.split()) > 3, f"{type(error).__name__}({text!r}) is not a sentence"
    assert "\n" not in text.strip(), f"the error has more than one line: {text}"
    for part in mentioned:
        assert part in text, f"{text!r} does not mention {part!r}"
    return text


class Conformance:
    """The checks of every kind of part; the class of each kind adds its own.

    An author subclasses the class of a kind and overrides the fixture :meth:`name`, and other fixtures if needed.

    Attributes:
        kind: The kind of component.
        interface: The base class that the component must derive from.
    """

    kind: ClassVar[str]
    interface: ClassVar[type]

    # -- fixtures that an author overrides ------------------------------------------------------------------

    @pytest.fixture
    def name(self) -> str:
        """The name of the component, as users write it."""
        pytest.fail(f"{type(self).__name__} must override the fixture `name` with the name of a {self.kind}.")

    @pytest.fixture
    def arguments(self, tmp_path: Path) -> dict[str, Any]:
        """Keyword arguments of the part's constructor; none by default."""
        return {}

    @pytest.fixture
    def available(self) -> None:
        """Skips the checks, with a reason, if this machine lacks what the part needs; by default it skips none."""

    # -- fixtures and functions for the checks --------------------------------------------------------------

    @pytest.fixture(autouse=True)
    def _restored_process(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        """Restores environment variables and the rank after each check."""
        monkeypatch.setattr(rank_zero_only, "rank", 0)
        with mock.patch.dict(os.environ):
            yield

    @pytest.fixture
    def component(self, name: str) -> Component:
        """The component with that name from the installed plugins."""
        return discover().component(self.kind, name)

    @pytest.fixture
    def info(self, component: Component) -> PluginInfo:
        """The plugin manager's information on the component's plugin."""
        return next(info for info in discover().infos if component in info.components)

    @pytest.fixture
    def build_part(self, name: str, arguments: dict[str, Any], available: None) -> Callable[[], Any]:
        """A function that builds a new part in every call."""
        return partial(discover().build, self.kind, name, **arguments)

    @pytest.fixture
    def part(self, build_part: Callable[[], Any]) -> Any:
        """The part for the runs."""
        return build_part()

    @pytest.fixture
    def rediscovered_afterwards(self) -> Iterator[None]:
        """Makes Leyden discover plugins again after the check."""
        yield
        discover.cache_clear()

    @pytest.fixture
    def settings_restored(self) -> Iterator[None]:
        """Restores PyTorch's settings that a Trainer changes and keeps, such as deterministic algorithms."""
        deterministic = torch.are_deterministic_algorithms_enabled()
        warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
        benchmark = torch.backends.cudnn.benchmark
        yield
        torch.use_deterministic_algorithms(deterministic, warn_only=warn_only)
        torch.backends.cudnn.benchmark = benchmark

    def trainer_arguments(self, value: Any) -> dict[str, Any]:
        """Return the arguments that give a Trainer the part; none for a part that a Trainer finds by itself."""
        return {}

    def model(self, part: Any) -> Model:
        """Return the model for runs with the part."""
        return Model()

    def failing_model(self, part: Any) -> Model:
        """Return a model that raises ``ValueError("the model's own error")`` in its second training batch."""
        return FailingModel()

    def trainer(self, root: Path, value: Any, **options: Any) -> pl.Trainer:
        """Make a quiet Trainer with the part.

        Args:
            root: The Trainer's default_root_dir.
            value: The part, its class or its name.
            options: Further arguments of the Trainer.
        """
        return reference_trainer(root, **{**self.trainer_arguments(value), **options})

    def warm_up(self, root: Path, part: Any) -> None:
        """Run once without the part, so that changes by PyTorch's first use do not count as the part's."""
        reference_trainer(root).fit(Model(), rows(), rows(8))

    def run_everything(self, root: Path, part: Any) -> None:
        """Fit, validate, test and predict with the part."""
        trainer, model = self.trainer(root, part), self.model(part)
        trainer.fit(model, rows(), rows(8))
        trainer.validate(model, rows(8), verbose=False)
        trainer.test(model, rows(8), verbose=False)
        trainer.predict(model, rows(8))

    @staticmethod
    def seed() -> None:
        """Seed everything, before a run that is compared with others."""
        pl.seed_everything(7, verbose=False)

    # -- discovery ------------------------------------------------------------------------------------------

    def test_a_distribution_brings_it(self, info: PluginInfo) -> None:
        """Its plugin was found by an entry point, is active, and has a distribution and a version."""
        assert info.state == "active"
        assert info.distribution, f"the plugin {info.name!r} has no distribution"
        assert info.version, f"the distribution {info.distribution!r} has no version"

    def test_it_answers_to_all_its_names(self, component: Component) -> None:
        """The name and each alias are texts without spaces and commas, and the registry finds the part by them."""
        for name in component.names:
            assert isinstance(name, str), f"the name {name!r} is not a text"
            assert name, "a name is empty"
            assert not any(sign.isspace() or sign == "," for sign in name), f"the name {name!r} has a space or a comma"
            assert component in discover().named(self.kind, name)
        assert component.name != "auto", "the name 'auto' is reserved for the best available part"

    def test_its_target_is_what_its_kind_says(self, component: Component) -> None:
        """The target is a class that derives from the kind's interface and implements all abstract methods."""
        target = component.load()
        assert isinstance(target, type), f"{component.target} is {target!r}, which is not a class"
        assert issubclass(target, self.interface), f"{component.target} is not a subclass of {self.interface.__name__}"
        assert not inspect.isabstract(target), (
            f"{component.target} does not implement {getattr(target, '__abstractmethods__', ())}"
        )

    # -- independence of other plugins ----------------------------------------------------------------------

    def test_discovering_it_imports_none_of_its_parts(self, component: Component, info: PluginInfo) -> None:
        """A new process that discovers the plugin imports neither the part's module nor other packages."""
        modules = discovery.imported_by(info.name)
        target = component.target.partition(":")[0]
        assert info.distribution == CORE_DISTRIBUTION or target not in modules, f"discovery imports {target}"
        foreign = discovery.foreign(modules, target.partition(".")[0])
        assert foreign == [], f"discovery imports {', '.join(foreign)}"

    def test_disabled_it_is_unknown_and_the_others_work(
        self,
        name: str,
        info: PluginInfo,
        monkeypatch: pytest.MonkeyPatch,
        rediscovered_afterwards: None,
        tmp_path: Path,
    ) -> None:
        """With LEYDEN_PLUGINS_DISABLED its name is unknown, no other plugin is broken, and a Trainer trains."""
        self._skip_the_core(info)
        working = self._other_plugins(info)
        monkeypatch.setenv("LEYDEN_PLUGINS_DISABLED", info.name)
        discover.cache_clear()
        self._check_without_it(name, working, tmp_path)

    def test_broken_it_is_unknown_and_the_others_work(
        self,
        name: str,
        info: PluginInfo,
        monkeypatch: pytest.MonkeyPatch,
        rediscovered_afterwards: None,
        tmp_path: Path,
    ) -> None:
        """If the plugin can't be imported, one warning names it, no other plugin is broken, and a Trainer trains."""
        self._skip_the_core(info)
        working = self._other_plugins(info)
        for other in discover().infos:  # so that plugins that import this one would fail too
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
        self._check_without_it(name, working, tmp_path)

    def _check_without_it(self, name: str, working: set[tuple[str, str]], root: Path) -> None:
        assert self._other_plugins(None) >= working
        assert discover().named(self.kind, name) == [], f"{name!r} is still there"
        with pytest.raises(MisconfigurationException) as raised:
            discover().component(self.kind, name)
        check_sentence(raised.value, repr(name))
        reference_trainer(root, max_epochs=1).fit(Model(), rows(), rows(8))

    @staticmethod
    def _other_plugins(info: PluginInfo | None) -> set[tuple[str, str]]:
        """Return all plugins except ``info``, with their states."""
        return {(r.name, str(r.state)) for r in discover().infos if info is None or r.name != info.name}

    @staticmethod
    def _skip_the_core(info: PluginInfo) -> None:
        if info.distribution == CORE_DISTRIBUTION:
            pytest.skip("the core can't be disabled")

    # -- runs -----------------------------------------------------------------------------------------------

    def test_a_run_leaves_the_process_as_it_was(self, part: Any, build_part: Callable[[], Any], tmp_path: Path) -> None:
        """After a run the process has the same settings, and no new threads, processes or open files.

        Open files and threads are compared after a first and a second run, since the first may open things that are
        opened only once.
        """
        self.warm_up(tmp_path, part)
        before = traces.settings()
        self.run_everything(tmp_path / "first", part)
        assert traces.changed(before, traces.settings()) == []
        gc.collect()
        held = traces.open_resources()
        other = build_part()
        self.run_everything(tmp_path / "second", other)
        gc.collect()
        assert traces.left_behind(held) == []

    def test_a_failed_run_raises_and_leaves_the_process_as_it_was(self, part: Any, tmp_path: Path) -> None:
        """The run raises the model's own error, the settings are restored, and the part trains again."""
        self.warm_up(tmp_path, part)
        before = traces.settings()
        trainer = self.trainer(tmp_path / "first", part)
        with pytest.raises(ValueError, match="the model's own error"):
            trainer.fit(self.failing_model(part), rows(), rows(8))
        assert traces.changed(before, traces.settings()) == []
        self.trainer(tmp_path / "second", part).fit(self.model(part), rows(), rows(8))


class TrainerPartConformance(Conformance):
    """The checks of a part that a Trainer takes: by its name, by its class or as an instance."""

    def trainer_arguments(self, value: Any) -> dict[str, Any]:
        """Return the Trainer's argument for a part of this kind, which is a name, a class or an instance."""
        return {self.kind: value}

    def part_of(self, trainer: pl.Trainer) -> Any:
        """Return the Trainer's part of this kind."""
        return getattr(trainer, self.kind)

    def test_a_trainer_takes_its_name_its_class_and_an_instance(
        self, component: Component, arguments: dict[str, Any], part: Any, tmp_path: Path
    ) -> None:
        """A Trainer builds the part from its name and from its class, and uses an instance itself.

        If the part can't be built without arguments, one sentence says so.
        """
        target = component.load()
        assert self.part_of(self.trainer(tmp_path, part)) is part
        for value in (component.name, target):
            try:
                held = self.part_of(self.trainer(tmp_path, value))
            except MisconfigurationException as error:
                alone = {} if value is target else component.options.get("arguments", {})
                with pytest.raises(TypeError):
                    inspect.signature(target).bind(**alone)
                check_sentence(error, "can't be built", "give an instance")
            else:
                assert type(held) is target, f"{value!r} gives a {type(held).__name__}"

    def test_a_misspelt_name_suggests_the_right_one(self, name: str, tmp_path: Path) -> None:
        """The error for a name with one letter too many suggests the right name."""
        with pytest.raises(MisconfigurationException) as raised:
            self.trainer(tmp_path, name + name[-1:])
        check_sentence(raised.value, repr(name))
