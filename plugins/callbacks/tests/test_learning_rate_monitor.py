"""LearningRateMonitor: names, values and steps, beside pytorch-lightning's and on its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.optim import SGD, Adam
from torch.optim.lr_scheduler import ExponentialLR, StepLR

import leyden
from leyden.callbacks import LearningRateMonitor
from leyden.utilities import MisconfigurationException


def scheduled(optimizer: Any, **entries: Any) -> dict[str, Any]:
    return {"scheduler": StepLR(optimizer, 1, gamma=0.5), **entries}


def groups(model: Any, *names: str | None) -> list[dict[str, Any]]:
    parts = [[model.layer.weight], [model.layer.bias]]
    return [
        {"params": part, "lr": 0.1 / i, **({"name": name} if name else {})}
        for i, (part, name) in enumerate(zip(parts, names, strict=True), 1)
    ]


def one(model: Any) -> Any:
    return SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01)


def with_epoch_scheduler(model: Any) -> Any:
    optimizer = one(model)
    return [optimizer], [scheduled(optimizer)]


def with_step_scheduler(model: Any) -> Any:
    optimizer = one(model)
    return [optimizer], [scheduled(optimizer, interval="step")]


def with_named_scheduler(model: Any) -> Any:
    optimizer = one(model)
    return [optimizer], [scheduled(optimizer, name="rate")]


def with_groups(model: Any) -> Any:
    optimizer = Adam(groups(model, None, None))
    return [optimizer], [scheduled(optimizer)]


def with_named_groups(model: Any) -> Any:
    return SGD(groups(model, "weights", None), lr=0.1)


def with_a_named_single_group(model: Any) -> Any:
    return SGD([{"params": list(model.parameters()), "name": "all"}], lr=0.1)


def with_two_schedulers_of_one_optimizer(model: Any) -> Any:
    optimizer = one(model)
    return [optimizer], [scheduled(optimizer), {"scheduler": ExponentialLR(optimizer, 0.9), "interval": "step"}]


def several(model: Any) -> Any:
    first = SGD([model.layer.weight], lr=0.1)
    second = SGD([model.layer.bias], lr=0.2)
    third = Adam([model.layer.bias], lr=0.3)
    return [first, second, third], [scheduled(first), scheduled(third)]


CONFIGURATIONS = [
    one,
    with_epoch_scheduler,
    with_step_scheduler,
    with_named_scheduler,
    with_groups,
    with_named_groups,
    with_a_named_single_group,
    with_two_schedulers_of_one_optimizer,
    several,
]


def model_with(library: Any, small: Any, configure: Any) -> Any:
    model = small.make_model(library)
    if configure is several:
        model.automatic_optimization = False
        model.training_step = lambda batch, batch_idx: model.lr_schedulers()[batch_idx % 2].step()
    model.configure_optimizers = lambda: configure(model)
    return model


@pytest.mark.filterwarnings("ignore:.*lr_scheduler.step.*:UserWarning")
@pytest.mark.parametrize("interval", [None, "step", "epoch"])
@pytest.mark.parametrize("configure", CONFIGURATIONS, ids=lambda function: function.__name__)
def test_logs_what_lightning_logs(configure: Any, interval: Any, tmp_path: Path, lightning: Any, small: Any) -> None:
    seen = {}
    for library, kind in ((leyden, LearningRateMonitor), (lightning, lightning.callbacks.LearningRateMonitor)):
        monitor = kind(interval, log_momentum=True, log_weight_decay=True)
        logger = small.MemoryLogger()
        result = small.fit(
            library, tmp_path, [monitor], model=model_with(library, small, configure), logger=logger,
            log_every_n_steps=4, enable_checkpointing=False,
        )  # fmt: skip
        rates = [(step, metrics) for step, metrics in logger.logged if "train_loss" not in metrics]
        rates = [(step, metrics) for step, metrics in rates if "train_end" not in metrics]
        metrics = result.trainer.callback_metrics
        seen[library.__name__] = {
            "logged": rates,
            "lrs": monitor.lrs,
            "momenta": monitor.last_momentum_values,
            "decays": monitor.last_weight_decay_values,
            "callback metrics": {name: metrics[name].item() for name in metrics if name in monitor.lrs},
        }
    assert seen["leyden"] == seen["pytorch_lightning"]
    assert seen["leyden"]["lrs"]


def test_only_the_rates_unless_asked(tmp_path: Path, small: Any) -> None:
    logger = small.MemoryLogger()
    monitor = LearningRateMonitor("epoch")
    small.fit(leyden, tmp_path, [monitor], logger=logger, enable_checkpointing=False, log_every_n_steps=1)
    assert [entry for entry in logger.logged if "lr-SGD" in entry[1]] == [(0, {"lr-SGD": 0.1}), (6, {"lr-SGD": 0.1})]
    assert monitor.lrs == {"lr-SGD": [0.1, 0.1]}


def test_a_group_added_during_the_fit_gets_its_name(tmp_path: Path, small: Any) -> None:
    model = small.make_model(leyden)
    extra = torch.nn.Parameter(torch.zeros(1))
    model.on_train_epoch_end = lambda: (
        model.trainer.optimizers[0].add_param_group({"params": [extra], "lr": 0.5})
        if model.current_epoch == 0
        else None
    )
    monitor = LearningRateMonitor("epoch")
    small.fit(
        leyden, tmp_path, [monitor], model=model, logger=small.MemoryLogger(), enable_checkpointing=False,
        log_every_n_steps=1,
    )  # fmt: skip
    assert monitor.lrs == {"lr-SGD/pg1": [0.1, 0.1], "lr-SGD/pg2": [0.5]}


def test_names_of_groups_must_differ(tmp_path: Path, small: Any) -> None:
    model = small.make_model(leyden)
    model.configure_optimizers = lambda: SGD(groups(model, "same", "same"), lr=0.1)
    with pytest.raises(MisconfigurationException, match="several parameter groups named 'same'"):
        small.fit(
            leyden, tmp_path, [LearningRateMonitor()], model=model, logger=small.MemoryLogger(), log_every_n_steps=1
        )


def test_momentum_where_there_is_none(tmp_path: Path, small: Any) -> None:
    model = small.make_model(leyden)
    model.configure_optimizers = lambda: torch.optim.Adagrad(model.parameters(), lr=0.1)
    monitor = LearningRateMonitor("epoch", log_momentum=True)
    with pytest.warns(RuntimeWarning, match="logs 0"):
        small.fit(
            leyden, tmp_path, [monitor], model=model, logger=small.MemoryLogger(), enable_checkpointing=False,
            log_every_n_steps=1,
        )  # fmt: skip
    assert monitor.last_momentum_values == {"lr-Adagrad-momentum": 0}


def test_it_needs_a_logger(tmp_path: Path, small: Any) -> None:
    with pytest.raises(MisconfigurationException, match="no logger"):
        small.fit(leyden, tmp_path, [LearningRateMonitor()])
    assert small.fit(leyden, tmp_path, [LearningRateMonitor()], fast_dev_run=True).error is None


def test_interval_is_checked() -> None:
    with pytest.raises(MisconfigurationException, match="logging_interval='batch'"):
        LearningRateMonitor("batch")  # type: ignore[arg-type]
