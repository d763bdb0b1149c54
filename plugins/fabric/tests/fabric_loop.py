"""A hand-written loop as users write it, for tests to run under Fabric in this process, in others, or as a script."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch
import torch._dynamo  # DistributedDataParallel imports it, and each forked process would anew
from torch import nn
from torch.utils.data import DataLoader

from leyden.fabric import Fabric
from leyden_testing.training import Rows, weights

OPTIMIZERS = {
    "SGD": lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9),
    "Adam": lambda parameters: torch.optim.Adam(parameters, lr=0.05),
}


def rows(count: int = 32) -> Rows:
    """Random rows; the last column is the row's number."""
    return Rows(count, numbered=True)


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2))


def train(fabric: Any, options: dict[str, Any]) -> dict[str, Any]:
    """Train the network in all processes on batches of 8; returns the weights of rank 0 and those of all, and losses.

    Options: ``optimizer``, ``clip`` (arguments of clip_gradients), ``every`` (batches to a step), ``epochs``,
    ``shuffle``.
    """
    module, every = network(), options.get("every", 1)
    optimizer = OPTIMIZERS[options.get("optimizer", "SGD")](module.parameters())
    model, optimizer = fabric.setup(module, optimizer)
    size = 8 // fabric.world_size
    loader = fabric.setup_dataloaders(DataLoader(rows(), size, shuffle=options.get("shuffle", False)))
    losses: list[float] = []
    for _ in range(options.get("epochs", 2)):
        for i, (x, y, _) in enumerate(loader):
            last = (i + 1) % every == 0
            with fabric.no_backward_sync(model, enabled=not last):
                loss = nn.functional.mse_loss(model(x), y) / every
                fabric.backward(loss)
            losses.append(loss.item())
            if last:
                if "clip" in options:
                    fabric.clip_gradients(model, optimizer, **options["clip"])
                optimizer.step()
                optimizer.zero_grad()
    gathered = fabric.all_gather(torch.cat([p.detach().flatten() for p in module.parameters()]))
    return {"weights": weights(module), "gathered": gathered, "losses": losses, "rank": fabric.global_rank}


def by_hand(options: dict[str, Any]) -> dict[str, Any]:
    """What :func:`train` stands for, in plain PyTorch and in one process."""
    module, every, losses = network(), options.get("every", 1), []
    optimizer = OPTIMIZERS[options.get("optimizer", "SGD")](module.parameters())
    loader = DataLoader(rows(), 8, shuffle=options.get("shuffle", False))
    for _ in range(options.get("epochs", 2)):
        for i, (x, y, _) in enumerate(loader):
            loss = nn.functional.mse_loss(module(x), y) / every
            loss.backward()
            losses.append(loss.item())
            if (i + 1) % every == 0:
                clip = options.get("clip", {})
                if "max_norm" in clip:
                    nn.utils.clip_grad_norm_(module.parameters(), clip["max_norm"])
                if "clip_val" in clip:
                    nn.utils.clip_grad_value_(module.parameters(), clip["clip_val"])
                optimizer.step()
                optimizer.zero_grad()
    return {"weights": weights(module), "losses": losses}


def fail(fabric: Any, how: str) -> None:
    """Train, and have rank 1 go wrong on its way."""
    model, optimizer = fabric.setup(module := network(), torch.optim.SGD(module.parameters(), lr=0.1))
    for i, (x, y, _) in enumerate(fabric.setup_dataloaders(DataLoader(rows(), 4))):
        if i == 1 and how == "leaves" and fabric.global_rank == 1:
            return
        if i == 1 and how == "waits" and fabric.global_rank == 1:
            fabric.barrier()
        if i == 2 and fabric.global_rank == 1:
            if how == "raise":
                raise ValueError("these rows are bad")
            if how == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            if how == "fewer":
                break
        fabric.backward(nn.functional.mse_loss(model(x), y))
        optimizer.step()
    if how == "at the end" and fabric.global_rank == 1:
        raise ValueError("these rows are bad")


def main(out: str, strategy: str, form: str) -> None:
    """Train in two processes as a script does, and write down the weights of rank 0, or fail in a way."""
    fabric = Fabric(accelerator="cpu", devices=2, strategy=strategy, loggers=None)
    if form == "function":
        result = fabric.launch(train, {})
    else:
        fabric.launch()
        result = train(fabric, {}) if form == "script" else fail(fabric, form)
    if fabric.is_global_zero and result is not None:
        plain = {name: value.tolist() for name, value in result["weights"].items()}
        Path(out).write_text(json.dumps({"weights": plain, "gathered": result["gathered"].tolist()}))


if __name__ == "__main__":
    main(*sys.argv[1:])
