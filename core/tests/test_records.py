"""Objects of a library that a plugin logs, and states of plugins in checkpoints."""

import sys
from types import ModuleType, SimpleNamespace

import pytest
import torch

import leyden as pl
from leyden.plugin_system.discovery import discover
from leyden.plugins import Record
from leyden.utilities.exceptions import MisconfigurationException, UnknownComponentError
from leyden_testing.models import LoggingModel, RecordingLogger, rows
from leyden_testing.training import SaveAmid, quiet_trainer


class Tally:
    """What a library counts with."""

    def __init__(self):
        self.batch, self.total = 0.0, 0.0

    def add(self, value):
        self.batch = value
        self.total += value


class SmallTally(Tally):
    pass


class TallyRecord(Record):
    """Logs a tally's last and its total."""

    tally = None

    def declare(self, value, records):
        if value.total < 0:
            raise MisconfigurationException(f"{self.name} is a debt; log {[r.name for r in records.values()]}.")

    def update(self, value, batch_size, counts=True):
        self.tally, self.final = value, None

    def step_value(self):
        return torch.tensor(self.tally.batch) if self.options.on_step else None

    def reduce_epoch(self):
        return torch.tensor(self.tally.total) if self.options.on_epoch else None

    def forget(self):
        self.tally.__init__()

    def state_dict(self):
        return {"batch": self.tally.batch} if self.tally is self.trainer.lightning_module.tally else None

    def load_state_dict(self, state):
        self.tally = self.trainer.lightning_module.tally
        self.tally.batch = state["batch"]


def name_of(cls):
    return f"{cls.__module__}.{cls.__qualname__}"


@pytest.fixture
def plugin(monkeypatch):
    """Keeps the totals beside the records; it brings them from a module that can be imported."""
    library = ModuleType("tally_records")
    library.TallyRecord = TallyRecord
    monkeypatch.setitem(sys.modules, "tally_records", library)
    calls = []

    def leyden_rank_state(trainer):
        return {"tally": trainer.lightning_module.tally.total}

    def leyden_restore_rank_state(trainer, states):
        calls.append([len(trainer.optimizers), states])
        trainer.lightning_module.tally.total = states[trainer.global_rank]["tally"]

    hooks = {hook.__name__: pl.hookimpl(hook) for hook in (leyden_rank_state, leyden_restore_rank_state)}
    component = pl.Component("record", name_of(Tally), "tally_records:TallyRecord")
    return SimpleNamespace(leyden_components=pl.hookimpl(lambda: [component]), **hooks, calls=calls)


class Tallied(LoggingModel):
    def __init__(self, cls=Tally, **options):
        super().__init__()
        self.tally, self.options = cls(), {"on_step": True, "on_epoch": True, **options}

    def training_step(self, batch, batch_idx):
        self.tally.add(float(batch_idx))
        self.log("tally", self.tally, **self.options)
        return self.loss(batch)


def fit(tmp_path, model, plugins, ckpt_path=None, callbacks=()):
    logger = RecordingLogger()
    options = {"logger": logger, "log_every_n_steps": 1, "plugins": plugins, "callbacks": list(callbacks)}
    quiet_trainer(tmp_path, **options).fit(model, rows(4), ckpt_path=ckpt_path)
    return logger


@pytest.mark.parametrize("cls", [Tally, SmallTally])
def test_an_object_is_logged_by_the_record_of_its_class_or_of_one_that_it_derives_from(tmp_path, plugin, cls):
    model = Tallied(cls)
    logger = fit(tmp_path, model, plugin)
    assert logger.values("tally_step") == [(i, float(i)) for i in range(4)]
    assert logger.values("tally_epoch") == [(3, 6.0)]
    assert model.tally.total == 0


def test_a_record_refuses_what_it_can_not_log(tmp_path, plugin):
    model = Tallied()
    model.tally.total = -10.0
    with pytest.raises(MisconfigurationException, match=r"tally is a debt; log \[\]\."):
        fit(tmp_path, model, plugin)


def test_an_object_that_nobody_logs_is_refused(tmp_path):
    with pytest.raises(
        ValueError, match=r"self\.log\('tally', …\) got .* of type Tally; log a number, .* an object for"
    ):
        fit(tmp_path, Tallied(), [])


