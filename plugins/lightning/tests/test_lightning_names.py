"""Every public name of Lightning can be imported from the same path of Leyden, or a reason is listed why it can't."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import json
import pickle
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from textwrap import dedent
from types import FunctionType
from typing import Any

import pytest
import torch

import leyden as pl
from leyden_lightning.paths import PATHS
from leyden_testing.fake_plugins import PluginSite, new_plugin_site

CATALOGUE = json.loads((Path(pl.__file__).parent / "plugin_system" / "catalogue.json").read_text(encoding="utf-8"))
PLANNED = "It is planned for leyden-"  # the core's text for components that no distribution provides yet

# A module's own logger and its cache of warnings.
PRIVATE = {"log", "warning_cache"}

# Reasons why names of Lightning are missing. A module stands for all names in it.
NOT_HERE = {
    "comes with leyden-ddp": """
        overrides.distributed plugins.ClusterEnvironment plugins.LayerSync plugins.TorchSyncBatchNorm
        plugins.environments.ClusterEnvironment plugins.layer_sync strategies.ParallelStrategy strategies.parallel
        utilities.types.DistributedDataParallel
    """,
    "comes with leyden-deepspeed": """
        strategies.deepspeed.remove_module_hooks utilities.deepspeed utilities.model_summary.DeepSpeedSummary
        utilities.model_summary.model_summary_deepspeed
    """,
    "comes with leyden-cli": """
        cli.LRSchedulerType cli.LRSchedulerTypeTuple cli.LRSchedulerTypeUnion cli.ModuleType cli.ReduceLROnPlateau
        cli.instantiate_module
    """,
    "comes with leyden-compile": "utilities.compile",
    "for a third party to bring, as a component of that name": """
        accelerators.XLAAccelerator accelerators.xla loggers.LitLogger loggers.litlogger loggers.neptune
        plugins.BitsandbytesPrecision plugins.TransformerEnginePrecision plugins.XLACheckpointIO plugins.XLAPrecision
        plugins.environments.XLAEnvironment plugins.io.XLACheckpointIO plugins.io.xla_plugin
        plugins.precision.BitsandbytesPrecision plugins.precision.TransformerEnginePrecision
        plugins.precision.XLAPrecision plugins.precision.bitsandbytes plugins.precision.transformer_engine
        plugins.precision.xla profilers.XLAProfiler profilers.xla strategies.SingleDeviceXLAStrategy
        strategies.XLAStrategy strategies.single_xla strategies.xla
    """,
    "later": """
        plugins.AsyncCheckpointIO plugins.io.AsyncCheckpointIO plugins.io.async_plugin serve
        utilities.rank_zero.LightningDeprecationWarning utilities.rank_zero.WarningCache
        utilities.rank_zero.rank_prefixed_message
    """,
    "a model or data to download, for Lightning's own examples": """
        demos.LightningLSTM demos.LightningTransformer demos.SequenceSampler demos.SimpleLSTM demos.Transformer
        demos.WikiText2 demos.lstm demos.mnist_datamodule demos.transformer utilities.model_registry
        utilities.model_helpers.get_torchvision_model
    """,
    "of one vendor; what is meant works for every device by other names, such as is_oom_error": """
        accelerators.cuda.get_nvidia_gpu_stats accelerators.mps.get_device_stats
        utilities.memory.garbage_collection_cuda utilities.memory.is_cuda_out_of_memory
        utilities.memory.is_cudnn_snafu utilities.memory.is_out_of_cpu_memory
    """,
    "components by name take its place": "accelerators.AcceleratorRegistry strategies.StrategyRegistry",
    "Leyden's loads and saves Lightning's checkpoints as they are": """
        utilities.consolidate_checkpoint utilities.migration utilities.upgrade_checkpoint
    """,
    "internal to Lightning": """
        LIGHTNING_LOGO accelerators.cpu.get_cpu_stats callbacks.prediction_writer.WriteInterval
        callbacks.progress.rich_progress.BatchesProcessedColumn callbacks.progress.rich_progress.CustomBarColumn
        callbacks.progress.rich_progress.CustomInfiniteTask callbacks.progress.rich_progress.CustomProgress
        callbacks.progress.rich_progress.CustomTimeColumn callbacks.progress.rich_progress.MetricsTextColumn
        callbacks.progress.rich_progress.ProcessingSpeedColumn callbacks.progress.tqdm_progress.convert_inf
        callbacks.timer.Interval cli_lightning_logo
        core.module.MODULE_OPTIMIZERS core.optimizer.do_nothing_closure core.saving disable_possible_user_warnings
        loggers.logger.merge_dicts loops plugins.precision.double.LightningDoublePrecisionModule
        strategies.strategy.TBroadcast strategies.strategy.TReduce utilities.FLOAT16_EPSILON
        utilities.FLOAT32_EPSILON utilities.FLOAT64_EPSILON utilities.GradClipAlgorithmType utilities.LightningEnum
        utilities.data.BType utilities.data.has_len_all_ranks utilities.enums
        utilities.is_picklable utilities.is_shared_filesystem utilities.model_summary.get_formatted_model_size
        utilities.model_summary.get_human_readable_count utilities.model_summary.model_summary.LEFTOVER_PARAMS_NAME
        utilities.model_summary.model_summary.PARAMETER_NUM_UNITS
        utilities.model_summary.model_summary.UNKNOWN_SIZE
        utilities.model_summary.model_summary.get_formatted_model_size
        utilities.model_summary.model_summary.get_human_readable_count
        utilities.model_summary.model_summary.parse_batch_shape utilities.model_summary.parse_batch_shape
        utilities.parsing.clean_namespace utilities.parsing.collect_init_args utilities.parsing.get_init_args
        utilities.parsing.is_picklable utilities.parsing.lightning_getattr utilities.parsing.lightning_hasattr
        utilities.parsing.lightning_setattr utilities.parsing.parse_class_init_keys
        utilities.parsing.save_hyperparameters utilities.rank_zero.rank_zero_module utilities.signature_utils
        utilities.suggested_max_num_workers
    """,
}
EXCUSED = [entry for entries in NOT_HERE.values() for entry in entries.split()]


@cache
def public_names() -> dict[str, list[str]]:
    """Return the public names of each of Lightning's modules, "" for the package; read from source, not imported."""
    spec = importlib.util.find_spec("pytorch_lightning")
    assert spec is not None
    assert spec.origin is not None
    root = Path(spec.origin).parent
    found = {}
    for file in root.rglob("*.py"):
        parts = [part for part in file.relative_to(root).with_suffix("").parts if part != "__init__"]
        if not any(part.startswith("_") for part in parts):
            found[".".join(parts)] = names_of(file)
    return found


