"""Each rank's loaders go on where they were: those with a state of their own, and those whose workers draw."""

import random

import pytest
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from leyden.callbacks import ModelCheckpoint
from leyden_testing.reporting import Model, quiet


class Noisy(Dataset):
    """Each item is its index and a random number."""

    def __len__(self):
        return 22

    def __getitem__(self, index):
        return torch.tensor([index, random.random()], dtype=torch.float64)


class Shuffled(Sampler):
    """Another order in each epoch, by a generator of its own."""

    def __init__(self):
        self.generator_of_mine = random.Random(3)

    def __len__(self):
        return 22

    def __iter__(self):
        order = list(range(22))
        self.generator_of_mine.shuffle(order)
        return iter(order)


class Stream:
    """Numbers of this rank, which go on for ever."""

    def __init__(self):
        self.given = 0

    def __iter__(self):
        while True:
            self.given += 1
            yield torch.tensor([100.0 * torch.distributed.get_rank() + self.given, random.random()])

    def state_dict(self):
        return {"given": self.given}

    def load_state_dict(self, state):
        self.given = state["given"]


class Sees(Model):
    """Reports every batch."""

    def __init__(self):
        super().__init__()
        self.report = {"batches": []}

    def training_step(self, batch, batch_idx):
        self.report["batches"].append([self.current_epoch, batch_idx, *(one.tolist() for one in batch.values())])
        return self.layer(batch["stream"].new_ones(1, 4)).sum()


def loaders():
    return {
        "rows": DataLoader(Noisy(), 2, sampler=Shuffled(), num_workers=1, multiprocessing_context="fork"),
        "stream": Stream(),
    }


@pytest.mark.filterwarnings("ignore:The checkpoint holds the state of callbacks")
def test_the_loaders_of_every_rank_go_on_where_they_were(tmp_path):
    options = {"max_epochs": 2, "limit_train_batches": 5, "enable_checkpointing": True}
    saving = ModelCheckpoint(tmp_path / "kept", "{step}", every_n_train_steps=1, save_top_k=-1)
    trainer, reporter = quiet(tmp_path, callbacks=[saving], **options)
    trainer.fit(Sees(), loaders())
    whole = [report["batches"] for report in reporter.reports()]
    assert whole[0] != whole[1]
    assert [len(batches) for batches in whole] == [10, 10]
    for step in (3, 5, 8):
        again, other = quiet(tmp_path / f"again-{step}", **options)
        again.fit(Sees(), loaders(), ckpt_path=tmp_path / "kept" / f"step={step}.ckpt")
        assert [report["batches"] for report in other.reports()] == [batches[step:] for batches in whole]
