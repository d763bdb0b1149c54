"""The conformance kit's checks of the TensorBoard logger."""

from pathlib import Path

import pytest
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from leyden_testing import LoggerConformance


def read_scalars(logger):
    """Return each tag's (step, value) pairs from the event files."""
    if not Path(logger.log_dir).exists():
        return {}
    events = EventAccumulator(logger.log_dir, size_guidance={"scalars": 0}).Reload()
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


class TestTensorBoard(LoggerConformance):
    @pytest.fixture
    def name(self):
        return "tensorboard"

    @pytest.fixture
    def read(self):
        return read_scalars

    @pytest.fixture
    def read_hyperparams(self):
        return lambda logger: yaml.safe_load(Path(logger.log_dir, "hparams.yaml").read_text())
