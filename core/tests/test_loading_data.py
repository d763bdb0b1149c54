"""How much of the data a run takes and when it validates: limits, intervals, reloading; and loaders that are wrong."""

import multiprocessing
from datetime import timedelta

import pytest
import torch
from torch.utils.data import DataLoader, IterableDataset, RandomSampler

import leyden as pl
from leyden.utilities.exceptions import MisconfigurationException
from leyden_testing.models import Given, LoggingModel, RecordingLogger, Unsized, ValidatedModel, rows
from leyden_testing.training import quiet_trainer


class Diary(ValidatedModel):
    """Writes down each batch as ``t0``, each validation as ``V`` and each epoch's end as ``|``."""

    def __init__(self):
        super().__init__()
        self.text = ""

    def training_step(self, batch, batch_idx):
        self.text += f"t{batch_idx}"
        return self.layer.weight.sum()

    def validation_step(self, batch, batch_idx):
        self.text += "v"

    def on_validation_end(self):
        self.text += "V"

    def on_train_epoch_end(self):
        self.text += "|"


def diary(tmp_path, batches=4, validation=1, train=None, **options):
    """What a fit does, without a sanity check unless it is asked for."""
    model = Diary()
    trainer = quiet_trainer(tmp_path, **{"num_sanity_val_steps": 0, "max_epochs": 2, **options})
    trainer.fit(model, Given(*range(batches)) if train is None else train, Given(*range(validation)))
    return model.text, trainer


# -- limits -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limit", "taken"), [(1.0, 4), (3, 3), (9, 4), (0.5, 2), (0.25, 1), (0.74, 2), (1, 1), (0, 0), (0.0, 0), (None, 4)]
)
@pytest.mark.parametrize("stage", ["train", "val", "test", "predict"])
def test_limits(tmp_path, stage, limit, taken):
    trainer = quiet_trainer(tmp_path, **{f"limit_{stage}_batches": limit})
    model, loader = ValidatedModel(), rows(4)
    if stage == "train":
        trainer.fit(model, loader, rows(1))
        done = trainer.global_step
    else:
        done = len(_evaluated(trainer, stage, model, loader))
    assert done == taken
    attribute = {"train": "num_training_batches"}.get(stage, f"num_{stage}_batches")
    if limit:
        assert getattr(trainer, attribute) == (taken if stage == "train" else [taken])


def _evaluated(trainer, stage, model, loader):
    """The batches of one evaluation."""
    done = []
    name = {"val": "validation"}.get(stage, stage)
    setattr(model, f"{name}_step", lambda batch, batch_idx: done.append(batch_idx))
    run = getattr(trainer, {"val": "validate"}.get(stage, stage))
    run(model, loader, **({} if stage == "predict" else {"verbose": False}))
    return done


def test_limits_of_each_of_several_loaders(tmp_path):
    model = LoggingModel()
    model.test_step = lambda batch, batch_idx, dataloader_idx: None
    trainer = quiet_trainer(tmp_path, limit_test_batches=0.5)
    trainer.test(model, [rows(4), rows(2), rows(6)], verbose=False)
    assert trainer.num_test_batches == [2, 1, 3]


@pytest.mark.parametrize("loader", [Given(*range(5)), Unsized(*range(5))], ids=["sized", "unsized"])
def test_a_limit_stops_reading(tmp_path, loader):
    """Nothing is read that will not be trained on."""
    drawn = []

    class Counting(IterableDataset):
        def __iter__(self):
            for batch in loader:
                drawn.append(batch)
                yield batch

    text, _ = diary(tmp_path, train=DataLoader(Counting(), batch_size=None), limit_train_batches=2, max_epochs=1)
    assert text == "t0t1vV|"
    assert drawn == [0, 1]


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ({"limit_train_batches": 0.1}, r"limit_train_batches=0\.1 of 4 batches is none"),
        ({"limit_val_batches": 0.5}, r"limit_val_batches=0\.5 of 1 batches is none"),
    ],
    ids=str,
)
def test_a_fraction_that_is_no_batch_is_refused(tmp_path, option, words):
    with pytest.raises(MisconfigurationException, match=words):
        diary(tmp_path, **option)


