"""What finding plugins costs at start-up: fifty plugins that do little, each a distribution of its own, and none.

    python tests/benchmarks/discovery.py               # half a minute
    python tests/benchmarks/discovery.py --plugins 200 --starts 20

The plugins are metadata and a small module each, in a temporary folder on the path of fresh processes, which time
``discover()`` after ``import leyden``. Processes with and without the plugins take turns. A figure is the least of all
starts, which is the one that others who use the machine have disturbed least. Plugins that are installed beside them
are found in both, so that the difference is what the fifty add.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

MOST_MS = 50  # what fifty plugins may add
SCRIPT = """
import json, time
import leyden
from leyden.plugin_system.discovery import discover
began, cpu = time.perf_counter(), time.process_time()
manager = discover()
took = {"wall": time.perf_counter() - began, "cpu": time.process_time() - cpu}
loaded = sum(info.load_time for info in manager.infos)
active = sum(info.state == "active" for info in manager.infos)
print(json.dumps({**took, "loaded": loaded, "active": active}))
"""
PLUGIN = '''"""A plugin of the benchmark: a component, and a hook."""

from leyden import Component, hookimpl


@hookimpl
def leyden_components():
    yield Component("callback", "Callback{number}", "bench_{number}.callback:Callback{number}")


@hookimpl
def leyden_configure(trainer):
    pass
'''
METADATA = """Metadata-Version: 2.4
Name: leyden-bench-{number}
Version: 1.0.{number}
Summary: One of the plugins of the benchmark.
Requires-Python: >=3.10
Requires-Dist: leyden-core[hooks-1]<1,>=0.1
Requires-Dist: torch>=2.6
"""


def make_plugins(folder: Path, count: int) -> None:
    """Install so many plugins in a folder."""
    for number in range(count):
        (folder / f"leyden_bench_{number}.py").write_text(PLUGIN.format(number=number), encoding="utf-8")
        info = folder / f"leyden_bench_{number}-1.0.{number}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(METADATA.format(number=number), encoding="utf-8")
        points = f"[leyden]\nbench-{number} = leyden_bench_{number}\n"
        (info / "entry_points.txt").write_text(points, encoding="utf-8")


def start(folder: Path) -> dict[str, float]:
    """Discover in a fresh process that has the folder on its path; seconds, and how many plugins were active."""
    environment = {**os.environ, "PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True, check=True)
    measured: dict[str, float] = json.loads(done.stdout)
    return measured


def measure(count: int, starts: int) -> dict[str, float]:
    """What discovery takes without and with so many plugins, in ms, the least of so many starts of each."""
    with tempfile.TemporaryDirectory() as root:
        none, many = Path(root, "none"), Path(root, "many")
        none.mkdir()
        many.mkdir()
        make_plugins(many, count)
        for folder in (none, many):
            start(folder)  # compiles the modules, as an installer does
        pairs = [(start(none), start(many)) for _ in range(starts)]
    without, within = pairs[0][0]["active"], pairs[0][1]["active"]
    if within - without != count:
        raise SystemExit(f"{count} plugins were made, and {within - without:.0f} of them are active.")
    figures = {"installed": without, "plugins": count, "starts": starts}
    for clock in ("wall", "cpu"):
        least = [1e3 * min(pair[place][clock] for pair in pairs) for place in (0, 1)]
        figures[f"without_{clock}_ms"], figures[f"with_{clock}_ms"] = least
        figures[f"added_{clock}_ms"] = least[1] - least[0]
    return figures


def main() -> int:
    """Measure, print, and return 1 where the plugins add more than they may."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--plugins", type=int, default=50, help="how many (default: 50)")
    parser.add_argument("--starts", type=int, default=9, help="processes of each sort (default: 9)")
    options = parser.parse_args()
    figures = measure(options.plugins, options.starts)
    print(json.dumps({name: round(value, 1) for name, value in figures.items()}, indent=2))
    return int(figures["added_cpu_ms"] > MOST_MS * options.plugins / 50)


if __name__ == "__main__":
    sys.exit(main())
