"""For Leyden's own tests: a run that is repeatedly killed and resumed, and the same run without interruption.

    python -m leyden_testing.killed_run DIRECTORY CASES

CASES is a JSON object that maps a name to the arguments of :class:`Options`. Both runs write a journal to
DIRECTORY/NAME. That of the uninterrupted run is ``whole.jsonl``. The other run is killed by SIGKILL at random moments
and resumed from its newest checkpoint until it is complete; ``part-N.jsonl`` is the journal of its Nth process. The
processes are forked, so that PyTorch is imported only once.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import sys
import warnings
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch._dynamo  # an optimizer's first step imports it, and otherwise each process would do so
from torch import Tensor, nn
from torch.optim.lr_scheduler import OneCycleLR, ReduceLROnPlateau
from torch.utils.data import DataLoader, Dataset, IterableDataset, get_worker_info

import leyden as pl
from leyden.loggers import Logger
from leyden.utilities.rng import seed_host
from leyden_testing.training import quiet_trainer

ROWS, BATCH_SIZE = 26, 4


@dataclass
class Options:
    """The options of a run.

    Args:
        data: "map" (a shuffled dataset), "generator" (the same, shuffled by the loader's own generator), "unsized"
            (an iterable without length) or "cycle" (two loaders, of which the shorter one is repeated).
        num_workers: The number of workers of each loader.
        persistent_workers: Whether the workers are kept from epoch to epoch.
        by_sample: Whether the noise of each row is seeded by its index and the epoch.
        plateau: Whether to use ReduceLROnPlateau instead of a scheduler that steps with the optimizer.
        manual: Whether the model uses manual optimization.
        save_every: The number of training batches between checkpoints; others are saved after validations and epochs.
        max_epochs: The number of epochs.
        seed: The seed of the moments at which the run is killed.
        lives: How often the run is killed at most.
    """

    data: str = "map"
    num_workers: int = 0
    persistent_workers: bool = False
    by_sample: bool = False
    plateau: bool = False
    manual: bool = False
    save_every: int = 2
    max_epochs: int = 3
    seed: int = 0
    lives: int = 12


class Journal:
    """A file of JSON lines, each of which is on disk when ``write`` returns.

    Args:
        path: The file's path.
    """

    def __init__(self, path: Path) -> None:
        self.file = path.open("a", encoding="utf-8")

    def write(self, **entry: Any) -> None:
        """Add a line."""
        self.file.write(json.dumps(entry) + "\n")
        self.file.flush()
        os.fsync(self.file.fileno())


class Notes:
    """A journal in memory.

    Attributes:
        entries: The entries written so far.
    """

    def __init__(self) -> None:
        self.entries: list[dict[str, Any]] = []

    def write(self, **entry: Any) -> None:
        """Add an entry."""
        self.entries.append(entry)


def digest(*values: Any) -> str:
    """Return a short text that is the same only for values that are equal to the last bit."""
    text = hashlib.sha256()
    for value in values:
        text.update(value.detach().numpy().tobytes() if isinstance(value, Tensor) else repr(value).encode())
    return text.hexdigest()[:12]


class JournalLogger(Logger):
    """A logger that writes all metrics to a journal, exactly."""

    name, version = "journal", 0

    def __init__(self, journal: Journal | Notes) -> None:
        self.journal = journal

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Write the metrics as hexadecimal numbers."""
        self.journal.write(step=step, metrics={name: float(value).hex() for name, value in sorted(metrics.items())})

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Do nothing."""


class Rows(Dataset[Any]):
    """Rows that are always the same, with random noise.

    Args:
        count: The number of rows.
        noise: The scale of the noise; 0 for none.
    """

    def __init__(self, count: int = ROWS, noise: float = 0.01) -> None:
        self.count, self.noise = count, noise

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        values = torch.arange(6.0).add(index).sin()
        target = values.sum(0, keepdim=True)
        if self.noise:
            values = values + self.noise * (torch.randn(6) * random.random() + float(np.random.rand()))
        return values, target


class Stream(IterableDataset[Any]):
    """The rows of :class:`Rows` in order, without a length."""

    def __iter__(self) -> Any:
        worker = get_worker_info()
        first, step = (0, 1) if worker is None else (worker.id, worker.num_workers)
        for index in range(first, ROWS + 2, step):
            yield Rows()[index]


def reduce_twice(values: Tensor) -> Tensor:
    """Return the range of the values, as a reduction that is not one of Leyden's own."""
    return values.max() - values.min()


class Model(pl.LightningModule):
    """A model with dropout, batch normalisation and noise from every generator, which logs in every way."""

    def __init__(self, options: Options, journal: Journal | Notes) -> None:
        super().__init__()
        self.options, self.journal = options, journal
        self.automatic_optimization = not options.manual
        self.net = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Dropout(0.3), nn.Linear(8, 1))

    def loss(self, batch: Any) -> Tensor:
        """Return the mean squared error of a batch, or of the batches of two loaders in a dict."""
        if isinstance(batch, dict):
            batch = [torch.cat(parts) for parts in zip(*batch.values(), strict=True)]
        x, y = batch
        return nn.functional.mse_loss(self.net(x), y)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Draw from every generator, write batch and noise to the journal, and log the loss in every way."""
        loss = self.loss(batch)
        noise = torch.randn(()) + random.random() + float(np.random.rand())
        drawn = [part for value in batch.values() for part in value] if isinstance(batch, dict) else batch
        self.journal.write(epoch=self.current_epoch, batch=batch_idx, data=digest(*drawn), noise=digest(noise, loss))
        self.log("loss", loss, on_step=True, on_epoch=True)
        self.log("largest", loss, reduce_fx="max", on_step=False, on_epoch=True)
        self.log("total", loss, reduce_fx=torch.sum, on_step=True, on_epoch=True)
        self.log("spread", loss, reduce_fx=reduce_twice, on_step=False, on_epoch=True)
        if batch_idx == 0:
            self.log("first", loss, on_step=False, on_epoch=True)
            self.log("first_spread", loss, reduce_fx=reduce_twice, on_step=False, on_epoch=True)
        loss = loss * (1 + 0.01 * noise)
        if self.options.manual:
            self.step_by_hand(loss, batch_idx)
        return loss

    def step_by_hand(self, loss: Tensor, batch_idx: int) -> None:
        """Step optimizer and scheduler after every third batch."""
        self.manual_backward(loss / 3)
        if batch_idx % 3 == 2:
            self.optimizers().step()
            self.optimizers().zero_grad()
            self.lr_schedulers().step()

    def on_train_start(self) -> None:
        """Draw random numbers."""
        torch.rand(3)  # in every process, so more often than in the uninterrupted run

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Write the batch to the journal, and log its loss."""
        loss = self.loss(batch)
        self.journal.write(validated=digest(*batch), noise=digest(torch.rand(())))
        self.log("val_loss", loss)
        self.log("val_each", loss, on_step=True, on_epoch=True)

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Write the loss, the learning rate and a random number to the journal."""
        rate = self.trainer.optimizers[0].param_groups[0]["lr"]
        self.journal.write(ended=batch_idx, loss=digest(outputs["loss"]), rate=rate, drawn=random.random())

    def configure_optimizers(self) -> Any:
        """Return Adam, with a scheduler that steps with it, or with two that monitor a loss."""
        optimizer = torch.optim.Adam(self.parameters(), lr=0.05)
        if self.options.plateau:
            schedulers = [
                {"scheduler": ReduceLROnPlateau(optimizer, patience=0), "monitor": "val_loss"},
                {
                    "scheduler": ReduceLROnPlateau(optimizer, patience=1, factor=0.9),
                    "monitor": "loss_step",
                    "interval": "step",
                },
            ]
            return [optimizer], schedulers
        scheduler = OneCycleLR(optimizer, max_lr=0.1, total_steps=40)
        return [optimizer], [scheduler if self.options.manual else {"scheduler": scheduler, "interval": "step"}]


class Saver(pl.Callback):
    """Saves to one checkpoint after every few batches, every validation and every epoch.

    Args:
        path: The checkpoint's path.
        every: The number of training batches between checkpoints.
    """

    def __init__(self, path: Path, every: int) -> None:
        self.path, self.every = path, every

    @pl.hookimpl(trylast=True)
    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Save after every ``every`` batches."""
        if (batch_idx + 1) % self.every == 0:
            trainer.save_checkpoint(self.path)

    @pl.hookimpl(trylast=True)
    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        """Save, except in the sanity check."""
        if not trainer.sanity_checking:
            trainer.save_checkpoint(self.path)

    @pl.hookimpl(trylast=True)
    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Save."""
        trainer.save_checkpoint(self.path)


class Killer(pl.Callback):
    """Kills the process after a number of calls of its hooks.

    Args:
        after: The number of calls; 0 for never.
    """

    def __init__(self, after: int) -> None:
        self.left = after

    def tick(self, *_: Any) -> None:
        """Count the call, and kill the process if it is the last one."""
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)


for _name in (
    "on_train_batch_start", "on_after_backward", "on_before_optimizer_step", "on_train_batch_end",
    "on_validation_start", "on_validation_batch_end", "on_validation_end", "on_save_checkpoint",
    "on_train_epoch_start", "on_train_epoch_end",
):  # fmt: skip
    setattr(Killer, _name, Killer.tick)


def loaders(options: Options) -> tuple[Any, Any]:
    """Return the training loader and the validation loader."""
    workers: dict[str, Any] = {"num_workers": options.num_workers}
    if options.persistent_workers:
        workers["persistent_workers"] = True
    validation = DataLoader(Rows(9), BATCH_SIZE, shuffle=True, **workers)
    if options.data == "unsized":
        return DataLoader(Stream(), BATCH_SIZE, **workers), validation
    if options.data == "generator":
        validation = DataLoader(Rows(9), BATCH_SIZE, shuffle=True, generator=torch.Generator().manual_seed(5))
        return DataLoader(Rows(), BATCH_SIZE, shuffle=True, generator=torch.Generator().manual_seed(4)), validation
    train = DataLoader(Rows(), BATCH_SIZE, shuffle=True, drop_last=options.data == "cycle", **workers)
    if options.data == "cycle":
        return {"long": train, "short": DataLoader(Rows(8), BATCH_SIZE, shuffle=True, **workers)}, validation
    return train, validation


def killing_replace(killer: Killer) -> Any:
    """Return ``os.replace`` with calls of the killer before and after it."""
    replace = os.replace

    def replace_and_tick(*args: Any) -> None:
        killer.tick()
        replace(*args)
        killer.tick()

    return replace_and_tick


def live(model: type[Model], options: Options, journal: Journal, checkpoint: Path, kill_after: int) -> None:
    """Train until the end or until killed, from the checkpoint if there is one.

    A resumed run starts with other random states, so it must restore those that it needs.
    """
    torch.set_num_threads(1)
    killer = Killer(kill_after)
    os.replace = killing_replace(killer)  # every checkpoint gets its final name by it
    pl.seed_everything(1, workers="sample" if options.by_sample else False, verbose=False)
    if checkpoint.exists():
        seed_host(os.getpid())
    trainer = quiet_trainer(
        checkpoint.parent,
        max_epochs=options.max_epochs,
        accumulate_grad_batches=1 if options.manual else 2,
        val_check_interval=3 if options.data == "unsized" else 0.5,
        logger=JournalLogger(journal),
        log_every_n_steps=1,
        callbacks=[Saver(checkpoint, options.save_every), killer],
    )
    module = model(options, journal)
    trainer.fit(module, *loaders(options), ckpt_path=checkpoint if checkpoint.exists() else None)
    journal.write(weights=digest(*module.state_dict().values()), steps=trainer.global_step)


def fork(model: type[Model], options: Options, journal: Path, checkpoint: Path, kill_after: int) -> int:
    """Call :func:`live` in a child process and return its exit code, -9 if it was killed."""
    child = os.fork()
    if child:
        status = os.waitpid(child, 0)[1]
        with suppress(ProcessLookupError):  # a loader's worker that does not watch its parent yet would stay
            os.killpg(child, signal.SIGKILL)
        return os.waitstatus_to_exitcode(status)
    try:
        os.setsid()
        live(model, options, Journal(journal), checkpoint, kill_after)
        os._exit(0)
    except BaseException:
        import traceback

        traceback.print_exc()
        os._exit(1)


def live_and_die(model: type[Model], directory: Path, options: Options) -> None:
    """Run without interruption, then with kills."""
    moments = random.Random(options.seed)
    directory.mkdir()
    if fork(model, options, directory / "whole.jsonl", directory / "whole.ckpt", kill_after=0):
        return
    for life in range(options.lives + 1):
        kill_after = moments.randint(10, 80) if life < options.lives else 0
        ended = fork(model, options, directory / f"part-{life:02}.jsonl", directory / "killed.ckpt", kill_after)
        if ended != -signal.SIGKILL:
            return


class SaveAt(pl.Callback):
    """Saves a checkpoint at every call of one hook.

    Args:
        directory: The directory for the checkpoints.
        hook: The hook's name.

    Attributes:
        notes: The run's journal.
        saved: The path of each checkpoint, and the number of journal entries at that time.
    """

    notes: Notes

    def __init__(self, directory: Path, hook: str) -> None:
        self.directory = directory
        self.saved: list[tuple[Path, int]] = []

        @pl.hookimpl(trylast=True)
        def save(_: Any, trainer: Any, *rest: Any) -> None:
            if not trainer.sanity_checking:
                path = self.directory / f"{hook}-{len(self.saved):02}.ckpt"
                trainer.save_checkpoint(path)
                self.saved.append((path, len(self.notes.entries)))

        self.__class__ = type("SaveAt", (SaveAt,), {hook: save})


def fit(
    tmp_path: Path,
    options: Options | None = None,
    callbacks: Any = (),
    ckpt_path: Any = None,
    seed: int = 1,
    train: Any = None,
    model: Any = Model,
    **arguments: Any,
) -> tuple[list[dict[str, Any]], Any]:
    """Run a fit in this process, without interruption.

    Args:
        tmp_path: The Trainer's ``default_root_dir``.
        options: The run's options.
        callbacks: Callbacks; the attribute ``notes`` of each is set to the run's journal.
        ckpt_path: The checkpoint to resume from.
        seed: The seed of all random generators.
        train: The training loader; by default that of the options.
        model: The model's class, :class:`Model` or a subclass.
        arguments: Further arguments of the Trainer.

    Returns:
        The journal's entries, and the Trainer.
    """
    notes, options = Notes(), options or Options()
    pl.seed_everything(seed, verbose=False)
    settings = {"max_epochs": options.max_epochs, "accumulate_grad_batches": 2, "val_check_interval": 0.5, **arguments}
    logger = JournalLogger(notes)
    trainer = quiet_trainer(tmp_path, logger=logger, log_every_n_steps=1, callbacks=list(callbacks), **settings)
    module = model(options, notes)
    own_train, validation = loaders(options)
    for callback in callbacks:
        callback.notes = notes
    trainer.fit(module, train or own_train, validation, ckpt_path=ckpt_path)
    notes.write(weights=digest(*module.state_dict().values()), steps=trainer.global_step)
    return notes.entries, trainer


def main(model: type[Model] = Model) -> None:
    """Run all cases; the caller finds errors in the journals."""
    warnings.simplefilter("error")
    warnings.filterwarnings(
        "ignore", message=".*use of fork"
    )  # Python 3.12 and later warn of it for every loader's worker
    warnings.filterwarnings(
        "ignore", message=".*shuffling enabled"
    )  # validation is shuffled, to check that its order is resumed
    for name, options in json.loads(sys.argv[2]).items():
        live_and_die(model, Path(sys.argv[1]) / name, Options(**options))


if __name__ == "__main__":
    main()
