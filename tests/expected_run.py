"""What a run comes to, and what is wrong with it, worked out from the documentation alone."""

from __future__ import annotations

import math
import re
from collections import Counter
from dataclasses import dataclass, field
from datetime import timedelta
from numbers import Integral
from typing import Any

from .any_model import BOASTED, NO_OPTIMIZERS, SCHEDULES, SIZED, WRONG_LOGS, WRONG_OUTPUTS, WRONG_SCHEDULES, Data, Shape

INFINITE = math.inf
PREFIX = {"fit": "train", "validate": "val", "test": "test", "predict": "predict"}
ANOMALY = "returned nan values"  # in PyTorch's own words, which detect_anomaly=True asks for
STEP = {"validate": "validation_step", "test": "test_step", "predict": "predict_step"}


@dataclass(frozen=True)
class Case:
    """One or several runs.

    Args:
        arguments: Those of the Trainer.
        callbacks: Names of callbacks beside the one that counts.
        stop_after: Training batches after which a callback asks to stop.
        shape: The model.
        data: The loaders of "train", "val", "test" and "predict"; left out where there are none.
        source: Who brings them: they are "passed", come from the "module" or the "datamodule", or are "mixed", where
            those of training are passed and the module has the others.
        wrong: The arguments of the Trainer that are plainly wrong.
        calls: The entry points, one after the other.
        ckpt_path: Given to each of them.
    """

    arguments: dict[str, Any] = field(default_factory=dict)
    callbacks: tuple[str, ...] = ()
    stop_after: int | None = None
    shape: Shape = field(default_factory=Shape)
    data: dict[str, Data] = field(default_factory=dict)
    source: str = "passed"
    wrong: tuple[str, ...] = ()
    calls: tuple[str, ...] = ("fit",)
    ckpt_path: Any = None


def settled(arguments: dict[str, Any]) -> dict[str, Any]:
    """The arguments that decide how much is done, after those that decide about others."""
    given = {name: value for name, value in arguments.items() if value is not None}
    limits = [f"limit_{stage}_batches" for stage in PREFIX.values()]
    values = {
        **dict.fromkeys(limits, 1.0), "max_epochs": None, "min_epochs": None, "max_steps": -1, "min_steps": None,
        "val_check_interval": 1.0, "num_sanity_val_steps": 2, "accumulate_grad_batches": 1, "max_time": None,
        "reload_dataloaders_every_n_epochs": 0, "barebones": False, **given,
        "check_val_every_n_epoch": arguments.get("check_val_every_n_epoch", 1),
    }  # fmt: skip
    if given.get("overfit_batches"):
        values["limit_train_batches"] = values["limit_val_batches"] = given["overfit_batches"]
    if fast := int(given.get("fast_dev_run", 0)):
        values.update(dict.fromkeys(limits, fast), max_steps=fast, max_epochs=1, num_sanity_val_steps=0)
        values.update(val_check_interval=1.0, check_val_every_n_epoch=1)
    if given.get("barebones"):
        values["num_sanity_val_steps"] = 0
    if values["num_sanity_val_steps"] == -1:
        values["num_sanity_val_steps"] = INFINITE
    if values["max_epochs"] is None:
        unlimited = values["max_steps"] == -1 and values["max_time"] is None
        values["max_epochs"] = 1000 if unlimited else -1
    if values["min_epochs"] is None and values["min_steps"] is not None:
        values["min_epochs"] = 1
    return values


def seconds(value: Any) -> float:
    """A duration that is written as Trainer arguments are."""
    if isinstance(value, str):
        days, hours, minutes, rest = map(int, value.split(":"))
        return (timedelta(days=days, hours=hours, minutes=minutes, seconds=rest)).total_seconds()
    return (timedelta(**value) if isinstance(value, dict) else value).total_seconds()


# -- how many batches -----------------------------------------------------------------------------------------


def lengths(data: Data) -> list[int | float]:
    """What the loaders say of their batches."""
    return [
        INFINITE if kind not in SIZED else count + BOASTED if kind == "boasting" else count
        for kind, count in zip(data.kinds, data.counts, strict=True)
    ]


def limited(data: Data, limit: int | float, known: bool) -> list[int | float]:
    """The batches of each loader within the limit, as they are, or as far as is ``known`` before they are read."""
    if isinstance(limit, Integral) or limit == 0:
        allowed = [min(length, int(limit)) for length in lengths(data)]
    else:
        allowed = [n if limit == 1.0 or n == INFINITE else int(n * limit) for n in lengths(data)]
    return allowed if known else [min(n, count) for n, count in zip(allowed, data.counts, strict=True)]