def test_records_and_states_are_resumed(tmp_path, plugin):
    path = tmp_path / "two.ckpt"
    whole = fit(tmp_path, Tallied(), plugin, callbacks=[SaveAmid(path, step=2)])
    rest = fit(tmp_path, Tallied(), plugin, path)
    assert rest.logged == whole.logged[1:]  # the values of the batch that saves are sent after it
    assert plugin.calls == [[1, [{"tally": 1.0}]]]


def test_a_record_that_can_not_be_kept_is_left_out(tmp_path, plugin):
    class Foreign(Tallied):
        def on_train_start(self):
            self.own, self.tally = self.tally, Tally()

        def training_step(self, batch, batch_idx):
            self.own.add(1.0)
            self.log("tally", self.own, **self.options)
            return self.loss(batch)

    path = tmp_path / "two.ckpt"
    fit(tmp_path, Foreign(), plugin, callbacks=[SaveAmid(path, step=2)])
    assert torch.load(path, weights_only=True)["leyden"]["ranks"][0]["fit"]["results"] == []
    assert fit(tmp_path, Foreign(), plugin, path).values("tally_epoch") == [(3, 2.0)]


def test_without_the_plugin_its_record_and_state_are_left_out_and_it_is_named(tmp_path, plugin, caplog):
    class Silent(Tallied):
        def training_step(self, batch, batch_idx):
            return self.loss(batch)

    path, model = tmp_path / "two.ckpt", Silent()
    fit(tmp_path, Tallied(), plugin, callbacks=[SaveAmid(path, step=2)])
    with caplog.at_level("INFO"):
        logger = fit(tmp_path, model, [], path)
    assert model.tally.total == 0
    assert logger.values("tally_epoch") == []
    assert "The plugins differ from those of the checkpoint: SimpleNamespace" in caplog.text


def test_the_states_of_several_plugins_are_kept_apart(tmp_path, plugin):
    seen = []
    other = SimpleNamespace(
        leyden_rank_state=pl.hookimpl(lambda: {"other": torch.ones(2)}),
        leyden_restore_rank_state=pl.hookimpl(lambda states: seen.extend(states)),
    )
    path = tmp_path / "two.ckpt"
    fit(tmp_path, Tallied(), [plugin, other], callbacks=[SaveAmid(path, step=2)])
    fit(tmp_path, Tallied(), [plugin, other], path)
    assert [state["tally"] for state in seen] == [1.0]
    assert [state["other"].tolist() for state in seen] == [[1.0, 1.0]]


def test_two_plugins_that_keep_their_states_under_one_key_are_named(tmp_path, plugin):
    class Other:
        @pl.hookimpl
        def leyden_rank_state(self):
            return {"tally": 7}

    with pytest.raises(
        MisconfigurationException,
        match=r"The plugins '(Other|Simple\S+)' and '(Other|Simple\S+)' return the same key .*, 'tally'",
    ):
        fit(tmp_path, Tallied(), [plugin, Other()], callbacks=[SaveAmid(tmp_path / "two.ckpt", step=2)])


def test_a_run_of_another_number_of_processes_gives_the_states_of_all(tmp_path, plugin):
    path = tmp_path / "two.ckpt"
    fit(tmp_path, Tallied(), plugin, callbacks=[SaveAmid(path, step=2)])
    checkpoint = torch.load(path, weights_only=True)
    checkpoint["leyden"]["ranks"] *= 3
    torch.save(checkpoint, path)
    fit(tmp_path, Tallied(), plugin, path)
    assert [len(states) for _, states in plugin.calls] == [3]


def test_the_component_of_a_class(plugin):
    manager = discover().extended([plugin])
    assert manager.component_for("record", SmallTally) == name_of(Tally)
    assert manager.component_for("record", int) is None


def test_a_class_whose_record_is_published_says_by_whom(monkeypatch):
    known = {"published": {"record": {name_of(Tally): "tally-logs"}}, "planned": {}}
    monkeypatch.setattr("leyden.plugin_system.manager.catalogue", lambda: known)
    with pytest.raises(UnknownComponentError, match=r"It comes with tally-logs: pip install tally-logs\.$"):
        discover().component_for("record", SmallTally)
