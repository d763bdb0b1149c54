"""The conformance kit's checks of the quux precision, and a test that it computes in bfloat16."""

import pytest
import torch
from leyden_testing import PrecisionConformance

from leyden_quux.precision import QuuxPrecision


class TestQuux(PrecisionConformance):
    @pytest.fixture
    def name(self):
        return "quux"


def test_it_computes_in_bfloat16_with_weights_in_32_bits():
    layer = torch.nn.Linear(2, 2)
    with QuuxPrecision().forward_context():
        assert layer(torch.ones(1, 2)).dtype == torch.bfloat16
    assert layer.weight.dtype == torch.float32
