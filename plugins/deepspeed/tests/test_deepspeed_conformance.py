"""Each stage is a strategy, by the conformance kit, but for what DeepSpeed's engine keeps to itself."""

import importlib.util
import warnings

import pytest
import torch
from torch.multiprocessing import ProcessRaisedException

from leyden_deepspeed.consolidate import consolidate
from leyden_testing import StrategyConformance, scenarios
from leyden_testing.training import Model, SaveAfterEpoch, same, weights

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
    def one_file(self, tmp_path):
        def consolidated(path):
            consolidate(str(path), str(tmp_path / "whole.ckpt"))
            return tmp_path / "whole.ckpt"

        return consolidated

    @pytest.fixture
    def available(self, monkeypatch):
        """Forked processes would each import it."""
        if importlib.util.find_spec("deepspeed") is None:
            pytest.skip("deepspeed is not installed")
        monkeypatch.setenv("DS_ACCELERATOR", "cpu")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import deepspeed  # noqa: F401
            import setuptools  # noqa: F401 - which DeepSpeed imports at its first use, and which adds to sys.path

    def test_its_checkpoint_goes_on_alone(self, run, one_file):
        """The engine keeps the optimizer's state to itself, so that one process takes over the weights alone."""
        root, reports = run(scenarios.train)
        path = one_file(root / "epoch.ckpt")
        kept = torch.load(path, map_location="cpu", weights_only=True)["state_dict"]
        assert same(kept, reports[0]["saved"])
        assert same(weights(Model.load_from_checkpoint(path)), reports[0]["saved"])

    def test_a_checkpoint_of_one_process_goes_on_under_it(self, run, tmp_path, processes):
        """For the same reason it does not; the sentence says what to do instead."""
        saved = SaveAfterEpoch(tmp_path / "alone.ckpt")
        self.alone(tmp_path, processes, callbacks=[saved])
        with pytest.raises(ProcessRaisedException, match="load the weights with load_from_checkpoint"):
            run(scenarios.resume, [saved.path])
