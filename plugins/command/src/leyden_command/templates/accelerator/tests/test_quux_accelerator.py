"""The conformance kit's checks of the quux accelerator; without a device the checks that need one are skipped."""

import pytest
from leyden_testing import AcceleratorConformance


class TestQuux(AcceleratorConformance):
    @pytest.fixture
    def name(self):
        return "quux"

    @pytest.fixture
    def tolerance(self):
        """How far weights may be from the CPU's, ``(rtol, atol)``, since devices add numbers in another order."""
        return 1e-4, 1e-5
