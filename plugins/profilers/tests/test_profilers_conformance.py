"""The profilers are ones, by the conformance kit."""

import pytest

from leyden_testing import ProfilerConformance


class TestSimple(ProfilerConformance):
    @pytest.fixture
    def name(self):
        return "simple"
