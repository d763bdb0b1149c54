"""Plugins and data: they may put other loaders and batches in the place of the user's; datasets learn the epoch."""

from types import SimpleNamespace

import torch
from torch.utils.data import DataLoader, Dataset, Subset

import leyden as pl
from leyden import hookimpl
from leyden.strategies import Strategy
from leyden_testing.models import Batches, EveryStep, SmallModel
from leyden_testing.training import quiet_trainer


class Longer(Batches):
    """A loader of one batch more than another, that knows who made it."""

    def __init__(self, loader, name):
        super().__init__(loader.count + 1)
        self.names = [*getattr(loader, "names", ()), name]


def longer(name, **marks):
    """A plugin that makes training loaders longer by a batch."""

    def leyden_prepare_loader(training):
        loader = yield
        return Longer(loader, name) if training else loader

    return SimpleNamespace(leyden_prepare_loader=hookimpl(leyden_prepare_loader, wrapper=True, **marks))


def looking(look):
    """A plugin that looks at each loader, and leaves it as it is."""

    def leyden_prepare_loader(owner, loader, training):
        look(owner, loader, training)

    return SimpleNamespace(leyden_prepare_loader=hookimpl(leyden_prepare_loader))


# -- loaders ----------------------------------------------------------------------------------------------


def test_each_wrapper_is_given_the_loader_that_the_one_within_returned(tmp_path):
    given = [longer("given"), longer("inner", trylast=True), longer("outer", tryfirst=True)]
    trainer, loaders = quiet_trainer(tmp_path, plugins=given), (Batches(1), Batches(1))
    trainer.fit(EveryStep(), *loaders)
    assert trainer.train_dataloader.names == ["inner", "given", "outer"]
    assert (trainer.num_training_batches, trainer.global_step, loaders[0].drawn) == (4, 4, 0)
    assert trainer.val_dataloaders is loaders[1]


def test_a_plugin_learns_who_runs_and_whether_the_loader_is_trained_on(tmp_path):
    seen = []
    plugin = looking(lambda owner, loader, training: seen.append((owner, training)))
    trainer = quiet_trainer(tmp_path, plugins=plugin, num_sanity_val_steps=0)
    trainer.fit(EveryStep(), Batches(1), Batches(1))
    trainer.test(EveryStep(), Batches(1))
    assert [training for _, training in seen] == [True, False, False]
    assert all(owner is trainer for owner, _ in seen)


def test_a_plugin_is_given_this_process_s_part_of_the_data(tmp_path):
    class Halving(Strategy):
        def divide(self, loader, training):
            return DataLoader(Subset(loader.dataset, range(4)), loader.batch_size)

    sizes = []
    plugin = looking(lambda owner, loader, training: sizes.append(len(loader.dataset)))
    quiet_trainer(tmp_path, plugins=plugin, strategy=Halving()).fit(SmallModel(), DataLoader(torch.ones(8, 2), 2))
    assert sizes == [4]


# -- batches ----------------------------------------------------------------------------------------------


class Counts(SmallModel):
    """Adds up what is in its batches."""

    total = 0.0

    def training_step(self, batch, batch_idx):
        self.total += float(batch.sum())
        return super().training_step(batch, batch_idx)


def doubled(batches):
    for batch, *rest in batches:
        yield (batch * 2, *rest)


def test_a_plugin_may_wrap_the_batches_of_each_epoch(tmp_path):
    epochs = []

    def leyden_wrap_batches(trainer, batches):
        epochs.append(trainer.current_epoch)
        return doubled(batches) if trainer.current_epoch == 1 else None

    model, plugin = Counts(), SimpleNamespace(leyden_wrap_batches=hookimpl(leyden_wrap_batches))
    trainer = quiet_trainer(tmp_path, plugins=plugin, max_epochs=3)
    trainer.fit(model, Batches(2))
    assert epochs == [0, 1, 2]
    said = next(line for line in trainer.describe_hooks().splitlines() if line.startswith("leyden_wrap_batches"))
    assert "every epoch" in said
    assert model.total == 12 + 24 + 12
    assert trainer.progress.is_last_batch


def test_the_first_who_wraps_the_batches_has_them(tmp_path):
    class Wraps(pl.Callback):
        def leyden_wrap_batches(self, trainer, pl_module, batches):
            return doubled(batches)

    model = Counts()
    plugin = SimpleNamespace(leyden_wrap_batches=hookimpl(lambda: None))
    quiet_trainer(tmp_path, plugins=plugin, callbacks=[Wraps(), Wraps()]).fit(model, Batches(1))
    assert model.total == 12


# -- epochs -----------------------------------------------------------------------------------------------


def test_a_dataset_is_told_of_each_epoch_as_a_sampler_is(tmp_path):
    class Told(Dataset):
        def __init__(self):
            self.epochs = []

        def __len__(self):
            return 2

        def __getitem__(self, index):
            return torch.ones(2)

        def __iter__(self):
            return iter(range(2))

        def set_epoch(self, epoch):
            self.epochs.append(epoch)

    dataset, sampler = Told(), Told()
    quiet_trainer(tmp_path, max_epochs=3).fit(SmallModel(), DataLoader(dataset, sampler=sampler))
    assert dataset.epochs == sampler.epochs == [0, 1, 2]
