"""The conformance kit's checks of the CSV logger."""

import csv
from pathlib import Path

import pytest
import yaml

from leyden_testing import LoggerConformance


def read_metrics(logger):
    """Return each metric's (step, value) pairs from the rows of metrics.csv."""
    path = Path(logger.log_dir, "metrics.csv")
    found = {}
    for row in csv.DictReader(path.read_text().splitlines()) if path.exists() else ():
        step = int(row.pop("step"))
        for name, value in row.items():
            if value:
                found.setdefault(name, []).append((step, float(value)))
    return found


class TestCSV(LoggerConformance):
    @pytest.fixture
    def name(self):
        return "csv"

    @pytest.fixture
    def read(self):
        return read_metrics

    @pytest.fixture
    def read_hyperparams(self):
        return lambda logger: yaml.safe_load(Path(logger.log_dir, "hparams.yaml").read_text())