def together(counts: list[int | float], mode: str) -> int | float:
    """The batches of several loaders that are iterated as one."""
    if mode == "sequential" or not counts:
        return sum(counts)
    return min(counts) if mode == "min_size" else max(counts)


def train_batches(case: Case, known: bool = False) -> int | float:
    """The training batches of an epoch."""
    data = case.data["train"]
    limit = settled(case.arguments)["limit_train_batches"]
    return together(limited(data, limit, known), data.mode or "max_size_cycle")


def passes(case: Case, stage: str, most: int | float = INFINITE) -> tuple[bool, int]:
    """Whether there is a pass over an evaluation stage's loaders, and how many batches it has."""
    data = case.data[stage]
    limit = settled(case.arguments)[f"limit_{stage}_batches"]
    if limit == 0:
        return False, 0
    known, actual = ([min(most, count) for count in limited(data, limit, known)] for known in (True, False))
    return sum(known) > 0, int(together(actual, data.mode or "sequential"))


def validates(case: Case) -> bool:
    """Whether a fit validates at all."""
    step = "validation_step" not in case.shape.missing
    return "val" in case.data and step and settled(case.arguments)["limit_val_batches"] > 0


# -- a fit ----------------------------------------------------------------------------------------------------


@dataclass
class Standing:
    """How far a Trainer has come in its fits."""

    epochs: int = 0
    steps: int = 0
    batches: int = 0
    ended: int = 0


class Fit:
    """A fit, batch by batch, that only counts.

    Args:
        case: What is fitted.
        standing: Where the last fit ended; ``run`` moves it on.

    Attributes:
        calls: How often each hook is called.
        epochs: How many there are.
    """

    def __init__(self, case: Case, standing: Standing) -> None:
        self.case, self.at, self.values = case, standing, settled(case.arguments)
        self.calls: Counter[str] = Counter()
        self.epochs = 0
        time = None if "timer" in case.callbacks else self.values["max_time"]  # a Timer of the user's own decides
        self.out_of_time = time is not None and seconds(time) == 0
        self.stop = self.out_of_time

    def trains(self) -> bool:
        """Whether there is anything to train."""
        nothing = self.values["limit_train_batches"] == 0 or train_batches(self.case, known=True) == 0
        return not nothing and not self._done()

    def run(self) -> None:
        """Count."""
        calls, values = self.calls, self.values
        if validates(self.case) and values["num_sanity_val_steps"]:
            calls.update(["on_sanity_check_start", "on_sanity_check_end"])
            self._validate(values["num_sanity_val_steps"])
        if not self.trains():
            return
        calls.update(["on_train_start", "on_train_end"])
        while not self._done():
            self._epoch()

    def _done(self) -> bool:
        values, at = self.values, self.at
        if 0 <= values["max_steps"] <= at.steps or 0 <= values["max_epochs"] <= at.epochs:
            return True
        return self.stop and self._may_stop()

    def _may_stop(self) -> bool:
        return self.at.epochs >= (self.values["min_epochs"] or 0) and self.at.steps >= (self.values["min_steps"] or 0)

    def _epoch(self) -> None:
        calls, values, at, case = self.calls, self.values, self.at, self.case
        count = int(train_batches(case))
        last_is_known = INFINITE in lengths(case.data["train"]) or train_batches(case, known=True) == count
        calls["on_train_epoch_start"] += 1
        for batch_idx in range(count):
            calls["on_train_batch_start"] += 1
            at.batches += 1
            if batch_idx == case.shape.skips:
                break
            is_last = batch_idx == count - 1 and last_is_known
            if case.shape.manual:
                at.steps += steps_by_hand(case.shape)
            elif (batch_idx + 1) % values["accumulate_grad_batches"] == 0 or is_last:
                at.steps += 1
            calls["on_train_batch_end"] += 1
            at.ended += 1
            asked = case.stop_after is not None and at.ended >= case.stop_after
            self.stop = self.stop or self.out_of_time or asked
            if validates(case) and self._is_validation_due(batch_idx, is_last):
                self._validate(INFINITE)
            if is_last or 0 <= values["max_steps"] <= at.steps or (self.stop and self._may_stop()):
                break
        calls["on_train_epoch_end"] += 1
        at.epochs += 1
        self.epochs += 1

    def _is_validation_due(self, batch_idx: int, is_last: bool) -> bool:
        interval, every = self.values["val_check_interval"], self.values["check_val_every_n_epoch"]
        if every is not None and (self.at.epochs + 1) % every:
            return False
        if self.stop and self._may_stop():
            return True
        if isinstance(interval, (str, dict, timedelta)):
            return seconds(interval) == 0
        if not isinstance(interval, Integral):
            if interval == 1.0:
                return is_last
            interval = max(1, int(train_batches(self.case, known=True) * interval))
        return (self.at.batches if every is None else batch_idx + 1) % int(interval) == 0

    def _validate(self, most: int | float) -> None:
        any_pass, batches = passes(self.case, "val", most)
        if any_pass:
            self.calls.update(hooks_of_a_pass("validation", batches))


