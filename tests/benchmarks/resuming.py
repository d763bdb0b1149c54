"""How long a resume takes to its first batch, at the start of an epoch and near its end.

    python tests/benchmarks/resuming.py

An epoch has 200,000 samples, which two workers load. A fit saves after 5 % and after 95 % of it; each checkpoint is
resumed several times, by turns, until the first batch is trained on. The least time of each counts. A resume reads
nothing twice, so that the second may take no more than 1.2 times as long; else the program exits with 1.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader, TensorDataset

import leyden as pl

SAMPLES, BATCH_SIZE, ROUNDS, MOST = 200_000, 100, 7, 1.2
BATCHES = SAMPLES // BATCH_SIZE
PLACES = {"5 %": BATCHES // 20, "95 %": BATCHES * 19 // 20}


class Model(pl.LightningModule):
    """Saves at the places, and stops the clock at its first batch."""

    def __init__(self, root: Path | None = None) -> None:
        super().__init__()
        self.layer, self.root, self.began = torch.nn.Linear(4, 1), root, 0.0

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        """Train on a batch."""
        self.began = self.began or time.perf_counter()
        return self.layer(batch[0]).square().mean()

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Save at the places; a resumed fit ends with its first batch."""
        if self.root is None:
            self.trainer.should_stop = True
        elif batch_idx + 1 in PLACES.values():
            self.trainer.save_checkpoint(self.root / f"{batch_idx + 1}.ckpt")

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return plain SGD."""
        return torch.optim.SGD(self.parameters(), lr=0.01)


def fit(model: Model, ckpt_path: Path | None = None) -> float:
    """Fit, and return the seconds to the first batch."""
    off = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    trainer = pl.Trainer(accelerator="cpu", max_epochs=1, **off)
    loader = DataLoader(TensorDataset(torch.zeros(SAMPLES, 4)), BATCH_SIZE, shuffle=True, num_workers=2)
    start = time.perf_counter()
    trainer.fit(model, loader, ckpt_path=ckpt_path)
    return model.began - start


def main() -> int:
    """Print the times; return 0 if a resume near the end is as fast as one at the start."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        fit(Model(root))
        taken: dict[str, list[float]] = {place: [] for place in PLACES}
        for _ in range(ROUNDS):
            for place, batch in PLACES.items():
                taken[place].append(fit(Model(), root / f"{batch}.ckpt"))
    least = {place: min(times) for place, times in taken.items()}
    for place, seconds in least.items():
        print(f"resumed at {place:>4} of {SAMPLES:,} samples: {1000 * seconds:6.1f} ms to the first batch")
    ratio = least["95 %"] / least["5 %"]
    print(f"ratio {ratio:.2f}, at most {MOST}")
    return int(ratio > MOST)


if __name__ == "__main__":
    sys.exit(main())
