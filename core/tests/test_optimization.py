"""One batch of training: what a step may return, accumulation, clipping, closures."""

import pytest
import torch
from torch import nn
from torch.optim import LBFGS, SGD, Adam

import leyden as pl
from leyden.utilities.exceptions import MisconfigurationException
from leyden_testing.models import Given, Unsized, rows
from leyden_testing.training import quiet_trainer, same_weights, weights

from .by_hand import Model, by_hand, compare

# -- the ordinary step --------------------------------------------------------------------------------------


def test_a_fit_is_the_loop_that_one_would_write(tmp_path):
    trainer = compare(tmp_path, Model(), lambda m, b: by_hand(m, b, m.configure_optimizers(), epochs=3), max_epochs=3)
    assert trainer.global_step == 15


@pytest.mark.parametrize("wrap", [Given, Unsized])
@pytest.mark.parametrize(("every", "steps"), [(2, 3), (3, 2), (5, 1), (9, 1)])
def test_accumulation(tmp_path, every, steps, wrap):
    """The last batches of an epoch step even if they are fewer, by their mean; Lightning divides by ``every``.

    Where the end is not known before, the gradients are mended at the step, and are equal but for rounding.
    """
    trainer = compare(
        tmp_path,
        Model(),
        lambda m, b: by_hand(m, b, m.configure_optimizers(), 2, every),
        max_epochs=2,
        wrap=wrap,
        tolerance=1e-5 if wrap is Unsized else 0.0,
        accumulate_grad_batches=every,
    )
    assert trainer.global_step == 2 * steps


@pytest.mark.parametrize("wrap", [Given, Unsized])
def test_accumulation_with_a_limit_beyond_the_end(tmp_path, wrap):
    options = {"limit_train_batches": 9, "accumulate_grad_batches": 2, "wrap": wrap}
    trainer = compare(tmp_path, Model(), lambda m, b: by_hand(m, b, m.configure_optimizers(), every=2), **options)
    assert trainer.global_step == 3


@pytest.mark.parametrize("assigned", [lambda fresh, used: fresh, lambda fresh, used: used])
def test_a_hook_may_assign_other_optimizers(tmp_path, assigned):
    """The run goes on with them, or, where they are the module's own as steps see them, as it was."""

    class Change(pl.Callback):
        def on_train_epoch_start(self, trainer, pl_module):
            if trainer.current_epoch == 1:
                fresh = Adam(pl_module.parameters(), lr=0.1)
                trainer.optimizers = [assigned(fresh, pl_module.optimizers())]

    def train(model, batches):
        first = model.configure_optimizers()
        by_hand(model, batches, first)
        return by_hand(model, batches, assigned(Adam(model.parameters(), lr=0.1), first))

    trainer = compare(tmp_path, Model(), train, max_epochs=2, callbacks=[Change()])
    assert trainer.global_step == 10


CLIPPING = {
    "norm": ({"gradient_clip_val": 0.1}, lambda p: nn.utils.clip_grad_norm_(p, 0.1)),
    "norm by name": (
        {"gradient_clip_val": 0.2, "gradient_clip_algorithm": "norm"},
        lambda p: nn.utils.clip_grad_norm_(p, 0.2),
    ),
    "value": (
        {"gradient_clip_val": 0.01, "gradient_clip_algorithm": "value"},
        lambda p: nn.utils.clip_grad_value_(p, 0.01),
    ),
    "zero means none": ({"gradient_clip_val": 0.0}, lambda p: None),
}


@pytest.mark.parametrize("every", [1, 2])
@pytest.mark.parametrize("case", CLIPPING)
def test_clipping(tmp_path, case, every):
    options, clip = CLIPPING[case]

    class Clipped(Model):
        def configure_optimizers(self):
            return SGD(self.parameters(), lr=0.5)

    expected = lambda m, b: by_hand(m, b, m.configure_optimizers(), 1, every, clip)  # noqa: E731
    compare(tmp_path, Clipped(), expected, accumulate_grad_batches=every, **options)


def test_hooks_see_gradients_before_they_are_clipped_and_can_clip_otherwise(tmp_path):
    class Own(Model):
        def __init__(self):
            super().__init__()
            self.before, self.asked = [], []

        def on_before_optimizer_step(self, optimizer):
            self.before.append(max(p.grad.abs().max().item() for p in self.parameters()))

        def configure_gradient_clipping(self, optimizer, gradient_clip_val, gradient_clip_algorithm):
            self.asked.append((gradient_clip_val, gradient_clip_algorithm))
            self.clip_gradients(optimizer, gradient_clip_val=0.001, gradient_clip_algorithm="value")
            self.after = max(p.grad.abs().max().item() for p in self.parameters())

    model = Own()
    quiet_trainer(tmp_path, gradient_clip_val=0.5).fit(model, rows(2))
    assert model.asked == [(0.5, None)] * 2
    assert min(model.before) > 0.001
    assert model.after == pytest.approx(0.001)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"gradient_clip_val": "much"}, TypeError),
        ({"gradient_clip_val": 1, "gradient_clip_algorithm": "middle"}, MisconfigurationException),
        ({"accumulate_grad_batches": 0}, MisconfigurationException),
        ({"accumulate_grad_batches": 1.5}, MisconfigurationException),
    ],
    ids=str,
)
def test_nonsense_is_refused_when_the_trainer_is_made(tmp_path, options, error):
    with pytest.raises(error, match=next(iter(options)).replace("_val", "_")):
        quiet_trainer(tmp_path, **options)


