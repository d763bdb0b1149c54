"""LightningDataModule: everything about a run's data in one object, for use with or without a Trainer."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from torch.utils.data import Dataset

from leyden.mixins.hooks import DataHooks
from leyden.mixins.hparams import CheckpointLoading
from leyden.plugin_system.discovery import discover

if TYPE_CHECKING:
    from typing_extensions import Self

    from leyden.trainer import Trainer


class LightningDataModule(DataHooks, CheckpointLoading):
    """Base class of data modules: override ``setup`` and the dataloader methods that you need.

    Attributes:
        prepare_data_per_node: True calls ``prepare_data`` in one process of each node, False in one process of all.
    """

    CHECKPOINT_HYPER_PARAMS_KEY = "datamodule_hyper_parameters"
    CHECKPOINT_HYPER_PARAMS_NAME = "datamodule_hparams_name"
    prepare_data_per_node = True
    trainer: Trainer | None = None

    @classmethod
    def from_datasets(
        cls,
        train_dataset: Dataset[Any] | Iterable[Dataset[Any]] | None = None,
        val_dataset: Dataset[Any] | Iterable[Dataset[Any]] | None = None,
        test_dataset: Dataset[Any] | Iterable[Dataset[Any]] | None = None,
        predict_dataset: Dataset[Any] | Iterable[Dataset[Any]] | None = None,
        batch_size: int = 1,
        num_workers: int = 0,
        **datamodule_kwargs: Any,
    ) -> Self:
        """Make a data module from datasets; only training data are shuffled.

        Args:
            train_dataset: A dataset, or a collection of datasets, which makes a collection of loaders.
            val_dataset: The same for validation.
            test_dataset: The same for testing.
            predict_dataset: The same for prediction.
            batch_size: The number of samples in a batch.
            num_workers: The number of worker processes that load data.
            datamodule_kwargs: Arguments for ``__init__``.

        Raises:
            UnknownComponentError: leyden-utilities, which makes the loaders, is not installed.
        """
        given = {"train": train_dataset, "val": val_dataset, "test": test_dataset, "predict": predict_dataset}
        datamodule = cls(**datamodule_kwargs)
        give = discover().component("datamodule_part", "give_loaders").load()
        give(datamodule, given, batch_size=batch_size, num_workers=num_workers)
        return datamodule

    def state_dict(self) -> dict[str, Any]:
        """Return the state to keep in checkpoints: plain data and tensors."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned."""

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "trainer": None}
