"""Any accumulation, clipping, precision, overflow and limit: a fit is the loop that one would write by hand."""

from __future__ import annotations

import copy
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.amp import GradScaler
from torch.optim import SGD, Adam
from torch.optim.lr_scheduler import ExponentialLR

import leyden as pl
from leyden.plugins import MixedPrecision
from leyden_testing.models import Given, Unsized, rows
from leyden_testing.training import quiet_trainer, same_weights, weights

DTYPES = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}
SCALE = 1024.0


@dataclass(frozen=True)
class Case:
    """A fit.

    Args:
        batches: Batches of the loader.
        sized: Whether the loader has a length.
        limit: ``limit_train_batches``; None for no limit.
        every: Batches of an optimizer step.
        clip: The algorithm and the bound, or None.
        precision: "32-true", "bf16-mixed" or "16-mixed".
        overflow: The batches, counted over all epochs, whose loss is infinite; float16 skips their steps.
        frequency: That of the schedule, which is one of steps.
        epochs: ``max_epochs``.
        max_steps: The Trainer's.
        adam: Whether the optimizer is Adam, else SGD with momentum.
        own_step: Whether the model overrides ``optimizer_step``.
    """

    batches: int
    sized: bool
    limit: int | None
    every: int
    clip: tuple[str, float] | None
    precision: str
    overflow: frozenset[int]
    frequency: int
    epochs: int
    max_steps: int
    adam: bool
    own_step: bool


@st.composite
def cases(draw: st.DrawFn) -> Case:
    precision = draw(st.sampled_from(["32-true", "bf16-mixed", "16-mixed"]))
    return Case(
        batches=draw(st.integers(1, 7)),
        sized=draw(st.booleans()),
        limit=draw(st.one_of(st.none(), st.integers(1, 9))),
        every=draw(st.integers(1, 5)),
        clip=draw(st.one_of(st.none(), st.sampled_from([("norm", 0.2), ("value", 0.05)]))),
        precision=precision,
        overflow=draw(st.frozensets(st.integers(0, 12), max_size=3)) if precision == "16-mixed" else frozenset(),
        frequency=draw(st.integers(1, 2)),
        epochs=draw(st.integers(1, 3)),
        max_steps=draw(st.sampled_from([-1, -1, 1, 2, 3, 5])),
        adam=draw(st.booleans()),
        own_step=draw(st.booleans()),
    )


class Model(pl.LightningModule):
    """A small network, the loss of some of whose batches is infinite."""

    def __init__(self, case: Case) -> None:
        super().__init__()
        self.case, self.layer, self.seen = case, nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 2)), 0

    def loss(self, batch: Any) -> Any:
        loss = nn.functional.mse_loss(self.layer(batch[0]), batch[1])
        self.seen += 1
        return loss * float("inf") if self.seen - 1 in self.case.overflow else loss

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return self.loss(batch)

    def configure_optimizers(self) -> Any:
        make = Adam if self.case.adam else SGD
        optimizer = make(self.parameters(), lr=0.01, **({} if self.case.adam else {"momentum": 0.9}))
        schedule = ExponentialLR(optimizer, 0.9)
        return [optimizer], [{"scheduler": schedule, "interval": "step", "frequency": self.case.frequency}]


class OwnStep(Model):
    def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any = None) -> None:
        optimizer.step(closure=optimizer_closure)


def by_hand(case: Case, model: Model, batches: list[Any]) -> tuple[int, float]:
    """Train; returns the number of optimizer steps and the last learning rate."""
    (optimizer,), (config,) = model.configure_optimizers()
    schedule = config["scheduler"]
    scaler = GradScaler("cpu", init_scale=SCALE, enabled=case.precision == "16-mixed")
    count, steps = min(case.batches, case.limit or case.batches), 0
    for _ in range(case.epochs):
        for i in range(count):
            first = i - i % case.every
            group = min(case.every, count - first)
            if i == first:
                optimizer.zero_grad()
            dtype = DTYPES.get(case.precision)
            with torch.autocast("cpu", dtype, cache_enabled=False) if dtype is not None else nullcontext():
                loss = model.loss(batches[i])
            scaler.scale(loss / group).backward()
            if i + 1 < first + group:
                continue
            scaler.unscale_(optimizer)
            is_finite = all(bool(p.grad.isfinite().all()) for p in model.parameters())
            if case.clip is not None:
                algorithm, bound = case.clip
                clip = nn.utils.clip_grad_norm_ if algorithm == "norm" else nn.utils.clip_grad_value_
                clip(model.parameters(), bound)
            scaler.step(optimizer)
            scaler.update()
            if is_finite:
                steps += 1
                if (i + 1) % case.frequency == 0:
                    schedule.step()
            if steps == case.max_steps:
                return steps, optimizer.param_groups[0]["lr"]
    return steps, optimizer.param_groups[0]["lr"]


@settings(
    max_examples=120,
    derandomize=True,  # the same examples in every run
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(case=cases())
def test_a_fit_is_the_loop_by_hand(tmp_path, case):
    """Equal to the last bit; but for rounding where the last group's size was not known when it began."""
    torch.manual_seed(0)
    model = (OwnStep if case.own_step else Model)(case)
    twin, batches = copy.deepcopy(model), list(rows(case.batches))
    expected = by_hand(case, twin, batches)
    algorithm, bound = case.clip or (None, None)
    scaled = {"plugins": MixedPrecision("16-mixed", scaler=GradScaler("cpu", init_scale=SCALE))}
    trainer = quiet_trainer(
        tmp_path,
        max_epochs=case.epochs,
        max_steps=case.max_steps,
        accumulate_grad_batches=case.every,
        limit_train_batches=case.limit,
        gradient_clip_val=bound,
        gradient_clip_algorithm=algorithm,
        **(scaled if case.precision == "16-mixed" else {"precision": case.precision}),
    )
    trainer.fit(model, (Given if case.sized else Unsized)(*batches))
    assert (trainer.global_step, trainer.optimizers[0].param_groups[0]["lr"]) == expected
    assert trainer.progress.batches_that_stepped == expected[0]
    tolerance = 0.0 if case.sized else 1e-5 if case.precision == "32-true" else 5e-3
    assert same_weights(weights(model), weights(twin), tolerance)
