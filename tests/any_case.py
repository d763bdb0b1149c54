"""Drawing cases: any arguments of the Trainer, any model, any data, any calls; and what is wrong with each."""

from __future__ import annotations

import math
from datetime import timedelta
from fractions import Fraction
from typing import Any

import numpy as np
from hypothesis import strategies as st

from leyden.accelerators import CPUAccelerator
from leyden.strategies import SingleDeviceStrategy

from .any_model import (
    KINDS,
    LOGS,
    NO_OPTIMIZERS,
    OPTIMIZERS,
    OUTPUTS,
    SCHEDULES,
    STEPS,
    WRONG_LOGS,
    WRONG_OUTPUTS,
    WRONG_SCHEDULES,
    Data,
    Shape,
)  # fmt: skip
from .expected_run import PREFIX, Case, settled, steps_by_hand

# -- the Trainer's arguments ----------------------------------------------------------------------------------

HUGE = 10**9
SWITCH = [True, False, None, 0, 1]
LIMIT = [None, 0, 1, 2, 3, HUGE, 0.0, 0.3, 0.5, 0.99, 1.0, np.int64(2), np.float32(0.5), Fraction(1, 2)]
ROOTS = ("str", "Path", "new", "empty", "None")  # made in the test's own directory
RIGHT: dict[str, list[Any]] = {
    "accelerator": ["cpu", CPUAccelerator, "auto"],
    "strategy": ["auto", "single_device", SingleDeviceStrategy],
    "devices": [1, "1", "auto", " 1 "],
    "num_nodes": [1, np.int64(1)],
    "precision": [None, 32, "32", "32-true", "64-true", 64, "bf16-mixed", "16-mixed", 16, "bf16-true", "16-true"],
    "logger": [False, None, True, [], "csv", ["csv"], ("csv",)],
    "callbacks": [None, []],
    "fast_dev_run": [False, True, 1, 2, 0, HUGE],
    "max_epochs": [0, 1, 2, 3, -1, None, HUGE, np.int64(2)],
    "min_epochs": [None, 0, 1, 2],
    "max_steps": [-1, 0, 1, 4, HUGE, np.int64(3)],
    "min_steps": [None, 0, 2, 5],
    "max_time": [None, "00:01:00:00", {"hours": 1}, timedelta(hours=1), "00:00:00:00", timedelta(0), timedelta.max],
    "limit_train_batches": LIMIT, "limit_val_batches": LIMIT, "limit_test_batches": LIMIT,
    "limit_predict_batches": LIMIT,
    "overfit_batches": [0, 0.0, 1, 2, 0.5, 1.0],
    "val_check_interval": [None, 1, 2, 5, HUGE, 0.1, 0.5, 1.0, np.int64(2), "00:01:00:00", {"minutes": 0}],
    "check_val_every_n_epoch": [1, 2, None, HUGE],
    "num_sanity_val_steps": [None, 0, 1, 2, -1, HUGE],
    "log_every_n_steps": [None, 0, 1, 2, HUGE],
    "accumulate_grad_batches": [1, 2, 3, HUGE],
    "gradient_clip_val": [None, 0, 0.5, 1, math.inf, 1e-30],
    "gradient_clip_algorithm": [None, "norm", "value"],
    "deterministic": [None, False, True, "warn"],
    "benchmark": SWITCH, "inference_mode": [True, False], "use_distributed_sampler": [True, False],
    "detect_anomaly": [False, True], "barebones": [False, False, False, True], "sync_batchnorm": [True, False],
    "enable_autolog_hparams": [True, False],
    "enable_checkpointing": SWITCH, "enable_progress_bar": SWITCH, "enable_model_summary": SWITCH,
    "profiler": [None, "simple"],
    "plugins": [None, [], "torch", ()],
    "reload_dataloaders_every_n_epochs": [0, 1, 2],
    "default_root_dir": list(ROOTS),
}  # fmt: skip
COUNTING = (
    "accumulate_grad_batches", "check_val_every_n_epoch", "fast_dev_run", "gradient_clip_algorithm",
    "gradient_clip_val", "limit_train_batches", "limit_val_batches", "max_epochs", "max_steps", "max_time",
    "min_epochs", "min_steps", "num_sanity_val_steps", "overfit_batches", "reload_dataloaders_every_n_epochs",
    "val_check_interval",
)  # fmt: skip
NO_NUMBER = [-2, 1.5, math.nan, "many", [1], True, 1j]
NO_SWITCH = ["yes", 2, 0.5, [True]]
NO_LIMIT = [-1, 1.5, math.nan, math.inf, "all", [1], True]
NO_TIME = ["soon", "1:2", 5, {"fortnights": 1}, [1], "-1:00:00:00", timedelta(-1), {"minutes": -5}, {"days": HUGE * 9}]
NO_PART = [7, 0.5, "nonsense", {"a": 1}, object]
WRONG: dict[str, list[Any]] = {
    "accelerator": [*NO_PART, None, True], "strategy": [*NO_PART, None], "precision": [*NO_PART, "31-true", 8],
    "devices": [0, -1, -2, HUGE, "two", "9" * 99, 1.0, True, None, [], [0, 0], {"a": 1}],
    "num_nodes": [0, *NO_NUMBER],
    "logger": [7, "nonsense", [7], ["csv", "nonsense"], object, {"a": 1}],
    "callbacks": [7, "nonsense", [7], [object()], object],
    "fast_dev_run": [-1, 0.5, "yes", None, [1]],
    "max_epochs": NO_NUMBER, "min_epochs": [-1, *NO_NUMBER], "max_steps": [None, *NO_NUMBER],
    "min_steps": [-1, *NO_NUMBER],
    "max_time": NO_TIME,
    "limit_train_batches": NO_LIMIT, "limit_val_batches": NO_LIMIT, "limit_test_batches": NO_LIMIT,
    "limit_predict_batches": NO_LIMIT, "overfit_batches": [None, *NO_LIMIT],
    "val_check_interval": [0, -1, 1.5, math.nan, True, "soon", [1], timedelta(-1), {"fortnights": 1}],
    "check_val_every_n_epoch": [0, *NO_NUMBER],
    "num_sanity_val_steps": NO_NUMBER, "log_every_n_steps": NO_NUMBER, "accumulate_grad_batches": [0, None, *NO_NUMBER],
    "gradient_clip_val": [-1, math.nan, "much", True, [1]],
    "gradient_clip_algorithm": ["nrom", 7, True, ["norm"]],
    "deterministic": ["yes", 2, [True]],
    "benchmark": NO_SWITCH, "inference_mode": NO_SWITCH, "use_distributed_sampler": NO_SWITCH,
    "detect_anomaly": NO_SWITCH, "barebones": NO_SWITCH, "sync_batchnorm": NO_SWITCH,
    "enable_autolog_hparams": NO_SWITCH, "enable_checkpointing": NO_SWITCH, "enable_progress_bar": NO_SWITCH,
    "enable_model_summary": NO_SWITCH,
    "profiler": [7, True, "nonsense", object],
    "plugins": [7, "nonsense", ["nonsense"], [object()], ["torch", "torch"]],
    "reload_dataloaders_every_n_epochs": [None, *NO_NUMBER],
    "default_root_dir": [5, b"x", ["x"], "a file"],
}  # fmt: skip
QUIET: dict[str, Any] = {
    "accelerator": "cpu", "logger": False, "enable_checkpointing": False, "enable_progress_bar": False,
    "enable_model_summary": False,
}  # fmt: skip
CALLBACKS = ("early", "rates", "checkpoint", "timer", "lambda")


