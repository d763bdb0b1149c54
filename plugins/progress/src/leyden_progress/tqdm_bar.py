"""TQDMProgressBar: a bar drawn by tqdm."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from leyden.utilities.exceptions import MisconfigurationException
from leyden_progress.drawing import FASTEST_REDRAW, Count, DrawnProgressBar, Stage

if TYPE_CHECKING or find_spec("ipywidgets") is None:
    from tqdm import tqdm  # type: ignore[import-untyped]
else:
    from tqdm.auto import tqdm

NUMBER_WIDTH = 5


class Tqdm(tqdm):  # type: ignore[misc]
    """tqdm with numbers of a fixed width, so that the bar does not move, and without tqdm's monitor thread.

    Attributes:
        paused: Whether :meth:`refresh` does nothing. tqdm calls it on every change, even one that need not be drawn.
    """

    monitor_interval = 0
    paused = False

    def refresh(self, *args: Any, **kwargs: Any) -> Any:
        """Draw, unless :attr:`paused`."""
        return None if self.paused else super().refresh(*args, **kwargs)

    @staticmethod
    def format_num(n: float | str) -> str:
        """Return a number as tqdm shortens it, with zeros added after the decimal point: "0.500" for 0.5."""
        text = n if isinstance(n, str) else str(tqdm.format_num(n))
        if isinstance(n, int) or "e" in text or len(text) >= NUMBER_WIDTH:
            return text
        try:
            float(text)
        except ValueError:
            return text
        return (text if "." in text else text + ".").ljust(NUMBER_WIDTH, "0")


class TQDMProgressBar(DrawnProgressBar):
    """A progress bar by tqdm on standard output: a line for the epoch, and a second line while validation runs.

    To a file or a pipe it writes one plain line per epoch and evaluation.

    Args:
        refresh_rate: The minimum number of batches between two redraws; there are at most ten redraws a second.
            0 draws nothing. The environment variable ``TQDM_MINITERS`` is used instead if it is larger.
        process_position: Half the number of lines to leave free above, for your own bars.
        leave: Whether the bar of each finished epoch stays visible; otherwise the next epoch uses it again.

    Example::

        class PlainerBar(TQDMProgressBar):
            def init_validation_tqdm(self):
                bar = super().init_validation_tqdm()
                bar.set_description("running validation")
                return bar

        Trainer(callbacks=[PlainerBar()])
    """

    BAR_FORMAT = "{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}, {rate_noinv_fmt}{postfix}]"

    def __init__(self, refresh_rate: int = 1, process_position: int = 0, leave: bool = False) -> None:
        if refresh_rate > 0:
            refresh_rate = max(refresh_rate, _least_refresh_rate())
        super().__init__(refresh_rate, FASTEST_REDRAW, leave)
        self._process_position = process_position
        self._bars: dict[Stage, tqdm] = {}

    @property
    def refresh_rate(self) -> int:
        """The minimum number of batches between two redraws."""
        return self._every

    @property
    def process_position(self) -> int:
        """Half the number of lines left free above."""
        return self._process_position

    @property
    def train_progress_bar(self) -> tqdm:
        """The training bar; raises TypeError if there is none."""
        return self._bar("train")

    @train_progress_bar.setter
    def train_progress_bar(self, bar: tqdm) -> None:
        self._bars["train"] = bar

    @property
    def val_progress_bar(self) -> tqdm:
        """The bar of the validation or the sanity check; raises TypeError if there is none."""
        return self._bar("sanity" if "sanity" in self._bars else "val")

    @val_progress_bar.setter
    def val_progress_bar(self, bar: tqdm) -> None:
        self._bars["val"] = bar

    @property
    def test_progress_bar(self) -> tqdm:
        """The test bar; raises TypeError if there is none."""
        return self._bar("test")

    @test_progress_bar.setter
    def test_progress_bar(self, bar: tqdm) -> None:
        self._bars["test"] = bar

    @property
    def predict_progress_bar(self) -> tqdm:
        """The prediction bar; raises TypeError if there is none."""
        return self._bar("predict")

    @predict_progress_bar.setter
    def predict_progress_bar(self, bar: tqdm) -> None:
        self._bars["predict"] = bar

    def init_sanity_tqdm(self) -> tqdm:
        """Make the bar of the sanity check; override it to change the bar."""
        return self._new_bar(self.sanity_check_description, leave=False)

    def init_train_tqdm(self) -> tqdm:
        """Make the training bar; override it to change the bar."""
        return self._new_bar(self.train_description, leave=True, smoothing=0)

    def init_validation_tqdm(self) -> tqdm:
        """Make the validation bar; override it to change the bar."""
        inner = self.trainer.state.fn == "fit"
        return self._new_bar(self.validation_description, leave=not inner, line=int(inner))

    def init_test_tqdm(self) -> tqdm:
        """Make the test bar; override it to change the bar."""
        return self._new_bar(self.test_description, leave=True)

    def init_predict_tqdm(self) -> tqdm:
        """Make the prediction bar; override it to change the bar."""
        return self._new_bar(self.predict_description, leave=True, smoothing=0)

    def print(self, *args: Any, sep: str = " ", end: str = "\n", **kwargs: Any) -> None:
        """Print above the bar; without a bar, print like the builtin."""
        bar = next((bar for bar in self._bars.values() if not bar.disable), None)
        if bar is None:
            print(*args, sep=sep, end=end, **kwargs)
        else:
            bar.write(sep.join(map(str, args)), file=kwargs.get("file"), end=end)

    def _new_bar(self, description: str, leave: bool, line: int = 0, **arguments: Any) -> tqdm:
        return Tqdm(
            desc=description,
            position=2 * self._process_position + line,
            disable=self.is_disabled or not self._on_terminal(),
            leave=leave,
            dynamic_ncols=True,
            file=sys.stdout,
            bar_format=self.BAR_FORMAT,
            **arguments,
        )

    def _on_terminal(self) -> bool:
        # In a notebook tqdm.auto's bar is a widget, whatever standard output is.
        return sys.stdout.isatty() or any(base.__name__ == "tqdm_notebook" for base in tqdm.__mro__)

    def _bar(self, stage: Stage) -> tqdm:
        if stage not in self._bars:
            raise TypeError(f"{type(self).__name__} has no {stage} bar now; use it only while that stage runs.")
        return self._bars[stage]

    def _loader_description(self, description: str, dataloader_idx: int, loaders: int) -> str:
        return f"{description} DataLoader {dataloader_idx}"

    def _open(self, stage: Stage) -> bool:
        initialise = {
            "sanity": self.init_sanity_tqdm,
            "train": self.init_train_tqdm,
            "val": self.init_validation_tqdm,
            "test": self.init_test_tqdm,
            "predict": self.init_predict_tqdm,
        }[stage]
        if stage not in self._bars:
            self._bars[stage] = initialise()
        return self._on_terminal()

    def _begin(self, count: Count) -> None:
        if count.stage == "train" and self._leave and self._bars["train"].n:
            self._hide("train")
            self._open("train")
        bar = self._bars[count.stage]
        bar.paused = True
        bar.set_description(count.description)
        bar.total = count.known_total
        bar.reset(count.known_total)
        bar.n = bar.initial = count.done
        bar.paused = False

    def _draw(self, metrics: Mapping[str, Any] | None) -> None:
        for count in (self._train, self._evaluation):
            if count is None:
                continue
            bar = self._bars[count.stage]
            bar.n = count.done
            if metrics is not None and count is self._train:
                bar.set_postfix(metrics, refresh=False)
            bar.refresh()

    def _hide(self, stage: Stage) -> None:
        bar = self._bars.pop(stage, None)
        if bar is not None:
            bar.close()

    def _close(self) -> None:
        for stage in reversed(list(self._bars)):
            self._hide(stage)

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_bars": {}}


def _least_refresh_rate() -> int:
    """The number of batches between two redraws that the environment asks for; 0 if it does not."""
    text = os.environ.get("TQDM_MINITERS", "0")
    if not text.isdecimal():
        raise MisconfigurationException(
            f"TQDM_MINITERS={text!r} in the environment is no number of batches; set an integer from 0 up, or unset it."
        )
    return int(text)
