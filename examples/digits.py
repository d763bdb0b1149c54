"""Train a classifier on real images, stop when it no longer improves, and use its best weights.

    python examples/digits.py

The data are scikit-learn's digits: 1,797 scans of handwritten digits, 8 × 8 pixels with 16 levels of
grey, which are part of scikit-learn. Read the file from top to bottom:

1. ``Digits`` loads the data; it does not depend on the model.
2. ``DigitClassifier`` defines the model and what to do with one batch; it does not depend on devices,
   loops, files or logs.
3. ``main`` passes both to a ``Trainer``, which has the training loop, validation after each epoch, early
   stopping, the best checkpoint, and logs for TensorBoard and for a spreadsheet.
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
    """The digits, split into 1,197 images for training, 300 for validation and 300 for testing.

    Args:
        batch_size: The number of images in a batch.
    """

    def __init__(self, batch_size: int = 32) -> None:
        super().__init__()
        self.batch_size = batch_size

    def setup(self, stage: str) -> None:
        """Load and split the data; called in every process before fit, test and predict."""
        digits = load_digits()
        images = torch.tensor(digits.images, dtype=torch.float32).unsqueeze(1) / 16
        labels = torch.tensor(digits.target)
        # With its own generator the split is the same in every run, whatever random numbers were drawn before.
        self.train, self.val, self.test = random_split(
            TensorDataset(images, labels), [1197, 300, 300], torch.Generator().manual_seed(0)
        )

    def train_dataloader(self) -> DataLoader:
        """Return the training images, which are shuffled; the others are not, since their order does not matter."""
        return DataLoader(self.train, batch_size=self.batch_size, shuffle=True)

    def val_dataloader(self) -> DataLoader:
        """Return the images that decide when to stop and which checkpoint is best."""
        return DataLoader(self.val, batch_size=self.batch_size)

    def test_dataloader(self) -> DataLoader:
        """Return images that were not used in any decision."""
        return DataLoader(self.test, batch_size=self.batch_size)

    def predict_dataloader(self) -> DataLoader:
        """Return the test images again; ``predict_step`` uses only the pixels, not the labels."""
        return DataLoader(self.test, batch_size=self.batch_size)


class DigitClassifier(pl.LightningModule):
    """A small convolutional network from images of shape (batch, 1, 8, 8) to scores of shape (batch, 10).

    Args:
        channels: The number of channels of the first convolution; the second has twice as many.
        lr: The learning rate of AdamW.
    """

    def __init__(self, channels: int = 16, lr: float = 3e-3) -> None:
        super().__init__()
        self.save_hyperparameters()  # to self.hparams, every checkpoint and the logs
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
        self.example_input_array = torch.zeros(1, 1, 8, 8)  # lets the model's summary show shapes

    def forward(self, images: Tensor) -> Tensor:
        """Return the model's scores for a batch of images."""
        return self.net(images)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Return the loss of a batch; the Trainer zeroes gradients, calls backward and steps the optimizer."""
        images, labels = batch
        loss = F.cross_entropy(self(images), labels)
        self.log("train_loss", loss, prog_bar=True, on_step=True, on_epoch=True)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Log loss and accuracy, as means over epoch and processes; gradients and dropout are off here."""
        self._evaluate(batch, "val")

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Log the same for the test images."""
        self._evaluate(batch, "test")

    def _evaluate(self, batch: tuple[Tensor, Tensor], stage: str) -> None:
        images, labels = batch
        scores = self(images)
        accuracy = (scores.argmax(dim=1) == labels).float().mean()
        metrics = {f"{stage}_loss": F.cross_entropy(scores, labels), f"{stage}_acc": accuracy}
        self.log_dict(metrics, prog_bar=True, sync_dist=True)

    def predict_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Return the predicted digit for each image."""
        images, _ = batch
        return self(images).argmax(dim=1)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return the optimizer and its parameters."""
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
    predicted = torch.cat(trainer.predict(model, datamodule=data, ckpt_path="best"))
    labels = torch.stack([label for _, label in data.test])

    print(f"\nThe best of {trainer.current_epoch} epochs is {best.best_model_path}")
    print(f"labels       {' '.join(str(digit) for digit in labels[:20].tolist())}")
    print(f"predictions  {' '.join(str(digit) for digit in predicted[:20].tolist())}")
    print(f"test accuracy {metrics['test_acc']:.4f}")
    print("\nTo see the curves in a browser, run:")
    print(shlex.join([sys.executable, "-m", "tensorboard.main", "--logdir", str(LOGS.resolve())]))


if __name__ == "__main__":
    main()
