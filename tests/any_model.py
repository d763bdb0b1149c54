"""Models and loaders of every kind, right and wrong, made from a plain description of each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves
from torch.utils.data import DataLoader, IterableDataset

import leyden as pl
from leyden.utilities import CombinedLoader

STEPS = ("training_step", "validation_step", "test_step", "predict_step")
ROWS = 2  # in a batch
BOASTED = 2  # batches that there are not


@dataclass(frozen=True)
class Shape:
    """What a model is like.

    Args:
        manual: Whether it optimises by hand.
        optimizers: What ``configure_optimizers`` returns.
        scheduler: The scheduler beside it.
        output: What ``training_step`` returns.
        missing: Methods that it does not define.
        takes: How many arguments its steps take, at most two for ``training_step``; 0 and 4 can't be called.
        logs: How its steps log.
        own_hooks: Whether it overrides the steps of the optimisation, each with a call of the base's.
        skips: The batch at whose start it skips the rest of the epoch.
    """

    manual: bool = False
    optimizers: str = "one"
    scheduler: str = "none"
    output: str = "tensor"
    missing: tuple[str, ...] = ()
    takes: int = 2
    logs: str = "nothing"
    own_hooks: bool = False
    skips: int | None = None


@dataclass(frozen=True)
class Data:
    """The loaders of one stage.

    Args:
        kinds: How each loader is made.
        counts: How many batches each has.
        nesting: The collection that they are in.
        mode: That of the CombinedLoader around them; None for a bare collection.
        form: What a batch is.
        wrong: Something else instead of all this.
    """

    kinds: tuple[str, ...] = ("DataLoader",)
    counts: tuple[int, ...] = (3,)
    nesting: str = "none"
    mode: str | None = None
    form: str = "tensor"
    wrong: Any = None


# -- data -----------------------------------------------------------------------------------------------------


def row(form: str, index: int) -> Any:
    """One sample."""
    x = torch.tensor([0.1 * index, 1.0])
    rows = {"tensor": x, "tuple": (x, x + 1), "dict": {"x": x, "name": "a"}, "text": "ab", "number": index}
    return rows.get(form, Opaque)


class Opaque:
    """What nobody can look into."""


def collate(form: str) -> Any:
    """How samples become a batch; None for PyTorch's way."""
    return (lambda samples: Opaque()) if form == "opaque" else None


class Rows:
    """A map-style dataset that counts how often it is read."""

    def __init__(self, batches: int, form: str, reads: Counter[str], stage: str) -> None:
        self.count, self.form, self.reads, self.stage = batches * ROWS, form, reads, stage

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Any:
        if not 0 <= index < self.count:
            raise IndexError(index)
        self.reads[self.stage] += 1
        return row(self.form, index)


class Stream(IterableDataset):
    """The same rows as a stream."""

    def __init__(self, rows: Rows) -> None:
        self.rows = rows

    def __iter__(self) -> Iterator[Any]:
        return (self.rows[index] for index in range(self.rows.count))


class SizedStream(Stream):
    """A stream that knows its length."""

    def __len__(self) -> int:
        return len(self.rows)


class Unsized:
    """An iterable of batches that does not know its length."""

    def __init__(self, rows: Rows) -> None:
        self.rows = rows

    def __iter__(self) -> Iterator[Any]:
        return iter(DataLoader(self.rows, ROWS, collate_fn=collate(self.rows.form)))


class Sized(Unsized):
    """One that does."""

    def __len__(self) -> int:
        return self.rows.count // ROWS


class Boasting(Unsized):
    """One whose length is more than it has."""

    def __len__(self) -> int:
        return self.rows.count // ROWS + BOASTED


class NoLength(Unsized):
    """One that has a length to ask for and none to tell."""

    def __len__(self) -> int:
        raise NotImplementedError


class ByIndex:
    """Batches by their number, as Python iterated before there were iterators."""

    def __init__(self, rows: Rows) -> None:
        self.batches = DataLoader(rows, ROWS, collate_fn=collate(rows.form))
        self.count = rows.count // ROWS

    def __getitem__(self, index: int) -> Any:
        if index >= self.count:
            raise IndexError(index)
        return next(iter(self.batches))


