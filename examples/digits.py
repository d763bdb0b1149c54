"""Train a classifier on real images, stop when it stops improving, and use the best of it.

    python examples/digits.py

The data are scikit-learn's digits: 1,797 scans of handwritten digits, 8 × 8 pixels with 16 levels of
grey, which come in scikit-learn's wheel. Read on from top to bottom:

1. ``Digits`` says where the data come from; it knows nothing of the model.
2. ``DigitClassifier`` says what the model is and what happens to one batch; it knows nothing of devices,
   loops, files or logs.
3. ``main`` brings them together with a ``Trainer``: the loop, the validation after each epoch, early
   stopping, the best checkpoint, the logs for TensorBoard and for a spreadsheet.
"""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset, random_split

import leyden as pl
from leyden.callbacks import EarlyStopping, ModelCheckpoint
from leyden.loggers import CSVLogger, TensorBoardLogger

LOGS = Path("logs")


class Digits(pl.LightningDataModule):
    """The digits, split into 1,197 images to train on, 300 to validate with and 300 to test with.

    Args:
        batch_size: Images per batch.
    """

    def __init__(self, batch_size: int = 32) -> None:
        super().__init__()
        self.batch_size = batch_size

    def setup(self, stage: str) -> None:
        """Load and split; called before each of fit, test and predict, on every process."""
        digits = load_digits()
        images = torch.tensor(digits.images, dtype=torch.float32).unsqueeze(1) / 16
        labels = torch.tensor(digits.target)
        # A generator of its own: the split is the same in every run, whatever else was drawn before.
        self.train, self.val, self.test = random_split(
            TensorDataset(images, labels), [1197, 300, 300], torch.Generator().manual_seed(0)
        )

    def train_dataloader(self) -> DataLoader:
        """Only the training images are shuffled: evaluation does not depend on their order."""
        return DataLoader(self.train, batch_size=self.batch_size, shuffle=True)

    def val_dataloader(self) -> DataLoader:
        """The images that decide when to stop and which checkpoint is best."""
        return DataLoader(self.val, batch_size=self.batch_size)

    def test_dataloader(self) -> DataLoader:
        """The images that decided nothing."""
        return DataLoader(self.test, batch_size=self.batch_size)

    def predict_dataloader(self) -> DataLoader:
        """The test images again; ``predict_step`` looks at the pixels alone."""
        return DataLoader(self.test, batch_size=self.batch_size)


class DigitClassifier(pl.LightningModule):
    """A small convolutional network: images of shape (batch, 1, 8, 8) to scores of shape (batch, 10).

    Args:
        channels: Width of the first convolution; the second has twice as many.
        lr: Learning rate of AdamW.
    """

    def __init__(self, channels: int = 16, lr: float = 3e-3) -> None:
        super().__init__()
        self.save_hyperparameters()  # into self.hparams, every checkpoint and the logs
        self.net = nn.Sequential(
            nn.Conv2d(1, channels, kernel_size=3, padding=1),
            nn.ReLU(),
            nn.Conv2d(channels, 2 * channels, kernel_size=3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Dropout(0.2),
            nn.Linear(2 * channels * 4 * 4, 10),
        )
        self.example_input_array = torch.zeros(1, 1, 8, 8)  # gives the summary its column of shapes

    def forward(self, images: Tensor) -> Tensor:
        """What the model computes, apart from what training does with it."""
        return self.net(images)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """One batch to one loss; zeroing, backward and the optimizer's step follow by themselves."""
        images, labels = batch
        loss = F.cross_entropy(self(images), labels)
        self.log("train_loss", loss, prog_bar=True, on_step=True, on_epoch=True)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Gradients are off here and dropout rests; what is logged becomes the mean over epoch and processes."""
        self._evaluate(batch, "val")

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """The same on the test images."""
        self._evaluate(batch, "test")

    def _evaluate(self, batch: tuple[Tensor, Tensor], stage: str) -> None:
        images, labels = batch
        scores = self(images)
        accuracy = (scores.argmax(dim=1) == labels).float().mean()
        metrics = {f"{stage}_loss": F.cross_entropy(scores, labels), f"{stage}_acc": accuracy}
        self.log_dict(metrics, prog_bar=True, sync_dist=True)

    def predict_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """The digit that the model sees in each image."""
        images, _ = batch
        return self(images).argmax(dim=1)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Which parameters are trained, and how."""
        return torch.optim.AdamW(self.parameters(), lr=self.hparams.lr)


def main() -> None:
    """Train, then test and predict with the weights of the best epoch."""
    pl.seed_everything(7)
    data, model = Digits(), DigitClassifier()
    best = ModelCheckpoint(monitor="val_loss", filename="{epoch}-{val_loss:.3f}")
    trainer = pl.Trainer(
        max_epochs=40,
        callbacks=[EarlyStopping(monitor="val_loss", patience=5), best],
        logger=[TensorBoardLogger(LOGS, name="tensorboard"), CSVLogger(LOGS, name="csv")],
        log_every_n_steps=10,
    )
    trainer.fit(model, datamodule=data)

    [metrics] = trainer.test(model, datamodule=data, ckpt_path="best")
    seen = torch.cat(trainer.predict(model, datamodule=data, ckpt_path="best"))
    written = torch.stack([label for _, label in data.test])

    print(f"\nThe best of {trainer.current_epoch} epochs is {best.best_model_path}")
    print(f"written  {' '.join(str(digit) for digit in written[:20].tolist())}")
    print(f"seen     {' '.join(str(digit) for digit in seen[:20].tolist())}")
    print(f"test accuracy {metrics['test_acc']:.4f}")
    print("\nThe curves, in a browser:")
    print(shlex.join([sys.executable, "-m", "tensorboard.main", "--logdir", str(LOGS.resolve())]))


if __name__ == "__main__":
    main()
