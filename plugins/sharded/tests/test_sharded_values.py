"""Values that are no plain data, in checkpoints of two processes: kept, sealed and put back as in those of one."""

import enum
import io
import os
import shutil
import warnings

import pytest
import torch
from torch import nn

from leyden.utilities import MisconfigurationException
from leyden_sharded.consolidate import consolidate
from leyden_testing.ranks import on_ranks
from leyden_testing.training import loader, same_weights

from .sharded_model import STRATEGIES, Model, quiet


class Mode(enum.Enum):
    FAST = 1


class Layer(nn.Linear):
    """A layer whose extra state is a buffer and a tensor."""

    given = None

    def get_extra_state(self):
        return {"buffer": io.BytesIO(b"xy"), "scale": torch.ones(2)}

    def set_extra_state(self, state):
        self.given = type(state["buffer"]).__name__, state["buffer"].getvalue(), state["scale"].tolist()


class Scaled(nn.Linear):
    """A layer whose extra state is a tensor in a dict, and nothing else."""

    given = None

    def get_extra_state(self):
        return {"scale": torch.full((2,), 3.0)}

    def set_extra_state(self, state):
        self.given = state["scale"].tolist()


class Valued(Model):
    """A model with such hyperparameters and states; ``compiled`` wraps the layers."""

    def __init__(self, mode: Mode, act, compiled=False):
        super().__init__(torch.optim.Adam)
        self.save_hyperparameters("mode", "act")
        layers = nn.Sequential(Layer(4, 8), nn.Tanh(), Scaled(8, 2))
        self.layers = torch.compile(layers, backend="eager") if compiled else layers

    def on_save_checkpoint(self, checkpoint):
        checkpoint["mine"] = {"mode": Mode.FAST, "root": b""}

    def on_load_checkpoint(self, checkpoint):
        self.mine = checkpoint["mine"]

    @property
    def given(self):
        layers = getattr(self.layers, "_orig_mod", self.layers)
        return layers[0].given, layers[2].given


def whole(model):
    """The weights, by names without those of torch.compile."""
    state = {name.replace("_orig_mod.", ""): v for name, v in model.state_dict().items() if torch.is_tensor(v)}
    return {name: v.full_tensor() if hasattr(v, "full_tensor") else v.clone() for name, v in state.items()}


FORMS = {
    "ddp": ("ddp", "ddp", {}),
    "full": ("zero_3 by layer", "zero_1", {}),
    "sharded": ("zero_3 by layer", "zero_3", {"state_dict_type": "sharded"}),
    "sharded to zero_1": ("zero_3 by layer", "zero_1", {"state_dict_type": "sharded"}),
}


def save_and_resume(root):
    """Save in every form and go on from it; returns what the resumed models were given, and the weights."""
    warnings.simplefilter("ignore")
    seen = {}
    for form, (strategy, other, options) in FORMS.items():
        path, model = root / f"{form}.ckpt", Valued(Mode.FAST, torch.relu)
        trainer = quiet(root, STRATEGIES[strategy](**options), 2, max_epochs=1)
        trainer.fit(model, loader(8))
        trainer.save_checkpoint(path)
        saved = whole(model)
        for word in ({}, {"weights_only": False}):
            tested, resumed = (Valued(Mode.FAST, torch.relu, compiled=wraps) for wraps in (True, False))
            quiet(root, STRATEGIES[other](), 2).test(tested, loader(4), ckpt_path=path, verbose=False, **word)
            quiet(root, STRATEGIES[other](), 2, max_epochs=2).fit(resumed, loader(8), ckpt_path=path, **word)
            same = same_weights(whole(tested), saved)
            seen[form, bool(word)] = [tested.given, resumed.given, tested.mine, resumed.mine, same]
    return seen


@pytest.fixture(scope="module")
def forms(tmp_path_factory):
    root = tmp_path_factory.mktemp("forms")
    return root, on_ranks(2, save_and_resume, root)


@pytest.mark.slow
def test_they_come_back_in_every_process(forms):
    extra = ("BytesIO", b"xy", [1.0, 1.0]), [3.0, 3.0]
    for of_rank in forms[1]:
        for (form, is_trusted), seen in of_rank.items():
            mine = {"mode": Mode.FAST if is_trusted else 1, "root": b""}
            assert seen == [extra, extra, mine, mine, True], form


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The checkpoint has values")
@pytest.mark.parametrize("form", FORMS)
def test_the_file_of_each_form_makes_the_model_again(forms, tmp_path, form):
    path = forms[0] / f"{form}.ckpt"
    if path.is_dir():
        consolidate(str(path), str(tmp_path / "whole.ckpt"))
        path = tmp_path / "whole.ckpt"
    with pytest.raises(MisconfigurationException, match=r"act \(a .*weights_only=False"):
        Valued.load_from_checkpoint(path)
    loaded = Valued.load_from_checkpoint(path, weights_only=False)
    assert dict(loaded.hparams) == {"mode": Mode.FAST, "act": torch.relu}
    assert Valued.load_from_checkpoint(path, act=None).hparams.mode is Mode.FAST
    assert loaded.given == (("BytesIO", b"xy", [1.0, 1.0]), [3.0, 3.0])


class Exploit:
    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The checkpoint has values", "ignore:The checkpoint holds the state")
def test_nothing_sealed_in_a_directory_is_opened_unasked(forms, tmp_path):
    path, buffer = tmp_path / "run.ckpt", io.BytesIO()
    shutil.copytree(forms[0] / "sharded.ckpt", path)
    torch.save([Exploit(tmp_path / "made")], buffer)
    kept = torch.load(path / "leyden.ckpt", weights_only=True)
    sealed = kept["checkpoint"]["leyden"]["sealed"]
    sealed["records"] = [[*record[:5], None, *record[6:]] for record in sealed["records"]]
    sealed["records"].append([["mine", "mode"], "mine.mode", "x.Mode", None, None, 0, False])
    sealed["pickle"] = torch.frombuffer(bytearray(buffer.getvalue()), dtype=torch.uint8)
    torch.save(kept, path / "leyden.ckpt")
    consolidate(str(path), str(tmp_path / "whole.ckpt"))

    def read(strategy, place):
        model = Valued(Mode.FAST, torch.relu)
        trainer = quiet(tmp_path, STRATEGIES[strategy](), 1)
        trainer.validate(model, loader(4), ckpt_path=place, verbose=False)
        assert model.mine == {"mode": 1, "root": b""}
        assert not (tmp_path / "made").exists()

    for strategy, place in (("zero_3", path), ("zero_1", path), ("ddp", tmp_path / "whole.ckpt")):
        on_ranks(1, read, strategy, place)