def _drawn(values: dict[str, list[Any]], most: int) -> st.SearchStrategy[dict[str, Any]]:
    names = st.lists(st.sampled_from(sorted(values)), max_size=most, unique=True)
    return names.flatmap(lambda chosen: st.fixed_dictionaries({n: st.sampled_from(values[n]) for n in chosen}))


# -- models and data ------------------------------------------------------------------------------------------


def _mostly(usual: Any, *others: Any) -> st.SearchStrategy[Any]:
    return st.sampled_from([usual] * len(others) + list(others))


@st.composite
def shapes(draw: st.DrawFn, right: bool) -> Shape:
    """A model; one in five has something wrong, unless all must be ``right``."""
    faults = ("optimizers", "schedule", "output", "missing", "takes", "logs")
    wrong = "" if right else draw(_mostly("", *[""] * 10, *faults))
    known_good = {
        name: [key for key in known if key not in bad]
        for name, known, bad in (
            ("optimizers", OPTIMIZERS, NO_OPTIMIZERS), ("schedule", ["none", "two lists", *SCHEDULES], WRONG_SCHEDULES),
            ("output", OUTPUTS, WRONG_OUTPUTS), ("logs", LOGS, WRONG_LOGS),
        )
    }  # fmt: skip
    bad = {"optimizers": NO_OPTIMIZERS, "schedule": WRONG_SCHEDULES, "output": WRONG_OUTPUTS, "logs": WRONG_LOGS}
    chosen = {name: draw(st.sampled_from(sorted(bad[name]) if name == wrong else known_good[name])) for name in bad}
    manual = draw(_mostly(False, True, False))
    optimizers = chosen["optimizers"]
    if (manual and optimizers == "LBFGS") or (wrong != "optimizers" and not manual and optimizers == "two"):
        optimizers = "one"
    if wrong == "schedule":
        optimizers = "one"
    return Shape(
        manual=manual,
        optimizers=optimizers,
        scheduler=chosen["schedule"],
        output=chosen["output"],
        missing=(draw(st.sampled_from([*STEPS, "configure_optimizers"])),) if wrong == "missing" else (),
        takes=draw(st.sampled_from([0, 4])) if wrong == "takes" else draw(st.sampled_from([3, 3, 2, 1])),
        logs=chosen["logs"],
        own_hooks=draw(_mostly(False, True, False)),
        skips=draw(_mostly(None, 0, 1, 2)),
    )


