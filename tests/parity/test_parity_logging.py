"""``self.log``: which value goes where, under which name, at which step."""

import contextlib
import io

import pytest
import torch
from torchmetrics import MaxMetric, MeanMetric, MeanSquaredError, MetricCollection, SumMetric

from leyden_testing.models import rows

from .parity_harness import parity


def make_logging_model(lab, write):
    """A model whose steps call ``write(model, name, loss, batch_idx)`` instead of logging."""

    class Model(lab.Model):
        def training_step(self, batch, batch_idx):
            loss = self.loss(batch)
            write(self, "train", loss, batch_idx)
            return loss

        def validation_step(self, batch, batch_idx):
            write(self, "val", self.loss(batch), batch_idx)

        def test_step(self, batch, batch_idx):
            write(self, "test", self.loss(batch), batch_idx)

    return Model


def train_and_test(lab, write, batches=5, **options):
    trainer = lab.trainer(**options)
    model = lab.model(make_logging_model(lab, write))
    trainer.fit(model, rows(batches), rows(3))
    lab.note("fitted", [trainer.callback_metrics, trainer.logged_metrics, trainer.progress_bar_metrics])
    lab.note("test", trainer.test(model, rows(3)))


@parity
@pytest.mark.parametrize(
    ("on_step", "on_epoch"), [(None, None), (None, True), (True, None), (True, True), (True, False), (False, True)]
)
def test_on_step_and_on_epoch(pl, lab, on_step, on_epoch):
    train_and_test(lab, lambda m, name, loss, i: m.log(name, loss, on_step=on_step, on_epoch=on_epoch))


@parity
@pytest.mark.parametrize("every", [1, 2, 3, 7, None])
def test_log_every_n_steps(pl, lab, every):
    if every is None:  # 50, more than there are
        lab.differs(r"log_metrics step=9 {epoch: 1, train_step", "in Leyden a short fit leaves its last step")
    train_and_test(
        lab, lambda m, name, loss, i: m.log(name, loss, on_step=True, on_epoch=True), log_every_n_steps=every
    )


@parity
def test_log_every_n_steps_with_accumulation(pl, lab):
    write = lambda m, name, loss, i: m.log(name, loss, on_step=True, on_epoch=True)  # noqa: E731
    train_and_test(lab, write, batches=6, log_every_n_steps=2, accumulate_grad_batches=2)


@parity
@pytest.mark.parametrize("reduction", ["mean", "min", "max", "sum", torch.mean, torch.max, sum])
def test_reduction(pl, lab, reduction):
    train_and_test(lab, lambda m, name, loss, i: m.log(name, loss, on_epoch=True, reduce_fx=reduction))


@parity
@pytest.mark.parametrize("options", [{"prog_bar": True}, {"logger": False}, {"prog_bar": True, "logger": False}])
@pytest.mark.parametrize("both", [False, True])
def test_destinations(pl, lab, options, both):
    more = {"on_step": True, "on_epoch": True} if both else {}
    train_and_test(lab, lambda m, name, loss, i: m.log(name, loss, **options, **more))


@parity
def test_epoch_means_are_weighted_by_batch_size(pl, lab):
    """The last batch is smaller, and one metric gives its own size."""

    def write(model, name, loss, batch_idx):
        model.log(name, loss, on_epoch=True)
        model.log(f"{name}_weighted", loss, on_epoch=True, batch_size=1 + batch_idx)

    trainer, model = lab.trainer(), lab.model(make_logging_model(lab, write))
    samples = rows(7, batch_size=1).dataset
    trainer.fit(model, torch.utils.data.DataLoader(samples, 3), torch.utils.data.DataLoader(samples, 4))


@parity
@pytest.mark.parametrize("batch", ["dict", "nested", "strings", "tensor"])
def test_batch_size_is_found_in_any_batch(pl, lab, batch):
    def collate(rows):
        x = torch.stack([row[0] for row in rows])
        made = {"dict": {"x": x}, "nested": [{"a": [x, x]}], "strings": {"names": ["a"] * len(rows), "x": x}}
        return made.get(batch, x)

    if batch == "strings":
        lab.differs("loss_epoch", "Lightning takes the length of the first string for the size of the batch")

    class Model(lab.Model):
        def training_step(self, batch, batch_idx):
            loss = self.layer.weight.sum() * batch_idx
            self.log("loss", loss, on_epoch=True)
            return loss

    samples = rows(7, batch_size=1).dataset
    data = torch.utils.data.DataLoader(samples, 3, collate_fn=collate)
    lab.trainer(max_epochs=1).fit(lab.model(Model), data)


