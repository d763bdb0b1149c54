"""The public names of the core: those that are written here and no others, each with a docstring."""

from __future__ import annotations

import importlib
import inspect
import re
from pathlib import Path

import pytest

import leyden as pl

GUIDE = Path(__file__).parents[1].joinpath("README.md").read_text(encoding="utf-8")
PUBLIC = {
    "leyden": """
        Callback Component LightningDataModule LightningModule Trainer __version__ accelerators callbacks fabric
        hookimpl loggers plugins profilers seed_everything strategies utilities
    """,
    "leyden.accelerators": "Accelerator",
    "leyden.callbacks": "Callback",
    "leyden.cli": "",
    "leyden.demos": "",
    "leyden.exporters": "",
    "leyden.fabric": "seed_everything",
    "leyden.loggers": "DummyLogger Logger",
    "leyden.plugins": """
        CheckpointIO Environment Precision Record
        HOOKS_VERSION OBSERVATION REGISTRATION RUN_HOOKS facts
        HookTable Implementation Participant
        PluginInfo PluginManager UnknownComponentError discover names_in
        CORE_DISTRIBUTION catalogue published_by
        BatchStep LRSchedulerConfig Phase Progress Run StashKey
        END Fetched Fetcher Iteration copy_with loader_parts rebuild set_epoch transfer_function
        LogOptions Results TensorRecord
        CHECKPOINT_KEY TorchCheckpointIO by_state_key refuse_foreign
        ROLES choose_accelerator choose_devices choose_loggers choose_strategy sort_plugins
        Runner agree_on_versions
        CheckpointHooks DataHooks HyperparametersMixin LightningOptimizer ModelHooks
    """,
    "leyden.profilers": "PassThroughProfiler Profiler",
    "leyden.strategies": "Launcher Strategy",
    "leyden.tuner": "",
    "leyden.utilities": """
        AttributeDict CombinedLoader MisconfigurationException disable_possible_user_warnings isolate_rng missing_metric
        move_data_to_device parse_duration rank_zero_deprecation rank_zero_info rank_zero_only rank_zero_warn
    """,
}


@pytest.mark.parametrize("module", PUBLIC)
def test_the_public_names_of_a_module_are_these(module):
    assert sorted(getattr(importlib.import_module(module), "__all__", ())) == sorted(PUBLIC[module].split())


@pytest.mark.parametrize(("module", "name"), [(module, name) for module in PUBLIC for name in PUBLIC[module].split()])
def test_a_public_name_says_what_it_is(module, name):
    value = getattr(importlib.import_module(module), name)
    if inspect.isclass(value) or inspect.isroutine(value) or inspect.ismodule(value):
        assert value.__doc__
        assert not value.__doc__.startswith(f"{name}("), "Python's own docstring of a dataclass or a named tuple"


def test_the_guide_lists_what_authors_are_offered():
    offered = GUIDE.partition("## What `leyden.plugins` offers")[2].partition("\n- ")[2].partition("\n## ")[0]
    bases = {"CheckpointIO", "Environment", "Precision", "Record"}
    assert {*re.findall(r"`(\w+)`", offered)} - {"LEYDEN_PLUGINS", "save_hyperparameters"} == {
        *pl.plugins.__all__
    } - bases
    assert all(f"`leyden.plugins.{base}`" in GUIDE for base in bases)