KINDS: dict[str, Callable[[Rows], Any]] = {
    "DataLoader": lambda rows: DataLoader(rows, ROWS, collate_fn=collate(rows.form)),
    "shuffled": lambda rows: DataLoader(rows, ROWS, shuffle=rows.count > 0, collate_fn=collate(rows.form)),
    "sized": Sized,
    "sized stream": lambda rows: DataLoader(SizedStream(rows), ROWS, collate_fn=collate(rows.form)),
    "stream": lambda rows: DataLoader(Stream(rows), ROWS, collate_fn=collate(rows.form)),
    "boasting": Boasting,
    "unsized": Unsized,
    "no length": NoLength,
    "by index": ByIndex,
}
SIZED = {"DataLoader", "shuffled", "sized", "sized stream", "boasting"}
NESTINGS: dict[str, Callable[[list[Any]], Any]] = {
    "none": lambda loaders: loaders[0],
    "list": list,
    "tuple": tuple,
    "dict": lambda loaders: {str(i): loader for i, loader in enumerate(loaders)},
    "nested": lambda loaders: {"first": loaders[0], "others": [loaders[1:]]},
}


def loaders(data: Data, reads: Counter[str], stage: str) -> Any:
    """The loaders that a description says."""
    if data.wrong is not None:
        return data.wrong
    made = [
        KINDS[kind](Rows(count, data.form, reads, stage)) for kind, count in zip(data.kinds, data.counts, strict=True)
    ]
    nested = NESTINGS[data.nesting](made)
    return CombinedLoader(nested, data.mode) if data.mode is not None else nested  # type: ignore[arg-type]


# -- models ---------------------------------------------------------------------------------------------------


class OwnOptimizer(torch.optim.SGD):
    """An optimizer of which nobody knows when it calls its closure."""