def names_of(file: Path) -> list[str]:
    """Return the names that a module defines, and those that it imports from Lightning only for users."""
    source = file.read_text(encoding="utf-8")
    lines = source.splitlines()
    names: list[str] = []
    for node in statements(ast.parse(source)):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            names.append(node.name)
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names += [target.id for target in targets if isinstance(target, ast.Name)]
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith(("pytorch_", "lightning_fabric")):
            marked = "noqa: F401" in "".join(lines[node.lineno - 1 : node.end_lineno])
            names += [alias.asname or alias.name for alias in node.names if marked or file.name == "__init__.py"]
    return sorted(name for name in set(names) - PRIVATE if name.isidentifier() and not name.startswith("_"))


def statements(tree: ast.Module | ast.If | ast.Try) -> Iterator[ast.stmt]:
    """Yield a module's statements, also those under a condition."""
    for node in tree.body:
        yield from statements(node) if isinstance(node, (ast.If, ast.Try)) else [node]


def dotted(*parts: str) -> str:
    return ".".join(part for part in parts if part)


def look_up(module: str, name: str) -> Any:
    """Return what ``from leyden.module import name`` imports, or its error."""
    scope: dict[str, Any] = {}
    try:
        exec(f"from {dotted('leyden', module)} import {name}", scope)
    except ImportError as error:
        return error
    return scope[name]


def covers(entry: str, name: str) -> bool:
    return f"{name}.".startswith(f"{entry}.")


@pytest.mark.parametrize("module", [module for module, names in sorted(public_names().items()) if names])
def test_every_public_name_of_a_module_exists_or_is_excused(module: str) -> None:
    for name in public_names()[module]:
        if any(covers(entry, dotted(module, name)) for entry in EXCUSED):
            continue
        found = look_up(module, name)
        if isinstance(found, ImportError):
            assert PLANNED in str(found)
        elif (
            isinstance(found, (type, FunctionType)) and not name.isupper()
        ):  # a constant may be a type of another package
            assert found.__module__.partition("_")[0].partition(".")[0] == "leyden", name


@pytest.mark.parametrize("entry", EXCUSED)
def test_no_name_is_excused_that_exists_or_is_planned(entry: str) -> None:
    covered = [(m, name) for m, names in public_names().items() for name in names if covers(entry, dotted(m, name))]
    assert covered, "Lightning has no such name"
    for module, name in covered:
        error = look_up(module, name)
        assert isinstance(error, ImportError), f"{module}.{name} is here"
        assert PLANNED not in str(error)


