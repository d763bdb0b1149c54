"""Run in a clean environment: what works there, and what is said of what is missing. Prints one JSON object.

python -I ask.py '{"callback": ["EarlyStopping"], "logger": ["csv"]}'
"""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader

import leyden as pl
from leyden.plugin_system.discovery import discover

ROLE_ARGUMENTS = {
    "accelerator": {"accelerator": "auto"},
    "checkpoint": {"enable_checkpointing": True},
    "logger": {"logger": True},
    "model_summary": {"enable_model_summary": True},
    "progress_bar": {"enable_progress_bar": True},
    "strategy": {"accelerator": "cpu", "devices": 2},
    "timer": {"max_time": "00:00:10:00"},
}
PAGES = {
    "accelerator": "leyden.accelerators",
    "accelerator_function": "leyden.accelerators",
    "callback": "leyden.callbacks",
    "cli": "leyden.cli",
    "demo": "leyden.demos",
    "environment": "leyden.plugins",
    "fabric": "leyden.fabric",
    "logger": "leyden.loggers",
    "logger_part": "leyden.loggers",
    "precision": "leyden.plugins",
    "profiler": "leyden.profilers",
    "strategy": "leyden.strategies",
    "tuner": "leyden.tuner",
    "utility": "leyden.utilities",
}


class Line(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(2, 1)

    def training_step(self, batch: torch.Tensor) -> torch.Tensor:
        loss = self.layer(batch).square().mean()
        self.log("loss", loss)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def trainer(**arguments: Any) -> pl.Trainer:
    return pl.Trainer(max_epochs=1, default_root_dir=tempfile.mkdtemp(), **arguments)


def data() -> DataLoader[torch.Tensor]:
    return DataLoader(torch.ones(8, 2), batch_size=2)


def fit() -> None:
    """A short training run with every default that is installed."""
    model = Line()
    before = model.layer.weight.detach().clone()
    trainer().fit(model, data())
    assert not torch.equal(before, model.layer.weight.detach().cpu())


def resume_of_another_framework() -> None:
    """Go on from a checkpoint that says, in Leyden's way, nothing of where its fit stood."""
    model, path = Line(), Path(tempfile.mkdtemp(), "foreign.ckpt")
    states = {"optimizer_states": [model.configure_optimizers().state_dict()], "lr_schedulers": []}
    torch.save({"state_dict": model.state_dict(), **states}, path)
    trainer(enable_progress_bar=False).fit(model, DataLoader(torch.ones(8, 2)), ckpt_path=path)


def log_an_object_of(name: str) -> None:
    """Log an object of the class of that name, which only a plugin logs."""
    module, _, attribute = name.rpartition(".")
    base: Any = getattr(importlib.import_module(module), attribute)
    cls = type(attribute, (base,), dict.fromkeys(getattr(base, "__abstractmethods__", ())))

    class Model(Line):
        def training_step(self, batch: torch.Tensor) -> None:
            self.log("object", cls.__new__(cls))

    trainer(enable_progress_bar=False).fit(Model(), DataLoader(torch.ones(8, 2)))


def ask(kind: str, name: str) -> None:
    """Ask for a part the way a user does: classes and functions are imported, a name is an argument of the Trainer."""
    if name == "describe_hooks":
        trainer().describe_hooks()
    elif kind == "command":
        command = [sys.executable, "-I", "-m", name, "plugins"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(done.stderr.strip())
    elif kind == "checkpoint":
        trainer().fit(Line(), data(), ckpt_path=name)
    elif (kind, name) == ("role", "progress"):
        resume_of_another_framework()
    elif (kind, name) == ("module_paths", "lightning"):
        importlib.import_module("leyden.callbacks.early_stopping")
    elif kind == "record":
        log_an_object_of(name)
    elif kind == "role":
        trainer(**ROLE_ARGUMENTS[name])
    elif name[0].isupper() or kind in ("accelerator_function", "cli", "fabric", "logger_part", "tuner", "utility"):
        exec(f"from {PAGES[kind]} import {name}")
    elif kind == "exporter":
        getattr(Line(), f"to_{name}")()
    elif (kind, name) == ("checkpoint_loader", "hyperparameters"):
        Line.load_from_checkpoint("none.ckpt")
    elif kind == "checkpoint_loader":
        discover().component(kind, name)  # a Fabric loads without it
    elif kind == "hyperparameters":
        Line().save_hyperparameters()
    elif kind == "datamodule_part":
        pl.LightningDataModule.from_datasets([1, 2])  # type: ignore[arg-type]
    elif kind == "worker_seeding":
        pl.seed_everything(1, workers=name)
    elif kind == "environment":
        trainer(plugins=[name])
    else:
        trainer(**{kind: name})


def error_of(call: Callable[..., None], *arguments: str) -> str | None:
    """What the call raises, as text; None where it succeeds."""
    try:
        call(*arguments)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return None


def main(wanted: dict[str, list[str]]) -> None:
    records = discover().infos
    for info in records:
        for component in info.components:
            component.load()
    answers = {
        "distributions": sorted(info.distribution for info in records if info.state == "active"),
        "set aside": [f"{info}: {info.error}" for info in records if info.error],
        "fit": error_of(fit),
        "asked": {f"{kind} {name}": error_of(ask, kind, name) for kind, names in wanted.items() for name in names},
    }
    # What runs print goes before: the answer is the last line.
    print(f"\n{json.dumps(answers)}")


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
