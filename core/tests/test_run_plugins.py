"""Plugins in a run: given to one Trainer, wrapped around hooks, in the place of the core's step, added on the way."""

from __future__ import annotations

import re
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest

import leyden as pl
from leyden import Component, hookimpl
from leyden.plugin_system.discovery import discover
from leyden.plugins import Precision, TorchCheckpointIO
from leyden.strategies import Strategy
from leyden.utilities import MisconfigurationException
from leyden_testing.models import Batches, SmallModel
from leyden_testing.training import quiet_trainer


def plugin(**functions: Any) -> Any:
    """A plugin like a module: functions by name."""
    return SimpleNamespace(**{name: hookimpl(function) for name, function in functions.items()})


def fitted(tmp_path: Any, model: Any = None, count: int = 3, **options: Any) -> Any:
    """A Trainer that has fitted ``count`` batches."""
    trainer = quiet_trainer(tmp_path, **options)
    trainer.fit(model or SmallModel(), Batches(count))
    return trainer


# -- Trainer(plugins=...) ---------------------------------------------------------------------------------


def test_a_plugin_works_for_the_trainer_that_it_is_given_to_and_no_other(tmp_path):
    calls: list[Any] = []
    given = plugin(on_train_start=lambda trainer: calls.append(trainer))
    trainer = fitted(tmp_path, plugins=[given])
    fitted(tmp_path)
    assert calls == [trainer]
    assert given not in [record.plugin for record in discover().infos]


def test_a_class_is_built(tmp_path):
    class Given:
        calls = 0

        @hookimpl
        def on_train_start(self):
            Given.calls += 1

    fitted(tmp_path, plugins=Given)
    assert Given.calls == 1


def test_a_plugin_can_be_any_object(tmp_path):
    """A dataclass has no hash."""

    @dataclass
    class Counter:
        batches: int = 0

        @hookimpl
        def on_train_batch_end(self):
            self.batches += 1

    counter = Counter()
    fitted(tmp_path, plugins=[counter], count=4)
    assert counter.batches == 4


def test_two_of_one_class_are_told_apart(tmp_path):
    class Given:
        @hookimpl
        def on_train_end(self):
            pass

    report = fitted(tmp_path, plugins=[Given(), Given()]).describe_hooks()
    assert re.search(r"\d\. Given .*\n +\d\. Given-2 ", report)


def test_a_given_plugin_brings_components(tmp_path):
    part = Component("strategy", "own", f"{Strategy.__module__}:Strategy")
    given = plugin(leyden_components=lambda: [part])
    assert type(quiet_trainer(tmp_path, plugins=given, strategy="own").strategy) is Strategy
    with pytest.raises(MisconfigurationException, match="no strategy 'own'"):
        quiet_trainer(tmp_path, strategy="own")


def test_plugins_and_parts_go_together(tmp_path):
    class Double(Precision):
        precision = "own"

    calls: list[str] = []
    given = plugin(on_train_start=lambda: calls.append("plugin"))
    storage = TorchCheckpointIO()
    trainer = fitted(tmp_path, plugins=[Double(), given, storage])
    assert (trainer.precision, calls) == ("own", ["plugin"])
    assert trainer.strategy.checkpoint_io is storage


