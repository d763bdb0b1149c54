"""Each stage is a strategy, by the conformance kit, but for what DeepSpeed's engine keeps to itself."""

import importlib.util
import warnings

import pytest

from leyden_testing import StrategyConformance

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::FutureWarning"),  # DeepSpeed calls what PyTorch has renamed
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]


class TestDeepSpeed(StrategyConformance):
    @pytest.fixture(params=["deepspeed_stage_1", "deepspeed_stage_2", "deepspeed_stage_3"])
    def name(self, request):
        return request.param

    @pytest.fixture
    def available(self, monkeypatch):
        """Forked processes would each import it."""
        if importlib.util.find_spec("deepspeed") is None:
            pytest.skip("deepspeed is not installed")
        monkeypatch.setenv("DS_ACCELERATOR", "cpu")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import deepspeed  # noqa: F401
