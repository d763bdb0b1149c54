"""Ranks with different numbers of training batches: they end together, the shorter ones start over, or join."""

from functools import partial

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset

from leyden.callbacks import ModelCheckpoint
from leyden_ddp.strategy import DDPStrategy
from leyden_testing.reporting import Model, quiet
from leyden_testing.training import same_weights


def rows_of(rank, count):
    """The rows of one process: input, target, number."""
    generator = torch.Generator().manual_seed(rank)
    rows = [torch.randn(6, generator=generator) for _ in range(count)]
    return ((row[:4], row[4:], torch.tensor(i)) for i, row in enumerate(rows))


class Uneven(IterableDataset):
    """Rows of which each process has others, and another number, with or without saying so."""

    def count(self):
        return 3 if torch.distributed.get_rank() == 0 else 5

    def __iter__(self):
        return rows_of(torch.distributed.get_rank(), self.count())


class Sized(Uneven):
    def __len__(self):
        return self.count()


def batches_of(dataset):
    return DataLoader(dataset(), batch_size=1)


def trainer_of(tmp_path, policy, **options):
    return quiet(tmp_path, strategy=DDPStrategy(start_method="fork", uneven_inputs=policy), **options)


@pytest.mark.parametrize("dataset", [Uneven, Sized])
@pytest.mark.parametrize(("policy", "batches"), [("stop_together", 3), ("pad", 5), ("join", 5)])
def test_all_take_the_same_steps(tmp_path, dataset, policy, batches):
    trainer, reporter = trainer_of(tmp_path, policy, max_epochs=2, max_steps=100)
    trainer.fit(Model(), batches_of(dataset))
    ranks = reporter.reports()
    assert [report["batches"] for report in ranks] == [2 * batches] * 2
    assert ranks[0]["weights"] == ranks[1]["weights"]
    repeated = [[0], [1], [2], [0], [1]][:batches]
    assert ranks[0]["seen"]["train"] == 2 * repeated


def joined():
    """A model trained in this process as ``DistributedDataParallel.join`` documents it.

    Each step takes the mean of the gradients of those that have a batch (``divide_by_initial_world_size=False``).
    """
    model = Model()
    optimizer = torch.optim.SGD(model.layer.parameters(), lr=0.1)
    rows = [list(rows_of(rank, count)) for rank, count in enumerate((3, 5))]
    for step in range(5):
        optimizer.zero_grad()
        losses = [nn.functional.mse_loss(model.layer(own[step][0]), own[step][1]) for own in rows if step < len(own)]
        torch.stack(losses).mean().backward()
        optimizer.step()
    return model


class Manual(Model):
    def __init__(self):
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch, batch_idx):
        optimizer = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(self.loss(batch, "train"))
        optimizer.step()


@pytest.mark.parametrize("dataset", [Uneven, Sized])
@pytest.mark.parametrize("kind", [Model, Manual])
def test_join_has_the_weights_of_the_mean_over_those_that_have_a_batch(tmp_path, dataset, kind):
    model, expected = kind(), joined()
    trainer, reporter = trainer_of(tmp_path, "join")
    trainer.fit(model, batches_of(dataset))
    assert same_weights(model, expected, 1e-6)
    assert not same_weights(model, Model(), 1e-3)
    ranks = reporter.reports()
    assert ranks[0]["weights"] == ranks[1]["weights"]
    assert trainer.global_step == 5


def test_what_a_joined_process_repeats_is_no_part_of_the_epochs_metrics(tmp_path):
    class Counting(Model):
        def training_step(self, batch, batch_idx):
            row = 10 * self.global_rank + float(batch[2])
            for name in ("mean", "sum", "min"):
                self.log(name, row, on_step=False, on_epoch=True, reduce_fx=name, sync_dist=True)
            return self.loss(batch, "train")

    trainer, _ = trainer_of(tmp_path, "join", limit_train_batches=4)
    trainer.fit(Counting(), batches_of(Sized))
    rows = [0, 1, 2, 10, 11, 12, 13]
    metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
    assert metrics == {"mean": pytest.approx(sum(rows) / len(rows)), "sum": sum(rows), "min": 0}


@pytest.mark.filterwarnings("ignore:The checkpoint holds the state of callbacks")
@pytest.mark.parametrize("dataset", [Uneven, Sized])
@pytest.mark.parametrize("policy", ["pad", "join"])
def test_a_run_goes_on_among_batches_that_a_process_repeats(tmp_path, dataset, policy):
    def fit(name, path=None, **options):
        model = Model(partial(torch.optim.SGD, lr=0.1, momentum=0.9))
        trainer, reporter = trainer_of(tmp_path / name, policy, max_epochs=2, **options)
        trainer.fit(model, batches_of(dataset), ckpt_path=path)
        return model, [report["seen"]["train"] for report in reporter.reports()]

    saving = ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=1, save_top_k=-1)
    whole, _ = fit("whole", callbacks=[saving], enable_checkpointing=True)
    resumed, (first, second) = fit("resumed", tmp_path / "step=4.ckpt")
    assert same_weights(resumed, whole)
    assert first == [[1], [0], [1], [2], [0], [1]]
    assert second == [[4], [0], [1], [2], [3], [4]]


def test_a_process_without_any_batches_is_told(tmp_path):
    class Nothing(Uneven):
        def count(self):
            return 0 if torch.distributed.get_rank() == 0 else 5

    with pytest.raises(ValueError, match="The training loader of this process yields no batches"):
        trainer_of(tmp_path, "join")[0].fit(Model(), batches_of(Nothing))