SAME = plugin(on_fit_start=lambda: None)
REFUSED = {
    "no hooks": (object(), "has no function marked @hookimpl"),
    "an undecorated hook": (SimpleNamespace(on_fit_start=lambda: None), "has no function marked @hookimpl"),
    "a callback": (pl.Callback(), "has no function marked @hookimpl"),
    "a misspelt hook": (
        plugin(on_train_strat=lambda: None),
        "'on_train_strat', which is no hook; did it mean 'on_train_s",
    ),
    "an unknown argument": (plugin(on_fit_start=lambda colour: None), "can't be registered.*colour"),
    "the same one twice": ([SAME, SAME], "is registered already"),
    "an installed one": (discover().infos[0].plugin, "is registered already"),
    "no component": (plugin(leyden_components=lambda: [7]), "yields 7, which is no Component"),
    "two precisions": ([Precision(), Precision()], "two of the kind Precision"),
    "an unknown name": ("32-treu", "no precision or checkpoint io or environment '32-treu'; .*Did you mean '32-true'"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_plugin_is_refused(tmp_path, case):
    given, said = REFUSED[case]
    with pytest.raises(MisconfigurationException, match=r"(?s)" + said):
        quiet_trainer(tmp_path, plugins=given)


# -- registration hooks -----------------------------------------------------------------------------------


def test_a_plugin_can_refuse_a_configuration(tmp_path):
    def refuse(trainer: Any) -> None:
        if trainer.accumulate_grad_batches > 4:
            raise MisconfigurationException("this plugin accumulates at most 4 batches.")

    quiet_trainer(tmp_path, plugins=plugin(leyden_configure=refuse))
    with pytest.raises(MisconfigurationException, match="at most 4"):
        quiet_trainer(tmp_path, plugins=plugin(leyden_configure=refuse), accumulate_grad_batches=5)


class Bar(pl.Callback):
    role = "progress_bar"


class OtherBar(pl.Callback):
    role = "progress_bar"


def default_bar(trainer: Any) -> Any:
    """A plugin's default, asked for after its hook was called, when other plugins may have filled the role."""
    if trainer.wants("progress_bar"):
        yield Bar()


def test_a_plugin_s_default_callback_fills_a_role_that_is_wanted_and_open(tmp_path):
    given = plugin(leyden_default_callbacks=default_bar)
    own = Bar()
    for options, expected in (
        ({"enable_progress_bar": True}, [Bar]),
        ({"enable_progress_bar": False}, []),
        ({"enable_progress_bar": True, "callbacks": own}, [Bar]),
    ):
        trainer = quiet_trainer(tmp_path, plugins=given, **options)
        assert [type(callback) for callback in trainer.callbacks] == expected
    assert trainer.callbacks == [own]


def test_a_given_plugin_s_defaults_go_before_installed_ones_unless_it_is_marked_trylast(tmp_path):
    late = SimpleNamespace(leyden_default_callbacks=hookimpl(default_bar, trylast=True))
    eager = plugin(leyden_default_callbacks=lambda: [OtherBar()])
    trainer = quiet_trainer(tmp_path, plugins=[late, eager], enable_progress_bar=True)
    assert [type(callback) for callback in trainer.callbacks] == [OtherBar]


def test_a_role_is_filled_once_and_only_where_it_is_wanted_whatever_plugins_return(tmp_path):
    eager = [plugin(leyden_default_callbacks=lambda kind=kind: [kind()]) for kind in (Bar, OtherBar)]
    trainer = quiet_trainer(tmp_path, plugins=eager, enable_progress_bar=True)
    assert [type(callback) for callback in trainer.callbacks] == [OtherBar]  # the latest given is asked first
    assert quiet_trainer(tmp_path, plugins=eager, enable_progress_bar=False).callbacks == []


def test_the_first_default_logger_is_taken(tmp_path):
    class Own(pl.loggers.DummyLogger):
        pass

    trainer = quiet_trainer(tmp_path, logger=True, plugins=plugin(leyden_default_logger=lambda trainer: Own()))
    assert [type(logger) for logger in trainer.loggers] == [Own]


def test_a_plugin_gives_the_strategy_for_several_processes(tmp_path):
    class Crowd(Strategy):
        world_size = 3

    given = plugin(leyden_default_strategy=lambda num_processes: Crowd() if num_processes == 3 else None)
    assert quiet_trainer(tmp_path, plugins=given, devices=3).world_size == 3
    assert type(quiet_trainer(tmp_path, plugins=given).strategy) is Strategy


# -- wrappers ---------------------------------------------------------------------------------------------


def test_a_wrapper_runs_around_all_implementations_of_a_hook(tmp_path):
    calls: list[str] = []

    @hookimpl(wrapper=True)
    def around(trainer):
        calls.append(f"before batch {trainer.progress.batch_idx}")
        result = yield
        calls.append("after")
        return result

    class Own(pl.Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            calls.append(f"callback {batch_idx}")

    class Model(SmallModel):
        def on_train_batch_end(self, outputs, batch, batch_idx):
            calls.append(f"module {batch_idx}")

    fitted(tmp_path, Model(), 1, plugins=SimpleNamespace(on_train_batch_end=around), callbacks=Own())
    assert calls == ["before batch 1", "callback 0", "module 0", "after"]


def test_a_callback_s_method_can_be_a_wrapper(tmp_path):
    calls: list[str] = []

    class Around(pl.Callback):
        @hookimpl(wrapper=True)
        def on_train_start(self, trainer, pl_module):
            calls.append("before")
            yield
            calls.append("after")

    class Model(SmallModel):
        def on_train_start(self):
            calls.append("module")

    fitted(tmp_path, Model(), callbacks=Around())
    assert calls == ["before", "module", "after"]


def test_a_wrapper_sees_an_error_and_passes_it_on(tmp_path):
    seen: list[BaseException] = []

    @hookimpl(wrapper=True)
    def around():
        try:
            return (yield)
        except ZeroDivisionError as error:
            seen.append(error)
            raise

    given = SimpleNamespace(on_train_start=around)
    failing = plugin(on_train_start=lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError) as caught:
        fitted(tmp_path, plugins=[given, failing])
    assert seen == [caught.value]


def test_a_wrapper_around_the_step_can_change_its_outputs(tmp_path):
    @hookimpl(wrapper=True)
    def around(batch_idx):
        outputs = yield
        return {**outputs, "number": batch_idx}

    seen: list[int] = []
    watch = plugin(on_train_batch_end=lambda outputs: seen.append(outputs["number"]))
    trainer = fitted(tmp_path, plugins=[SimpleNamespace(leyden_optimize_batch=around), watch])
    assert (seen, trainer.global_step) == ([0, 1, 2], 3)


class Chatty:
    """Wrappers of pluggy's two styles, and what they see."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    @hookimpl(wrapper=True, tryfirst=True)
    def on_train_start(self):
        try:
            yield
        except KeyError as error:
            self.seen.append(f"new: {error!r}")

    @hookimpl(hookwrapper=True)
    def on_train_end(self):
        outcome = yield
        self.seen.append(f"old: {outcome.exception!r}")
        outcome.force_result(None)

    @hookimpl(wrapper=True)
    def leyden_optimize_batch(self):
        outputs = yield
        return {**outputs, "inner": True}


class Outer:
    @hookimpl(hookwrapper=True, tryfirst=True)
    def leyden_optimize_batch(self):
        outcome = yield
        outcome.force_result({**outcome.get_result(), "outer": outcome.get_result()["inner"]})


def test_wrappers_may_end_an_error_and_those_of_both_styles_nest(tmp_path):
    chatty, outputs = Chatty(), []

    class Failing(pl.Callback):
        def on_train_start(self, trainer, pl_module):
            raise KeyError("start")

        def on_train_end(self, trainer, pl_module):
            raise StopIteration("end")

        def on_train_batch_end(self, trainer, pl_module, given, batch, batch_idx):
            outputs.append(set(given))

    trainer = fitted(tmp_path, count=1, plugins=[chatty, Outer()], callbacks=Failing())
    assert chatty.seen == ["new: KeyError('start')", "old: StopIteration('end')"]
    assert outputs == [{"loss", "inner", "outer"}]
    assert trainer.global_step == 1


def stop() -> None:
    raise StopIteration("through")


@pytest.mark.parametrize(("fails", "kind"), [(stop, StopIteration), (lambda: 1 / 0, ZeroDivisionError)])
def test_an_error_passes_through_wrappers_of_both_styles_as_it_was_raised(tmp_path, fails, kind):
    @hookimpl(hookwrapper=True)
    def old():
        yield

    @hookimpl(wrapper=True)
    def new():
        return (yield)

    plugins = [SimpleNamespace(on_train_start=around) for around in (old, new)]
    with pytest.raises(kind) as caught:
        fitted(tmp_path, plugins=[*plugins, plugin(on_train_start=fails)])
    assert caught.value.__cause__ is None


def test_a_wrapper_that_does_not_yield_once_is_named(tmp_path):
    @hookimpl(wrapper=True)
    def never():
        return
        yield

    @hookimpl(wrapper=True)
    def twice():
        yield
        yield

    for wrapper, said in ((never, "did not"), (twice, "yielded a second time")):
        with pytest.raises(RuntimeError, match=f"'on_train_start' of SimpleNamespace has to yield once, and {said}"):
            fitted(tmp_path, plugins=SimpleNamespace(on_train_start=wrapper))


# -- in the place of the core's step ----------------------------------------------------------------------


class Counting(SmallModel):
    def __init__(self):
        super().__init__()
        self.steps: list[int] = []

    def training_step(self, batch, batch_idx):
        self.steps.append(batch_idx)
        return super().training_step(batch, batch_idx)


def test_a_plugin_can_take_the_place_of_the_step(tmp_path):
    outputs_seen: list[Any] = []

    def optimize(trainer: Any, batch_idx: int) -> dict[str, Any]:
        trainer.progress.optimizer_steps += 1
        return {"mine": batch_idx}

    model = Counting()
    given = plugin(leyden_optimize_batch=optimize, on_train_batch_end=lambda outputs: outputs_seen.append(outputs))
    trainer = fitted(tmp_path, model, plugins=given)
    assert model.steps == []
    assert outputs_seen == [{"mine": 0}, {"mine": 1}, {"mine": 2}]
    assert trainer.global_step == 3


def test_a_plugin_can_leave_a_batch_to_the_core(tmp_path):
    model = Counting()
    given = plugin(leyden_optimize_batch=lambda batch_idx: {} if batch_idx == 1 else None)
    trainer = fitted(tmp_path, model, plugins=given)
    assert model.steps == [0, 2]
    assert trainer.global_step == 2


def test_a_module_can_have_its_own_step(tmp_path):
    class Model(Counting):
        def leyden_optimize_batch(self, batch, batch_idx):
            self.trainer.progress.optimizer_steps += 1
            return {"shape": batch.shape}

    model = Model()
    assert fitted(tmp_path, model).global_step == 3
    assert model.steps == []


# -- added during a run -----------------------------------------------------------------------------------


def test_a_plugin_that_is_registered_during_a_run_is_called_from_then_on(tmp_path):
    calls: list[str] = []
    late = plugin(
        on_train_batch_start=lambda batch_idx: calls.append(f"start {batch_idx}"),
        on_train_batch_end=lambda batch_idx: calls.append(f"end {batch_idx}"),
        on_train_end=lambda: calls.append("train end"),
    )

    class Adding(pl.Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            if batch_idx == 1:
                trainer.hooks.register(late)

    trainer = fitted(tmp_path, callbacks=Adding(), count=3)
    assert calls == ["end 1", "start 2", "end 2", "train end"]

    calls.clear()
    trainer.validate(type("Model", (SmallModel,), {"validation_step": lambda *_: None})(), Batches(1))
    fitted(tmp_path)
    assert calls == []
    assert late not in [record.plugin for record in discover().infos]


@pytest.mark.parametrize("case", ["no hooks", "a misspelt hook", "an unknown argument"])
def test_what_is_registered_during_a_run_is_checked_like_any_plugin(tmp_path, case):
    late, said = REFUSED[case]

    class Adding(pl.Callback):
        def on_train_start(self, trainer, pl_module):
            trainer.hooks.register(late)

    with pytest.raises(MisconfigurationException, match=r"(?s)" + said):
        fitted(tmp_path, callbacks=Adding())
