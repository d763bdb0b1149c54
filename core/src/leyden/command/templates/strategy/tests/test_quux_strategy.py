"""The quux strategy is one, by the conformance kit, and does what it is for."""

import pytest
import torch
from leyden_testing import StrategyConformance

from leyden_quux.strategy import QuuxStrategy


class TestQuux(StrategyConformance):
    @pytest.fixture
    def name(self):
        return "quux"

    @pytest.fixture
    def processes(self):
        """It is a strategy of one process."""
        return 1


def test_what_backward_needs_is_copied_to_the_host():
    class Model(torch.nn.Module):
        def training_step(self, x):
            return (x * x).sum()

    x = torch.ones(3, requires_grad=True)
    loss = QuuxStrategy().step_function(Model(), "training_step")(x)
    saved = loss.grad_fn.next_functions[0][0]._saved_self
    assert saved.device.type == "cpu"
    assert saved.data_ptr() != x.data_ptr()
    loss.backward()
    assert torch.equal(x.grad, 2 * torch.ones(3))
