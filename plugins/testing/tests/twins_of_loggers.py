"""Broken loggers: each writes lines of JSON, with one thing wrong."""

import json
import os
from pathlib import Path

from leyden.loggers import RunDirectoryLogger, as_mapping
from leyden.utilities.rank_zero import rank_zero_only
from leyden_testing import LoggerConformance

from .twins import breaks


class Lines(RunDirectoryLogger):
    """Writes each logging call as a line."""

    def __init__(self, save_dir, name="run", version=None):
        super().__init__(save_dir, name, version, "")

    @property
    def path(self):
        return Path(self.log_dir, "lines.json")

    def write(self, **line):
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a") as file:
            file.write(json.dumps(line) + "\n")

    @rank_zero_only
    def log_metrics(self, metrics, step=None):
        self.write(metrics={name: float(value) for name, value in metrics.items()}, step=step or 0)

    @rank_zero_only
    def log_hyperparams(self, params, *args, **kwargs):
        self.write(params=json.loads(json.dumps(dict(as_mapping(params)), default=str)))


def lines(logger):
    path = logger.path
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def read(logger):
    found = {}
    for line in lines(logger):
        for name, value in line.get("metrics", {}).items():
            found.setdefault(name, []).append((line["step"], value))
    return found


def read_hyperparams(logger):
    found = {}
    for line in lines(logger):
        found.update(line.get("params", {}))
    return found


def broken(check, message):
    return breaks(LoggerConformance, check, message, read=read, read_hyperparams=read_hyperparams)


@broken("name_version_and_directories_stay", "version_1")
class Restless(Lines):
    @property
    def version(self):
        return len(lines_of_all(self))

    @property
    def path(self):
        return Path(self.root_dir, "lines.json")


def lines_of_all(logger):
    path = Path(logger.root_dir, "lines.json")
    return path.read_text().splitlines() if path.exists() else []


@broken("the_trainer_logs_where_it_says", "elsewhere")
class Elsewhere(Lines):
    count = 0

    @property
    def log_dir(self):
        type(self).count += 1
        return os.path.join(super().log_dir, f"elsewhere-{self.count}")


@broken("two_loggers_in_one_place_are_refused", "DID NOT RAISE")
class Unique(Lines):
    @property
    def log_dir(self):
        return f"{super().log_dir}-{id(self)}"


@broken("it_can_be_copied_to_other_processes", "pickle")
class Tied(Lines):
    def __init__(self, save_dir, name="run", version=None):
        super().__init__(save_dir, name, version)
        self.function = lambda: None


@broken("metrics_can_be_read", "(3, 1.5)")
class Counting(Lines):
    steps = 0

    def log_metrics(self, metrics, step=None):
        self.steps += 1
        super().log_metrics(metrics, self.steps)


@broken("metrics_may_lack_a_step_or_be_infinite", "NoneType")
class Stepping(Lines):
    def log_metrics(self, metrics, step=None):
        super().log_metrics(metrics, step + 0)


@broken("hyperparameters_can_be_read", "lr")
class Consuming(Lines):
    def log_hyperparams(self, params, *args, **kwargs):
        super().log_hyperparams(params)
        if isinstance(params, dict):
            params.clear()


@broken("it_accepts_a_model_without_an_example", "example")
class Graphic(Lines):
    def log_graph(self, model, input_array=None):
        raise ValueError("there is no example to trace the model with")


@broken("it_accepts_a_saved_checkpoint", "== b'a checkpoint'")
class Moving(Lines):
    def after_save_checkpoint(self, checkpoint_callback):
        Path(checkpoint_callback.best_model_path).write_text("moved")


@broken("every_end_keeps_what_was_logged", "closed")
class Closing(Lines):
    closed = False

    def log_metrics(self, metrics, step=None):
        if self.closed:
            raise ValueError("the logger is closed")
        super().log_metrics(metrics, step)

    def finalize(self, status):
        self.closed = True


@broken("only_rank_0_writes", "lines.json")
class Everywhere(Lines):
    def save(self):
        self.write(saved=True)


@broken("a_run_is_logged_as_any_logger_would", "val_loss")
class Forgetful(Lines):
    def log_metrics(self, metrics, step=None):
        super().log_metrics({name: value for name, value in metrics.items() if name != "val_loss"}, step)


@broken("a_failed_run_keeps_what_was_logged", "train_loss_step")
class Optimistic(Lines):
    def __init__(self, save_dir, name="run", version=None):
        super().__init__(save_dir, name, version)
        self.pending = []

    def log_metrics(self, metrics, step=None):
        self.pending.append((metrics, step))

    def finalize(self, status):
        for metrics, step in self.pending if status == "success" else ():
            super().log_metrics(metrics, step)
        self.pending = []


@broken("two_loggers_write_to_separate_places", "== 8")
class Common(Lines):
    @property
    def path(self):
        return Path(self.root_dir, "lines.json")


@broken("the_next_run_has_its_own_place", "version_0")
class First(Lines):
    def __init__(self, save_dir, name="run", version=0):
        super().__init__(save_dir, name, version)


@broken("a_version_can_be_continued", "version_1")
class Stubborn(Lines):
    def __init__(self, save_dir, name="run", version=None):
        super().__init__(save_dir, name, None)
