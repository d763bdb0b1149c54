"""``leyden plugins`` and ``leyden hooks``; ``leyden doctor`` and ``leyden new`` have test files of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent

import pytest

import leyden as pl
from leyden.plugins import discover
from leyden_command.main import COMMANDS, main
from leyden_testing.fake_plugins import PluginSite, new_plugin_site


@pytest.fixture
def plugin_site(tmp_path: Path) -> Iterator[PluginSite]:
    with new_plugin_site(tmp_path / "site") as site:
        yield site


@pytest.fixture
def three_plugins(plugin_site: PluginSite, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that works, one that is broken, one that is disabled."""
    plugin_site.add(
        "acme-sound",
        """
        @hookimpl
        def leyden_components():
            yield Component("callback", "Horn", "nowhere:Horn")
            yield Component("callback", "Bell", "nowhere:Bell")
            yield Component("logger", "tape", "nowhere:Tape")

        @hookimpl
        def on_fit_start(trainer):
            pass
        """,
        plugin="sound",
        version="4.5",
    )
    plugin_site.add("acme-broken", "raise RuntimeError('no flux capacitor')", plugin="broken")
    plugin_site.add("acme-off", "", plugin="off")
    monkeypatch.setenv("LEYDEN_PLUGINS_DISABLED", "off")
    with pytest.warns(RuntimeWarning, match="set aside"):
        discover()


# -- leyden plugins ---------------------------------------------------------------------------------------


def test_plugins_as_json(three_plugins, capsys):
    assert main(["plugins", "--json"]) == 0
    rows = {row["plugin"]: row for row in json.loads(capsys.readouterr().out)}
    sound = rows["sound"]
    assert sound.pop("load_ms") > 0
    assert sound == {
        "plugin": "sound",
        "distribution": "acme-sound",
        "version": "4.5",
        "state": "active",
        "components": ["callback:Horn", "callback:Bell", "logger:tape"],
        "hooks": ["leyden_components", "on_fit_start"],
        "clashes": [],
        "order": {},
        "error": None,
    }
    assert (rows["broken"]["state"], rows["broken"]["error"]) == ("set aside", "RuntimeError: no flux capacitor")
    assert (rows["off"]["state"], rows["off"]["components"]) == ("disabled", [])
    assert rows["core"]["version"] == pl.__version__


def test_plugins_as_a_table(three_plugins, capsys):
    assert main(["plugins"]) == 0
    lines = capsys.readouterr().out.splitlines()
    at = next(i for i, line in enumerate(lines) if line.startswith("sound "))
    assert lines[at].split()[:4] == ["sound", "acme-sound", "4.5", "active"]
    assert lines[at].endswith(" ms")
    assert lines[at + 1 : at + 4] == ["    callback: Horn, Bell", "    logger: tape", "    hooks: on_fit_start"]
    at = next(i for i, line in enumerate(lines) if line.startswith("broken "))
    assert "set aside" in lines[at]
    assert lines[at + 1] == "    RuntimeError: no flux capacitor"
    assert any(line.startswith("off ") and "disabled" in line for line in lines)