# -- what a training step returns ---------------------------------------------------------------------------


class Outputs(pl.Callback):
    """Keeps what ``on_train_batch_end`` was given."""

    def __init__(self):
        self.seen = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.seen.append(outputs)


def test_a_dict_passes_on_all_that_it_holds(tmp_path):
    class Returning(Model):
        def training_step(self, batch, batch_idx):
            prediction = self(batch[0])
            return {"loss": prediction.sum(), "prediction": prediction, "index": batch_idx, "deep": [prediction]}

    outputs = Outputs()
    quiet_trainer(tmp_path, callbacks=[outputs]).fit(Returning(), rows(2))
    last = outputs.seen[-1]
    assert last.keys() == {"loss", "prediction", "index", "deep"}
    assert last["index"] == 1
    assert not any(value.requires_grad for value in (last["loss"], last["prediction"], last["deep"][0]))


def test_a_tensor_is_passed_on_detached_and_as_it_was_optimised(tmp_path):
    outputs = Outputs()
    quiet_trainer(tmp_path, callbacks=[outputs], accumulate_grad_batches=2).fit(Model(), rows(2))
    assert all(list(seen) == ["loss"] and not seen["loss"].requires_grad for seen in outputs.seen)


def test_none_skips_the_batch(tmp_path):
    class Skipping(Model):
        def training_step(self, batch, batch_idx):
            return None if batch_idx % 2 else super().training_step(batch, batch_idx)

        def on_before_backward(self, loss):
            self.backwards = getattr(self, "backwards", 0) + 1

    model, outputs = Skipping(), Outputs()
    with pytest.warns(UserWarning, match="training_step returned None"):
        quiet_trainer(tmp_path, callbacks=[outputs]).fit(model, rows(4))
    assert [bool(seen) for seen in outputs.seen] == [True, False, True, False]
    assert model.backwards == 2


@pytest.mark.filterwarnings("ignore:training_step returned None")
@pytest.mark.parametrize("algorithm", ["norm", "value"])
def test_a_skipped_batch_has_nothing_to_clip(tmp_path, algorithm):
    model = Model()
    model.training_step = lambda batch, batch_idx: None
    trainer = quiet_trainer(tmp_path, gradient_clip_val=0.5, gradient_clip_algorithm=algorithm)
    trainer.fit(model, rows(2))
    assert trainer.global_step == 2


@pytest.mark.parametrize(
    ("returned", "words"),
    [({"prediction": 1}, "without 'loss'"), ("text", "'text' of type str"), (1.5, "1.5 of type float"), ([], "list")],
)
def test_what_is_no_loss_is_refused(tmp_path, returned, words):
    model = Model()
    model.training_step = lambda batch, batch_idx: returned
    with pytest.raises(MisconfigurationException, match=words):
        quiet_trainer(tmp_path).fit(model, rows(1))


# -- optimizers ---------------------------------------------------------------------------------------------


FORMS = {
    "optimizer": lambda o, s: o,
    "list": lambda o, s: [o],
    "tuple": lambda o, s: (o,),
    "two lists": lambda o, s: ([o], [s]),
    "two lists, no scheduler": lambda o, s: ([o], []),
    "scheduler dicts": lambda o, s: ([o], [{"scheduler": s, "interval": "step"}]),
    "dict": lambda o, s: {"optimizer": o},
    "dict with scheduler": lambda o, s: {"optimizer": o, "lr_scheduler": s},
    "dict with scheduler dict": lambda o, s: {"optimizer": o, "lr_scheduler": {"scheduler": s}},
    "dicts": lambda o, s: ({"optimizer": o, "lr_scheduler": s},),
}


@pytest.mark.parametrize("form", FORMS)
def test_forms_of_configure_optimizers(tmp_path, form):
    class Formed(Model):
        def configure_optimizers(self):
            optimizer = SGD(self.parameters(), lr=0.1)
            self.made = optimizer, torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)
            return FORMS[form](*self.made)

    model = Formed()
    before = weights(model)
    trainer = quiet_trainer(tmp_path)
    trainer.fit(model, rows(1))
    assert trainer.optimizers == [model.made[0]]
    has_scheduler = form not in ("optimizer", "list", "tuple", "two lists, no scheduler", "dict")
    assert [config.scheduler for config in trainer.lr_scheduler_configs] == [model.made[1]] * has_scheduler
    assert model.made[0].param_groups[0]["lr"] == (0.05 if has_scheduler else 0.1)
    assert not same_weights(model, before)


