"""The toy's accelerator is one, by the checks of Leyden's own kit."""

import pytest

from leyden_testing import AcceleratorConformance


class TestToyAccelerator(AcceleratorConformance):
    @pytest.fixture
    def name(self):
        return "toy"