def test_a_fraction_of_what_has_no_length_is_refused(tmp_path):
    with pytest.raises(MisconfigurationException, match="no length; write a number"):
        diary(tmp_path, train=Unsized(1, 2), limit_train_batches=0.5)


@pytest.mark.parametrize("value", [-1, 1.5, "many", True], ids=repr)
@pytest.mark.parametrize("name", ["limit_train_batches", "limit_predict_batches", "overfit_batches"])
def test_limits_that_mean_nothing_are_refused(tmp_path, name, value):
    with pytest.raises(MisconfigurationException, match=f"{name}={value!r}"):
        quiet_trainer(tmp_path, **{name: value})


# -- when to validate ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, "t0t1t2t3vV|t0t1t2t3vV|"),
        ({"val_check_interval": 0.5}, "t0t1vVt2t3vV|t0t1vVt2t3vV|"),
        ({"val_check_interval": 0.3}, "t0vVt1vVt2vVt3vV|t0vVt1vVt2vVt3vV|"),
        ({"val_check_interval": 3}, "t0t1t2vVt3|t0t1t2vVt3|"),
        ({"val_check_interval": 1}, "t0vVt1vVt2vVt3vV|t0vVt1vVt2vVt3vV|"),
        ({"check_val_every_n_epoch": 2}, "t0t1t2t3|t0t1t2t3vV|"),
        ({"check_val_every_n_epoch": 2, "val_check_interval": 2}, "t0t1t2t3|t0t1vVt2t3vV|"),
        ({"check_val_every_n_epoch": None, "val_check_interval": 3}, "t0t1t2vVt3|t0t1vVt2t3|"),
        ({"check_val_every_n_epoch": None, "val_check_interval": 6}, "t0t1t2t3|t0t1vVt2t3|"),
        ({"limit_val_batches": 0}, "t0t1t2t3|t0t1t2t3|"),
        ({"limit_train_batches": 2, "val_check_interval": 0.5}, "t0vVt1vV|t0vVt1vV|"),
        ({"accumulate_grad_batches": 2, "val_check_interval": 3}, "t0t1t2vVt3|t0t1t2vVt3|"),
        ({"max_steps": 3, "val_check_interval": 2}, "t0t1vVt2|"),
    ],
    ids=str,
)
def test_when_a_fit_validates(tmp_path, options, expected):
    assert diary(tmp_path, **options)[0] == expected


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, "t0t1t2vV|t0t1t2vV|"),
        ({"val_check_interval": 2}, "t0t1vVt2|t0t1vVt2|"),
        ({"limit_train_batches": 9}, "t0t1t2vV|t0t1t2vV|"),
        ({"limit_train_batches": 2}, "t0t1vV|t0t1vV|"),
    ],
    ids=str,
)
def test_when_a_fit_validates_on_data_without_a_length(tmp_path, options, expected):
    assert diary(tmp_path, train=Unsized(0, 1, 2), **options)[0] == expected


def test_validating_after_a_time(tmp_path, monkeypatch):
    """A clock that a batch moves on by a minute."""
    now = [1000.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])

    class Slow(Diary):
        def training_step(self, batch, batch_idx):
            now[0] += 60
            return super().training_step(batch, batch_idx)

    for interval in ("00:00:02:00", timedelta(minutes=2), {"seconds": 120}):
        model = Slow()
        trainer = quiet_trainer(tmp_path, num_sanity_val_steps=0, val_check_interval=interval)
        trainer.fit(model, Given(*range(5)), Given(0))
        assert model.text == "t0t1vVt2t3vVt4|"


