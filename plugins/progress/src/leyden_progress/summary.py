"""ModelSummary: a table of a model's layers, with or without a Trainer.

``print(ModelSummary(model, max_depth=-1))`` prints it; the callbacks in :mod:`leyden_progress.model_summary` show it
when a fit begins.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter

from leyden import LightningModule
from leyden.plugins import transfer_function
from leyden.utilities import rank_zero_warn
from leyden.utilities.batch import move_data_to_device
from leyden.utilities.rng import isolate_rng

if TYPE_CHECKING:
    from leyden import Trainer

UNITS = " KMBT"
UNKNOWN = "?"
NOT_APPLICABLE = "n/a"

Size = list[Any] | str
"""The shape of one tensor as a list, a list of shapes for several tensors, or "?" if unknown."""
Columns = list[tuple[str, list[str]]]
"""A table: the header and the cells of each column."""


@dataclass
class LayerSummary:
    """One layer of a model.

    Args:
        module: The layer.
        in_size: The shape of the layer's input.
        out_size: The shape of the layer's output.
        flop_counts: The layer's floating-point operations in one forward pass, by PyTorch operator.
    """

    module: nn.Module
    in_size: Size = UNKNOWN
    out_size: Size = UNKNOWN
    flop_counts: dict[Any, int] = field(default_factory=dict)

    @property
    def layer_type(self) -> str:
        """The name of the layer's class."""
        return type(self.module).__name__

    @property
    def num_parameters(self) -> int:
        """Number of the layer's parameters, nested layers included; each is counted once."""
        return count_parameters(self.module.parameters())

    @property
    def training(self) -> bool:
        """Whether the layer is in training mode."""
        return self.module.training


