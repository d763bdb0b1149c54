"""A model that Trainers train, and the loop that they stand for, written by hand."""

import torch
from torch import nn
from torch.optim import Adam

from leyden_testing.models import Given, LoggingModel, rows
from leyden_testing.training import quiet_trainer, same_weights, weights


class Model(LoggingModel):
    """Dropout and Adam, so that order and random numbers matter."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.3), nn.Linear(8, 2))

    def training_step(self, batch, batch_idx):
        return self.loss(batch)

    def configure_optimizers(self):
        return Adam(self.parameters(), lr=0.05)


def by_hand(model, batches, optimizer, epochs=1, every=1, clip=lambda parameters: None):
    """The loop that the Trainer stands for."""
    for _ in range(epochs):
        for i, batch in enumerate(batches):
            loss = model.loss(batch) / min(every, len(batches) - i + i % every)
            if i % every == 0:
                optimizer.zero_grad()
            loss.backward()
            if (i + 1) % every == 0 or i + 1 == len(batches):
                clip(model.parameters())
                optimizer.step()
    return weights(model)


def compare(tmp_path, model, expected_of, batches=5, wrap=Given, tolerance=0.0, **options):
    """Train ``model`` in a Trainer and ``expected_of`` a copy by hand from the same random state: bitwise equal."""
    given = list(rows(batches))
    twin = type(model)()
    twin.load_state_dict(model.state_dict())
    torch.manual_seed(1)
    expected = expected_of(twin, given)
    torch.manual_seed(1)
    trainer = quiet_trainer(tmp_path, **options)
    trainer.fit(model, wrap(*given))
    assert same_weights(weights(model), expected, tolerance)
    return trainer