@pytest.mark.parametrize(("steps", "sanity"), [(0, ""), (1, "vV"), (2, "vvV"), (5, "vvvV"), (-1, "vvvV")])
def test_sanity_check(tmp_path, steps, sanity):
    text, trainer = diary(tmp_path, 1, validation=3, num_sanity_val_steps=steps, max_epochs=1)
    assert text == f"{sanity}t0vvvV|"
    assert trainer.num_sanity_val_batches == [sanity.count("v")]
    assert trainer.num_val_batches == [3]


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"val_check_interval": 5}, ValueError, "val_check_interval=5 is more than the 4 training batches"),
        ({"val_check_interval": 0}, MisconfigurationException, "val_check_interval=0"),
        ({"val_check_interval": 1.5}, MisconfigurationException, r"val_check_interval=1\.5"),
        ({"val_check_interval": "soon"}, MisconfigurationException, "DD:HH:MM:SS"),
        ({"val_check_interval": 0.5, "check_val_every_n_epoch": None}, MisconfigurationException, "integer"),
        ({"check_val_every_n_epoch": 0}, MisconfigurationException, "check_val_every_n_epoch=0"),
        ({"num_sanity_val_steps": -2}, MisconfigurationException, "num_sanity_val_steps=-2"),
        ({"val_check_interval": 0.5, "train": Unsized(1)}, MisconfigurationException, "no length"),
    ],
    ids=lambda value: ", ".join(value) if isinstance(value, dict) else "",
)
def test_intervals_that_can_not_be_are_refused(tmp_path, options, error, words):
    with pytest.raises(error, match=words):
        diary(tmp_path, **options)


# -- overfitting and reloading ------------------------------------------------------------------------------


def test_overfitting_takes_the_same_batches_in_order(tmp_path):
    seen = []

    class Model(ValidatedModel):
        def training_step(self, batch, batch_idx):
            seen.append(batch.tolist())
            return self.layer.weight.sum()

        def validation_step(self, batch, batch_idx):
            pass

    loader = DataLoader(range(10), batch_size=2, shuffle=True)
    trainer = quiet_trainer(tmp_path, overfit_batches=2, max_epochs=2, num_sanity_val_steps=0)
    with pytest.warns(UserWarning, match="shuffling of the train data is turned off"):
        trainer.fit(Model(), loader, rows(3))
    assert seen == [[0, 1], [2, 3]] * 2
    assert trainer.num_val_batches == [2]
    assert isinstance(loader.sampler, RandomSampler)


class Reloading(Diary):
    """Makes loaders and counts how often it is asked to."""

    def train_dataloader(self):
        self.text += f"<T{self.current_epoch}>"
        return Given(0)

    def val_dataloader(self):
        self.text += f"<V{self.current_epoch}>"
        return Given(0)


@pytest.mark.parametrize(
    ("every", "epochs", "expected"),
    [
        (0, 3, "<T0><V0>t0vV|t0vV|t0vV|"),
        (1, 2, "<T0><V0>t0vV|<T1>t0<V1>vV|"),
        (2, 4, "<T0><V0>t0vV|t0vV|<T2>t0<V2>vV|t0vV|"),
    ],
)
def test_reloading(tmp_path, every, epochs, expected):
    model = Reloading()
    options = {"reload_dataloaders_every_n_epochs": every, "max_epochs": epochs, "num_sanity_val_steps": 0}
    quiet_trainer(tmp_path, **options).fit(model)
    assert model.text == expected


class Numbering(Reloading):
    """Logs the epoch in each batch of validation, under the batch's number."""

    def validation_step(self, batch, batch_idx):
        self.log("epoch_of", self.current_epoch, on_step=True, on_epoch=False)


class SaveAmid(pl.Callback):
    """Saves a checkpoint after the batch of each epoch, before it validates."""

    def __init__(self, root):
        self.root, self.paths = root, []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.paths.append(self.root / f"{trainer.current_epoch}.ckpt")
        trainer.save_checkpoint(self.paths[-1])


