"""The conformance kit's checks of the CUDA accelerator; without a GPU the checks that need one are skipped."""

import pytest

from leyden_testing import AcceleratorConformance


class TestCUDA(AcceleratorConformance):
    @pytest.fixture
    def name(self):
        return "cuda"

    @pytest.fixture
    def tolerance(self):
        return 1e-4, 1e-5
