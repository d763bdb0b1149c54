"""A warning, at the start of a fit, of hyperparameters with which ``load_from_checkpoint`` will need help."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from leyden.utilities.plain import to_plain
from leyden.utilities.rank_zero import rank_zero_warn
from leyden.utilities.warnings import PossibleUserWarning
from leyden_hparams.rebuilding import parameter_types
from leyden_hparams.sealing import Comparison, Record

if TYPE_CHECKING:
    from leyden import Trainer


def warn_of_hyperparameters(trainer: Trainer) -> None:
    """Name the hyperparameters that will be sealed, and those whose types the code does not name."""
    for owner in trainer.run.owners:
        key, hparams = owner.CHECKPOINT_HYPER_PARAMS_KEY, dict(owner.hparams)
        plain = to_plain(hparams, key, [])
        records = [each for found in Comparison().of_members(hparams, plain, (key,), key) for each in found.flat()]
        lost = [record for record in records if record.is_lost]
        news = set(trainer.run.not_told(record.name for record in lost))
        _warn_of_sealed(owner, [record for record in lost if record.name in news])
        types = parameter_types(type(owner))
        unnamed = [r for r in records if not r.is_lost and r.kind is None and types.get(r.path[1], Any) is Any]
        news = set(trainer.run.not_told(f"type of {record.name}" for record in unnamed))
        _warn_of_unnamed(owner, [record for record in unnamed if f"type of {record.name}" in news])


def _warn_of_sealed(owner: Any, records: list[Record]) -> None:
    if records:
        names = ", ".join(_shown(record) for record in records)
        rank_zero_warn(
            f"Hyperparameters of {type(owner).__name__} that are no plain data are sealed in checkpoints: {names}. "
            "Only weights_only=False opens them, for a file that you trust; else pass them when loading, "
            f"load_from_checkpoint(path, {records[0].path[1]}=...). What need not be kept is left out with "
            "save_hyperparameters(ignore=[...]).",
            PossibleUserWarning,
        )


def _warn_of_unnamed(owner: Any, records: list[Record]) -> None:
    if records and getattr(owner, "_hparams_source", None) is None:
        names = ", ".join(f"{_shown(record)} (a {record.was.rpartition('.')[2]})" for record in records)
        rank_zero_warn(
            f"{type(owner).__name__}.__init__ does not name the types of some hyperparameters: {names}. Annotate them, "
            "so that load_from_checkpoint can make them again.",
            PossibleUserWarning,
        )


def _shown(record: Record) -> str:
    return record.name.partition(".")[2]
