"""The conformance kit's checks of each callback.

``BasePredictionWriter`` is left out: it is a base class and can't run without the methods of a subclass.
"""

import pytest

from leyden_testing import CallbackConformance

ARGUMENTS = {
    "Checkpoint": {},
    "EarlyStopping": {"monitor": "val_loss"},
    "LambdaCallback": {},
    "LearningRateMonitor": {},
    "ModelCheckpoint": {"monitor": "val_loss", "save_last": True},
    "Timer": {"duration": {"hours": 1}},
}


class TestCallbacks(CallbackConformance):
    @pytest.fixture(params=ARGUMENTS)
    def name(self, request):
        return request.param

    @pytest.fixture
    def arguments(self, name):
        return ARGUMENTS[name]

    @pytest.fixture
    def trainer_options(self, name):
        return {"logger": "dummy"} if name == "LearningRateMonitor" else {}