def test_plugins_shows_order_and_clashes(plugin_site: PluginSite, capsys):
    for name in ("one", "two"):
        source = f"""
        @hookimpl(trylast=True)
        def leyden_default_logger(trainer):
            return None

        @hookimpl
        def leyden_components():
            yield Component("logger", "tape", "acme_{name}:Tape")
        """
        plugin_site.add(f"acme-{name}", source, plugin=name)
    assert main(["plugins", "--json"]) == 0
    rows = {row["plugin"]: row for row in json.loads(capsys.readouterr().out)}
    assert rows["one"]["order"] == {"leyden_default_logger": "trylast"}
    assert rows["one"]["clashes"] == ["logger:tape with plugin 'two' of acme-two 1.2.3"]
    assert main(["plugins"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "    hooks: leyden_default_logger (trylast)" in lines
    assert "    clash: logger:tape with plugin 'one' of acme-one 1.2.3" in lines


def test_p_leaves_a_plugin_out_and_loads_a_module(three_plugins, plugin_site: PluginSite, capsys):
    discover.cache_clear()
    plugin_site.module("acme_extra", "from leyden import hookimpl\n@hookimpl\ndef on_fit_start(): ...\n")
    assert main(["plugins", "-p", "no:broken", "-p", "no:sound", "-p", "acme_extra", "--json"]) == 0
    rows = {row["plugin"]: row for row in json.loads(capsys.readouterr().out)}
    states = {name: rows[name]["state"] for name in ("broken", "sound", "off", "acme_extra")}
    assert states == {"broken": "disabled", "sound": "disabled", "off": "disabled", "acme_extra": "active"}
    assert rows["acme_extra"]["hooks"] == ["on_fit_start"]


def test_p_of_what_is_not_there_is_said(plugin_site: PluginSite, capsys):
    assert main(["plugins", "-p", "acme_nowhere"]) == 2
    assert capsys.readouterr().err == (
        "leyden plugins: -p asks for 'acme_nowhere', which can't be used: no installed plugin and no module has that "
        "name\n"
    )


def test_p_leaves_out_only_what_is_there(plugin_site: PluginSite, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["plugins", "-p", "no:acme_nowhere"])
    assert ended.value.code == 2
    assert "-p no:acme_nowhere: there is no plugin 'acme_nowhere'; installed: " in capsys.readouterr().err


def test_an_environment_variable_is_named_where_it_asks(plugin_site: PluginSite, monkeypatch, capsys):
    monkeypatch.setenv("LEYDEN_PLUGINS", "acme_nowhere")
    assert main(["plugins"]) == 2
    assert capsys.readouterr().err.startswith("leyden plugins: LEYDEN_PLUGINS asks for 'acme_nowhere'")


def test_as_a_program(plugin_site: PluginSite, tmp_path):
    plugin_site.add("acme-sound", "", plugin="sound")
    environment = {"PYTHONPATH": str(plugin_site.path), "PATH": "", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "error", "-m", "leyden", "plugins", "--json"]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert {"core", "sound"} <= {row["plugin"] for row in json.loads(done.stdout)}


@pytest.mark.parametrize("command", [["plugins"], ["plugins", "--json"], ["doctor"]])
def test_a_reader_that_has_gone_ends_it_quietly(plugin_site: PluginSite, monkeypatch, command):
    """As in ``leyden plugins | head -2``; the second flush of the stream is the one that Python makes when it exits."""
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as stdout:
        monkeypatch.setattr(sys, "stdout", stdout)
        main(command)
        stdout.flush()
        monkeypatch.undo()


@pytest.mark.parametrize("arguments", [[], ["plugin"], ["hooks"], ["hooks", "--batches", "many", "x.py"]])
def test_what_it_does_not_understand_it_says(arguments, capsys):
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert "usage: leyden" in capsys.readouterr().err


# -- leyden hooks -----------------------------------------------------------------------------------------

SCRIPT = """
    import sys
    import torch
    import leyden as pl
    from beside import COLOUR

    class Painter(pl.Callback):
        def on_train_start(self, trainer, pl_module):
            pass

        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            print("batch", batch_idx, COLOUR, *sys.argv[1:])

    class Model(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Linear(2, 1)

        def training_step(self, batch):
            return self.layer(batch).mean()

        def on_train_batch_end(self, outputs, batch, batch_idx):
            pass

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1)

    trainer = pl.Trainer(
        accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=Painter(), max_epochs=50, min_epochs=40,
    )
    trainer.fit(Model(), torch.ones(4, 3, 2))
    print("the script goes on")
"""


@pytest.fixture
def script(tmp_path: Path, plugin_site: PluginSite) -> Iterator[Path]:
    """A script that trains, and a module beside it. Its changes to ``sys.path`` are undone before ``plugin_site``'s."""
    folder = tmp_path / "work"
    folder.mkdir()
    (folder / "beside.py").write_text("COLOUR = 'blue'", encoding="utf-8")
    path = folder / "train.py"
    path.write_text(dedent(SCRIPT), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", list(sys.argv))
        patch.setattr(sys, "path", list(sys.path))
        patch.delitem(sys.modules, "beside", raising=False)
        yield path


def test_hooks_of_a_script(script, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["hooks", "--batches", "3", str(script), "--fast", "yes"])
    assert ended.value.code == 0
    printed = capsys.readouterr().out.splitlines()
    assert [line for line in printed if line.startswith("batch")] == [f"batch {i} blue --fast yes" for i in range(3)]
    assert "the script goes on" not in printed

    rows = [line.split() for line in printed]
    at = next(i for i, row in enumerate(rows) if row[:1] == ["on_train_start"])
    start = next(row for row in rows[at:] if row[1:2] == ["Painter"])  # after installed ones
    assert start[2:4] == ["__main__", "once"]
    at = next(i for i, row in enumerate(rows) if row[:1] == ["on_train_batch_end"])
    assert rows[at][1:6] == ["1.", "Painter", "__main__", "every", "batch"]
    assert rows[at + 1][:5] == ["2.", "Model", "__main__", "every", "batch"]
    for row in (start, rows[at], rows[at + 1]):
        assert row[-3:] == ["µs", "a", "call"]
        assert float(row[-4]) > 0
    step = next(row for row in rows if row[:1] == ["leyden_optimize_batch"])
    assert step[1:4] == ["1.", "BatchStep", "(trylast)"]
    assert not any("leyden-hooks" in line or "Observer" in line for line in printed)


WRAPPER = """
    import time

    @hookimpl(wrapper=True)
    def on_train_batch_end(batch_idx):
        time.sleep(0.002)
        return (yield)

    @hookimpl(hookwrapper=True, tryfirst=True)
    def on_train_start():
        yield

    @hookimpl
    def on_train_batch_start():
        pass
"""


def test_hooks_behind_wrappers_are_timed_each_by_itself(script, plugin_site: PluginSite, capsys):
    plugin_site.add("acme-around", WRAPPER, plugin="around")
    with pytest.raises(SystemExit):
        main(["hooks", "--batches", "2", str(script)])
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    at = next(i for i, row in enumerate(rows) if row[:1] == ["on_train_batch_end"])
    assert rows[at][1:4] == ["1.", "around", "(wrapper)"]
    assert [row[1] for row in rows[at + 1 : at + 3]] == ["Painter", "Model"]
    costs = [float(row[-4]) for row in rows[at : at + 3]]
    assert costs[0] > 1500  # its own pause of 2 ms
    assert 0 < costs[2] < 1500  # the wrapped implementation's time does not include the wrapper's
    start = next(row for row in rows if row[:1] == ["on_train_start"])
    assert start[1:5] == ["1.", "around", "(wrapper,", "tryfirst)"]


def test_hooks_without_a_plugin(script, plugin_site: PluginSite, capsys):
    plugin_site.add("acme-around", WRAPPER, plugin="around")
    with pytest.raises(SystemExit):
        main(["hooks", "-p", "no:around", "--batches", "1", str(script)])
    assert "around" not in capsys.readouterr().out


def test_a_script_without_a_run(tmp_path, script, capsys):
    script.write_text("print('nothing to train')", encoding="utf-8")
    assert main(["hooks", str(script)]) == 1
    out, err = capsys.readouterr()
    assert out == "nothing to train\n"
    assert err == f"{script} ended without a run of a Trainer.\n"


def test_a_script_that_is_not_there(tmp_path, capsys):
    assert main(["hooks", str(tmp_path / "nowhere.py")]) == 2
    assert "there is no script" in capsys.readouterr().err


def test_the_authors_guide_has_every_command():
    guide = (Path(__file__).parents[3] / "core" / "README.md").read_text(encoding="utf-8")
    for command in COMMANDS:
        assert f"| `leyden {command.__name__.rpartition('.')[2]}" in guide