@parity
@pytest.mark.parametrize(
    "value",
    [1, 2.5, True, torch.tensor(3), torch.tensor([4.0]), torch.tensor(5.0, dtype=torch.float64), float("nan")],
    ids=str,
)
def test_kinds_of_values(pl, lab, value):
    train_and_test(lab, lambda m, name, loss, i: m.log(name, value, on_step=True, on_epoch=True))


@parity
def test_log_dict(pl, lab):
    def write(model, name, loss, batch_idx):
        model.log_dict({f"{name}/a": loss, f"{name}/b": 2 * loss.detach()}, on_epoch=True, prog_bar=True)

    train_and_test(lab, write)


@parity
def test_a_value_that_is_logged_now_and_then(pl, lab):
    def write(model, name, loss, batch_idx):
        if batch_idx % 2 == 0:
            model.log(name, loss, on_step=True, on_epoch=True)

    train_and_test(lab, write)


@parity
def test_a_value_logged_twice_in_a_step(pl, lab):
    def write(model, name, loss, batch_idx):
        model.log(name, loss, on_step=True, on_epoch=True)
        model.log(name, loss * 3, on_step=True, on_epoch=True)

    train_and_test(lab, write)


METRICS = {"mean": MeanMetric, "sum": SumMetric, "max": MaxMetric}


@parity
@pytest.mark.parametrize("kind", METRICS)
@pytest.mark.parametrize("on_step", [False, True])
def test_torchmetrics_objects(pl, lab, kind, on_step):
    class Model(lab.Model):
        def __init__(self):
            super().__init__()
            self.train_metric, self.val_metric = METRICS[kind](), METRICS[kind]()

        def training_step(self, batch, batch_idx):
            loss = self.loss(batch)
            self.train_metric(loss)
            self.log("train_metric", self.train_metric, on_step=on_step, on_epoch=True)
            return loss

        def validation_step(self, batch, batch_idx):
            self.val_metric.update(self.loss(batch))
            self.log("val_metric", self.val_metric)

    lab.trainer().fit(lab.model(Model), rows(3), rows(2))


@parity
def test_a_collection_of_metrics(pl, lab):
    class Model(lab.Model):
        def __init__(self):
            super().__init__()
            self.metrics = MetricCollection([MeanSquaredError()], prefix="val_")

        def validation_step(self, batch, batch_idx):
            x, y = batch
            self.metrics.update(self(x).flatten(), y.flatten())
            self.log_dict(self.metrics)

    lab.trainer().fit(lab.model(Model), rows(3), rows(2))


@parity
def test_a_metric_logged_from_the_end_of_the_epoch(pl, lab):
    class Model(lab.Model):
        def __init__(self):
            super().__init__()
            self.metric = MeanMetric()

        def validation_step(self, batch, batch_idx):
            self.metric.update(self.loss(batch))

        def on_validation_epoch_end(self):
            self.log("val_metric", self.metric)

        def on_train_epoch_end(self):
            self.log("computed", 1.0)

    lab.trainer().fit(lab.model(Model), rows(3), rows(2))


@parity
@pytest.mark.parametrize("add_dataloader_idx", [True, False])
def test_several_evaluation_loaders(pl, lab, add_dataloader_idx):
    class Model(lab.Model):
        def validation_step(self, batch, batch_idx, dataloader_idx=0):
            name = "val" if add_dataloader_idx else f"val_{dataloader_idx}"
            self.log(name, self.loss(batch), add_dataloader_idx=add_dataloader_idx)

        def test_step(self, batch, batch_idx, dataloader_idx):
            self.log("test", self.loss(batch), on_step=True, on_epoch=True)

    trainer, model = lab.trainer(), lab.model(Model)
    trainer.fit(model, rows(3), [rows(2), rows(1)])
    lab.note("test", trainer.test(model, [rows(1), rows(2)]))


