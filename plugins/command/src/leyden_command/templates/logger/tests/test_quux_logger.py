"""The conformance kit's checks of the quux logger; they read back what it wrote."""

import json
from pathlib import Path

import pytest
import yaml
from leyden_testing import LoggerConformance


def read_metrics(logger):
    """Return each metric's (step, value) pairs from the file."""
    found = {}
    for line in logger.path.read_text().splitlines() if logger.path.exists() else ():
        row = json.loads(line)
        step = row.pop("step")
        for name, value in row.items():
            found.setdefault(name, []).append((step, value))
    return found


class TestQuux(LoggerConformance):
    @pytest.fixture
    def name(self):
        return "quux"

    @pytest.fixture
    def read(self):
        return read_metrics

    @pytest.fixture
    def read_hyperparams(self):
        return lambda logger: yaml.safe_load(Path(logger.log_dir, "hparams.yaml").read_text())
