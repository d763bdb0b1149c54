"""The quux accelerator is one, by the conformance kit; without a device what needs one is skipped, with the reason."""

import pytest
from leyden_testing import AcceleratorConformance


class TestQuux(AcceleratorConformance):
    @pytest.fixture
    def name(self):
        return "quux"

    @pytest.fixture
    def tolerance(self):
        """How far weights may be from the host's, ``(rtol, atol)``: devices add in another order."""
        return 1e-4, 1e-5
