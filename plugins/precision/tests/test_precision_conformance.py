"""The conformance kit's checks of each precision."""

import pytest

from leyden_testing import PrecisionConformance


class TestSixteenBits(PrecisionConformance):
    @pytest.fixture(params=["16-mixed", "bf16-mixed", "16-true", "bf16-true"])
    def name(self, request):
        return request.param


class TestDouble(PrecisionConformance):
    @pytest.fixture
    def name(self):
        return "64-true"

    @pytest.fixture
    def tolerance(self):
        return 1e-4, 1e-5