class AnyModel(pl.LightningModule):
    """Does in its steps what its shape says, and writes down the modes in which they ran."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.automatic_optimization = not shape.manual
        self.layer = nn.Linear(2, 1)
        self.frozen = nn.Sequential(nn.Dropout(0.5)).eval()
        self.modes: dict[str, set[tuple[bool, bool, bool]]] = {}

    def forward(self, batch: Any) -> Tensor:
        tensors = [x for x in tree_leaves(batch) if isinstance(x, Tensor)] or [torch.ones(1, 2)]
        weight = self.layer.weight
        outputs = [self.layer(self.frozen(x.to(weight.device, weight.dtype))) for x in tensors]
        loss = torch.stack([output.float().square().mean() for output in outputs]).mean()
        return loss / 1000  # so small that float16 does not overflow at the first scale, where steps would be skipped

    def _step(self, name: str, batch: Any) -> Tensor:
        modes = (self.training, self.frozen.training, torch.is_grad_enabled())
        self.modes.setdefault(name, set()).add(modes)
        loss = self(batch)
        if name != "predict_step":
            LOGS[self.shape.logs](self, loss)
        return loss

    def _train(self, batch: Any, batch_idx: int) -> Any:
        loss = self._step("training_step", batch)
        if self.shape.manual:
            optimizers = self.optimizers()
            for optimizer in optimizers if isinstance(optimizers, list) else [optimizers]:
                optimizer.zero_grad()
                self.manual_backward(loss, retain_graph=True)
                optimizer.step()
        return OUTPUTS[self.shape.output](loss, batch_idx)

    def configure_optimizers(self) -> Any:
        return OPTIMIZERS[self.shape.optimizers](self)

    def optimizer(self) -> Any:
        """A plain optimizer."""
        return torch.optim.SGD(self.parameters(), lr=0.01)

    def scheduled(self, optimizer: Any) -> Any:
        """The optimizer with its scheduler, if there is one."""
        kind = self.shape.scheduler
        if kind == "none":
            return optimizer
        if kind.startswith("plateau"):
            scheduler: Any = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer)
        else:
            scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 2)
        if kind == "two lists":
            return [optimizer], [scheduler]
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, **SCHEDULES[kind]}}


def _log_both(model: AnyModel, loss: Tensor) -> None:
    model.log("loss", loss, on_step=True, on_epoch=True, prog_bar=True)


def _log_mapping(model: AnyModel, loss: Tensor) -> None:
    model.log_dict({"loss": loss, "twice": 2 * loss.detach()}, on_epoch=True, batch_size=3)


LOGS: dict[str, Callable[[AnyModel, Tensor], None]] = {
    "nothing": lambda model, loss: None,
    "plainly": lambda model, loss: model.log("loss", loss),
    "by step": lambda model, loss: model.log("loss", loss, on_step=True, on_epoch=False),
    "both": _log_both,
    "a mapping": _log_mapping,
    "a sum": lambda model, loss: model.log("ones", 1.0, on_step=False, on_epoch=True, reduce_fx="sum"),
    # what can't be logged
    "text": lambda model, loss: model.log("loss", "low"),
    "two numbers": lambda model, loss: model.log("loss", torch.ones(2)),
    "neither": lambda model, loss: model.log("loss", loss, on_step=False, on_epoch=False),
    "a new reduction": lambda model, loss: model.log("loss", loss, reduce_fx="median"),
}
WRONG_LOGS = {"text", "two numbers", "neither", "a new reduction"}
OUTPUTS: dict[str, Callable[[Tensor, int], Any]] = {
    "tensor": lambda loss, batch_idx: loss,
    "dict": lambda loss, batch_idx: {"loss": loss, "more": torch.ones(3)},
    "none": lambda loss, batch_idx: None,
    "none at times": lambda loss, batch_idx: loss if batch_idx % 2 else None,
    # what can't be trained on
    "text": lambda loss, batch_idx: "a loss",
    "number": lambda loss, batch_idx: 0.5,
    "dict without loss": lambda loss, batch_idx: {"acc": 1},
    "two numbers": lambda loss, batch_idx: torch.stack([loss, loss]),
    "no gradient": lambda loss, batch_idx: loss.detach(),
}
WRONG_OUTPUTS = {"text", "number", "dict without loss", "two numbers", "no gradient"}
OPTIMIZERS: dict[str, Callable[[AnyModel], Any]] = {
    "one": lambda model: model.scheduled(model.optimizer()),
    "list": lambda model: [model.optimizer()],
    "own": lambda model: model.scheduled(OwnOptimizer(model.parameters(), lr=0.01)),
    "LBFGS": lambda model: torch.optim.LBFGS(model.parameters(), lr=0.01, max_iter=2),
    "none": lambda model: None,
    "two": lambda model: [model.optimizer(), model.optimizer()],
    # what is no optimizer
    "number": lambda model: 7,
    "empty list": lambda model: [],
    "class": lambda model: torch.optim.SGD,
    "dict without optimizer": lambda model: {"lr": 1.0},
    "text": lambda model: "sgd",
    "optimizer that is none": lambda model: {"optimizer": "sgd"},
    "two lists of others": lambda model: ([1], [2]),
}
NO_OPTIMIZERS = set(list(OPTIMIZERS)[6:])
SCHEDULES: dict[str, dict[str, Any]] = {
    "each step": {"interval": "step"},
    "each epoch": {"interval": "epoch", "name": "rate"},
    "every other": {"interval": "step", "frequency": 2},
    "plateau": {"monitor": "loss", "strict": False},
    # what can't be scheduled
    "plateau that misses its metric": {"monitor": "nothing"},
    "plateau without a monitor": {},
    "each year": {"interval": "year"},
    "every 0": {"frequency": 0},
    "every half": {"frequency": 0.5},
    "no scheduler": {"scheduler": None},
    "text": {"scheduler": "cosine"},
    "many": {"scheduler": [1]},
}
WRONG_SCHEDULES = set(list(SCHEDULES)[5:])


def _passes_on(name: str) -> Callable[..., Any]:
    base = getattr(pl.LightningModule, name)
    return lambda self, *args, **kwargs: base(self, *args, **kwargs)


OWN_HOOKS = {
    name: _passes_on(name)
    for name in ("backward", "optimizer_step", "optimizer_zero_grad", "lr_scheduler_step", "on_before_zero_grad")
}


def _with_arguments(name: str, takes: int) -> Callable[..., Any]:
    """The step ``name`` of so many arguments."""
    train = name == "training_step"
    call: Callable[..., Any] = AnyModel._train if train else lambda self, batch, batch_idx: self._step(name, batch)
    counts: dict[int, Callable[..., Any]] = {
        0: lambda self: None,
        1: lambda self, batch: call(self, batch, 0),
        2: lambda self, batch, batch_idx: call(self, batch, batch_idx),
        3: lambda self, batch, batch_idx, dataloader_idx=0: call(self, batch, batch_idx),
        4: lambda self, batch, batch_idx, dataloader_idx, more: None,
    }
    return counts[min(takes, 2) if train and takes == 3 else takes]


def model(shape: Shape, hooks: dict[str, Any]) -> AnyModel:
    """A model of a class of its own, of this shape and with these loaders."""
    methods: dict[str, Any] = {name: _with_arguments(name, shape.takes) for name in STEPS}
    if shape.own_hooks:
        methods.update(OWN_HOOKS)
    if shape.skips is not None:
        methods["on_train_batch_start"] = lambda self, batch, batch_idx: -1 if batch_idx == shape.skips else None
    methods.update(hooks)
    methods.update({name: getattr(pl.LightningModule, name) for name in shape.missing})
    made: AnyModel = type("Model", (AnyModel,), methods)(shape)
    return made
