"""Checks of a checkpoint IO: it loads what it saved, writes whole files or none, and runs no code from files."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import leyden as pl
from leyden.plugins import CheckpointIO, discover
from leyden_testing.component import TrainerPartConformance
from leyden_testing.training import Model, SaveAmid, rows, same, weights

RAN: list[str] = []


class Running:
    """An object that runs code when it is unpickled."""

    def __reduce__(self) -> Any:
        return RAN.append, ("ran",)


class Unsaved:
    """An object that raises an error when it is pickled."""

    def __reduce__(self) -> Any:
        raise ValueError("the value's own error")


class CheckpointIOConformance(TrainerPartConformance):
    """The checks of a checkpoint IO.

    Example::

        class TestObjectStore(CheckpointIOConformance):
            @pytest.fixture
            def name(self):
                return "object_store"
    """

    kind = "checkpoint_io"
    interface = CheckpointIO

    @pytest.fixture
    def path(self, tmp_path: Path) -> str:
        """The path that the checks save to; neither it nor its directory exists. By default a local path."""
        return str(tmp_path / "made" / "a.ckpt")

    def trainer_arguments(self, value: Any) -> dict[str, Any]:
        """Return the part as an entry of ``plugins``."""
        return {"plugins": [value]}

    def part_of(self, trainer: pl.Trainer) -> Any:
        """Return the checkpoint IO of the strategy."""
        return trainer.strategy.checkpoint_io

    def test_what_is_saved_is_loaded(self, part: Any, path: str) -> None:
        """Tensors of any dtype and nested plain data are loaded unchanged, on the requested device."""
        checkpoint = self._checkpoint(1)
        self._save(part, checkpoint, path)
        for location in (None, "cpu", torch.device("cpu")):
            loaded = part.load_checkpoint(path, location)
            assert loaded.keys() == checkpoint.keys()
            assert {k: v for k, v in loaded.items() if k != "state_dict"} == {
                k: v for k, v in checkpoint.items() if k != "state_dict"
            }
            for name, tensor in checkpoint["state_dict"].items():
                assert loaded["state_dict"][name].dtype == tensor.dtype
                assert torch.equal(loaded["state_dict"][name], tensor)
        assert part.load_checkpoint(path, "meta")["state_dict"]["float32"].device.type == "meta"

    def test_saving_does_not_change_what_is_saved(self, part: Any, path: str) -> None:
        """The caller's dict is the same after saving as before."""
        checkpoint = self._checkpoint(1)
        self._save(part, checkpoint, path)
        other = self._checkpoint(1)
        assert checkpoint.keys() == other.keys()
        assert same(checkpoint["state_dict"], other["state_dict"])

    def test_a_checkpoint_replaces_the_one_before(self, part: Any, path: str) -> None:
        """After saving twice to one path, the second checkpoint is loaded."""
        for number in (1, 2):
            self._save(part, self._checkpoint(number), path)
        assert part.load_checkpoint(path)["epoch"] == 2

    def test_a_missing_checkpoint_is_an_error(self, part: Any, path: str) -> None:
        """Loading a missing checkpoint raises a FileNotFoundError with the path."""
        with pytest.raises(FileNotFoundError, match=r"a\.ckpt"):
            part.load_checkpoint(path)

    def test_it_is_removed(self, part: Any, path: str) -> None:
        """A removed checkpoint is gone; removing a missing one does nothing."""
        part.remove_checkpoint(path)
        self._save(part, self._checkpoint(1), path)
        part.remove_checkpoint(path)
        with pytest.raises(FileNotFoundError):
            part.load_checkpoint(path)
        part.remove_checkpoint(path)

    def test_a_failed_save_keeps_the_old_checkpoint(self, part: Any, path: str) -> None:
        """A failed save raises an error, and the earlier checkpoint is still there."""
        self._save(part, self._checkpoint(1), path)
        with pytest.raises(ValueError, match="the value's own error"):
            self._save(part, {**self._checkpoint(2), "unsaved": Unsaved()}, path)
        assert part.load_checkpoint(path)["epoch"] == 1

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
    def test_a_kill_leaves_the_old_or_the_new_checkpoint(self, part: Any, path: str) -> None:
        """A process that is killed while it saves repeatedly leaves a whole checkpoint, at whatever time."""
        for seconds in (0.01, 0.03, 0.05):
            self._save(part, self._checkpoint(0), path)
            child = os.fork()
            if child == 0:
                self._save_until_killed(part, path, seconds)
            _, status = os.waitpid(child, 0)
            assert os.WIFSIGNALED(status), "the saving process ended before it was killed"
            loaded = part.load_checkpoint(path)
            assert same(loaded["state_dict"], self._checkpoint(loaded["epoch"])["state_dict"])

    @pytest.mark.parametrize("damage", ["truncated", "flipped"])
    def test_a_damaged_checkpoint_is_never_returned(self, damage: str, part: Any, path: str) -> None:
        """Loading raises an error if the file is truncated, or if one bit of a tensor has changed."""
        self._save(part, self._checkpoint(1), path)
        largest = self._largest_file(path)
        data = bytearray(largest.read_bytes())
        if damage == "truncated":
            del data[len(data) // 2 :]
        else:
            data[data.index(self._pattern()) + 100] ^= 1
        largest.write_bytes(data)
        with pytest.raises(Exception) as raised:  # noqa: PT011 - of what type is the IO's own choice
            part.load_checkpoint(path)
        assert str(raised.value)

    def test_loading_runs_no_code(self, part: Any, path: str) -> None:
        """Loading a file that would run code raises an error, unless the caller passes ``weights_only=False``."""
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        torch.save({"state_dict": {}, "code": Running()}, path)
        RAN.clear()
        for weights_only in (None, True):
            with pytest.raises(Exception) as raised:  # noqa: PT011 - of what type is the IO's own choice
                part.load_checkpoint(path, None, weights_only)
            assert RAN == [], f"weights_only={weights_only} runs the file's code"
            assert str(raised.value)

    def test_teardown_completes_the_saves(self, part: Any, path: str) -> None:
        """After ``teardown``, which may be called twice, the checkpoint can be loaded, and more can be saved."""
        for number in (1, 2):
            part.save_checkpoint(self._checkpoint(number), path)
            part.teardown()
            part.teardown()
            assert part.load_checkpoint(path)["epoch"] == number

    def test_a_resumed_run_is_the_uninterrupted_one(
        self, part: Any, name: str, arguments: dict[str, Any], path: str, tmp_path: Path
    ) -> None:
        """A run resumed from its checkpoint of the middle of an epoch ends with the uninterrupted one's bits."""
        saved, whole, resumed = SaveAmid(Path(path)), Model(dropout=0.5), Model(dropout=0.5)
        self.seed()
        self.trainer(tmp_path, part, callbacks=[saved]).fit(whole, rows(), rows(8))
        part.teardown()
        pl.seed_everything(8, verbose=False)
        later = discover().build(self.kind, name, **arguments)
        self.trainer(tmp_path, later).fit(resumed, rows(), rows(8), ckpt_path=path)
        assert same(weights(resumed), weights(whole))

    # -- helpers --------------------------------------------------------------------------------------------

    @staticmethod
    def _pattern() -> bytes:
        """Return the bytes of the checkpoint's largest tensor."""
        return bytes(torch.arange(512, dtype=torch.float32).numpy().tobytes())

    @staticmethod
    def _checkpoint(number: int) -> dict[str, Any]:
        """Return a checkpoint whose content depends on ``number``."""
        dtypes = (torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.bool)
        tensors = {str(dtype).removeprefix("torch."): torch.full((3, 2), number % 2, dtype=dtype) for dtype in dtypes}
        tensors["large"] = torch.arange(200_000, dtype=torch.float32) + 0 * number
        tensors["number"] = torch.tensor(number)
        return {
            "epoch": number, "state_dict": tensors, "hyper_parameters": {"lr": 0.5, "name": "a", "none": None},
            "loops": [1, (2, "x"), {"y": True}],
        }  # fmt: skip

    @staticmethod
    def _save(io: Any, checkpoint: dict[str, Any], path: str) -> None:
        io.save_checkpoint(checkpoint, path)
        io.teardown()

    def _save_until_killed(self, io: Any, path: str, seconds: float) -> None:
        """Save repeatedly in a child process until SIGALRM, which has no handler, kills it."""
        try:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.setitimer(signal.ITIMER_REAL, seconds)
            for number in range(1, sys.maxsize):
                self._save(io, self._checkpoint(number), path)
        finally:
            os._exit(70)

    @staticmethod
    def _largest_file(path: str) -> Path:
        """Return the file with the tensors, of a checkpoint that is a file or a directory."""
        if not os.path.exists(path):
            pytest.skip(f"{path} is not a local file that could be damaged")
        files = [Path(path)] if os.path.isfile(path) else [p for p in Path(path).rglob("*") if p.is_file()]
        return max(files, key=lambda file: file.stat().st_size)
