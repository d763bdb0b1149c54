"""Checkpoints: saved as data, put back into what they were saved from, and a loop that goes on as if never stopped."""

import warnings
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from leyden.fabric import Fabric
from leyden.plugins import TorchCheckpointIO
from leyden.utilities.exceptions import MisconfigurationException
from leyden_testing.training import same_weights, weights

from .fabric_loop import network, rows


def ready(fabric):
    module = network()
    model, optimizer = fabric.setup(module, torch.optim.Adam(module.parameters(), lr=0.05))
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 2)
    loader = fabric.setup_dataloaders(DataLoader(rows(), 8 // fabric.world_size, shuffle=fabric.world_size > 1))
    return {"model": model, "optimizer": optimizer, "scheduler": scheduler, "loader": loader, "epoch": 0}


def run(fabric, state, epochs):
    for _ in range(epochs):
        for x, y, _ in state["loader"]:
            state["optimizer"].zero_grad()
            fabric.backward(nn.functional.mse_loss(state["model"](x), y))
            state["optimizer"].step()
        state["scheduler"].step()
        state["epoch"] += 1
    return weights(state["model"])


def interrupted(fabric, path, then):
    """Run two of four epochs and save, or go on from there, or run all four."""
    state = ready(fabric)
    if then == "whole":
        return run(fabric, state, 4)
    if then == "first":
        run(fabric, state, 2)
        fabric.save(path, state)
        return None
    torch.manual_seed(99)
    nn.init.zeros_(state["model"].module[0].weight)
    assert fabric.load(path, state) == {}
    assert state["epoch"] == 2
    return run(fabric, state, 2)


@pytest.mark.parametrize("devices", [1, 2])
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_a_loop_goes_on_as_if_it_had_not_stopped(tmp_path, devices, precision):
    def fabric():
        return Fabric(accelerator="cpu", devices=devices, strategy="ddp_fork", precision=precision)

    path = tmp_path / "state.ckpt"
    whole = fabric().launch(interrupted, path, "whole")
    fabric().launch(interrupted, path, "first")
    assert same_weights(fabric().launch(interrupted, path, "rest"), whole)


def test_a_checkpoint_of_two_processes_is_one_of_plain_pytorch(tmp_path):
    path = tmp_path / "state.ckpt"
    Fabric(accelerator="cpu", devices=2, strategy="ddp_fork").launch(interrupted, path, "first")
    saved = torch.load(path, weights_only=True)
    plain = network()
    plain.load_state_dict(saved["model"])
    optimizer = torch.optim.Adam(plain.parameters())
    optimizer.load_state_dict(saved["optimizer"])
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.005)
    assert (saved["epoch"], saved["loader"]) == (2, {"epoch": 2})


def test_lightnings_and_ours_load_each_others(tmp_path):
    from lightning_fabric import Fabric as Theirs

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = Theirs(accelerator="cpu")
        module = network()
        model, optimizer = theirs.setup(module, torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9))
        theirs.backward(model(torch.ones(2, 4)).mean())
        optimizer.step()
        theirs.save(tmp_path / "theirs.ckpt", {"model": model, "optimizer": optimizer, "step": 3})
        ours = Fabric(accelerator="cpu")
        twin = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2))
        our_model, our_optimizer = ours.setup(twin, torch.optim.SGD(twin.parameters(), lr=1.0))
        state = {"model": our_model, "optimizer": our_optimizer, "step": 0}
        ours.load(tmp_path / "theirs.ckpt", state)
        assert same_weights(weights(twin), weights(module))
        assert (state["step"], state["optimizer"].param_groups[0]["momentum"]) == (3, 0.9)
        ours.save(tmp_path / "ours.ckpt", state)
        nn.init.zeros_(module[0].weight)
        theirs.load(tmp_path / "ours.ckpt", {"model": model, "optimizer": optimizer})
        assert same_weights(weights(module), weights(twin))


