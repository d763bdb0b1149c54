"""The README's script, by copy and paste."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("deepspeed") is None, reason="deepspeed is not installed; make test-deepspeed"
)
def test_the_readmes_script_runs(tmp_path):
    text = (Path(__file__).parents[1] / "README.md").read_text()
    script = next(block for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "Trainer" in block)
    (tmp_path / "train.py").write_text(script)
    environment = {name: value for name, value in os.environ.items() if name != "DS_ACCELERATOR"}
    ran = subprocess.run(
        [sys.executable, "train.py"], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300
    )
    assert ran.returncode == 0, ran.stderr
    losses = re.findall(r"^loss ([\d.]+)$", ran.stdout, re.MULTILINE)
    assert len(losses) == 1
    assert float(losses[0]) < 2
    assert list(tmp_path.rglob("*.ckpt/checkpoint/*optim_states.pt"))