def test_no_name_is_excused_twice() -> None:
    assert len(set(EXCUSED)) == len(EXCUSED)
    assert not [(a, b) for a in EXCUSED for b in EXCUSED if a != b and covers(a, b)]


def test_the_paths_are_lightning_s_and_lead_to_modules_and_known_components() -> None:
    assert list(PATHS) == sorted(PATHS)
    assert set(PATHS) <= set(public_names())
    components = {(kind, name) for section in CATALOGUE.values() for kind, names in section.items() for name in names}
    components.add(("utility", "CombinedLoader"))  # the core's own are in no catalogue: they are never missing
    for place in PATHS.values():
        kind, _, component = place.partition(":")
        assert (kind, component) in components if component else importlib.import_module(place)
        assert component or place in WINDOWS or place.startswith(("leyden_lightning.", "leyden.utilities"))


def test_a_path_is_the_module_that_it_stands_for() -> None:
    import leyden.callbacks.early_stopping as early_stopping
    from leyden.core.module import LightningModule
    from leyden.utilities.model_summary import LayerSummary
    from leyden.utilities.model_summary.model_summary import LayerSummary as Deeper

    from leyden.callbacks import lr_monitor

    real = importlib.import_module(pl.callbacks.EarlyStopping.__module__)
    assert early_stopping is real
    assert early_stopping.EarlyStoppingReason is real.EarlyStoppingReason
    assert lr_monitor.LearningRateMonitor is pl.callbacks.LearningRateMonitor
    assert LightningModule is pl.LightningModule
    assert LayerSummary is Deeper


def test_paths_are_attributes_too() -> None:
    assert pl.callbacks.progress.tqdm_progress.TQDMProgressBar is pl.callbacks.TQDMProgressBar
    assert pl.loggers.logger.Logger is pl.loggers.Logger
    assert pl.loggers.tensorboard.TensorBoardLogger is pl.loggers.TensorBoardLogger  # not the logger of that name
    assert pl.core.module.LightningModule is pl.LightningModule
    assert pl.utilities.seed.seed_everything is pl.trainer.seed_everything
    assert pl.utilities.types.STEP_OUTPUT is not None
    assert pl.trainer.states.TrainerFn.FITTING == "fit"
    assert pl.strategies.Strategy is pl.strategies.strategy.Strategy
    assert pl.accelerators.accelerator.Accelerator is pl.accelerators.Accelerator
    assert pl.plugins.precision.precision.Precision is pl.plugins.Precision
    assert not hasattr(pl.callbacks, "finetuner")
    assert not hasattr(pl.utilities, "nonesuch")


def test_a_window_at_two_paths_has_the_same_names() -> None:
    from leyden.plugins.precision.precision import Precision

    from leyden import plugins

    assert plugins.precision.precision.Precision is plugins.precision.Precision is plugins.Precision is Precision
    assert plugins.precision.DoublePrecision is plugins.DoublePrecision
    assert "DoublePrecision" in dir(plugins.precision)
    with pytest.raises(
        ImportError, match=r"There is no precision .*'DoublePrecission'.*Did you mean 'DoublePrecision'"
    ):
        exec("from leyden.plugins.precision import DoublePrecission")


def test_one_changed_import_is_enough_in_a_new_process() -> None:
    script = """
        import leyden as pl

        class Model(pl.core.LightningModule):
            def training_step(self, batch, batch_idx) -> pl.utilities.types.STEP_OUTPUT:
                assert self.trainer.state.stage is pl.trainer.states.RunningStage.TRAINING

        assert issubclass(pl.demos.boring_classes.BoringModel, pl.core.module.LightningModule)

        from leyden.trainer.states import RunningStage
        from leyden.trainer import states
        from leyden.utilities import types
        from leyden import core

        assert states is pl.trainer.states and states.RunningStage is RunningStage
        assert (types, core) == (pl.utilities.types, pl.core)
        assert core.LightningDataModule is pl.LightningDataModule
    """
    subprocess.run([sys.executable, "-c", dedent(script)], check=True)


def test_classes_pickle_by_their_real_modules() -> None:
    from leyden.callbacks.early_stopping import EarlyStopping

    written = pickle.dumps(EarlyStopping)
    assert b"leyden.callbacks" not in written
    assert pickle.loads(written) is EarlyStopping


