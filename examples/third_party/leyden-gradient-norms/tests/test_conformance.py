"""The conformance kit's checks of the callback."""

import pytest

from leyden_testing import CallbackConformance


class TestGradientNormPercentiles(CallbackConformance):
    @pytest.fixture
    def name(self):
        return "GradientNormPercentiles"
