"""The digits of scikit-learn, trained in both frameworks from the same seed: equal to the last bit."""

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset, random_split

from .parity_harness import parity


def digits_parts():
    """1,797 images of 8×8 pixels: 1,200 to train on, 297 to validate, 300 to test."""
    images, labels = load_digits(return_X_y=True)
    data = TensorDataset(torch.tensor(images, dtype=torch.float32) / 16, torch.tensor(labels))
    return random_split(data, [1200, 297, 300], generator=torch.Generator().manual_seed(0))


def make_classifier(pl):
    class Classifier(pl.LightningModule):
        def __init__(self, width=64, lr=3e-3):
            super().__init__()
            self.save_hyperparameters()
            self.network = nn.Sequential(nn.Linear(64, width), nn.ReLU(), nn.Dropout(0.1), nn.Linear(width, 10))

        def forward(self, x):
            return self.network(x)

        def evaluate(self, batch, stage):
            x, y = batch
            scores = self(x)
            loss = nn.functional.cross_entropy(scores, y)
            accuracy = (scores.argmax(1) == y).float().mean()
            self.log_dict({f"{stage}_loss": loss, f"{stage}_acc": accuracy}, prog_bar=True)
            return loss

        def training_step(self, batch, batch_idx):
            x, y = batch
            loss = nn.functional.cross_entropy(self(x), y)
            self.log("train_loss", loss, on_step=True, on_epoch=True)
            return loss

        def validation_step(self, batch, batch_idx):
            self.evaluate(batch, "val")

        def test_step(self, batch, batch_idx):
            self.evaluate(batch, "test")

        def predict_step(self, batch, batch_idx):
            return self(batch[0]).argmax(1)

        def configure_optimizers(self):
            optimizer = torch.optim.Adam(self.parameters(), lr=self.hparams.lr)
            return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 4, gamma=0.5)]

    return Classifier


def train_digits(pl, lab):
    """Train with the best checkpoint kept and early stopping, then test and predict with the best one."""
    pl.seed_everything(7, workers=True)
    train, val, test = digits_parts()
    checkpoint = pl.callbacks.ModelCheckpoint(monitor="val_loss", filename="{epoch}-{val_loss:.3f}", save_last=True)
    stopping = pl.callbacks.EarlyStopping("val_loss", patience=2, min_delta=0.01)
    trainer = lab.trainer(
        max_epochs=16, callbacks=[checkpoint, stopping], enable_checkpointing=True, log_every_n_steps=5
    )
    model = lab.model(make_classifier(pl))
    trainer.fit(model, DataLoader(train, batch_size=64, shuffle=True), DataLoader(val, batch_size=100))
    lab.note("stopped in epoch", stopping.stopped_epoch)
    lab.note("best score", checkpoint.best_model_score)
    results = trainer.test(model, DataLoader(test, batch_size=100), ckpt_path="best")
    lab.note("test", results)
    lab.note("predictions", trainer.predict(model, DataLoader(test, batch_size=100), ckpt_path="best"))
    assert results[0]["test_acc"] > 0.9


test_the_same_training_to_the_last_bit = parity(train_digits)
