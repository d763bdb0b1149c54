"""The CPU accelerator is one, by the conformance kit."""

import pytest

from leyden_testing import AcceleratorConformance


class TestCPU(AcceleratorConformance):
    @pytest.fixture
    def name(self):
        return "cpu"