def test_a_resumed_run_reloads_when_the_uninterrupted_one_does(tmp_path):
    def fit(model, **more):
        logger = RecordingLogger()
        options = {"reload_dataloaders_every_n_epochs": 2, "max_epochs": 4, "num_sanity_val_steps": 0, "logger": logger}
        quiet_trainer(tmp_path, callbacks=[saver] if not more else [], **options).fit(model, **more)
        return [(step, value) for step, value in logger.values("epoch_of")]

    saver = SaveAmid(tmp_path)
    whole = fit(Numbering())
    assert whole == [(0, 0), (1, 1), (0, 2), (1, 3)]
    for epoch, loaded in enumerate(
        ["<T0><V0>|t0|<T2>t0<V2>|t0|", "<T1><V1>|<T2>t0<V2>|t0|", "<T2><V2>|t0|", "<T3><V3>|"]
    ):
        model = Numbering()
        assert fit(model, ckpt_path=saver.paths[epoch]) == whole[epoch:]
        assert model.text.replace("V|", "|") == loaded


# -- loaders that are wrong ---------------------------------------------------------------------------------


class Raising:
    """Fails in the middle."""

    def __len__(self):
        return 3

    def __iter__(self):
        yield from list(rows(1))
        raise OSError("the disk is gone")


@pytest.mark.parametrize("stage", ["fit", "validate", "test", "predict"])
def test_what_a_loader_raises_reaches_the_user(tmp_path, stage):
    class Watch(pl.Callback):
        def on_exception(self, trainer, pl_module, exception):
            self.seen = exception

    watch, model = Watch(), ValidatedModel() if stage == "validate" else LoggingModel()
    trainer = quiet_trainer(tmp_path, callbacks=[watch])
    with pytest.raises(OSError, match="the disk is gone") as raised:
        getattr(trainer, stage)(model, Raising())
    assert watch.seen is raised.value
    assert trainer.interrupted


NO_LOADERS = {
    "number": 5,
    "nothing": None,
    "object": object(),
    "number beside a loader": [rows(1), 5],
    "nothing by name": {"a": None},
}


@pytest.mark.parametrize("kind", NO_LOADERS)
def test_what_is_no_loader_is_named_with_its_hook(tmp_path, kind):
    loader = NO_LOADERS[kind]

    class Model(LoggingModel):
        def train_dataloader(self):
            return loader

    with pytest.raises(TypeError, match=r"Model\.train_dataloader\(\) gave .* can't be iterated"):
        quiet_trainer(tmp_path).fit(Model())
    if loader is not None:
        with pytest.raises(TypeError, match=r"train_dataloaders that were passed gave .* can't be iterated"):
            quiet_trainer(tmp_path).fit(LoggingModel(), loader)


@pytest.mark.parametrize("stage", ["fit", "validate", "test", "predict"])
def test_a_missing_loader_is_named(tmp_path, stage):
    name = {"fit": "train", "validate": "val"}.get(stage, stage)
    model = ValidatedModel() if stage == "validate" else LoggingModel()
    with pytest.raises(MisconfigurationException, match=f"{stage} needs a {name}_dataloader"):
        getattr(quiet_trainer(tmp_path), stage)(model)


@pytest.mark.parametrize("stage", ["fit", "validate", "test", "predict"])
def test_empty_loaders_do_nothing_and_say_so(tmp_path, stage):
    trainer = quiet_trainer(tmp_path)
    model = ValidatedModel() if stage == "validate" else LoggingModel()
    with pytest.warns(UserWarning, match="loaders of no batches"):
        result = getattr(trainer, stage)(model, Given())
    assert not result
    assert trainer.global_step == 0
    assert trainer.state.finished


