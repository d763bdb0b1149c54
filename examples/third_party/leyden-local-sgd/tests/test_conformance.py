"""The conformance kit's checks of local SGD that averages after every step, which equals averaging gradients."""

import pytest

from leyden_testing import StrategyConformance


class TestLocalSGD(StrategyConformance):
    @pytest.fixture(params=["local_sgd", "local_sgd_spawn"])
    def name(self, request):
        return request.param

    @pytest.fixture
    def arguments(self):
        return {"average_every": 1}

    # Every process clips its own gradients, while one process clips their mean; the results differ.
    test_accumulation_and_clipping_are_those_of_one_process = None
