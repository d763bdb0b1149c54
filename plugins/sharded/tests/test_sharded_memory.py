"""What each rank keeps of parameters, gradients and optimizer state: the fractions that the ZeRO paper predicts.

Rajbhandari et al., 2020, arXiv:1910.02054, §5; here in float32 with Adam: Ψ parameters are 4Ψ bytes, their gradients
4Ψ, and the optimizer's two moments 8Ψ.
"""

import pytest
import torch
from torch import nn
from torch.distributed.tensor import DTensor

import leyden as pl
from leyden_testing.ranks import on_ranks
from leyden_testing.training import loader

from .sharded_model import Model, quiet

SIDE, LAYERS = 64, 8
SIZE = SIDE * SIDE * LAYERS  # Ψ


class Even(Model):
    """Layers of one size, so that whole ones can be dealt out evenly too."""

    def __init__(self):
        super().__init__(torch.optim.Adam)
        del self.scale
        self.layers = nn.Sequential(*(nn.Linear(SIDE, SIDE, bias=False) for _ in range(LAYERS)))

    def forward(self, x):
        return self.layers(x.repeat(1, SIDE // 4))[:, :2]

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        self.within_step = kept(self.parameters())
        return loss


def kept(tensors):
    """Bytes in this process; the counts of steps, a number for each parameter, are left out."""
    local = [tensor.to_local() if isinstance(tensor, DTensor) else tensor for tensor in tensors if tensor is not None]
    return sum(tensor.numel() * tensor.element_size() for tensor in local if tensor.ndim)


class Measure(pl.Callback):
    """Counts when all gradients are there, and after the step."""

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        self.parameters = kept(pl_module.parameters())
        self.gradients = kept(parameter.grad for parameter in pl_module.parameters())

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        optimizer = getattr(trainer.optimizers[0], "optim", trainer.optimizers[0])
        self.optimizer = kept(value for values in optimizer.state.values() for value in values.values())


def measure(root, strategy, world):
    callback, model = Measure(), Even()
    quiet(root, strategy, world, max_steps=1, callbacks=[callback]).fit(model, loader(2 * world), loader(2 * world))
    return callback.parameters, callback.gradients, callback.optimizer, model.within_step


# parts of 4Ψ bytes on each of n ranks: parameters, gradients, optimizer state, and parameters within the step
PREDICTED = {
    "ddp": lambda n: (1, 1, 2, 1),
    "zero_1": lambda n: (1, 1, 2 / n, 1),
    "zero_2": lambda n: (1 / n, 1 / n, 2 / n, 1),
    "zero_3 by layer": lambda n: (1 / n, 1 / n, 2 / n, 1 / n),
}


@pytest.mark.parametrize("world", [1, 2, pytest.param(4, marks=pytest.mark.slow)])
@pytest.mark.parametrize("strategy", PREDICTED)
def test_each_rank_keeps_what_the_paper_predicts(tmp_path, strategy, world):
    predicted = tuple(part * 4 * SIZE for part in PREDICTED[strategy](world))
    measured = on_ranks(world, measure, tmp_path, strategy, world)
    assert measured == [predicted] * world
