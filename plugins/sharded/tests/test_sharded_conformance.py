"""Each strategy is one, by the conformance kit; those with ``_spawn`` differ in how their processes start."""

import pytest

from leyden_sharded.consolidate import consolidate
from leyden_testing import StrategyConformance

pytestmark = pytest.mark.slow


class TestSharded(StrategyConformance):
    @pytest.fixture(params=["zero_1", "zero_2", "zero_3", "zero_3_offload", "fsdp", "fsdp_cpu_offload"])
    def name(self, request):
        return request.param


class TestModelParallel(StrategyConformance):
    """Two groups of one process each: the kit's model does not divide itself."""

    @pytest.fixture
    def name(self):
        return "model_parallel"

    @pytest.fixture
    def arguments(self):
        return {"data_parallel_size": 2, "tensor_parallel_size": 1}

    @pytest.fixture
    def one_file(self, tmp_path):
        def consolidated(path):
            consolidate(str(path), str(tmp_path / "whole.ckpt"))
            return tmp_path / "whole.ckpt"

        return consolidated
