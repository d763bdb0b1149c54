"""Checks of a precision: casting, scaling and clipping, and that it trains to weights close to those of 32 bits."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import leyden as pl
from leyden.plugins import Precision, discover
from leyden.utilities.exceptions import MisconfigurationException
from leyden.utilities.plain import to_plain
from leyden_testing.component import TrainerPartConformance, check_sentence
from leyden_testing.training import FEATURES, Host, Model, SaveAmid, reference_trainer, rows, same, weights

COARSE = (0.05, 0.05)  # how much weights in 16 bits may differ after two epochs of the kit's model


class Refusing(Host):
    """A device that supports only 32 bits."""

    def supports_precision(self, precision: str) -> bool:
        """Whether ``precision`` is 32 bits."""
        return precision == "32-true"


class Stepping(torch.optim.SGD):
    """An optimizer that keeps the arguments of its last step."""

    def step(self, closure: Any = None, **arguments: Any) -> Any:
        """Step, and keep the arguments other than the closure."""
        self.arguments = arguments
        loss = super().step(closure)
        return "stepped" if closure is None else loss


class PrecisionConformance(TrainerPartConformance):
    """The checks of a precision, on the CPU.

    Example::

        class TestBFloat16(PrecisionConformance):
            @pytest.fixture
            def name(self):
                return "bf16-true"
    """

    kind = "precision"
    interface = Precision

    @pytest.fixture
    def tolerance(self) -> Any:
        """How far weights may be from those of 32 bits, ``(rtol, atol)``; the default suits 16 bits."""
        return COARSE

    @pytest.fixture
    def ready(self, part: Any) -> Any:
        """The part after its set-up for the CPU."""
        part.setup(Host())
        return part

    def part_of(self, trainer: pl.Trainer) -> Any:
        """Return the Trainer's precision."""
        return trainer.precision_plugin

    def test_it_says_its_name(self, part: Any, name: str) -> None:
        """``precision`` is the component's name, which ``Accelerator.supports_precision`` gets."""
        assert part.precision == name

    def test_a_device_may_refuse_it(self, part: Any, name: str, tmp_path: Path) -> None:
        """If the device does not support it, the Trainer refuses it with its name."""
        if name == "32-true":
            pytest.skip("every device supports 32 bits")
        with pytest.raises(MisconfigurationException) as raised:
            self.trainer(tmp_path, part, accelerator=Refusing())
        check_sentence(raised.value, repr(name))

    # -- casting --------------------------------------------------------------------------------------------

    def test_modules_are_cast_in_place_and_once(self, ready: Any) -> None:
        """Casting returns the same module, does not change integers, and changes nothing the second time."""
        module = nn.Sequential(nn.Linear(FEATURES, 2), nn.BatchNorm1d(2))
        count = module[1].num_batches_tracked.dtype
        assert ready.convert_module(module) is module
        assert module[1].num_batches_tracked.dtype == count
        once = {name: (value.dtype, value.clone()) for name, value in module.state_dict().items()}
        assert ready.convert_module(module) is module
        for name, value in module.state_dict().items():
            assert (value.dtype, torch.equal(value, once[name][1])) == (once[name][0], True), name

    def test_modules_built_in_it_are_those_cast_to_it(self, ready: Any) -> None:
        """A module that is built within ``module_init_context`` has the same dtype as a cast module."""
        cast = ready.convert_module(nn.Linear(2, 2))
        with ready.module_init_context():
            built = nn.Linear(2, 2)
        assert built.weight.dtype == cast.weight.dtype
        assert ready.convert_module(built).weight.dtype == cast.weight.dtype

    def test_batches_fit_the_module(self, ready: Any) -> None:
        """A cast batch keeps its integers and structure, and the cast module accepts it."""
        module = ready.convert_module(nn.Linear(FEATURES, 2))
        batch = {"x": torch.randn(3, FEATURES), "labels": torch.arange(3), "more": ["text", (1.5, None)]}
        found = ready.convert_input(batch)
        assert found["labels"].dtype == torch.int64
        assert torch.equal(found["labels"], torch.arange(3))
        assert found["more"] == ["text", (1.5, None)]
        with ready.forward_context():
            assert torch.isfinite(module(found["x"])).all()

    @pytest.mark.parametrize("context", ["forward_context", "module_init_context"])
    def test_its_contexts_leave_no_trace(self, context: str, ready: Any) -> None:
        """After a context, also one with an error, default dtype and autocast are restored; it works repeatedly."""
        before = self._modes()
        for _ in range(2):
            with getattr(ready, context)():
                torch.ones(2) @ torch.ones(2)
            assert self._modes() == before
        with pytest.raises(ValueError, match="of the block"), getattr(ready, context)():
            raise ValueError("of the block")
        assert self._modes() == before

    # -- one step -------------------------------------------------------------------------------------------

    def test_gradients_are_unscaled(self, ready: Any) -> None:
        """After scaling, backward and unscaling, gradients are close to those of 32 bits."""
        module, optimizer = self._after_backward(ready)
        ready.unscale_gradients(optimizer)
        expected = self._module()
        self._loss(expected, self._rows()).backward()
        for (name, found), other in zip(module.named_parameters(), expected.parameters(), strict=True):
            assert found.grad is not None
            assert other.grad is not None
            assert torch.allclose(found.grad.double(), other.grad.double(), rtol=0.05, atol=0.05), name

    def test_a_step_returns_what_the_optimizer_returns(self, ready: Any) -> None:
        """A step lowers the loss, passes further arguments to the optimizer, and returns what the optimizer returns."""
        module, optimizer = self._after_backward(ready)
        before, batch = weights(module), ready.convert_input(self._rows())
        ready.unscale_gradients(optimizer)
        assert ready.optimizer_step(optimizer, None, extra=3) == "stepped"
        assert optimizer.arguments.pop("extra", None) == 3
        assert any(not torch.equal(value, before[name]) for name, value in weights(module).items())
        with torch.no_grad(), ready.forward_context():
            after = self._loss(module, batch)
        with torch.no_grad():
            at_first = self._loss(self._module(), self._rows())
        assert float(after) < float(at_first)

    def test_a_closure_is_evaluated_once_and_returned(self, ready: Any) -> None:
        """``optimizer_step`` calls a closure once and returns the closure's loss."""
        module, batch = ready.convert_module(self._module()), ready.convert_input(self._rows())
        optimizer, calls = Stepping(module.parameters(), lr=0.01), []

        def closure() -> Tensor:
            optimizer.zero_grad()
            with ready.forward_context():
                loss = self._loss(module, batch)
            ready.scale_loss(loss).backward()
            ready.unscale_gradients(optimizer)
            calls.append(loss.detach())
            return calls[-1]

        before = weights(module)
        returned = ready.optimizer_step(optimizer, closure)
        assert len(calls) == 1
        assert returned is calls[0]
        assert any(not torch.equal(value, before[name]) for name, value in weights(module).items())

    def test_gradients_are_clipped(self, ready: Any) -> None:
        """Gradients are clipped by norm, with the norm before clipping returned, and by value."""
        for algorithm in ("norm", "value"):
            module, optimizer = self._after_backward(ready)
            ready.unscale_gradients(optimizer)
            gradients = [p.grad for p in module.parameters() if p.grad is not None]
            before = torch.stack([g.double().norm() for g in gradients]).norm().item()
            returned = ready.clip_gradients(list(module.parameters()), 0.01, algorithm)
            after = torch.stack([g.double().norm() for g in gradients]).norm().item()
            assert before > 0.02
            if algorithm == "norm":
                assert float(returned) == pytest.approx(before, rel=0.02)
                assert after == pytest.approx(0.01, rel=0.02)
            else:
                assert max(g.double().abs().max().item() for g in gradients) <= 0.01 * 1.001
            optimizer.zero_grad()
            ready.teardown()
            ready.setup(Host())

    # -- state ----------------------------------------------------------------------------------------------

    def test_its_state_is_plain_data_and_can_be_restored(
        self, ready: Any, name: str, arguments: dict[str, Any], tmp_path: Path
    ) -> None:
        """After a fit the state is plain data, and a new instance that loads it has the same state."""
        self.trainer(tmp_path, ready).fit(Model(), rows(), rows(8))
        state = copy.deepcopy(ready.state_dict())
        dropped: list[str] = []
        to_plain(state, "", dropped)
        assert dropped == [], f"the state is not plain data: {dropped}"
        other = discover().build(self.kind, name, **arguments)
        other.setup(Host())
        if state:
            other.load_state_dict(copy.deepcopy(state))
        assert other.state_dict() == state

    def test_it_can_be_torn_down_repeatedly(self, ready: Any) -> None:
        """``teardown`` may be called twice, and ``setup`` works after it."""
        ready.teardown()
        ready.teardown()
        ready.setup(Host())
        ready.teardown()

    # -- training -------------------------------------------------------------------------------------------

    @pytest.mark.parametrize("options", [{}, {"accumulate_grad_batches": 2, "gradient_clip_val": 0.5}], ids=str)
    def test_it_trains_near_the_weights_of_32_bits(
        self, options: dict[str, Any], part: Any, tolerance: Any, tmp_path: Path
    ) -> None:
        """Two epochs, with and without accumulation and clipping, give weights close to those of 32 bits."""
        found, expected = Model(), Model()
        self.trainer(tmp_path, part, **options).fit(found, rows(), rows(8))
        reference_trainer(tmp_path, **options).fit(expected, rows(), rows(8))
        assert same(weights(found), weights(expected), tolerance)

    def test_it_evaluates_and_predicts_near_32_bits(self, part: Any, tolerance: Any, tmp_path: Path) -> None:
        """Losses and predictions are close to those of 32 bits."""
        results = []
        for trainer in (self.trainer(tmp_path, part), reference_trainer(tmp_path)):
            model = Model()
            [logged] = trainer.test(model, rows(12), verbose=False)
            predicted = torch.cat([tensor.float() for tensor in trainer.predict(model, rows(12)) or []])
            results.append({"loss": torch.tensor(logged["test_loss"]), "predicted": predicted})
        assert same(results[0], results[1], tolerance)

    def test_a_resumed_run_is_the_uninterrupted_one(
        self, part: Any, name: str, arguments: dict[str, Any], tmp_path: Path
    ) -> None:
        """A run resumed in the middle of an epoch ends with the same bits as the uninterrupted one, with dropout."""
        saved, whole, resumed = SaveAmid(tmp_path / "amid.ckpt"), Model(dropout=0.5), Model(dropout=0.5)
        self.seed()
        self.trainer(tmp_path, part, callbacks=[saved]).fit(whole, rows(), rows(8))
        pl.seed_everything(8, verbose=False)
        later = discover().build(self.kind, name, **arguments)
        self.trainer(tmp_path, later).fit(resumed, rows(), rows(8), ckpt_path=saved.path)
        assert same(weights(resumed), weights(whole))
        assert later.state_dict() == part.state_dict()

    # -- helpers --------------------------------------------------------------------------------------------

    @staticmethod
    def _modes() -> tuple[Any, ...]:
        return torch.get_default_dtype(), torch.is_autocast_enabled("cpu"), torch.get_default_device()

    @staticmethod
    def _module() -> nn.Module:
        return Model().layers

    @staticmethod
    def _rows() -> tuple[Tensor, Tensor]:
        first: tuple[Tensor, Tensor] = next(iter(rows()))
        return first

    @staticmethod
    def _loss(module: nn.Module, batch: Any) -> Tensor:
        return nn.functional.mse_loss(module(batch[0]), batch[1])

    def _after_backward(self, precision: Any) -> tuple[nn.Module, Any]:
        """Return a module after the backward pass of its scaled loss, and its optimizer."""
        module = precision.convert_module(self._module())
        optimizer, batch = Stepping(module.parameters(), lr=0.1), precision.convert_input(self._rows())
        with precision.forward_context():
            loss = self._loss(module, batch)
        precision.scale_loss(loss).backward()
        return module, optimizer
