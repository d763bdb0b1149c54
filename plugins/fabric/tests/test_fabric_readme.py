"""The README's example does what it says."""

import csv
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

README = Path(__file__).parents[1] / "README.md"


@pytest.mark.slow
def test_the_example_trains_by_copy_and_paste(tmp_path):
    [script] = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    (tmp_path / "train.py").write_text(script, encoding="utf-8")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    result = subprocess.run(
        [sys.executable, "train.py"], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120
    )
    assert result.returncode == 0, result.stderr
    losses = [float(loss) for loss in re.findall(r"^epoch \d+: loss (\d\.\d+)$", result.stdout, re.MULTILINE)]
    assert len(losses) == 10
    assert losses[-1] < losses[0] / 10
    saved = torch.load(tmp_path / "checkpoint.ckpt", weights_only=True)
    assert (saved["epoch"], saved["loader"]) == (10, {"epoch": 10})
    with (tmp_path / "lightning_logs/version_0/metrics.csv").open(newline="") as file:
        assert [round(float(row["loss"]), 3) for row in csv.DictReader(file)] == losses
