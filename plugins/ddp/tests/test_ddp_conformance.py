"""Each strategy is one, by the conformance kit; those of one kind differ in how their processes start."""

import pytest

from leyden_testing import StrategyConformance


class TestDDP(StrategyConformance):
    @pytest.fixture(params=["ddp", "ddp_find_unused_parameters_true", "ddp_fork"])
    def name(self, request):
        return request.param
