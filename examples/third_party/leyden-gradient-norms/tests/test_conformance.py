"""The callback is one, by the checks of Leyden's own kit."""

import pytest

from leyden_testing import CallbackConformance


class TestGradientNormPercentiles(CallbackConformance):
    @pytest.fixture
    def name(self):
        return "GradientNormPercentiles"