class TestSave:
    def test_values_are_stored_as_data(self, tmp_path):
        fabric, path = Fabric(accelerator="cpu"), tmp_path / "deep" / "state.ckpt"
        fabric.save(path, {"where": Path("a/b"), "numbers": (1, 2.5), "nested": {"tensor": torch.ones(2)}})
        loaded = fabric.load(path)
        assert (loaded["where"], loaded["numbers"]) == (Path("a/b"), (1, 2.5))
        assert torch.load(path, weights_only=True)["where"] == "a/b"
        assert torch.equal(loaded["nested"]["tensor"], torch.ones(2))

    def test_what_is_no_data_and_can_not_be_pickled_is_left_out_and_named(self, tmp_path):
        fabric = Fabric(accelerator="cpu")
        with pytest.warns(UserWarning, match="left out of the checkpoint: hparams.activation"):
            fabric.save(tmp_path / "state.ckpt", {"hparams": {"activation": lambda x: x, "width": 3}})
        assert fabric.load(tmp_path / "state.ckpt") == {"hparams": {"width": 3}}

    def test_a_filter_keeps_part_of_a_state(self, tmp_path):
        fabric, module = Fabric(accelerator="cpu"), network()
        fabric.save(
            tmp_path / "state.ckpt", {"model": module, "step": 1}, filter={"model": lambda key, value: "bias" in key}
        )
        assert fabric.load(tmp_path / "state.ckpt").keys() == {"model", "step"}
        assert list(fabric.load(tmp_path / "state.ckpt")["model"]) == ["0.bias", "2.bias"]

    @pytest.mark.parametrize("filters", [{"other": bool}, {"model": 3}])
    def test_a_filter_that_does_not_fit_is_refused(self, tmp_path, filters):
        with pytest.raises(MisconfigurationException, match="write functions"):
            Fabric(accelerator="cpu").save(tmp_path / "state.ckpt", {"model": network()}, filter=filters)

    def test_the_users_checkpoint_io_writes_and_reads(self, tmp_path):
        class Marking(TorchCheckpointIO):
            def save_checkpoint(self, checkpoint, path, storage_options=None):
                super().save_checkpoint({**checkpoint, "by": "me"}, path, storage_options)

        fabric = Fabric(accelerator="cpu", plugins=[Marking()])
        fabric.save(tmp_path / "state.ckpt", {"step": 1})
        assert fabric.load(tmp_path / "state.ckpt") == {"step": 1, "by": "me"}


class TestLoad:
    def saved(self, tmp_path):
        fabric = Fabric(accelerator="cpu")
        fabric.save(tmp_path / "state.ckpt", {"model": network(), "step": 7})
        return fabric, tmp_path / "state.ckpt"

    def test_it_returns_what_nobody_asked_for(self, tmp_path):
        fabric, path = self.saved(tmp_path)
        assert fabric.load(path, {"model": fabric.setup(network())}) == {"step": 7}

    def test_something_missing_is_an_error_unless_it_may_be(self, tmp_path):
        fabric, path = self.saved(tmp_path)
        with pytest.raises(KeyError, match="has no 'epoch'; it has model, step"):
            fabric.load(path, {"epoch": 0})
        state = {"epoch": 0, "step": 0}
        fabric.load(path, state, strict=False)
        assert state == {"epoch": 0, "step": 7}

    def test_keys_of_a_module_must_fit_unless_they_may_not(self, tmp_path):
        fabric, path = self.saved(tmp_path)
        model = fabric.setup(nn.Sequential(nn.Linear(4, 8)))
        with pytest.raises(RuntimeError, match="Unexpected key"):
            fabric.load(path, {"model": model})
        fabric.load(path, {"model": model}, strict=False)
        assert torch.equal(model.module[0].weight, network()[0].weight)

    def test_objects_are_loaded_only_on_request(self, tmp_path):
        torch.save({"layer": nn.Linear(1, 1)}, tmp_path / "objects.ckpt")
        fabric = Fabric(accelerator="cpu")
        with pytest.raises(RuntimeError, match="weights_only=False"):
            fabric.load(tmp_path / "objects.ckpt")
        assert isinstance(fabric.load(tmp_path / "objects.ckpt", weights_only=False)["layer"], nn.Linear)

    def test_there_is_none(self, tmp_path):
        with pytest.raises(FileNotFoundError, match="no checkpoint"):
            Fabric(accelerator="cpu").load(tmp_path / "none.ckpt")


class TestRaw:
    def test_a_state_saved_by_pytorch_is_loaded(self, tmp_path):
        fabric, module = Fabric(accelerator="cpu"), network()
        torch.save(module.state_dict(), tmp_path / "model.pt")
        torch.save(torch.optim.SGD(module.parameters(), lr=0.7).state_dict(), tmp_path / "optimizer.pt")
        twin = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2))
        model, optimizer = fabric.setup(twin, torch.optim.SGD(twin.parameters(), lr=0.1))
        fabric.load_raw(tmp_path / "model.pt", model)
        fabric.load_raw(tmp_path / "optimizer.pt", optimizer)
        assert same_weights(weights(twin), weights(module))
        assert optimizer.param_groups[0]["lr"] == 0.7

    def test_into_something_without_a_state_it_is_not(self, tmp_path):
        torch.save({}, tmp_path / "model.pt")
        with pytest.raises(TypeError, match="given a int"):
            Fabric(accelerator="cpu").load_raw(tmp_path / "model.pt", 3)