def test_an_iterable_that_turns_out_to_be_empty(tmp_path):
    """That can't be known before it is read. Lightning says nothing, and never ends where epochs have no limit."""
    trainer = quiet_trainer(tmp_path, max_epochs=2)
    with pytest.warns(UserWarning, match="passed gave no batches in an epoch; an iterator can be read only once"):
        trainer.fit(LoggingModel(), Unsized())
    assert (trainer.global_step, trainer.current_epoch) == (0, 2)


def test_an_iterator_that_is_used_up_does_not_train_for_ever(tmp_path):
    trainer = quiet_trainer(tmp_path, max_epochs=-1, max_steps=5)
    with pytest.raises(MisconfigurationException, match=r"passed gave no batches in an epoch, and with max_epochs=-1"):
        trainer.fit(LoggingModel(), iter([*rows(2)]))
    assert (trainer.global_step, trainer.interrupted) == (2, True)


def test_loaders_and_a_data_module_are_too_much(tmp_path):
    class Data(pl.LightningDataModule):
        pass

    with pytest.raises(MisconfigurationException, match="one of the two"):
        quiet_trainer(tmp_path).fit(LoggingModel(), rows(1), datamodule=Data())
    with pytest.raises(MisconfigurationException, match="no LightningDataModule"):
        quiet_trainer(tmp_path).fit(LoggingModel(), datamodule=rows(1))


def test_a_validation_step_without_data_and_the_reverse_are_told(tmp_path):
    with pytest.warns(UserWarning, match="validation_step and no val_dataloader"):
        quiet_trainer(tmp_path).fit(ValidatedModel(), rows(1))
    with pytest.warns(UserWarning, match="val_dataloader and no validation_step"):
        quiet_trainer(tmp_path).fit(LoggingModel(), rows(1), rows(1))


def test_workers_load_in_every_stage(tmp_path):
    model = ValidatedModel()
    trainer = quiet_trainer(tmp_path)
    loader = rows(2, num_workers=1)
    trainer.fit(model, loader, loader)
    results = trainer.test(model, loader, verbose=False)
    predictions = trainer.predict(model, loader)
    assert trainer.global_step == 2
    assert results[0].keys() == {"test_loss"}
    assert [tuple(batch.shape) for batch in predictions] == [(2, 2)] * 2
    assert not torch.equal(predictions[0], predictions[1])


@pytest.mark.parametrize("persistent", [False, True])
@pytest.mark.parametrize("ends", ["fit", "limit", "error", "predict"])
def test_no_worker_outlives_a_run(tmp_path, ends, persistent):
    """Python would wait seconds for each, when it ends or collects them."""
    before = set(multiprocessing.active_children())
    loader = rows(6, num_workers=1, persistent_workers=persistent)
    model, trainer = (
        LoggingModel(),
        quiet_trainer(tmp_path, max_epochs=2, **({"max_steps": 2} if ends == "limit" else {})),
    )
    if ends == "error":
        model.training_step = lambda batch, batch_idx: 1 / 0
        with pytest.raises(ZeroDivisionError):
            trainer.fit(model, loader)
    elif ends == "predict":
        trainer.predict(model, loader)
    else:
        trainer.fit(model, loader)
    assert not set(multiprocessing.active_children()) - before


def test_the_workers_of_an_epoch_end_before_those_of_the_next_begin(tmp_path):
    """Else memory would have to hold those of two epochs."""
    running = []

    class Counting(torch.utils.data.SequentialSampler):
        def __iter__(self):
            running.append(len(set(multiprocessing.active_children()) - before))
            return super().__iter__()

    data = rows(3).dataset
    before = set(multiprocessing.active_children())
    loader = DataLoader(data, batch_size=2, sampler=Counting(data), num_workers=1)
    quiet_trainer(tmp_path, max_epochs=3).fit(LoggingModel(), loader)
    assert running == [1, 1, 1]  # it is asked when the epoch's own worker has been started


# -- epochs of different lengths -----------------------------------------------------------------------------