@st.composite
def datas(draw: st.DrawFn, form: str, right: bool) -> Data:
    """The loaders of a stage."""
    if not right and draw(_mostly(False, True, *[False] * 15)):
        return Data(wrong=draw(st.sampled_from([7, 0.5, object(), {"a": 7}, True])))
    count = draw(_mostly(1, 0, 1, 2, 2, 3))
    kinds = draw(st.lists(_mostly("DataLoader", *KINDS), min_size=count, max_size=count))
    counts = draw(st.lists(_mostly(3, 0, 1, 2, 4, 5), min_size=count, max_size=count))
    modes = [*[None] * 6, "min_size", "max_size", "max_size_cycle", *([] if right else ["sequential"])]
    nesting = "none" if count == 1 else draw(st.sampled_from(["list", "tuple", "dict", "nested"][: 4 if count else 3]))
    return Data(tuple(kinds), tuple(counts), nesting, draw(st.sampled_from(modes)), form)


@st.composite
def cases(draw: st.DrawFn, right: bool = False) -> Case:
    """Anything, but for what would train for ever if it were right; or fits with nothing that is wrong by itself."""
    arguments = draw(_drawn({name: RIGHT[name] for name in COUNTING} if right else RIGHT, 9))
    wrong = draw(_drawn(WRONG, 2)) if not right and draw(_mostly(False, True, False, False)) else {}
    arguments.update(wrong)
    shape = draw(shapes(right))
    form = draw(st.sampled_from(["tensor", "tuple", "dict", "text", "number", "opaque"]))
    stages = [stage for stage in PREFIX.values() if right or draw(_mostly(True, False, *[True] * 15))]
    fits = [("fit",), ("fit",), ("fit",), ("fit", "fit"), ("fit", "validate"), ("fit", "test", "fit")]
    others = [("validate",), ("test",), ("predict",), ("validate", "fit"), ("test", "test"), ("fit", "predict")]
    calls = draw(st.sampled_from(fits if right else fits + others))
    case = Case(
        arguments=arguments,
        callbacks=tuple(draw(st.lists(st.sampled_from(CALLBACKS), max_size=1))),
        stop_after=draw(st.one_of(st.none(), st.integers(1, 9))),
        shape=shape,
        data={stage: draw(datas(form, right)) for stage in stages},
        source=draw(st.sampled_from(["passed", "passed", "module", "datamodule", "mixed"])),
        wrong=tuple(wrong),
        calls=calls,
        ckpt_path=None if right else draw(_mostly(None, *[None] * 40, "nowhere.ckpt", "best", "hpc", 5, b"x")),
    )
    return _made_to_end(case)


def _made_to_end(case: Case) -> Case:
    """The case with a limit on its epochs, where no other one is sure to be met."""
    arguments, shape = case.arguments, case.shape
    if case.wrong:
        return case
    steps = not shape.manual or steps_by_hand(shape) > 0
    if settled(arguments)["max_epochs"] in range(5) or (case.stop_after and steps and shape.skips is None):
        return case
    return Case(**{**vars(case), "arguments": {**arguments, "max_epochs": 2}})
