"""Random augmentation by sample is that of one process, however many processes and workers load the samples."""

import random

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset

import leyden as pl
from leyden_testing.reporting import Model, quiet


class Augmented(Dataset):
    """Each item is its index and random numbers of three generators."""

    def __len__(self):
        return 8

    def __getitem__(self, index):
        return torch.tensor([index, torch.rand(()), random.random(), np.random.rand()], dtype=torch.float64)


class Sees(Model):
    """Reports each epoch's random numbers of each sample."""

    def __init__(self):
        super().__init__()
        self.report = {"noise": {}}

    def training_step(self, batch, batch_idx):
        for index, *numbers in batch.tolist():
            self.report["noise"][f"{self.current_epoch}/{int(index)}"] = numbers
        return self.layer(batch.float()).sum()


def train(tmp_path, monkeypatch, workers, **options):
    """Two epochs; what each process reports."""
    monkeypatch.setenv("PL_GLOBAL_SEED", "0")  # so that they are taken back
    monkeypatch.setenv("PL_SEED_WORKERS", "0")
    pl.seed_everything(5, workers="sample", verbose=False)
    context = {"multiprocessing_context": "fork"} if workers else {}
    data = DataLoader(Augmented(), 2, shuffle=True, num_workers=workers, **context)
    trainer, reporter = quiet(tmp_path, max_epochs=2, **options)
    trainer.fit(Sees(), data)
    return [report["noise"] for report in reporter.reports()]


@pytest.mark.parametrize("workers", [0, 2])
def test_augmentation_by_sample_does_not_depend_on_the_number_of_processes(tmp_path, monkeypatch, workers):
    parts = train(tmp_path / "two", monkeypatch, workers)
    (single,) = train(tmp_path / "one", monkeypatch, 0, devices=1, strategy="auto")
    assert [len(part) for part in parts] == [8, 8]  # of 8 samples in two epochs
    assert {**parts[0], **parts[1]} == single
    assert len({tuple(numbers) for numbers in single.values()}) == 16