def hooks_of_a_pass(name: str, batches: int) -> Counter[str]:
    """The hooks of one pass over evaluation loaders."""
    return Counter({
        f"on_{name}_start": 1, f"on_{name}_end": 1, f"on_{name}_epoch_start": 1, f"on_{name}_epoch_end": 1,
        f"on_{name}_batch_start": batches, f"on_{name}_batch_end": batches,
    })  # fmt: skip


# -- what is wrong --------------------------------------------------------------------------------------------


def faults_of_trainer(case: Case) -> list[str]:
    """What a Trainer with these arguments says instead of being made: a pattern for each reason."""
    given = {name: value for name, value in case.arguments.items() if name not in case.wrong}
    faults = [_names(name, case.arguments[name]) for name in case.wrong]
    costly = ("enable_checkpointing", "enable_progress_bar", "enable_model_summary", "logger", "profiler",
              "fast_dev_run", "detect_anomaly", "num_sanity_val_steps", "log_every_n_steps")  # fmt: skip
    if given.get("barebones"):
        faults += [rf"barebones=True.*{name}=" for name in costly if given.get(name)]
    interval = given.get("val_check_interval")
    by_fraction = interval is None or isinstance(interval, float)
    if given.get("check_val_every_n_epoch", 1) is None and by_fraction:
        faults.append("check_val_every_n_epoch=None.*val_check_interval=")
    saves = given.get("enable_checkpointing", False)
    if "checkpoint" in case.callbacks and not given.get("fast_dev_run") and not (saves is None or saves):
        faults.append("enable_checkpointing=False.*ModelCheckpoint")
    return faults


def _names(name: str, value: Any) -> str:
    """A pattern of a sentence that names an argument, or its kind, and what was seen: the value, or a part of it."""
    parts = [value, *value] if isinstance(value, (list, dict)) else [value]
    seen = "|".join(re.escape(repr(part)) for part in parts) + ("|file" if value == "a file" else "")
    return f"{re.escape(name.rstrip('s'))}.*({seen})|There is no .*('nonsense'|'{re.escape(str(value))}')"


def faults_before_data(case: Case, call: str, standing: Standing) -> list[str]:
    """What is said of a run before any of its data is read; ``standing`` is where the last fit ended."""
    faults = []
    if case.ckpt_path is not None:
        faults.append("ckpt_path")
    logger = case.arguments.get("logger", False)
    if isinstance(logger, list) and logger.count("csv") > 1 and not case.arguments.get("fast_dev_run"):
        faults.append("Two loggers of type CSVLogger write to")
    if call == "fit":
        return faults + _faults_of_model(case) + _faults_of_training(case, standing)
    stage, step = PREFIX[call], STEP[call]
    if step in case.shape.missing and call != "predict":
        faults.append(f"has no {step}")
    return faults + _faults_of_arguments(case, step) + _faults_of_loaders(case, stage, step, f"{stage}_dataloader")


def _faults_of_model(case: Case) -> list[str]:
    shape, given = case.shape, case.arguments
    faults = [f"has no {name}," for name in ("training_step", "configure_optimizers") if name in shape.missing]
    faults += _faults_of_arguments(case, "training_step")
    if shape.optimizers in NO_OPTIMIZERS:
        faults.append("configure_optimizers returned|optimizer")
    if shape.optimizers == "two" and not shape.manual:
        faults.append("2 optimizers; with several")
    scheduled = shape.optimizers in ("one", "own")
    late = ("plateau that misses its metric", *(["plateau without a monitor"] if shape.manual else []))
    if scheduled and shape.scheduler in WRONG_SCHEDULES and shape.scheduler not in late:
        faults.append("lr_scheduler|scheduler|ReduceLROnPlateau needs a metric")
    if shape.optimizers == "LBFGS" and not shape.manual and (given.get("accumulate_grad_batches") or 1) > 1:
        faults.append("LBFGS evaluates the loss several times in a step, and with accumulate_grad_batches=")
    if shape.manual:
        by_hand = {"gradient_clip_val": 0, "accumulate_grad_batches": 1}
        faults += [f"{n}=.*no meaning in manual" for n, off in by_hand.items() if (given.get(n) or off) != off]
    return faults


