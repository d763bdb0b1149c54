"""Hooks: what there are, when each is called and with what, in what order, and with which of their arguments."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pluggy
import pytest
import torch

import leyden as pl
from leyden import hookimpl
from leyden.plugin_system import hooks
from leyden.plugin_system.discovery import discover
from leyden.plugin_system.hooks import BEHAVIOUR, OBSERVATION, REGISTRATION
from leyden.plugin_system.table import nothing
from leyden.strategies import Strategy
from leyden.utilities import MisconfigurationException
from leyden_testing.fake_plugins import PluginSite, new_plugin_site
from leyden_testing.models import Batches, EveryStep, SmallModel
from leyden_testing.training import quiet_trainer


@pytest.fixture
def plugin_site(tmp_path: Path) -> Iterator[PluginSite]:
    with new_plugin_site(tmp_path / "site") as site:
        yield site


def recorder(names: list[str], record: Callable[[str, dict[str, Any]], Any]) -> Any:
    """A plugin that implements hooks with all their arguments and passes each call to ``record``."""
    plugin = SimpleNamespace()
    for name in names:
        arguments = ", ".join(hooks.arguments(name))
        function = eval(f"lambda {arguments}: record({name!r}, locals())", {"record": record})
        setattr(plugin, name, hookimpl(function))
    return plugin


# -- the specifications -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*REGISTRATION, *OBSERVATION, *BEHAVIOUR])
def test_every_hook_says_when_it_is_called(name):
    said = hooks.specification(name).__doc__ or ""
    assert len(said.split("\n")[0].split()) >= 3
    assert said.rstrip().endswith(".")


def test_what_is_made_of_answers_is_declared_in_one_way():
    for group in hooks.GROUPS:
        marked = [name for name, hook in vars(group).items() if getattr(hook, "leyden_spec", {}).get("firstresult")]
        assert marked == [], "write Hook(answers=Answers.FIRST) in FACTS, which pluggy is told of"
    for name in (*REGISTRATION, *OBSERVATION, *BEHAVIOUR):
        first = hooks.facts(name).answers is hooks.Answers.FIRST
        assert hooks.specification(name).leyden_spec["firstresult"] is first


def test_every_hook_has_one_line_of_facts_at_most_and_every_line_is_of_a_hook():
    used = [pattern for name in hooks.ALL for pattern in hooks.FACTS if re.fullmatch(pattern, name)]
    by_line = {pattern: [name for name in hooks.ALL if re.fullmatch(pattern, name)] for pattern in hooks.FACTS}
    assert all(by_line.values())
    assert len(used) == len({name for names in by_line.values() for name in names})


def test_a_callback_s_methods_can_be_called_without_the_number_of_the_loader_and_plugins_ask_for_it():
    """As ``super().on_test_batch_end(…)`` does; pluggy takes an argument with a default for none of a specification."""
    callback = pl.Callback()
    for name in OBSERVATION:
        given = [argument for argument in hooks.arguments(name) if argument != "dataloader_idx"]
        assert getattr(callback, name)(*given) is None
    assert hooks.arguments("on_test_batch_end")[-1] == "dataloader_idx"


@pytest.mark.parametrize("base", [pl.LightningModule, pl.LightningDataModule])
def test_the_module_s_hooks_have_the_arguments_that_are_specified_without_trainer_and_module(base):
    shared = [name for name in OBSERVATION if hasattr(base, name)]
    assert "setup" in shared
    for name in shared:
        taken = list(inspect.signature(getattr(base, name)).parameters)
        offered = [a for a in hooks.arguments(name) if a not in ("trainer", "pl_module")]
        assert taken == ["self", *offered], name


# -- when and with what -----------------------------------------------------------------------------------

VALIDATION = [
    "on_validation_start", "on_validation_epoch_start", "on_validation_batch_start", "on_validation_batch_end",
    "on_validation_epoch_end", "on_validation_end",
]  # fmt: skip
ONE_FIT = [
    "leyden_default_callbacks", "leyden_configure", "leyden_find_checkpoint",
    "setup", "on_fit_start",
    "leyden_prepare_loader", "leyden_iteration", "on_sanity_check_start", "leyden_prepare_loader", "leyden_iteration",
    *VALIDATION, "on_sanity_check_end",
    "on_train_start", "on_train_epoch_start", "leyden_wrap_batches",
    "on_train_batch_start", "leyden_optimize_batch",
    "on_before_zero_grad", "on_before_backward", "on_after_backward", "on_before_optimizer_step",
    "on_train_batch_end", *VALIDATION,
    "on_train_epoch_end", "on_train_end", "on_fit_end", "teardown",
]  # fmt: skip


def test_a_fit_calls_its_hooks_in_the_documented_order(tmp_path):
    calls: list[str] = []
    plugin = recorder([*REGISTRATION, *OBSERVATION, *BEHAVIOUR], lambda name, _: calls.append(name))
    trainer = quiet_trainer(tmp_path, plugins=plugin)
    trainer.fit(EveryStep(), Batches(1), Batches(1))
    assert [name for name in calls if name != "leyden_components"] == ONE_FIT


def test_every_hook_is_called_with_what_it_specifies(tmp_path):
    seen: dict[str, dict[str, Any]] = {}
    plugin = recorder([*REGISTRATION, *OBSERVATION, *BEHAVIOUR], lambda name, values: seen.update({name: values}))
    trainer = quiet_trainer(tmp_path, plugins=plugin, logger=None, log_every_n_steps=1)
    model = EveryStep()
    trainer.fit(model, Batches(1), Batches(1))
    assert seen["leyden_find_checkpoint"] == {"trainer": trainer, "ckpt_path": None, "fn": "fit"}
    trainer.save_checkpoint(tmp_path / "run.ckpt")
    trainer.fit(model, Batches(1), Batches(1), ckpt_path=tmp_path / "run.ckpt")
    trainer.fit_loop.max_epochs = 2
    model.on_train_start = lambda: setattr(trainer, "asked_to_end", "maintenance")
    with pytest.raises(SystemExit):
        trainer.fit(model, Batches(1), Batches(1))
    trainer.validate(model, Batches(1), verbose=False)
    trainer.test(model, Batches(1))
    trainer.predict(model, Batches(1), ckpt_path=tmp_path / "run.ckpt")
    with pytest.raises(ZeroDivisionError):
        trainer.validate(model, (1 / zero for zero in [0]))
    crowd = type("Crowd", (Strategy,), {"world_size": 2})()
    chosen = recorder(["leyden_default_strategy"], lambda name, values: seen.update({name: values}) or crowd)
    assert quiet_trainer(tmp_path, plugins=chosen, devices=2).strategy is crowd
    saved = torch.load(tmp_path / "run.ckpt", weights_only=True)
    states = {key: saved[key] for key in ("state_dict", "optimizer_states", "lr_schedulers")}  # no place of Leyden's
    torch.save(states, tmp_path / "foreign.ckpt")
    reads = recorder(["leyden_read_progress"], lambda name, values: seen.update({name: values}) or {"epoch": 1})
    resumed = quiet_trainer(tmp_path, plugins=reads)
    resumed.fit(EveryStep(), Batches(1), Batches(1), ckpt_path=tmp_path / "foreign.ckpt")
    found = recorder(["leyden_find_checkpoint"], lambda *_: str(tmp_path / "run.ckpt"))
    told = recorder(["leyden_go_on"], lambda name, values: seen.update({name: values}))
    again = quiet_trainer(tmp_path, plugins=[found, told])
    again.fit(EveryStep(), Batches(1), Batches(1), ckpt_path="the one before")
    describes = recorder(
        ["leyden_describe_checkpoint"], lambda name, values: seen.update({name: values}) or "of shards"
    )
    discover().register(describes)  # a file may be read without a Trainer
    with pytest.raises(MisconfigurationException, match="is a directory: of shards"):
        EveryStep.load_from_checkpoint(tmp_path)
    discover().unregister(describes)

    assert set(seen) == {*REGISTRATION, *OBSERVATION, *BEHAVIOUR}
    for name in (*OBSERVATION, *BEHAVIOUR):
        assert seen[name]["trainer"] is trainer, name
        assert seen[name]["pl_module"] is model, name
    assert seen["leyden_default_strategy"]["num_processes"] == 2
    assert seen["on_asked_to_end"]["reason"] == "maintenance"
    assert isinstance(seen["on_exception"]["exception"], ZeroDivisionError)
    assert "state_dict" in seen["on_save_checkpoint"]["checkpoint"]
    assert "state_dict" in seen["on_load_checkpoint"]["checkpoint"]
    assert seen["on_before_optimizer_step"]["optimizer"] is seen["on_before_zero_grad"]["optimizer"]
    assert seen["on_train_batch_end"]["outputs"]["loss"].item() == seen["on_before_backward"]["loss"].item()
    assert seen["leyden_find_checkpoint"] == {
        "trainer": trainer,
        "ckpt_path": str(tmp_path / "run.ckpt"),
        "fn": "predict",
    }
    assert seen["leyden_describe_checkpoint"] == {"path": str(tmp_path)}
    assert seen["leyden_read_progress"]["trainer"] is resumed
    assert seen["leyden_go_on"]["trainer"] is again
    assert set(states) <= set(seen["leyden_go_on"]["checkpoint"])
    assert set(states) <= set(seen["leyden_read_progress"]["checkpoint"])
    assert seen["leyden_show_results"] == {"trainer": trainer, "stage": "test", "results": [{}]}
    assert len(seen["leyden_restore_rank_state"]["states"]) == 1
    assert seen["teardown"]["stage"] == "predict"
    assert seen["setup"]["stage"] == "validate"
    for name in ("train", "validation", "test", "predict"):
        assert torch.equal(seen[f"on_{name}_batch_end"]["batch"], torch.ones(3, 2))
        assert seen[f"on_{name}_batch_start"]["batch_idx"] == 0
    assert {seen[f"on_{name}_batch_end"]["dataloader_idx"] for name in ("validation", "test", "predict")} == {0}


@pytest.mark.parametrize("participant", ["plugin", "callback", "module"])
def test_minus_one_skips_the_rest_of_the_epoch(tmp_path, participant):
    class Model(SmallModel):
        pass

    def skip(batch_idx: int) -> int | None:
        return -1 if batch_idx == 2 else None

    options: dict[str, Any] = {}
    if participant == "plugin":
        plugin = SimpleNamespace(on_train_batch_start=hookimpl(skip))
        options["plugins"] = plugin
    elif participant == "callback":
        callback = pl.Callback()
        callback.on_train_batch_start = skip
        options["callbacks"] = callback
    else:
        Model.on_train_batch_start = lambda self, batch, batch_idx: skip(batch_idx)
    trainer = quiet_trainer(tmp_path, max_epochs=2, **options)
    trainer.fit(Model(), Batches(5))
    assert (trainer.global_step, trainer.current_epoch) == (4, 2)


SKIPPING = {"nobody": (), "skips, then not": (-1, 0), "not, then skips": (0, -1), "skips, then none": (-1, None)}


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("case", SKIPPING)
def test_whoever_skips_is_heard_whatever_others_answer_and_who_is_installed(tmp_path, case, wrapped):
    callbacks = [pl.Callback() for _ in SKIPPING[case]]
    asked: list[Any] = []
    for callback, answer in zip(callbacks, SKIPPING[case], strict=True):
        callback.on_train_batch_start = partial(lambda answer, *_: asked.append(answer) or answer, answer)
    heard: list[Any] = []

    @hookimpl(wrapper=True)
    def unrelated():
        answer = yield
        heard.append(answer)
        return answer

    plugins = SimpleNamespace(on_train_batch_start=unrelated) if wrapped else None
    trainer = quiet_trainer(tmp_path, plugins=plugins, callbacks=callbacks)
    trainer.fit(SmallModel(), Batches(2))
    skips = -1 in SKIPPING[case]
    assert asked == list(SKIPPING[case])
    assert heard == ([] if not wrapped else [-1] if skips else [None, None])
    assert trainer.global_step == (0 if skips else 2)


@pytest.mark.parametrize("wrapped", [False, True])
def test_nobody_is_asked_after_the_first_answer_of_a_behaviour_hook(tmp_path, wrapped):
    asked: list[str] = []

    def answering(name: str, answer: Any) -> Any:
        return SimpleNamespace(leyden_optimize_batch=hookimpl(lambda: asked.append(name) or answer))

    @hookimpl(wrapper=True)
    def around():
        return (yield)

    plugins = [answering("passes", None), answering("answers", {}), answering("is not asked", {"loss": 1.0})]
    plugins += [SimpleNamespace(leyden_optimize_batch=around)] if wrapped else []
    trainer = quiet_trainer(tmp_path, plugins=plugins)
    trainer.fit(SmallModel(), Batches(1))
    assert (asked, trainer.global_step) == (["passes", "answers"], 0)


def test_an_observation_s_answer_is_not_used(tmp_path):
    callback = pl.Callback()
    callback.on_train_end = lambda: "an answer"
    trainer = quiet_trainer(tmp_path, callbacks=callback)
    trainer.fit(SmallModel(), Batches(1))
    assert trainer.hooks.on_train_end() is None


def test_after_an_error_in_a_hook_one_is_outside_of_it(tmp_path):
    class Failing(pl.Callback):
        def on_train_epoch_start(self, trainer, pl_module):
            raise ZeroDivisionError

    model = SmallModel()
    with pytest.raises(ZeroDivisionError):
        quiet_trainer(tmp_path, callbacks=Failing()).fit(model, Batches(1))
    with pytest.raises(MisconfigurationException, match="can't be called outside of a loop"):
        model.log("late", 1.0)


@pytest.mark.parametrize("given", [False, True])
def test_a_fit_makes_no_manager_of_plugins(tmp_path, monkeypatch, given):
    class Adding(pl.Callback):
        def setup(self, trainer, pl_module, stage):
            if len(trainer.callbacks) == 1:
                trainer.callbacks.append(pl.Callback())

    plugins = SimpleNamespace(on_train_start=hookimpl(lambda: None)) if given else None
    trainer = quiet_trainer(tmp_path, plugins=plugins, callbacks=Adding(), profiler="simple")
    made: list[Any] = []
    construct = pluggy.PluginManager.__init__
    monkeypatch.setattr(
        pluggy.PluginManager, "__init__", lambda self, *a, **k: made.append(self) or construct(self, *a, **k)
    )
    trainer.fit(SmallModel(), Batches(1))
    assert len(trainer.callbacks) == 2
    assert made == []


def test_a_hook_that_nobody_implements_is_callable_and_known_to_be_nobody_s(tmp_path):
    trainer = quiet_trainer(tmp_path)
    trainer.fit(SmallModel(), Batches())
    nobodys = [name for name in OBSERVATION if not trainer.hooks.by_hook[name]]
    assert {name for name in OBSERVATION if "batch" in name or "backward" in name} <= set(nobodys)
    for name in nobodys:
        hook = getattr(trainer.hooks, name)
        assert hook is nothing, name
        assert hook(*hooks.arguments(name)) is None
    assert trainer.hooks.by_hook["leyden_optimize_batch"]
    with pytest.raises(AttributeError, match="There is no hook 'on_train_strat'"):
        _ = trainer.hooks.on_train_strat


# -- order ------------------------------------------------------------------------------------------------


def noting(base: type, label: str, calls: list[str], hook: str = "on_train_start", **marks: bool) -> Any:
    """A subclass of ``base`` whose hook notes its label."""

    def method(self: Any) -> None:
        calls.append(label)

    return type(label, (base,), {hook: hookimpl(method, **marks) if marks else method})


class Saver(pl.Callback):
    role = "checkpoint"


def test_participants_are_called_in_the_documented_order(tmp_path, plugin_site: PluginSite, monkeypatch):
    calls: list[str] = []
    for name in ("b", "a"):
        source = f"""
        @hookimpl
        def on_train_start(trainer):
            trainer.calls.append("installed {name}")
        """
        plugin_site.add(f"acme-{name}", source, plugin=f"zz-{name}")
    given = SimpleNamespace(on_train_start=hookimpl(lambda: calls.append("given")))
    made = [noting(base, label, calls) for base, label in (
        (Saver, "checkpoint"), (pl.Callback, "first"), (pl.Callback, "second"), (pl.LightningDataModule, "data"),
        (SmallModel, "module"), (Strategy, "strategy"),
    )]  # fmt: skip
    data = made[3]()
    data.train_dataloader = lambda: Batches(1)
    trainer = quiet_trainer(
        tmp_path, plugins=[given], callbacks=[cls() for cls in made[:3]], strategy=made[5], enable_checkpointing=None
    )
    trainer.calls = calls
    trainer.fit(made[4](), datamodule=data)
    order = ["installed a", "installed b", "given", "first", "second", "checkpoint", "data", "module", "strategy"]
    assert calls == order


@pytest.mark.parametrize("hook", ["setup", "teardown"])
def test_the_data_module_is_set_up_and_torn_down_first(tmp_path, hook):
    calls: list[str] = []
    data = noting(pl.LightningDataModule, "data", calls, hook)()
    data.train_dataloader = lambda: Batches(1)
    given = SimpleNamespace(**{hook: hookimpl(lambda: calls.append("plugin"))})
    trainer = quiet_trainer(tmp_path, plugins=given, callbacks=noting(pl.Callback, "callback", calls, hook)())
    trainer.fit(noting(SmallModel, "module", calls, hook)(), datamodule=data)
    assert calls == ["data", "plugin", "callback", "module"]


def test_tryfirst_and_trylast_override_the_order(tmp_path):
    calls: list[str] = []
    given = SimpleNamespace(on_train_start=hookimpl(lambda: calls.append("plugin")))
    callbacks = [
        noting(pl.Callback, "last 1", calls, trylast=True)(),
        noting(pl.Callback, "last 2", calls, trylast=True)(),
        noting(pl.Callback, "ordinary", calls)(),
        noting(pl.Callback, "first", calls, tryfirst=True)(),
    ]
    quiet_trainer(tmp_path, plugins=given, callbacks=callbacks).fit(noting(SmallModel, "module", calls)(), Batches(1))
    assert calls == ["first", "plugin", "ordinary", "module", "last 1", "last 2"]


@pytest.mark.parametrize(("mark", "order"), [(None, ["module", "own"]), ({}, ["own", "module"])])
def test_an_overriding_method_keeps_the_mark_unless_it_has_one_of_its_own(tmp_path, mark, order):
    calls: list[str] = []
    base = noting(pl.Callback, "base", calls, trylast=True)

    def method(self: Any) -> None:
        calls.append("own")

    own = type("Own", (base,), {"on_train_start": method if mark is None else hookimpl(method, **mark)})
    quiet_trainer(tmp_path, callbacks=own()).fit(noting(SmallModel, "module", calls)(), Batches(1))
    assert calls == order


def test_a_strategy_s_own_teardown_is_not_the_hook(tmp_path):
    calls: list[Any] = []

    class Own(Strategy):
        def teardown(self, module: Any = None, error: Any = None) -> None:
            calls.append(module)
            super().teardown(module, error)

    model = SmallModel()
    quiet_trainer(tmp_path, strategy=Own()).fit(model, Batches(1))
    assert len(calls) == 1
    assert calls[0] is model


# -- arguments --------------------------------------------------------------------------------------------

ALL = ("trainer", "pl_module", "outputs", "batch", "batch_idx")
SIGNATURES: dict[str, tuple[str, ...]] = {
    "self": (),
    "self, trainer": ALL[:1],
    "self, t, m": ALL[:2],
    "self, t, m, o, b, i": ALL,
    "self, trainer, pl_module, outputs, batch, number=-1": ALL,
    "self, trainer, pl_module, outputs, batch, batch_idx, dataloader_idx=0": (*ALL, "0"),
    "self, t, m, o, b, i, /": ALL,
    "self, batch": ("batch",),
    "self, batch_idx, outputs, trainer": ("batch_idx", "outputs", "trainer"),
    "self, batch, colour='red'": ("batch", "red"),
    "self, *everything": ALL,
    "self, trainer, *rest": ALL,
    "self, **options": (),
}


@pytest.mark.parametrize("signature", SIGNATURES)
def test_a_callback_takes_the_arguments_that_it_wants(tmp_path, signature):
    seen: list[Any] = []
    names = [part.split("=")[0].strip(" *") for part in signature.split(", ")[1:] if part != "/"]
    got = ", ".join(f"*{n}" if f"*{n}" in signature and f"**{n}" not in signature else n for n in names)
    body = f"def on_train_batch_end({signature}): seen.append([{got if '**' not in signature else ''}])"
    space: dict[str, Any] = {"seen": seen}
    exec(body, space)
    callback = type("Own", (pl.Callback,), {"on_train_batch_end": space["on_train_batch_end"]})()
    data = torch.ones(1, 3, 2)
    model = SmallModel()
    trainer = quiet_trainer(tmp_path, callbacks=callback)
    batches: list[Any] = []
    model.training_step = lambda batch: batches.append(batch) or model(batch).mean()
    trainer.fit(model, data)
    values: dict[str, Any] = {
        "trainer": trainer,
        "pl_module": model,
        "batch": batches[0],
        "batch_idx": 0,
        "0": 0,
        "red": "red",
    }
    (row,) = seen
    assert len(row) == len(SIGNATURES[signature])
    for value, name in zip(row, SIGNATURES[signature], strict=True):
        if name == "outputs":
            assert set(value) == {"loss"}
        else:
            assert value is values[name], name


@pytest.mark.parametrize(
    ("signature", "said"),
    [
        ("self, t, m, o, b, i, more", r"takes t, m, o, b, i, more; the hook 'on_train_batch_end' gives trainer, "),
        ("self, batch, colour", r"takes batch, colour; the hook 'on_train_batch_end' gives trainer, "),
    ],
)
def test_arguments_that_no_hook_gives_are_refused_before_training(tmp_path, signature, said):
    space: dict[str, Any] = {}
    exec(f"def on_train_batch_end({signature}): raise AssertionError", space)
    callback = type("Own", (pl.Callback,), {"on_train_batch_end": space["on_train_batch_end"]})()
    data = Batches()
    with pytest.raises(MisconfigurationException, match=said):
        quiet_trainer(tmp_path, callbacks=callback).fit(SmallModel(), data)
    assert data.drawn == 0


def test_a_module_s_hooks_take_their_arguments_without_trainer_and_module(tmp_path):
    seen: list[Any] = []

    class Model(SmallModel):
        def on_train_batch_start(self, what, number):
            seen.append((what.shape, number))

        def on_train_batch_end(self, outputs, *rest):
            seen.append((set(outputs), len(rest)))

        def setup(self, stage=None):
            seen.append(stage)

    quiet_trainer(tmp_path).fit(Model(), Batches(1))
    assert seen == ["fit", (torch.Size([3, 2]), 0), ({"loss"}, 2)]


def test_a_method_that_is_put_on_an_instance_is_a_hook(tmp_path):
    calls: list[str] = []
    callback, model = pl.Callback(), SmallModel()
    callback.on_train_start = lambda trainer, pl_module: calls.append("callback")
    model.on_train_end = lambda: calls.append("module")
    quiet_trainer(tmp_path, callbacks=callback).fit(model, Batches(1))
    assert calls == ["callback", "module"]


def test_a_wrapper_s_result_is_the_same_when_it_is_measured(tmp_path):
    """The values that a wrapper takes, gives and raises pass through the measuring."""

    @pl.hookimpl(wrapper=True)
    def around(batch_idx):
        outputs = yield
        return {**outputs, "number": batch_idx}

    class Seen(pl.Callback):
        numbers: ClassVar[list[int]] = []

        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            self.numbers.append(outputs["number"])

    given = SimpleNamespace(leyden_optimize_batch=around)
    quiet_trainer(tmp_path, plugins=[given], callbacks=Seen(), profiler="simple").fit(SmallModel(), Batches(3))
    assert Seen.numbers == [0, 1, 2]


def test_the_report_before_any_run(tmp_path):
    trainer = pl.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, default_root_dir=tmp_path)
    assert trainer.describe_hooks() == "No run yet: hooks are resolved when fit, validate, test or predict begins."
