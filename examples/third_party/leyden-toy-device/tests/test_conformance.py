"""The conformance kit's checks of the toy's accelerator."""

import pytest

from leyden_testing import AcceleratorConformance


class TestToyAccelerator(AcceleratorConformance):
    @pytest.fixture
    def name(self):
        return "toy"
