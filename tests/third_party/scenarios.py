"""Run in a clean environment, beside a copy of examples/digits.py: trains with foreign parts and prints what came out.

python scenarios.py NAME [JSON]
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import torch
from digits import DigitClassifier, Digits

import leyden as pl
from leyden.callbacks import ModelCheckpoint

FIRST = "epoch=0-step=38.ckpt"


def fit(folder: str, ckpt_path: Path | None = None, **arguments: Any) -> tuple[pl.Trainer, DigitClassifier]:
    """A fit of two epochs that saves after each."""
    pl.seed_everything(7, verbose=False)
    model = DigitClassifier()
    saves = ModelCheckpoint(dirpath=Path(folder) / "checkpoints", save_top_k=-1)
    trainer = pl.Trainer(
        max_epochs=2, default_root_dir=folder, log_every_n_steps=5,
        enable_progress_bar=False, enable_model_summary=False,
        **{"logger": False, **arguments, "callbacks": [*arguments.get("callbacks", ()), saves]},
    )  # fmt: skip
    trainer.fit(model, datamodule=Digits(), ckpt_path=ckpt_path)
    return trainer, model


def digest(model: torch.nn.Module) -> str:
    """The bits of a model's weights, in short."""
    assert {parameter.device.type for parameter in model.parameters()} == {"cpu"}
    return hashlib.sha256(b"".join(p.detach().numpy().tobytes() for p in model.parameters())).hexdigest()


def device() -> dict[str, Any]:
    """The toy beside the CPU: trained by name, resumed on either, loaded on the CPU, and tested."""
    _, on_cpu = fit("cpu", accelerator="cpu")
    trainer, on_toy = fit("toy", accelerator="toy")
    saved = Path("toy/checkpoints") / FIRST
    loaded = DigitClassifier.load_from_checkpoint(saved)
    first = DigitClassifier.load_from_checkpoint(Path("cpu/checkpoints") / FIRST)
    [tested] = trainer.test(on_toy, datamodule=Digits(), verbose=False)
    return {
        "trained on": str(trainer.strategy.root_device),
        "cpu": digest(on_cpu),
        "toy": digest(on_toy),
        "resumed on the toy": digest(fit("toy again", saved, accelerator="toy")[1]),
        "resumed on the cpu": digest(fit("cpu again", saved, accelerator="cpu")[1]),
        "first epoch on the cpu": digest(first),
        "loaded of the toy's first": digest(loaded),
        "accuracy": tested["test_acc"],
    }


def together() -> dict[str, Any]:
    """The foreign strategy, logger and callback in one run of two processes, chosen by name."""
    trainer, model = fit(
        "run", accelerator="cpu", devices=2, strategy="local_sgd_spawn", logger="sqlite",
        callbacks=["GradientNormPercentiles"],
    )  # fmt: skip
    [tested] = pl.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False).test(
        model, datamodule=Digits(), verbose=False
    )
    return {
        "world size": trainer.world_size,
        "steps": trainer.global_step,
        "database": trainer.logger.file,
        "train_loss": float(trainer.callback_metrics["train_loss_epoch"]),
        "accuracy": tested["test_acc"],
    }


def choose(wanted: list[dict[str, Any]]) -> list[str]:
    """What a Trainer with each of these arguments has, or says."""
    answers = []
    for arguments in wanted:
        try:
            trainer = pl.Trainer(**{"logger": False, "accelerator": "cpu", "default_root_dir": "chosen", **arguments})
            parts = [trainer.accelerator, trainer.strategy, *trainer.loggers, *trainer.callbacks]
            answers.append(" ".join(type(part).__name__ for part in parts))
        except Exception as error:
            answers.append(f"{type(error).__name__}: {error}")
    return answers


if __name__ == "__main__":
    scenario = {"device": device, "together": together, "choose": choose}[sys.argv[1]]
    answer = scenario(*map(json.loads, sys.argv[2:]))
    print(f"\n{json.dumps({'leyden': pl.__file__, 'answer': answer})}")