class ModelSummary:
    """A table of a model's layers: type, parameters, mode and, with an example input, shapes and FLOPs.

    If the model has an ``example_input_array``, it is called with it once, in evaluation mode and without gradients.
    The example is a tensor, a list or tuple of positional arguments, or a dict of keyword arguments. Random states,
    modes and hooks are restored afterwards. The call initialises lazy parameters; without it they count as 0, with a
    warning. A parameter that several layers share counts once in the totals.

    Args:
        model: A LightningModule or any other module.
        max_depth: How many levels of nested layers to list; 0 lists no layer, -1 all.

    Raises:
        ValueError: ``max_depth`` is less than -1.
    """

    def __init__(self, model: nn.Module, max_depth: int = 1) -> None:
        if not isinstance(max_depth, int) or max_depth < -1:
            raise ValueError(f"max_depth={max_depth!r} must be -1 for all levels, 0 for none, or a number of levels.")
        self._model = model
        self._layers = {
            name: LayerSummary(module)
            for name, module in model.named_modules()
            if name and (max_depth == -1 or name.count(".") < max_depth)
        }
        self._total_flops = 0
        if self._has_example:
            self._run_example()
        if any(isinstance(parameter, UninitializedParameter) for parameter in model.parameters()):
            rank_zero_warn(
                f"{type(model).__name__} has lazy parameters, which count as 0 in its summary; "
                "set self.example_input_array so that they are counted."
            )

    @property
    def layer_names(self) -> list[str]:
        """The layers' names, as in ``named_modules``."""
        return list(self._layers)

    @property
    def layer_types(self) -> list[str]:
        """The names of the layers' classes."""
        return [layer.layer_type for layer in self._layers.values()]

    @property
    def in_sizes(self) -> list[Size]:
        """The shapes of the layers' inputs; "?" without an example input."""
        return [layer.in_size for layer in self._layers.values()]

    @property
    def out_sizes(self) -> list[Size]:
        """The shapes of the layers' outputs; "?" without an example input."""
        return [layer.out_size for layer in self._layers.values()]

    @property
    def param_nums(self) -> list[int]:
        """The number of parameters of each layer."""
        return [layer.num_parameters for layer in self._layers.values()]

    @property
    def training_modes(self) -> list[bool]:
        """Whether each layer is in training mode."""
        return [layer.training for layer in self._layers.values()]

    @property
    def total_training_modes(self) -> dict[str, int]:
        """The numbers of submodules, at any depth, in mode "train" and in mode "eval"."""
        modes = [module.training for module in self._model.modules()][1:]
        return {"train": modes.count(True), "eval": modes.count(False)}

    @property
    def total_parameters(self) -> int:
        """The number of the model's parameters; each is counted once."""
        return count_parameters(self._model.parameters())

    @property
    def trainable_parameters(self) -> int:
        """The number of parameters that require a gradient."""
        return count_parameters(parameter for parameter in self._model.parameters() if parameter.requires_grad)

    @property
    def total_layer_params(self) -> int:
        """The number of parameters in all listed layers; each is counted once."""
        listed = {id(p): p for layer in self._layers.values() for p in layer.module.parameters()}
        return count_parameters(listed.values())

    @property
    def model_size(self) -> float:
        """The parameters' memory in megabytes (1e6 bytes), by their actual dtypes."""
        known = (p for p in self._model.parameters() if not isinstance(p, UninitializedParameter))
        return sum(p.numel() * p.element_size() for p in known) * 1e-6

    @property
    def total_flops(self) -> int:
        """Floating-point operations of one forward pass of the example input; 0 without one."""
        return self._total_flops

    @property
    def flop_counts(self) -> dict[str, dict[Any, int]]:
        """Each layer's floating-point operations in one forward pass of the example input, by PyTorch operator."""
        return {name: layer.flop_counts for name, layer in self._layers.items()}

    @property
    def _has_example(self) -> bool:
        return getattr(self._model, "example_input_array", None) is not None

    def columns(self) -> Columns:
        """Return the table, with a row for each layer and one for parameters that belong to no listed layer."""
        layers = self._layers.values()
        table: Columns = [
            (" ", [str(row) for row in range(len(layers))]),
            ("Name", self.layer_names),
            ("Type", self.layer_types),
            ("Params", [human_readable_count(number) for number in self.param_nums]),
            ("Mode", ["train" if training else "eval" for training in self.training_modes]),
        ]
        if self._has_example:
            flops = (sum(counts.values()) for counts in self.flop_counts.values())
            table.append(("FLOPs", [human_readable_count(number) for number in flops]))
            table.append(("In sizes", [str(size) for size in self.in_sizes]))
            table.append(("Out sizes", [str(size) for size in self.out_sizes]))
        if leftover := self.total_parameters - self.total_layer_params:
            row = {" ": " ", "Name": "other params", "Params": human_readable_count(leftover)}
            for header, cells in table:
                cells.append(row.get(header, NOT_APPLICABLE))
        return table

    def totals(self) -> list[tuple[str, str]]:
        """Return each total as a readable number and its label."""
        return format_totals(
            self.total_parameters,
            self.trainable_parameters,
            self.model_size,
            self.total_training_modes,
            self.total_flops,
        )

    def __str__(self) -> str:
        return format_table(self.columns(), self.totals())

    __repr__ = __str__

    def _run_example(self) -> None:
        """Call the model with its example input; keep the shapes and FLOPs of each layer."""
        from torch.utils.flop_counter import FlopCounterMode  # imported here, since it takes 50 ms

        model, trainer = self._model, _running_trainer(self._model)
        example = _on_device(model, trainer)
        counter = FlopCounterMode(display=False)
        device = () if trainer is None else (trainer.accelerator, trainer.strategy.root_device)
        precision = nullcontext() if trainer is None else trainer.precision_plugin.forward_context()
        with isolate_rng(*device), _evaluating(model), self._noting_sizes(), torch.no_grad(), precision, counter:
            if isinstance(example, dict):
                model(**example)
            elif isinstance(example, (list, tuple)):
                model(*example)
            else:
                model(example)
        self._total_flops = counter.get_total_flops()
        counts = counter.get_flop_counts()
        for name, layer in self._layers.items():
            layer.flop_counts = counts.get(f"{type(model).__name__}.{name}", {})

    @contextmanager
    def _noting_sizes(self) -> Iterator[None]:
        """Keep the shapes of each layer's first call in the block."""
        handles = [
            layer.module.register_forward_hook(partial(_note_sizes, layer), with_kwargs=True)
            for layer in self._layers.values()
            if not isinstance(layer.module, torch.jit.ScriptModule)  # script modules take no such hook
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


def summarize(lightning_module: nn.Module, max_depth: int = 1) -> ModelSummary:
    """Return the summary of a module; see :class:`ModelSummary` for the arguments."""
    return ModelSummary(lightning_module, max_depth)


def count_parameters(parameters: Iterable[Tensor]) -> int:
    """Return the total number of elements; lazy parameters, whose shape is unknown, count as 0."""
    return sum(p.numel() for p in parameters if not isinstance(p, UninitializedParameter))


def human_readable_count(number: int) -> str:
    """Return a number with at most four digits and a unit: "132 K", "2.6 M", "5,000 T"; "123  " below a thousand."""
    shortened, unit = float(number), 0
    while shortened >= 1000 and unit < len(UNITS) - 1:
        shortened, unit = shortened / 1000, unit + 1
    return f"{shortened:,.1f} {UNITS[unit]}" if unit and shortened < 100 else f"{int(shortened):,d} {UNITS[unit]}"


def format_totals(
    total_parameters: int,
    trainable_parameters: int,
    model_size: float,
    total_training_modes: dict[str, int],
    total_flops: int,
) -> list[tuple[str, str]]:
    """Return each total as a readable number and its label; FLOPs are left out if they are 0."""
    totals = [
        (human_readable_count(trainable_parameters), "Trainable params"),
        (human_readable_count(total_parameters - trainable_parameters), "Non-trainable params"),
        (human_readable_count(total_parameters), "Total params"),
        (f"{model_size:,.3f}", "Total estimated model params size (MB)"),
        (str(total_training_modes["train"]), "Modules in train mode"),
        (str(total_training_modes["eval"]), "Modules in eval mode"),
    ]
    return [*totals, (human_readable_count(total_flops), "Total FLOPs")] if total_flops else totals


def format_table(columns: Columns, totals: list[tuple[str, str]]) -> str:
    """Return the table, with the totals below it, as plain text."""
    widths = [max(len(text) for text in (header, *cells)) for header, cells in columns]
    rows = [[header for header, _ in columns], *zip(*(cells for _, cells in columns), strict=True)]
    lines = [" | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    rule = "-" * max(len(line) for line in lines)
    return "\n".join([lines[0], rule, *lines[1:], rule, *(number.ljust(10) + label for number, label in totals)])


def _running_trainer(model: nn.Module) -> Trainer | None:
    trainer: Trainer | None = getattr(model, "_trainer", None)
    return trainer if trainer is not None and trainer.is_running else None


def _on_device(model: nn.Module, trainer: Trainer | None) -> Any:
    """Return the example input on the model's device, moved there as a batch would be."""
    example = model.example_input_array
    if trainer is not None:
        return transfer_function(trainer.run, 0)(example)
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    if not isinstance(model, LightningModule):
        return move_data_to_device(example, device)
    example = model.on_before_batch_transfer(example, 0)
    return model.on_after_batch_transfer(model.transfer_batch_to_device(example, device, 0), 0)


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Put every module into evaluation mode in the block; restore its own mode afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def _note_sizes(layer: LayerSummary, module: nn.Module, args: Any, kwargs: dict[str, Any], output: Any) -> None:
    if layer.out_size == UNKNOWN:
        inputs = (*args, *kwargs.values())
        layer.in_size = _sizes(inputs[0] if len(inputs) == 1 else inputs)
        layer.out_size = _sizes(output)


def _sizes(value: Any) -> Size:
    if hasattr(value, "shape"):
        return list(value.shape)
    return [_sizes(item) for item in value] if isinstance(value, (list, tuple)) else UNKNOWN