LOGGING_HOOKS = [
    "on_train_start",
    "on_train_epoch_start",
    "on_train_batch_start",
    "on_before_backward",
    "on_after_backward",
    "on_before_optimizer_step",
    "on_before_zero_grad",
    "on_train_batch_end",
    "on_train_epoch_end",
    "on_validation_start",
    "on_validation_epoch_start",
    "on_validation_batch_start",
    "on_validation_batch_end",
    "on_validation_epoch_end",
    "on_test_start",
    "on_test_epoch_start",
    "on_test_batch_end",
    "on_test_epoch_end",
]


def log_in(hook, base):
    """A subclass of ``base`` that logs a running number in ``hook``."""

    def logging_hook(self, *args, **stage):
        module = args[1] if hook_of_callback else self
        self.calls = getattr(self, "calls", 0) + 1
        module.log("value", float(self.calls))

    hook_of_callback = not hasattr(base, "training_step")
    return type(base.__name__, (base,), {hook: logging_hook})


@parity
@pytest.mark.parametrize("hook", LOGGING_HOOKS)
def test_logging_in_a_hook_of_a_callback(pl, lab, hook):
    """With the defaults for ``on_step`` and ``on_epoch``, which differ from hook to hook."""
    trainer, model = lab.trainer(callbacks=[log_in(hook, pl.Callback)()]), lab.model()
    trainer.fit(model, rows(3), rows(2))
    lab.note("fitted", [trainer.callback_metrics, trainer.logged_metrics])
    trainer.test(model, rows(2))


@parity
@pytest.mark.parametrize(
    "hook", ["on_train_start", "on_train_batch_start", "on_train_epoch_end", "on_validation_epoch_end"]
)
def test_logging_in_a_hook_of_the_model(pl, lab, hook):
    class Model(lab.Model):
        def on_train_start(self):
            self.write("on_train_start")

        def on_train_batch_start(self, batch, batch_idx):
            self.write("on_train_batch_start")

        def on_train_epoch_end(self):
            self.write("on_train_epoch_end")

        def on_validation_epoch_end(self):
            self.write("on_validation_epoch_end")

        def write(self, name):
            if name == hook:
                self.log("value", float(self.trainer.global_step), prog_bar=True)

    lab.trainer().fit(lab.model(Model), rows(3), rows(2))


FORBIDDEN_HOOKS = [
    "on_fit_start",
    "on_fit_end",
    "on_train_end",
    "on_sanity_check_start",
    "on_sanity_check_end",
    "on_validation_end",
    "on_test_end",
    "on_predict_start",
    "on_predict_batch_end",
    "on_predict_end",
    "setup",
    "teardown",
]


@parity
@pytest.mark.parametrize("hook", FORBIDDEN_HOOKS)
def test_logging_where_it_has_no_meaning(pl, lab, hook):
    lab.differs("num_training_batches", "Leyden looks at the training loader that was passed before anything runs")
    lab.differs(" trains: ", "in Leyden a pass that fails puts the modes back")
    trainer, model = lab.trainer(max_epochs=1, callbacks=[log_in(hook, pl.Callback)()]), lab.model()
    with lab.raises("MisconfigurationException"):
        trainer.fit(model, rows(1), rows(1))
        trainer.test(model, rows(1))
        trainer.predict(model, rows(1))


NONSENSE = {
    "vector": ("ValueError", lambda m: m.log("a", torch.ones(2))),
    "text": ("ValueError", lambda m: m.log("a", "text")),
    "nothing": ("ValueError", lambda m: m.log("a", None)),
    "reduction": ("MisconfigurationException", lambda m: m.log("a", 1.0, reduce_fx="median", on_epoch=True)),
    "name of a loader": ("MisconfigurationException", lambda m: m.log("a/dataloader_idx_0", 1.0)),
    "other options": ("MisconfigurationException", lambda m: (m.log("a", 1.0), m.log("a", 1.0, prog_bar=True))),
    "other reduction": (
        "MisconfigurationException",
        lambda m: (m.log("a", 1.0, on_epoch=True), m.log("a", 1.0, on_epoch=True, reduce_fx="max")),
    ),
    "metric of nobody": ("MisconfigurationException", lambda m: m.log("a", MeanMetric())),
    "neither step nor epoch": ("MisconfigurationException", lambda m: m.log("a", 1.0, on_step=False, on_epoch=False)),
}