class OfEachEpoch:
    """As many batches as the epoch says of which it was told."""

    def __init__(self, *lengths):
        self.lengths, self.epoch, self.told = lengths, 0, []

    def set_epoch(self, epoch):
        self.epoch = epoch
        self.told.append(epoch)

    def __len__(self):
        return self.lengths[self.epoch]

    def __iter__(self):
        return iter([[k] for k in range(len(self))])


def of_each_epoch(*lengths):
    """A DataLoader of such batches."""
    return DataLoader(rows(9).dataset, batch_sampler=OfEachEpoch(*lengths))


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, "t0t1t2t3vV|t0t1t2t3t4t5t6vvvV|t0t1t2vvV|"),
        ({"val_check_interval": 0.5}, "t0t1vVt2t3vV|t0t1t2vvvVt3t4t5vvvVt6|t0vvVt1vvVt2vvV|"),
        ({"val_check_interval": 4}, "t0t1t2t3vV|t0t1t2t3vvvVt4t5t6|t0t1t2|"),
        ({"limit_train_batches": 0.5}, "t0t1vV|t0t1t2vvvV|t0vvV|"),
        ({"limit_val_batches": 2}, "t0t1t2t3vV|t0t1t2t3t4t5t6vvV|t0t1t2vvV|"),
    ],
    ids=str,
)
def test_each_epoch_has_its_own_length(tmp_path, options, expected):
    """Lightning cuts all epochs to the first one's length."""
    model = Diary()
    trainer = quiet_trainer(tmp_path, num_sanity_val_steps=0, max_epochs=3, **options)
    lengths = []
    model.on_train_epoch_start = lambda: lengths.append((trainer.num_training_batches, *trainer.num_val_batches))
    trainer.fit(model, of_each_epoch(4, 7, 3), of_each_epoch(1, 3, 2))
    assert model.text == expected
    if not options:
        assert [length for length, _ in lengths] == [4, 7, 3]


@pytest.mark.parametrize("every", [1, 2])
def test_a_short_loader_has_its_last_step_and_its_validation(tmp_path, every):
    """The length of an iterable dataset, or of a batch sampler, is often a guess."""

    class Guessed(IterableDataset):
        def __len__(self):
            return 12

        def __iter__(self):
            yield from torch.rand(10, 2)

    class Batches(OfEachEpoch):
        def __len__(self):
            return 6

        def __iter__(self):
            return iter([[0, 1]] * 5)

    for loader in (DataLoader(Guessed(), 2), DataLoader(rows(9).dataset, batch_sampler=Batches())):
        text, trainer = diary(tmp_path, train=loader, accumulate_grad_batches=every)
        assert text == "t0t1t2t3t4vV|" * 2
        assert trainer.global_step == 2 * -(-5 // every)


def test_who_has_set_epoch_is_told_of_each_epoch(tmp_path):
    """Lightning tells samplers alone."""

    def telling(kind, *arguments, **options):
        class Told(kind):
            def set_epoch(self, epoch):
                told.append((kind.__name__, epoch))

        return Told(*arguments, **options)

    told = []
    data = rows(2).dataset
    batches = telling(torch.utils.data.BatchSampler, telling(RandomSampler, data), 2, False)
    train = telling(DataLoader, telling(torch.utils.data.Subset, data, range(4)), batch_sampler=batches)
    quiet_trainer(tmp_path, max_epochs=2, num_sanity_val_steps=0).fit(Diary(), train, telling(DataLoader, data))
    names = {name for name, _ in told}
    assert names == {"DataLoader", "BatchSampler", "RandomSampler", "Subset"}
    for name in names - {"DataLoader"}:
        assert [epoch for each, epoch in told if each == name] == [0, 1]
    loaders = [epoch for each, epoch in told if each == "DataLoader"]  # in training and in validation
    assert loaders == sorted(loaders)
    assert loaders.count(1) == 2
