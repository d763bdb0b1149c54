"""The examples and the README's script run as a newcomer runs them, and do what they say."""

from __future__ import annotations

import csv
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def python(script: Path, cwd: Path) -> str:
    result = subprocess.run([sys.executable, script], cwd=cwd, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Where examples/digits.py ran, and what it printed."""
    folder = tmp_path_factory.mktemp("digits")
    return folder, python(ROOT / "examples" / "digits.py", folder)


class TestDigits:
    def test_the_best_checkpoint_reads_the_digits(self, digits: tuple[Path, str]) -> None:
        _, printed = digits
        [accuracy] = re.findall(r"^test accuracy (\d\.\d+)$", printed, re.MULTILINE)
        assert float(accuracy) > 0.95

    def test_it_stops_before_the_last_epoch_and_keeps_the_best(self, digits: tuple[Path, str]) -> None:
        folder, printed = digits
        [(epochs, path)] = re.findall(r"^The best of (\d+) epochs is (\S+)$", printed, re.MULTILINE)
        assert int(epochs) < 40
        [checkpoint] = folder.glob("logs/tensorboard/version_0/checkpoints/*.ckpt")
        assert checkpoint == (folder / path).resolve()
        assert re.fullmatch(r"epoch=\d+-val_loss=0\.\d{3}\.ckpt", checkpoint.name)

    def test_the_losses_go_down_in_the_csv_log(self, digits: tuple[Path, str]) -> None:
        folder, _ = digits
        with (folder / "logs/csv/version_0/metrics.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        losses = [float(row["val_loss"]) for row in rows if row["val_loss"]]
        assert losses[-1] < losses[0] / 2
        assert {"epoch", "step", "train_loss_step", "train_loss_epoch", "val_acc", "test_acc"} <= set(rows[0])

    def test_the_printed_line_shows_the_logs_in_tensorboard(self, digits: tuple[Path, str]) -> None:
        folder, printed = digits
        assert list(folder.glob("logs/tensorboard/version_0/events.out.tfevents.*"))
        command = f"{sys.executable} -m tensorboard.main --logdir {folder / 'logs'}"
        assert printed.splitlines()[-1] == command

    def test_it_predicts_the_labels(self, digits: tuple[Path, str]) -> None:
        _, printed = digits
        labels, predictions = (
            re.findall(rf"^{word}\s+([\d ]+)$", printed, re.MULTILINE)[0].split() for word in ("labels", "predictions")
        )
        assert sum(a == b for a, b in zip(labels, predictions, strict=True)) >= 18


def test_the_script_of_the_readme_trains(tmp_path: Path) -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    code = re.findall(r"```python\n(.+?)```", readme, re.DOTALL)[0]
    script = tmp_path / "script.py"
    script.write_text(code, encoding="utf-8")
    python(script, tmp_path)
    [checkpoint] = tmp_path.glob("lightning_logs/version_0/checkpoints/*.ckpt")
    assert checkpoint.name == "epoch=4-step=100.ckpt"


PROCESSES = {
    "ddp_spawn": [sys.executable],
    "zero_3": [sys.executable],
    "ddp": [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"],
}


@pytest.mark.slow
@pytest.mark.parametrize("strategy", PROCESSES)
def test_the_digits_are_learned_by_several_processes(tmp_path: Path, strategy: str) -> None:
    script = str(ROOT / "examples" / "several_processes.py")
    command = [*PROCESSES[strategy], script, "--strategy", strategy]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stdout + result.stderr
    [(processes, steps, accuracy)] = re.findall(
        r"^(\d) processes took (\d+) steps; accuracy (\S+)$", result.stdout, re.MULTILINE
    )
    assert (processes, steps) == ("2", "152")  # 8 epochs of half of 1,197 images in batches of 32
    assert float(accuracy) > 0.9
    assert len(list(tmp_path.glob("several/checkpoints/*"))) == 1
