"""The CUDA accelerator is one, by the conformance kit; what needs a device is skipped where there is none."""

import pytest

from leyden_testing import AcceleratorConformance


class TestCUDA(AcceleratorConformance):
    @pytest.fixture
    def name(self):
        return "cuda"

    @pytest.fixture
    def tolerance(self):
        return 1e-4, 1e-5
