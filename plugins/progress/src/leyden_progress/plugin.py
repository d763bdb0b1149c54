"""The plugin's hooks: progress bars and summaries by name, the default ones, and the table of results."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from leyden import Component, hookimpl

if TYPE_CHECKING:
    from leyden import Trainer
    from leyden.callbacks import Callback

CALLBACKS = {
    "ModelSummary": "model_summary",
    "ProgressBar": "base",
    "RichModelSummary": "model_summary",
    "RichProgressBar": "rich_bar",
    "RichProgressBarTheme": "rich_bar",
    "TQDMProgressBar": "tqdm_bar",
}


@hookimpl
def leyden_components() -> Iterator[Component]:
    """Provide the callbacks, the bar's theme, and the summary that needs no Trainer."""
    for name, module in CALLBACKS.items():
        yield Component("callback", name, f"leyden_progress.{module}:{name}")
    yield Component("utility", "ModelSummary", "leyden_progress.summary:ModelSummary")


@hookimpl
def leyden_default_callbacks(trainer: Trainer) -> Iterator[Callback]:
    """Make a ``RichProgressBar`` and a ``RichModelSummary`` where the Trainer wants them."""
    if trainer.wants("progress_bar"):
        from leyden_progress.rich_bar import RichProgressBar

        yield RichProgressBar()
    if trainer.wants("model_summary"):
        from leyden_progress.model_summary import RichModelSummary

        yield RichModelSummary()


@hookimpl(trylast=True)
def leyden_show_results(trainer: Trainer, stage: str, results: Sequence[Mapping[str, float]]) -> bool:
    """Print a table of the results, unless nothing was logged."""
    from leyden_progress.results import results_table

    if table := results_table(results, stage):
        trainer.print(table)
    return True
