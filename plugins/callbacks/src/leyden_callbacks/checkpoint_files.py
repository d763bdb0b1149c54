"""The directory and the names of checkpoint files; names are made from templates such as ``{epoch}-{loss:.2f}``."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from leyden.utilities.storage import replacing
from leyden_callbacks import storage
from leyden_callbacks.checkpoint import Checkpoint
from leyden_callbacks.fit_state import FitState

if TYPE_CHECKING:
    from leyden import Trainer

FIELD = re.compile(r"\{(?P<name>[^{}:]*)(?::(?P<spec>[^{}]*))?\}")


class CheckpointFiles(FitState, Checkpoint):
    """Names, finds and removes the files of a checkpoint callback; ``ModelCheckpoint`` decides when to write them.

    Args:
        dirpath: The directory, local or a URL; with None it is chosen when a run begins.
        filename: The template of the file names; None means ``{epoch}-{step}``.
        insert_names: Whether a field of the template becomes ``metric=value`` instead of ``value``.
        version_counter: Whether a file name that already exists gets a version number instead of being overwritten.

    Attributes:
        CHECKPOINT_JOIN_CHAR: Separates the parts of a file name.
        CHECKPOINT_EQUALS_CHAR: Stands between a metric's name and its value.
        CHECKPOINT_NAME_LAST: The template for the file of ``save_last``.
        FILE_EXTENSION: The extension of every file name.
        STARTING_VERSION: The first version number that is tried.
    """

    CHECKPOINT_JOIN_CHAR = "-"
    CHECKPOINT_EQUALS_CHAR = "="
    CHECKPOINT_NAME_LAST = "last"
    FILE_EXTENSION = ".ckpt"
    STARTING_VERSION = 1

    def __init__(
        self,
        dirpath: str | os.PathLike[str] | None,
        filename: str | None,
        insert_names: bool,
        version_counter: bool,
    ) -> None:
        self.dirpath = self._given_dirpath = storage.normalised(dirpath) if dirpath else None
        self.filename = filename
        self.auto_insert_metric_name = insert_names
        self._enable_version_counter = version_counter
        self.best_k_models: dict[str, Any] = {}
        self._written: set[str] = set()
        self._resumed_from = ""

    @property
    def _default_filename(self) -> str:
        return f"{{epoch}}{self.CHECKPOINT_JOIN_CHAR}{{step}}"

    def format_checkpoint_name(
        self,
        metrics: Mapping[str, Any],
        filename: str | None = None,
        ver: int | None = None,
        prefix: str | None = None,
    ) -> str:
        """Return the path of a checkpoint.

        Args:
            metrics: Values for the fields of the template, numbers or scalar tensors; a missing one counts as 0.
            filename: The template; the callback's by default.
            ver: A version number to append to the name.
            prefix: Text to put before the name.

        Returns:
            The path in :attr:`dirpath`; the file name alone if there is no directory yet.
        """
        join, template = self.CHECKPOINT_JOIN_CHAR, filename or self.filename or self._default_filename

        def value(field: re.Match[str]) -> str:
            name = field["name"]
            text = format(metrics.get(name, 0), field["spec"] or "")
            if not self.auto_insert_metric_name:
                return text
            return f"{name.replace('/', '_')}{self.CHECKPOINT_EQUALS_CHAR}{text}"  # a name makes no directory

        name = FIELD.sub(value, template)
        parts = [prefix, name, None if ver is None else f"v{ver}"]
        name = join.join(part for part in parts if part is not None) + self.FILE_EXTENSION
        return os.path.join(self.dirpath, name) if self.dirpath else name

    def to_yaml(self, filepath: str | os.PathLike[str] | None = None) -> None:
        """Write :attr:`best_k_models` as YAML, by default to ``best_k_models.yaml`` in :attr:`dirpath`."""
        path = os.fspath(filepath or os.path.join(self.dirpath or "", "best_k_models.yaml"))
        lines = []
        for name, score in self.best_k_models.items():
            # a JSON string is valid YAML; YAML floats need a decimal point, and infinity is written ".inf"
            number = f"{float(score):.9e}".replace("inf", ".inf")
            lines.append(f"{json.dumps(name)}: {number}\n")
        with replacing(path, "w") as file:
            file.writelines(lines)

    def _resolve_dirpath(self, trainer: Trainer) -> str:
        """Return :attr:`dirpath` if it is given, else the first logger's directory, else one in default_root_dir."""
        if self.dirpath is not None:
            return self.dirpath
        if not trainer.loggers:
            return os.path.join(trainer.default_root_dir, "checkpoints")
        return _directory_of_version(trainer, trainer.loggers[0].version)

    def _earlier_dirpaths(self, trainer: Trainer) -> list[str]:
        """Return the directories of earlier runs in which this one may go on, the newest first.

        There are none if a directory was given: all runs share it.
        """
        if self.dirpath is not None or not trainer.loggers:
            return []
        versions = getattr(trainer.loggers[0], "earlier_versions", list)  # which loggers that number their runs have
        return [_directory_of_version(trainer, version) for version in versions()]

    def _free_path(self, trainer: Trainer, metrics: Mapping[str, Any], template: str | None, keep: str) -> str:
        """Return a path that does not exist yet, or ``keep``. Rank 0, which writes the file, chooses for all ranks."""
        path = ""
        if trainer.is_global_zero:
            path = self.format_checkpoint_name(metrics, template)
            version = self.STARTING_VERSION
            while self._enable_version_counter and storage.exists(path):
                if path == keep and self._is_own(trainer, path):
                    break
                path = self.format_checkpoint_name(metrics, template, ver=version)
                version += 1
        return trainer.strategy.broadcast(path)

    def _pattern(self, template: str) -> re.Pattern[str]:
        """What the file names of a template look like, with or without a version number."""
        parts = [re.escape(part) for part in re.split(r"\{[^{}]*\}", template)]
        join, extension = re.escape(self.CHECKPOINT_JOIN_CHAR), re.escape(self.FILE_EXTENSION)
        return re.compile(".*".join(parts) + rf"({join}v\d+)?{extension}")

    def _find_last_checkpoints(self, trainer: Trainer, earlier: bool = False) -> set[str]:
        """Return the paths of all files that ``save_last`` may have written, with or without a version number."""
        return self._find_checkpoints(trainer, earlier, self.CHECKPOINT_NAME_LAST)

    def _find_checkpoints(self, trainer: Trainer, earlier: bool, template: str | None = None) -> set[str]:
        """Return the paths in this run's directory, or in those of ``earlier`` runs, that a template may have made.

        The template is by default that of the callback's file names.
        """
        directories = self._earlier_dirpaths(trainer) if earlier else [self._resolve_dirpath(trainer)]
        pattern = self._pattern(template or self.filename or self._default_filename)
        paths = [path for directory in directories for path in storage.listing(directory)]
        return {path for path in paths if pattern.fullmatch(os.path.basename(path))}

    def _may_remove(self, trainer: Trainer, previous: str, current: str) -> bool:
        """Whether this run may remove ``previous``, which may have come from a checkpoint: only what is its own.

        It may not remove the checkpoint that it resumed from.
        """
        if not previous or storage.place(previous) in (storage.place(current), self._resumed_from):
            return False
        return self._is_own(trainer, previous)

    def _is_own(self, trainer: Trainer, path: str) -> bool:
        """Whether this callback has written ``path``, or it is a checkpoint by its place, name and kind.

        The place is the callback's directory, and the name is one that the callback gives. A directory is a checkpoint
        only if a plugin knows it as one.
        """
        if path in self._written:
            return True
        directory = os.path.join(self.dirpath or "", "")
        if not path.startswith(directory) or not storage.is_within(os.path.dirname(path), directory):
            return False
        templates = (self.filename or self._default_filename, self.CHECKPOINT_NAME_LAST)
        if not any(self._pattern(template).fullmatch(path[len(directory) :]) for template in templates):
            return False
        return storage.is_file(path) or trainer.plugin_manager.hook.leyden_describe_checkpoint(path=path) is not None

    def _remove(self, trainer: Trainer, path: str) -> None:
        self._written.discard(path)
        if path and trainer.is_global_zero:
            trainer.strategy.checkpoint_io.remove_checkpoint(path)
            storage.remove_if_empty(os.path.dirname(path), self.dirpath or "")


def _directory_of_version(trainer: Trainer, version: Any) -> str:
    """The default directory of checkpoints, in the first logger's directory of one run."""
    logger, name = trainer.loggers[0], version if isinstance(version, str) else f"version_{version}"
    return os.path.join(logger.save_dir or trainer.default_root_dir, str(logger.name), name, "checkpoints")
