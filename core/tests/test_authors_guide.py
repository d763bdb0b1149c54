"""The authors' guide, core/README.md: its lists are those of the code; interfaces say what must and may be written."""

from __future__ import annotations

import importlib
import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

from leyden.plugin_system import hooks

CORE = Path(__file__).parents[1]
README = (CORE / "README.md").read_text(encoding="utf-8")


def load_docs() -> ModuleType:
    spec = importlib.util.spec_from_file_location("core_docs", CORE / "docs.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


docs = load_docs()


def test_the_lists_are_those_of_the_code():
    assert docs.generated(README) == README, "core/README.md is not what the code says; run: make docs"


def test_the_stub_of_a_module_s_hooks_is_that_of_the_code():
    assert docs.STUB.read_text(encoding="utf-8") == docs.stub(), f"{docs.STUB} is out of date; run: make docs"


def test_a_list_that_is_out_of_date_is_found_and_mended(tmp_path, monkeypatch, capsys):
    copy = tmp_path / "README.md"
    copy.write_text(README.replace("- `on_fit_start(", "- `on_fit_begin("), encoding="utf-8")
    monkeypatch.setattr(docs, "README", copy)
    monkeypatch.setattr(docs, "STUB", tmp_path / "stub.pyi")
    docs.STUB.write_text("# old", encoding="utf-8")
    monkeypatch.setattr("sys.argv", ["docs.py", "--check"])
    assert docs.main() == 1
    assert "run: make docs" in capsys.readouterr().err
    monkeypatch.setattr("sys.argv", ["docs.py"])
    assert docs.main() == 0
    assert copy.read_text(encoding="utf-8") == README
    assert docs.STUB.read_text(encoding="utf-8") == docs.stub()


def test_a_deprecated_hook_is_listed_as_one(monkeypatch):
    def on_test_start(self, trainer, pl_module):
        """Testing begins."""

    goes = DeprecationWarning("on_test_start goes; implement on_test_epoch_start")
    old = hooks.hookspec(warn_on_impl=goes, warn_on_impl_args={"trainer": DeprecationWarning("trainer goes")})(
        on_test_start
    )
    monkeypatch.setattr(hooks.Observation, "on_test_start", old)
    line = next(line for line in docs.hook_lines() if line.startswith("- `on_test_start("))
    said = "Deprecated: on_test_start goes; implement on_test_epoch_start. Deprecated (trainer): trainer goes."
    assert line.endswith(f"Testing begins. (`self.log` may be called.) {said}")


def test_every_interface_is_listed():
    modules = [path.stem for path in (CORE / "src/leyden/interfaces").glob("*.py")]
    parts = [vars(importlib.import_module(f"leyden.interfaces.{module}")) for module in modules]
    written = {name for part in parts for name, value in part.items() if "*must*" in str(getattr(value, "__doc__", ""))}
    assert {target.partition(":")[2] for target in docs.INTERFACES} == written | {"Callback"}


@pytest.mark.parametrize("target", docs.INTERFACES)
def test_every_interface_says_what_an_author_must_and_may_write(target):
    module, _, name = target.partition(":")
    interface = getattr(importlib.import_module(module), name)
    assert "*must*" in interface.__doc__
    assert "*may*" in interface.__doc__
    for member, value in docs.public_members(interface):
        assert docs.sentences(value), f"{name}.{member} has no docstring"


def test_the_guide_has_the_version_of_the_hooks():
    assert f"`leyden.plugins.HOOKS_VERSION`, now {hooks.HOOKS_VERSION}." in README


def test_the_variables_of_the_guide_are_those_of_the_code():
    source = "".join(path.read_text(encoding="utf-8") for path in (CORE / "src/leyden").rglob("*.py"))
    pattern = r"LEYDEN_PLUGINS\w*"
    assert set(re.findall(pattern, README)) == set(re.findall(pattern, source)) - {"LEYDEN_PLUGINS_"}
