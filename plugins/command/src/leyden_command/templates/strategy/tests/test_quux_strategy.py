"""The conformance kit's checks of the quux strategy, and a test that it saves activations in the host's memory."""

import pytest
import torch
from leyden_testing import StrategyConformance

from leyden_quux import strategy


class TestQuux(StrategyConformance):
    @pytest.fixture
    def name(self):
        return "quux"

    @pytest.fixture
    def processes(self):
        """The number of processes that the strategy can have."""
        return 1


class Model(torch.nn.Module):
    """A module whose steps square a tensor."""

    def training_step(self, x):
        return (x * x).sum()

    validation_step = training_step


def test_training_saves_on_the_host_and_its_gradients_are_right(monkeypatch):
    blocks = []

    def saving(pin_memory):
        blocks.append(pin_memory)
        return torch.autograd.graph.save_on_cpu(pin_memory=False)

    monkeypatch.setattr(strategy, "save_on_cpu", saving)
    quux, x = strategy.QuuxStrategy(pin_memory=True), torch.ones(3, requires_grad=True)
    quux.step_function(Model(), "validation_step")(x)
    assert blocks == []
    quux.step_function(Model(), "training_step")(x).backward()
    assert blocks == [True]
    assert torch.equal(x.grad, torch.full((3,), 2.0))
