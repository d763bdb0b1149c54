"""The core's catalogue, which error messages quote, says what the plugins of this repository really bring.

``published`` maps each kind of component, each ``role`` for which a Trainer asks its plugins, and what a ``ckpt_path``
may name (``checkpoint``), to names and distributions; ``planned`` does the same for what no distribution brings yet.
"""

from __future__ import annotations

import importlib
import json
from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
KIT = "testing"  # pytest's plugin, which brings the Trainer nothing
PLUGINS = sorted({path.parent.name for path in ROOT.glob("plugins/*/pyproject.toml")} - {KIT})
CATALOGUE = json.loads((ROOT / "core/src/leyden/plugin_system/catalogue.json").read_text(encoding="utf-8"))

Names = dict[str, dict[str, set[str]]]


def declared() -> Names:
    """Kind, then name, then the distributions that bring it, as the plugins say."""
    found: Names = defaultdict(lambda: defaultdict(set))
    everything_wanted = SimpleNamespace(wants=lambda role: True, max_time="00:00:00:10")
    for folder in PLUGINS:
        plugin = importlib.import_module(f"leyden_{folder}.plugin")
        for component in getattr(plugin, "leyden_components", tuple)():
            for name in component.names:
                found[component.kind][name].add(f"leyden-{folder}")
            if component.kind == "accelerator":
                found["role"]["accelerator"].add(f"leyden-{folder}")
        hooks = {
            "logger": "leyden_default_logger",
            "strategy": "leyden_default_strategy",
            "progress": "leyden_read_progress",
        }
        for role, hook in hooks.items():
            if hasattr(plugin, hook):
                found["role"][role].add(f"leyden-{folder}")
        for callback in getattr(plugin, "leyden_default_callbacks", lambda trainer: ())(everything_wanted):
            found["role"][callback.role].add(f"leyden-{folder}")
        for name in CATALOGUE["published"]["checkpoint"]:
            if finds(plugin, name):
                found["checkpoint"][name].add(f"leyden-{folder}")
    return found


def finds(plugin: Any, name: str) -> bool:
    """Whether this ``ckpt_path`` is a name of the plugin's: it says that there is no such checkpoint, not nothing."""
    trainer = SimpleNamespace(fast_dev_run=True, checkpoint_callbacks=[], default_root_dir="nowhere")
    find = getattr(plugin, "leyden_find_checkpoint", lambda trainer, ckpt_path, fn: None)
    try:
        return find(trainer, name, "fit") is not None
    except (ValueError, UserWarning):
        return True


def pairs(section: dict[str, dict[str, Any]]) -> set[tuple[str, str]]:
    return {(kind, name) for kind, names in section.items() for name in names}


def test_the_catalogue_has_exactly_what_the_plugins_bring() -> None:
    assert pairs(CATALOGUE["published"]) == pairs(declared())


def test_a_published_name_is_brought_by_the_distribution_that_the_catalogue_gives() -> None:
    brings = declared()
    published = CATALOGUE["published"]
    assert [(kind, name) for kind, name in pairs(published) if published[kind][name] not in brings[kind][name]] == []


def test_a_planned_name_is_brought_by_nothing_yet() -> None:
    assert pairs(CATALOGUE["planned"]) & pairs(declared()) == set()


@pytest.mark.parametrize("section", ["published", "planned"])
def test_names_are_sorted(section: str) -> None:
    kinds = CATALOGUE[section]
    assert list(kinds) == sorted(kinds)
    assert all(list(names) == sorted(names, key=str.lower) for names in kinds.values())