@parity
@pytest.mark.parametrize("nonsense", NONSENSE)
def test_nonsense_is_refused(pl, lab, nonsense):
    class Model(lab.Model):
        def training_step(self, batch, batch_idx):
            log(self)
            return self.loss(batch)

    error, log = NONSENSE[nonsense]
    with lab.refuses(error):
        lab.trainer().fit(lab.model(Model), rows(2))


@parity
def test_several_loggers(pl, lab):
    loggers = [lab.make_logger("first"), lab.make_logger("second")]
    trainer = lab.trainer(logger=loggers, enable_checkpointing=True)
    trainer.fit(lab.model(), rows(2), rows(1))
    lab.note("first", trainer.logger is loggers[0])


@parity
def test_no_logger(pl, lab):
    train_and_test(lab, lambda m, name, loss, i: m.log(name, loss, on_step=True, on_epoch=True), logger=False)


@parity
def test_metrics_straight_to_the_logger(pl, lab):
    """``logger.log_metrics`` by hand, and a metric named ``step`` that moves the x axis."""

    class Model(lab.Model):
        def training_step(self, batch, batch_idx):
            self.logger.log_metrics({"by_hand": 1.0}, step=self.global_step)
            self.log("step", 10.0 + batch_idx)
            return super().training_step(batch, batch_idx)

    lab.trainer().fit(lab.model(Model), rows(3))


@parity
def test_hyperparameters_reach_the_logger(pl, lab):
    class Model(lab.Model):
        def __init__(self, width=4, name="x", nested=None):
            super().__init__()
            self.save_hyperparameters()

    class Data(lab.DataModule):
        def __init__(self, size=3):
            super().__init__()
            self.save_hyperparameters()

    trainer = lab.trainer(max_epochs=1)
    trainer.fit(lab.model(Model, width=5, nested={"a": 1}), datamodule=lab.datamodule(Data))


@parity
def test_the_same_hyperparameter_twice_with_two_values(pl, lab):
    class Model(lab.Model):
        def __init__(self, size=4):
            super().__init__()
            self.save_hyperparameters()

    class Data(lab.DataModule):
        def __init__(self, size=3):
            super().__init__()
            self.save_hyperparameters()

    with lab.refuses("RuntimeError"):
        lab.trainer(max_epochs=1).fit(lab.model(Model), datamodule=lab.datamodule(Data))


@parity
def test_print_goes_to_standard_output(pl, lab):
    class Model(lab.Model):
        def on_train_start(self):
            self.print("said", 1, sep="-")
            self.trainer.print("and", 2)

    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        lab.trainer(max_epochs=1).fit(lab.model(Model), rows(1))
    lab.note("printed", printed.getvalue())


@parity
@pytest.mark.parametrize("prog_bar", [False, True])
def test_one_name_in_training_and_validation(pl, lab, prog_bar):
    """Of a step's value and that of the validation after it, the later one stays."""
    train_and_test(lab, lambda m, name, loss, i: m.log("loss", loss, prog_bar=prog_bar), max_epochs=2)


@parity
@pytest.mark.parametrize("hook", ["on_train_batch_end", "on_train_epoch_end", "on_validation_epoch_end"])
def test_a_callback_logs_by_itself(pl, lab, hook):
    def log(self, trainer, pl_module, *args):
        self.log("mine", 1.0, prog_bar=True)
        self.log_dict({"a": 2.0, "b": 3.0})

    callback = type("Logs", (pl.Callback,), {hook: log})()
    trainer = lab.trainer(callbacks=[callback])
    trainer.fit(lab.model(), rows(3), rows(2))
    lab.note("metrics", [trainer.callback_metrics, trainer.logged_metrics, trainer.progress_bar_metrics])


@parity
def test_norms_of_gradients(pl, lab):
    class Model(lab.Model):
        def on_before_optimizer_step(self, optimizer):
            self.log_dict(pl.utilities.grad_norm(self, norm_type=2))

    lab.trainer(max_epochs=1).fit(lab.model(Model), rows(3))