def _faults_of_arguments(case: Case, step: str) -> list[str]:
    uncallable = case.shape.takes in (0, 4) and step not in case.shape.missing
    return [rf"{step}\(.*can't be called"] if uncallable else []


def _faults_of_training(case: Case, standing: Standing) -> list[str]:
    values, data = settled(case.arguments), case.data.get("train")
    faults = []
    if case.source == "passed" and "val" in case.data and case.data["val"].wrong is not None:
        faults.append("val_dataloader.*can't be iterated")
    if validates(case):
        faults += _faults_of_arguments(case, "validation_step")
        known = data is not None and data.wrong is None
        if values["num_sanity_val_steps"] or (known and Fit(case, standing).trains()):  # else nobody asks for them
            faults += _faults_of_loaders(case, "val", "validation_step", "val_dataloader")
    faults += _faults_of_loaders(case, "train", "training_step", "train_dataloader")
    if data is None or data.wrong is not None or values["limit_train_batches"] == 0:
        return faults
    mode = data.mode or "max_size_cycle"
    if mode == "sequential":
        faults.append('mode="sequential"')
    known, interval = train_batches(case, known=True), values["val_check_interval"]
    if validates(case) and known > 0 and not isinstance(interval, (str, dict, timedelta)):
        if isinstance(interval, Integral):
            if interval > known and values["check_val_every_n_epoch"] is not None:
                faults.append(f"val_check_interval={interval} is more than the {known}")
        elif known == INFINITE and interval != 1.0:
            faults.append(f"val_check_interval={interval} is a fraction, but the training loader has no length")
    return faults


def _faults_of_loaders(case: Case, stage: str, step: str, name: str) -> list[str]:
    data, limit = case.data.get(stage), settled(case.arguments)[f"limit_{stage}_batches"]
    if data is None:
        return [f"needs a {name}"]
    if data.wrong is not None:
        return [f"{name}.*can't be iterated"] if case.source == "passed" or limit != 0 else []
    if limit == 0:
        return []
    faults = []
    sequential = (data.mode or "sequential") == "sequential"
    own = step not in case.shape.missing  # the base's predict_step takes any arguments
    if stage != "train" and sequential and len(data.kinds) > 1 and case.shape.takes < 3 and own:
        faults.append(f"{step} must take dataloader_idx")
    if stage == "predict" and not sequential:
        faults.append("predict.*mode=")
    if not isinstance(limit, Integral) and limit != 1.0:
        for count in lengths(data):
            if count == INFINITE:
                faults.append(f"limit_{stage}_batches=.*has no length")
            elif count and int(count * limit) == 0:
                faults.append(f"limit_{stage}_batches=.* of {count} batches is none")
    sizes = limited(data, limit, known=True)
    if (data.mode or ("max_size_cycle" if stage == "train" else "")) == "max_size_cycle" and 0 in sizes and any(sizes):
        faults.append(f"{name}.*no batches.*cycle")
    return faults


def faults_in_data(case: Case, call: str) -> list[str]:
    """What can be known only when the data is read or the steps have run, and may be said then."""
    shape, faults = case.shape, []
    if shape.logs in WRONG_LOGS and call != "predict":
        faults.append(r"self\.log\('loss")
    stages = ("train", "val") if call == "fit" else (PREFIX[call],)
    if any(0 in case.data[stage].counts for stage in stages if stage in case.data):
        faults.append("no batches")  # a loader that does not know its length turns out to be empty
    if any(case.data[stage].form in ("opaque", "text") for stage in stages if stage in case.data):
        faults.append("No batch size was found")
    if call != "fit":
        return faults
    if shape.output in WRONG_OUTPUTS:
        faults.append("training_step returned|The loss is a tensor")
    if "monitor" in SCHEDULES.get(shape.scheduler, {}):
        faults.append("'nothing', which was not logged")
    if "early" in case.callbacks:
        faults.append("EarlyStopping.*'loss'|'loss'.*was not logged")
    if "rates" in case.callbacks:
        faults.append("LearningRateMonitor has no logger")  # said on_train_start, as by Lightning's
    if case.arguments.get("detect_anomaly"):
        faults.append(ANOMALY)  # what overflows in float16 before its scale is found
    if shape.optimizers == "LBFGS":
        faults.append("LBFGS can't be used with precision='16-mixed'")
    return faults


def steps_by_hand(shape: Shape) -> int:
    """Optimizer steps of a batch in manual optimisation."""
    return {"none": 0, "two": 2}.get(shape.optimizers, 1)
