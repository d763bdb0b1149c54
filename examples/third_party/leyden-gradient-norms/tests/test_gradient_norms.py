"""Percentiles of known gradients: the model has one weight, whose gradient is the mean of the batch."""

import math

import pytest
import torch

import leyden as pl
from leyden.loggers import Logger
from leyden.utilities import MisconfigurationException
from leyden_gradient_norms.callback import GradientNormPercentiles


class Kept(Logger):
    name, version = "kept", 0

    def __init__(self):
        self.rows = []

    def log_metrics(self, metrics, step=None):
        self.rows.append(metrics)

    def log_hyperparams(self, params, *args, **kwargs):
        pass


class Weight(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def training_step(self, batch):
        return (self.weight * batch).sum()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.01)


class TwoWeights(Weight):
    """A model with two optimizers; the second has twice the gradient."""

    def __init__(self):
        super().__init__()
        self.automatic_optimization, self.other = False, torch.nn.Parameter(torch.zeros(1))

    def training_step(self, batch):
        for optimizer, weight, factor in zip(self.optimizers(), (self.weight, self.other), (1, 2), strict=True):
            optimizer.zero_grad()
            self.manual_backward((factor * weight * batch).sum())
            optimizer.step()

    def configure_optimizers(self):
        return torch.optim.SGD([self.weight], lr=0.01), torch.optim.SGD([self.other], lr=0.01)


def rows_of(gradients, callback, tmp_path, model=None, ckpt_path=None, **arguments):
    """Fit with one of the gradients in each batch; return the values logged at each step."""
    logger = Kept()
    trainer = pl.Trainer(
        accelerator="cpu", devices=1, logger=logger, log_every_n_steps=1, callbacks=callback, max_epochs=1,
        enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False,
        default_root_dir=tmp_path, **arguments,
    )  # fmt: skip
    loader = torch.utils.data.DataLoader(torch.tensor(gradients), batch_size=1)
    trainer.fit(model or Weight(), loader, ckpt_path=ckpt_path)
    return logger.rows, trainer


def test_percentiles_are_those_of_the_last_steps_before_clipping(tmp_path):
    callback = GradientNormPercentiles(percentiles=(0, 50, 100), window=3)
    rows, _ = rows_of([1.0, -5.0, 2.0, 4.0, 3.0], callback, tmp_path, gradient_clip_val=0.5)
    found = [[row[f"grad_norm/p{p}"] for p in (0, 50, 100)] for row in rows]
    assert found == [[1, 1, 1], [1, 3, 5], [1, 2, 5], [2, 4, 5], [2, 3, 4]]
    assert [row["grad_norm/nonfinite"] for row in rows] == [0] * 5


def test_what_is_not_finite_is_counted_and_left_out(tmp_path):
    callback = GradientNormPercentiles(percentiles=(100,), window=4)
    rows, _ = rows_of([math.inf, 2.0, math.nan, 1.0, 3.0], callback, tmp_path)
    assert math.isnan(rows[0]["grad_norm/p100"])
    assert [row["grad_norm/p100"] for row in rows[1:]] == [2, 2, 2, 3]
    assert [row["grad_norm/nonfinite"] for row in rows] == pytest.approx([1, 1 / 2, 2 / 3, 2 / 4, 1 / 4])


def test_each_optimizer_has_its_own(tmp_path):
    rows, _ = rows_of([1.0, 3.0], GradientNormPercentiles((50,)), tmp_path, TwoWeights())
    assert [(row["grad_norm/0/p50"], row["grad_norm/1/p50"]) for row in rows] == [(1, 2), (2, 4)]


def test_a_resumed_run_remembers_the_norms(tmp_path):
    class Save(pl.Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            if trainer.global_step == 2:
                trainer.save_checkpoint(tmp_path / "amid.ckpt")

    gradients = [1.0, 5.0, 2.0, 4.0]
    whole, _ = rows_of(gradients, [GradientNormPercentiles(window=3), Save()], tmp_path)
    resumed, _ = rows_of(gradients, GradientNormPercentiles(window=3), tmp_path, ckpt_path=tmp_path / "amid.ckpt")
    assert resumed == whole[1:]  # the checkpoint was saved before the second batch's values were logged


@pytest.mark.parametrize(
    "arguments",
    [{"percentiles": ()}, {"percentiles": (50, 101)}, {"percentiles": (-1,)}, {"window": 0}, {"window": 2.5}],
)
def test_what_is_out_of_range_is_refused(arguments):
    [name] = arguments
    with pytest.raises(MisconfigurationException, match=f"^{name}=.* must be"):
        GradientNormPercentiles(**arguments)


def test_divided_parameters_are_refused(tmp_path):
    model = Weight()
    model.weight.full_tensor = lambda: model.weight  # the parameters of strategies that divide them have this method
    with pytest.raises(MisconfigurationException, match="'single_device' divides"):
        rows_of([1.0], GradientNormPercentiles(), tmp_path, model)


def test_two_of_them_go_together(tmp_path):
    rows, trainer = rows_of([1.0], [GradientNormPercentiles((1,)), GradientNormPercentiles((2,))], tmp_path)
    assert {"grad_norm/p1", "grad_norm/p2"} <= rows[0].keys()
    assert len({callback.state_key for callback in trainer.callbacks}) == len(trainer.callbacks)
