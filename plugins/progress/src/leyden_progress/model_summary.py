"""Callbacks that show the model's summary when a fit begins: ModelSummary as text, RichModelSummary in colour."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from leyden.callbacks import Callback
from leyden.utilities import rank_zero_info
from leyden_progress.summary import Columns, format_table, format_totals, summarize
from leyden_progress.summary import ModelSummary as Summary

if TYPE_CHECKING:
    from leyden import LightningModule, Trainer


RIGHT_JUSTIFIED = ("Params", "FLOPs", "In sizes", "Out sizes")


class ModelSummary(Callback):
    """Logs a table of the model's layers when a fit begins: type, parameters and mode.

    If the model has an ``example_input_array``, it is called with it once, and the table has shapes and FLOPs too.
    Without a Trainer, use ``print(leyden.utilities.model_summary.ModelSummary(model))``.

    Args:
        max_depth: How many levels of nested layers to list; -1 lists all, 0 turns the summary off.
        **summarize_kwargs: Passed to :meth:`summarize`.

    Example::

        Trainer(callbacks=[ModelSummary(max_depth=-1)])
    """

    role: ClassVar[str | None] = "model_summary"

    def __init__(self, max_depth: int = 1, **summarize_kwargs: Any) -> None:
        self._max_depth = max_depth
        self._summarize_kwargs = summarize_kwargs

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Make the summary on every rank, since its forward pass may communicate; show it on rank 0."""
        if not self._max_depth:
            return
        summary = self._summary(trainer, pl_module)
        if trainer.is_global_zero:
            self.summarize(
                summary.columns(),
                summary.total_parameters,
                summary.trainable_parameters,
                summary.model_size,
                summary.total_training_modes,
                total_flops=summary.total_flops,
                **self._summarize_kwargs,
            )

    def _summary(self, trainer: Trainer, pl_module: LightningModule) -> Summary:
        return summarize(pl_module, self._max_depth)

    @staticmethod
    def summarize(
        summary_data: Columns,
        total_parameters: int,
        trainable_parameters: int,
        model_size: float,
        total_training_modes: dict[str, int],
        total_flops: int,
        **summarize_kwargs: Any,
    ) -> None:
        """Show a summary; override it to show it elsewhere.

        Args:
            summary_data: The table: the header and the cells of each column.
            total_parameters: The number of parameters.
            trainable_parameters: The number of parameters that require a gradient.
            model_size: The parameters' memory in megabytes.
            total_training_modes: The number of modules in mode "train" and in mode "eval".
            total_flops: Floating-point operations of one forward pass of the example input; 0 without one.
            **summarize_kwargs: The keyword arguments of the callback's ``__init__``.
        """
        totals = format_totals(total_parameters, trainable_parameters, model_size, total_training_modes, total_flops)
        rank_zero_info("\n" + format_table(summary_data, totals))


class RichModelSummary(ModelSummary):
    """Prints the summary in colour, or as plain text to a file or a pipe.

    Args:
        max_depth: How many levels of nested layers to list; -1 lists all, 0 turns the summary off.
        **summarize_kwargs: ``header_style``, the style of the table's header; "bold magenta" by default.

    Example::

        Trainer(callbacks=[RichModelSummary(max_depth=-1, header_style="bold")])
    """

    @staticmethod
    def summarize(
        summary_data: Columns,
        total_parameters: int,
        trainable_parameters: int,
        model_size: float,
        total_training_modes: dict[str, int],
        total_flops: int,
        **summarize_kwargs: Any,
    ) -> None:
        """Show a summary; see :meth:`ModelSummary.summarize`."""
        from rich import box, get_console
        from rich.table import Table
        from rich.text import Text

        totals = format_totals(total_parameters, trainable_parameters, model_size, total_training_modes, total_flops)
        console = get_console()
        if not (console.is_terminal or console.is_jupyter):
            print(format_table(summary_data, totals), flush=True)
            return
        table = Table(box=box.SIMPLE_HEAD, header_style=summarize_kwargs.get("header_style", "bold magenta"))
        for header, _ in summary_data:
            justify: Literal["left", "right"] = "right" if header in RIGHT_JUSTIFIED else "left"
            table.add_column(header, justify=justify, style="dim" if header == " " else "", no_wrap=header == "Name")
        for row in zip(*(cells for _, cells in summary_data), strict=True):
            table.add_row(*map(Text, row))
        grid = Table.grid(padding=(0, 2))
        for number, label in totals:
            grid.add_row(Text(label, style="bold"), number)
        console.print(table, grid)