def test_an_unknown_path_is_not_a_module() -> None:
    with pytest.raises(ModuleNotFoundError, match=r"No module named 'leyden\.callbacks\.finetuner'"):
        importlib.import_module("leyden.callbacks.finetuner")
    assert importlib.util.find_spec("leyden.utilities.nonesuch") is None


# -- parts that are not installed, until they are ------------------------------------------------------------

COMMAND_LINE = """
    @hookimpl
    def leyden_components():
        yield Component("cli", "LightningCLI", "acme_line.line:LightningCLI")
        yield Component("tuner", "Tuner", "acme_line.line:Tuner")
        yield Component("logger", "comet", "acme_line.line:Comet", {"aliases": ["CometLogger"]})
"""


WINDOWS = {f"leyden.{path.partition('.')[0]}" for path in PATHS} - {"leyden.core", "leyden.utilities"}


@pytest.fixture
def site(tmp_path: Path) -> Iterator[PluginSite]:
    """A site for plugins; modules that were imported by a path are forgotten before and afterwards."""
    forget_paths()
    with new_plugin_site(tmp_path / "site") as site:
        yield site
    forget_paths()


def forget_paths() -> None:
    for path in PATHS:
        sys.modules.pop(f"leyden.{path}", None)
        parent, _, child = f"leyden.{path}".rpartition(".")
        if parent in WINDOWS and parent in sys.modules:
            vars(sys.modules[parent]).pop(child, None)


@pytest.mark.parametrize(
    ("statement", "distribution"),
    [
        ("from leyden.tuner.tuning import Tuner", "leyden-tuner"),
        ("import leyden.loggers.comet", "leyden-comet"),
        ("from leyden.loggers import comet", "leyden-comet"),
    ],
)
def test_an_error_names_the_distribution_of_a_missing_part(statement: str, distribution: str) -> None:
    with pytest.raises(ImportError, match=rf"There is no .*; installed: .*{distribution}\b") as caught:
        exec(statement)
    assert "\n" not in str(caught.value)


def test_a_path_of_a_plugin_that_is_disabled_says_so(site: PluginSite, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LEYDEN_PLUGINS_DISABLED", "leyden-utilities")
    with pytest.raises(ImportError, match=r"There is no utility 'grad_norm'; .* leyden-utilities \S+ is disabled by "):
        importlib.import_module("leyden.utilities.grads")


def test_an_installed_part_is_found_by_its_paths(site: PluginSite) -> None:
    site.add("leyden-line", COMMAND_LINE)
    (site.path / "acme_line").mkdir()
    site.module("acme_line/__init__", "")
    site.module(
        "acme_line/line", "class LightningCLI: ...\nclass Tuner: ...\nclass Comet: ...\ndef comet_experiment(): ..."
    )
    from leyden.loggers.comet import Comet, comet_experiment
    from leyden.tuner.tuning import Tuner as Deeper

    from leyden.cli import LightningCLI
    from leyden.tuner import Tuner

    assert {LightningCLI.__module__, comet_experiment.__module__} == {"acme_line.line"}
    assert Tuner is Deeper
    assert pl.loggers.CometLogger is Comet


def test_finding_a_path_imports_nothing(site: PluginSite) -> None:
    site.add("leyden-line", COMMAND_LINE)
    site.module("acme_line", "raise RuntimeError('imported')")
    assert importlib.util.find_spec("leyden.loggers.comet") is not None
    assert "acme_line" not in sys.modules
    assert "leyden.loggers.comet" not in sys.modules


def test_an_error_names_why_a_broken_plugin_s_path_is_missing(site: PluginSite) -> None:
    site.add("leyden-comet", "raise RuntimeError('out of orbit')")
    with pytest.warns(RuntimeWarning, match="set aside"), pytest.raises(ImportError, match="out of orbit"):
        importlib.import_module("leyden.loggers.comet")


def test_a_missing_path_is_no_attribute() -> None:
    assert not hasattr(pl.loggers, "comet")
    with pytest.raises(AttributeError, match="leyden-comet"):
        _ = pl.loggers.comet


# -- the small modules ---------------------------------------------------------------------------------------


def test_types_annotate_a_module() -> None:
    from typing import get_type_hints

    from leyden.utilities import types

    def configure_optimizers() -> types.OptimizerLRScheduler: ...

    def training_step() -> types.STEP_OUTPUT: ...

    assert get_type_hints(configure_optimizers, {"types": types})["return"] == types.OptimizerLRScheduler
    assert get_type_hints(training_step, {"types": types})["return"] == torch.Tensor | types.STEP_OUTPUT
    assert types.LRSchedulerConfig(None).interval == "epoch"
    assert not hasattr(types, "OptimizerConfigs")
