"""The conformance kit's checks of the CPU accelerator."""

import pytest

from leyden_testing import AcceleratorConformance


class TestCPU(AcceleratorConformance):
    @pytest.fixture
    def name(self):
        return "cpu"
