"""The conformance kit's checks of the profilers."""

import pytest

from leyden_testing import ProfilerConformance


class TestSimple(ProfilerConformance):
    @pytest.fixture
    def name(self):
        return "simple"
