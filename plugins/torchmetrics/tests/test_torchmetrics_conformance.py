"""The conformance kit's checks of the record, for a metric that accumulates numbers and one that collects a list."""

import pytest
import torchmetrics

from leyden_testing import RecordConformance


@pytest.mark.filterwarnings("ignore:Metric `SpearmanCorrcoef` will save all")
class TestMetric(RecordConformance):
    @pytest.fixture
    def name(self):
        return "torchmetrics.metric.Metric"

    @pytest.fixture(params=[torchmetrics.MeanSquaredError, torchmetrics.SpearmanCorrCoef])
    def make(self, request):
        return request.param

    @pytest.fixture
    def take(self):
        return lambda metric, batch: metric(batch[0][:, 0], batch[1][:, 0])

    @pytest.fixture
    def value(self):
        return lambda metric: metric.compute()
