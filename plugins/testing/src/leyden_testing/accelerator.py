"""Checks of an accelerator: its devices, its random state, and that it trains to the same weights as the CPU."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import leyden as pl
from leyden import Component
from leyden.accelerators import Accelerator
from leyden.plugins import discover
from leyden.utilities.batch import move_data_to_device
from leyden.utilities.exceptions import MisconfigurationException
from leyden_testing.component import TrainerPartConformance, check_sentence
from leyden_testing.training import Model, SaveAmid, reference_trainer, rows, same, weights

OPTIMIZERS = {
    "SGD with momentum": None,
    "AdamW": lambda parameters: torch.optim.AdamW(parameters, lr=0.01),
}
MODES = ("32-true", "16-mixed", "bf16-mixed", "16-true", "bf16-true", "64-true")
# How much weights in 16 bits may differ from those in 32 bits, after two epochs of the kit's model.
COARSE = (0.05, 0.05)


class AcceleratorConformance(TrainerPartConformance):
    """The checks of an accelerator; without a device, the checks that need one are skipped.

    If :meth:`Accelerator.supports_precision` returns False for a precision, the Trainer must refuse it.

    Example::

        class TestNPU(AcceleratorConformance):
            @pytest.fixture
            def name(self):
                return "npu"
    """

    kind = "accelerator"
    interface = Accelerator

    @pytest.fixture
    def tolerance(self) -> Any:
        """How far weights may be from the CPU's, ``(rtol, atol)``; by default they must be equal to the last bit."""
        return {}

    @pytest.fixture
    def available(self, component: Component) -> None:
        """Skips the check if this machine has no such device."""
        if not component.load().is_available():
            pytest.skip(f"there is no {component.name} device on this machine")

    @pytest.fixture
    def known(self, component: Component) -> None:
        """Skips the check if there is no device and PyTorch does not know the type, as without a vendor's package."""
        cls = component.load()
        try:
            torch.device(cls.device_type)
        except RuntimeError:
            if cls.is_available() is False:
                pytest.skip(f"PyTorch knows no device type {cls.device_type!r} on this machine")

    @pytest.fixture
    def device(self, part: Accelerator) -> torch.device:
        """The first device."""
        return part.get_parallel_devices(part.parse_devices(1))[0]

    def trained(self, root: Path, part: Accelerator | None, model: Model, **options: Any) -> dict[str, Tensor]:
        """Return the weights of a model after a fit on the device, or on the CPU if ``part`` is None."""
        trainer = self.trainer(root, part, **options) if part is not None else reference_trainer(root, **options)
        trainer.fit(model, rows(), rows(8))
        return weights(model)

    def warm_up(self, root: Path, part: Any) -> None:
        """Run once on the CPU, and use the device once."""
        super().warm_up(root, part)
        torch.ones(1, device=part.device_type).sum().item()

    # -- the class, without an instance ---------------------------------------------------------------------

    def test_it_says_what_device_it_is(self, component: Component, known: None) -> None:
        """PyTorch knows ``device_type``, ``name()`` is a text, and ``non_blocking_transfer`` is a bool."""
        cls = component.load()
        assert torch.device(cls.device_type).type == cls.device_type
        assert isinstance(cls.name(), str)
        assert cls.name()
        assert isinstance(cls.non_blocking_transfer, bool)

    def test_it_says_whether_it_is_available(self, component: Component) -> None:
        """``is_available`` returns True or False and raises nothing, with or without a device."""
        assert component.load().is_available() in (True, False)
        assert isinstance(component.load().is_available(), bool)

    def test_a_device_that_is_not_there_is_refused(self, component: Component, tmp_path: Path) -> None:
        """Without a device, its name, class and instance are refused with one sentence; ``auto`` chooses another."""
        if component.load().is_available():
            pytest.skip(f"there is a {component.name} device on this machine")
        for value in (component.name, component.load(), component.build()):
            with pytest.raises(MisconfigurationException) as raised:
                self.trainer(tmp_path, value)
            check_sentence(raised.value, component.load().name())
        others = [part for part in discover().components("accelerator") if part.load().is_available()]
        if others:
            assert type(reference_trainer(tmp_path, accelerator="auto").accelerator) in [part.load() for part in others]

    def test_devices_are_counted_and_chosen(self, component: Component, available: None) -> None:
        """``parse_devices`` understands "auto", 1 and "1", and every index gives a device of this type."""
        cls = component.load()
        count = cls.auto_device_count()
        assert count >= 1
        assert isinstance(cls.parse_devices("auto"), list)
        assert len(cls.parse_devices("auto")) == count
        for one in (1, "1", " 1 "):
            assert cls.parse_devices(one) == [0], f"devices={one!r} gives {cls.parse_devices(one)!r}"
        devices = cls.get_parallel_devices(cls.parse_devices("auto"))
        assert [device.type for device in devices] == [cls.device_type] * count

    @pytest.mark.parametrize(
        "devices", [0, -2, 10**7, "two", "", "1.5", [], [0, 0], [-1], [10**7], [True], 1.5, True, None], ids=repr
    )
    def test_wrong_devices_are_refused(self, devices: Any, component: Component, known: None) -> None:
        """A wrong number, list or text is refused with one sentence that contains it."""
        with pytest.raises(MisconfigurationException) as raised:
            component.load().parse_devices(devices)
        check_sentence(raised.value, repr(devices))

    def test_it_has_a_process_group_backend(self, component: Component, known: None) -> None:
        """It names a backend of ``torch.distributed``, or says in one sentence that it has none."""
        try:
            backend = component.load().process_group_backend()
        except MisconfigurationException as error:
            check_sentence(error, component.load().device_type)
            return
        assert isinstance(backend, str)
        assert backend

    # -- the device -----------------------------------------------------------------------------------------

    def test_it_can_be_set_up_and_torn_down_repeatedly(self, part: Accelerator, device: torch.device) -> None:
        """Set-up, synchronisation and teardown work, twice in a row; teardown may be called twice."""
        for _ in range(2):
            part.setup_device(device)
            part.set_options(deterministic=False, benchmark=None)
            assert torch.ones(3, device=device).sum().item() == 3
            assert part.synchronize(device) is None  # type: ignore[func-returns-value]
            assert part.teardown() is None  # type: ignore[func-returns-value]
            part.teardown()

    def test_its_statistics_are_numbers(self, part: Accelerator, device: torch.device) -> None:
        """The statistics are numbers by name; if a package is missing, one sentence says how to install it."""
        part.setup_device(device)
        try:
            stats = part.get_device_stats(device)
        except ModuleNotFoundError as error:
            check_sentence(error, "pip install")
            return
        assert isinstance(stats, dict)
        for name, value in stats.items():
            assert isinstance(name, str)
            assert isinstance(value, (int, float)), f"the statistic {name!r} is {value!r}, which is not a number"

    def test_its_random_state_can_be_restored(self, part: Accelerator, device: torch.device) -> None:
        """Random numbers repeat after the device's state, a byte tensor on the CPU, and PyTorch's are restored."""
        part.setup_device(device)
        torch.manual_seed(1)
        torch.rand(2, device=device)
        state, host = part.get_rng_state(device), torch.get_rng_state()
        if state is not None:
            assert state.device.type == "cpu", f"the random state is on {state.device}, not on the CPU"
            assert state.dtype == torch.uint8, f"the random state is of {state.dtype}, not bytes"
            state = state.clone()
        first = torch.rand(8, device=device).cpu()
        assert len(set(first.tolist())) > 1
        torch.set_rng_state(host)
        if state is not None:
            part.set_rng_state(state, device)
        assert torch.equal(torch.rand(8, device=device).cpu(), first)

    def test_a_seed_decides_what_it_draws(self, part: Accelerator, device: torch.device) -> None:
        """``torch.manual_seed`` seeds the device too."""
        part.setup_device(device)
        drawn = []
        for seed in (3, 3, 4):
            torch.manual_seed(seed)
            drawn.append(torch.rand(8, device=device).cpu())
        assert torch.equal(drawn[0], drawn[1])
        assert not torch.equal(drawn[0], drawn[2])

    def test_batches_arrive_whole(self, part: Accelerator, device: torch.device) -> None:
        """Tensors in nested collections arrive on the device with their values; other values are unchanged."""
        part.setup_device(device)
        numbers = torch.arange(100_000)
        batch = {"x": numbers, "more": [numbers.float(), ("name", 3)], "none": None}
        moved = move_data_to_device(batch, device, part.non_blocking_transfer)
        assert moved["x"].device.type == moved["more"][0].device.type == part.device_type
        doubled = moved["more"][0] * 2
        assert moved["more"][1] == ("name", 3)
        assert moved["none"] is None
        assert torch.equal(moved["x"].cpu(), numbers)
        assert torch.equal(doubled.cpu(), numbers.float() * 2)

    # -- training -------------------------------------------------------------------------------------------

    @pytest.mark.parametrize("optimizer", OPTIMIZERS)
    def test_it_trains_to_the_weights_of_the_host(
        self, optimizer: str, part: Accelerator, tolerance: Any, tmp_path: Path
    ) -> None:
        """Two epochs give the CPU's weights, within the tolerance, and every batch was on the device."""
        make = OPTIMIZERS[optimizer]
        model = Model(make)
        found = self.trained(tmp_path, part, model)
        assert model.devices_seen == {part.device_type}
        assert same(found, self.trained(tmp_path, None, Model(make)), tolerance)

    @pytest.mark.parametrize("algorithm", ["norm", "value"])
    def test_clipping_and_accumulation_are_those_of_the_host(
        self, algorithm: str, part: Accelerator, tolerance: Any, tmp_path: Path
    ) -> None:
        """Gradients are accumulated over two batches and clipped as on the CPU."""
        options = {
            "accumulate_grad_batches": 2, "gradient_clip_val": 0.05, "gradient_clip_algorithm": algorithm,
        }  # fmt: skip
        found = self.trained(tmp_path, part, Model(), **options)
        assert same(found, self.trained(tmp_path, None, Model(), **options), tolerance)

    def test_several_loaders_train_as_on_the_host(self, part: Accelerator, tolerance: Any, tmp_path: Path) -> None:
        """Training with a dict of two loaders, and validation with a list of two, give the CPU's results."""
        found, logged = [], []
        for trainer in (self.trainer(tmp_path, part), reference_trainer(tmp_path)):
            model = Model()
            trainer.fit(model, {"a": rows(16), "b": rows(24)}, [rows(8), rows(12)])
            found.append(weights(model))
            logged.append({name: torch.as_tensor(float(v)) for name, v in trainer.callback_metrics.items()})
        assert same(found[0], found[1], tolerance)
        assert {"val_loss/dataloader_idx_0", "val_loss/dataloader_idx_1"} <= logged[0].keys()
        assert same(logged[0], logged[1], tolerance)

    def test_it_validates_tests_and_predicts_as_the_host(
        self, part: Accelerator, tolerance: Any, tmp_path: Path
    ) -> None:
        """Logged values and predictions are the CPU's, within the tolerance, and predictions are on the CPU."""
        results = []
        for trainer in (self.trainer(tmp_path, part), reference_trainer(tmp_path)):
            model = Model()
            logged = [
                *trainer.validate(model, rows(12), verbose=False),
                *trainer.test(model, rows(12), verbose=False),
            ]
            predicted = trainer.predict(model, rows(12)) or []
            assert len(predicted) == 3
            assert {tensor.device.type for tensor in predicted} == {"cpu"}
            numbers = {name: torch.tensor(value) for metrics in logged for name, value in metrics.items()}
            results.append({**numbers, "predicted": torch.cat(predicted)})
        assert results[0].keys() == {"val_loss", "test_loss", "predicted"}
        assert same(results[0], results[1], tolerance)

    @pytest.mark.parametrize("precision", MODES)
    def test_a_precision_is_computed_or_refused(self, precision: str, part: Accelerator, tmp_path: Path) -> None:
        """A supported precision trains to weights close to the CPU's; the Trainer refuses any other."""
        if precision not in discover().names("precision"):
            pytest.skip(f"no installed plugin has the precision {precision!r}")
        if not part.supports_precision(precision):
            with pytest.raises(MisconfigurationException) as raised:
                self.trainer(tmp_path, part, precision=precision)
            check_sentence(raised.value, repr(precision), part.name())
            return
        found = self.trained(tmp_path, part, Model(), precision=precision)
        assert all(math.isfinite(value) for tensor in found.values() for value in tensor.double().flatten().tolist())
        expected = torch.float64 if precision == "64-true" else torch.float32
        if not precision.startswith(("16-true", "bf16-true")):
            assert {tensor.dtype for tensor in found.values()} == {expected}
        assert same(found, self.trained(tmp_path, None, Model()), COARSE)

    def test_deterministic_runs_are_the_same_to_the_last_bit(
        self, part: Accelerator, tmp_path: Path, settings_restored: None
    ) -> None:
        """With ``deterministic=True`` two runs with the same seed and dropout have the same weights."""
        found = []
        for _ in range(2):
            pl.seed_everything(5, verbose=False)
            found.append(self.trained(tmp_path, part, Model(dropout=0.5), deterministic=True))
        assert same(found[0], found[1])

    # -- checkpoints ----------------------------------------------------------------------------------------

    def test_a_resumed_run_is_the_uninterrupted_one(self, part: Accelerator, tmp_path: Path) -> None:
        """A run resumed in the middle of an epoch ends with the same bits as the uninterrupted one, with dropout."""
        saved, whole, resumed = SaveAmid(tmp_path / "amid.ckpt"), Model(dropout=0.5), Model(dropout=0.5)
        pl.seed_everything(7, verbose=False)
        self.trainer(tmp_path, part, callbacks=[saved]).fit(whole, rows(), rows(8))
        pl.seed_everything(8, verbose=False)
        self.trainer(tmp_path, part).fit(resumed, rows(), rows(8), ckpt_path=saved.path)
        assert same(weights(resumed), weights(whole))

    def test_its_checkpoint_resumes_on_the_cpu(self, part: Accelerator, tolerance: Any, tmp_path: Path) -> None:
        """A checkpoint has the device's weights, loads as plain data on the CPU, and training continues there."""
        saved, model = SaveAmid(tmp_path / "amid.ckpt"), Model()
        self.trainer(tmp_path, part, callbacks=[saved]).fit(model, rows(), rows(8))
        kept = torch.load(saved.path, map_location="cpu", weights_only=True)["state_dict"]
        assert same(kept, saved.weights)
        loaded = Model()
        loaded.load_state_dict(kept)
        assert {parameter.device.type for parameter in loaded.parameters()} == {"cpu"}
        assert same(weights(loaded), saved.weights)
        reference_trainer(tmp_path).fit(loaded, rows(), rows(8), ckpt_path=saved.path)
        assert same(weights(loaded), weights(model), tolerance)

    def test_a_checkpoint_of_the_cpu_resumes_on_it(self, part: Accelerator, tolerance: Any, tmp_path: Path) -> None:
        """A run that began on the CPU is finished on the device."""
        saved, whole, model = SaveAmid(tmp_path / "amid.ckpt"), Model(), Model()
        reference_trainer(tmp_path, callbacks=[saved]).fit(whole, rows(), rows(8))
        self.trainer(tmp_path, part).fit(model, rows(), rows(8), ckpt_path=saved.path)
        assert same(weights(model), weights(whole), tolerance)

    def test_the_model_comes_back_to_the_host(self, part: Accelerator, tmp_path: Path) -> None:
        """After a run the weights are on the CPU, where users expect them."""
        model = Model()
        self.trained(tmp_path, part, model)
        assert {parameter.device.type for parameter in model.parameters()} == {"cpu"}
        assert isinstance(model(torch.ones(1, 4)), Tensor)

    def test_a_module_is_built_on_it(self, part: Accelerator, tmp_path: Path) -> None:
        """``Trainer.init_module`` builds a module on the device."""
        with self.trainer(tmp_path, part).init_module():
            layer = nn.Linear(2, 2)
        assert layer.weight.device.type == part.device_type
