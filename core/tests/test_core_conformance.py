"""What the core brings conforms to its own interfaces, by the conformance kit."""

import pytest

from leyden_testing import CheckpointIOConformance, LoggerConformance, PrecisionConformance, StrategyConformance


class TestThirtyTwoBits(PrecisionConformance):
    @pytest.fixture
    def name(self):
        return "32-true"

    @pytest.fixture
    def tolerance(self):
        return {}


class TestDummyLogger(LoggerConformance):
    @pytest.fixture
    def name(self):
        return "dummy"


class TestTorchCheckpointIO(CheckpointIOConformance):
    @pytest.fixture
    def name(self):
        return "torch"


class TestSingleDevice(StrategyConformance):
    @pytest.fixture
    def name(self):
        return "single_device"

    @pytest.fixture
    def processes(self):
        return 1
