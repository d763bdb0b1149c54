"""Data modules made from datasets, without a class of one's own."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from torch.utils.data import DataLoader, IterableDataset


def give_loaders(datamodule: Any, datasets: Mapping[str, Any], **options: Any) -> None:
    """Give a data module the methods that make loaders for datasets; only training data are shuffled.

    Args:
        datamodule: The data module.
        datasets: By "train", "val", "test" or "predict" a dataset, a list or dict of datasets, which makes a list or
            dict of loaders, or None.
        options: Arguments of the loaders.
    """
    for name, given in datasets.items():
        if given is not None:
            make = partial(_loaders, given, shuffle=name == "train", **options)
            setattr(datamodule, f"{name}_dataloader", make)


def _loaders(given: Any, shuffle: bool, **options: Any) -> Any:
    def loader(dataset: Any) -> DataLoader[Any]:
        return DataLoader(dataset, shuffle=shuffle and not isinstance(dataset, IterableDataset), **options)

    if isinstance(given, dict):
        return {name: loader(dataset) for name, dataset in given.items()}
    return [loader(dataset) for dataset in given] if isinstance(given, (list, tuple)) else loader(given)