REFUSED = {
    "a number": (lambda p: 1, "returned 1"),
    "an empty list": (lambda p: [], r"returned \[\]"),
    "a dict without optimizer": (lambda p: {"lr_scheduler": None}, "without 'optimizer'"),
    "several": (lambda p: [SGD(p(), 0.1), SGD(p(), 0.1)], "automatic_optimization = False"),
    "no scheduler": (lambda p: ([SGD(p(), 0.1)], [object()]), "no scheduler"),
    "a dict without scheduler": (lambda p: ([SGD(p(), 0.1)], [{"interval": "step"}]), "no 'scheduler'"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_configure_optimizers_may_not_return(tmp_path, case):
    returned, words = REFUSED[case]
    model = Model()
    model.configure_optimizers = lambda: returned(model.parameters)
    with pytest.raises(MisconfigurationException, match=words):
        quiet_trainer(tmp_path).fit(model, rows(1))


def test_no_optimizer_trains_nothing_and_says_so(tmp_path):
    model = Model()
    model.configure_optimizers = lambda: None
    before = weights(model)
    trainer = quiet_trainer(tmp_path)
    with pytest.warns(UserWarning, match="without an optimizer"):
        trainer.fit(model, rows(2))
    assert same_weights(model, before)


def test_lbfgs_runs_its_closure_as_often_as_it_wants(tmp_path):
    class Quasi(Model):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(4, 2)

        def configure_optimizers(self):
            return LBFGS(self.parameters(), max_iter=4)

    def expected(model, batches):
        optimizer = model.configure_optimizers()
        for batch in batches:

            def closure(batch=batch):
                optimizer.zero_grad()
                loss = model.loss(batch)
                loss.backward()
                return loss

            optimizer.step(closure)
        return weights(model)

    trainer = compare(tmp_path, Quasi(), expected, batches=3)
    assert trainer.global_step == 3


@pytest.mark.filterwarnings("ignore:training_step returned None")
def test_lbfgs_passes_over_a_skipped_batch(tmp_path):
    """In Lightning it raises within PyTorch, which wants a number of the closure."""

    class Quasi(Model):
        def training_step(self, batch, batch_idx):
            return None if batch_idx else super().training_step(batch, batch_idx)

        def configure_optimizers(self):
            return LBFGS(self.parameters(), max_iter=4)

        def on_train_batch_end(self, outputs, batch, batch_idx):
            self.states = [*getattr(self, "states", []), weights(self)]

    model = Quasi()
    trainer = quiet_trainer(tmp_path)
    trainer.fit(model, rows(3))
    assert trainer.global_step == 3
    assert same_weights(model.states[0], model.states[2])


def test_override_points_and_their_arguments(tmp_path):
    calls = []

    class Own(Model):
        def backward(self, loss, *args, **kwargs):
            calls.append("backward")
            loss.backward(*args, **kwargs)

        def optimizer_zero_grad(self, epoch, batch_idx, optimizer):
            calls.append(f"zero_grad {epoch} {batch_idx} {type(optimizer).__name__}")
            optimizer.zero_grad(set_to_none=False)

        def optimizer_step(self, epoch, batch_idx, optimizer, optimizer_closure):
            calls.append(f"step {epoch} {batch_idx} {isinstance(optimizer, Adam)}")
            optimizer.step(closure=optimizer_closure)

    compare(tmp_path, Own(), lambda m, b: by_hand(m, b, m.configure_optimizers()), batches=2)
    assert calls == [
        "step 0 0 True",
        "zero_grad 0 0 Adam",
        "backward",
        "step 0 1 True",
        "zero_grad 0 1 Adam",
        "backward",
    ]


def test_learning_rate_warm_up_in_optimizer_step(tmp_path):
    class WarmUp(Model):
        def optimizer_step(self, epoch, batch_idx, optimizer, optimizer_closure):
            optimizer_closure()
            for group in optimizer.param_groups:
                group["lr"] = 0.01 * (self.global_step + 1)
            optimizer.step()

    trainer = quiet_trainer(tmp_path)
    trainer.fit(WarmUp(), rows(3))
    assert trainer.global_step == 3
    assert trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(0.03)


def test_an_optimizer_step_that_forgets_the_closure_is_told(tmp_path):
    model = Model()
    model.optimizer_step = lambda epoch, batch_idx, optimizer, closure: optimizer.step()
    with pytest.raises(MisconfigurationException, match="closure"):
        quiet_trainer(tmp_path).fit(model, rows(1))


# -- numerics -----------------------------------------------------------------------------------------------


def test_detect_anomaly_names_the_operation(tmp_path):
    model = Model()
    model.training_step = lambda batch, batch_idx: (model.loss(batch) * 0).sqrt() * 0
    with pytest.warns(UserWarning, match="Error detected in SqrtBackward"), pytest.raises(RuntimeError, match="nan"):
        quiet_trainer(tmp_path, detect_anomaly=True).fit(model, rows(1))
    assert not torch.is_anomaly_enabled()


def test_deterministic(tmp_path):
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    try:
        for value, expected in ((True, (True, False)), ("warn", (True, True)), (False, (False, False))):
            quiet_trainer(tmp_path, deterministic=value).fit(Model(), rows(1))
            now = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
            assert now == expected
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
