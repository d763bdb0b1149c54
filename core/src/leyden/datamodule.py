"""LightningDataModule: everything about the data of a run in one object, usable with or without a Trainer."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING, Any

from torch.utils.data import DataLoader, Dataset, IterableDataset

from leyden.mixins.hooks import DataHooks
from leyden.mixins.hparams import DataModuleLoading

if TYPE_CHECKING:
    from typing_extensions import Self

    from leyden.trainer import Trainer


class LightningDataModule(DataHooks, DataModuleLoading):
    """Override ``setup`` and the loaders that are needed.

    Attributes:
        prepare_data_per_node: Whether ``prepare_data`` runs in one process of each node (True) or in one of all.
        trainer: The Trainer whose run it is or was in; None before.
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
        """Make a data module from datasets; the training data are shuffled.

        Args:
            train_dataset: A dataset, or a collection of them for a collection of loaders.
            val_dataset: As above.
            test_dataset: As above.
            predict_dataset: As above.
            batch_size: Samples in a batch.
            num_workers: Processes that load.
            datamodule_kwargs: Passed to ``__init__``.
        """
        given = {"train": train_dataset, "val": val_dataset, "test": test_dataset, "predict": predict_dataset}
        options = {"batch_size": batch_size, "num_workers": num_workers}
        datamodule = cls(**datamodule_kwargs)
        for name, datasets in given.items():
            if datasets is not None:
                make = partial(_loaders, datasets, shuffle=name == "train", **options)
                setattr(datamodule, f"{name}_dataloader", make)
        return datamodule

    def state_dict(self) -> dict[str, Any]:
        """State to keep in checkpoints: plain data and tensors."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take back what :meth:`state_dict` returned."""

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "trainer": None}


def _loaders(given: Any, shuffle: bool, **options: Any) -> Any:
    """A loader of a dataset, or a collection of loaders from one of datasets, which may be lists themselves."""

    def loader(dataset: Any) -> DataLoader[Any]:
        return DataLoader(dataset, shuffle=shuffle and not isinstance(dataset, IterableDataset), **options)

    if isinstance(given, dict):
        return {name: loader(dataset) for name, dataset in given.items()}
    return [loader(dataset) for dataset in given] if isinstance(given, (list, tuple)) else loader(given)
