from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn

import leyden
from leyden_progress.summary import ModelSummary, human_readable_count, summarize

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import pytorch_lightning
    from pytorch_lightning.utilities.model_summary import ModelSummary as LightningSummary

MAKERS = {}


def model_of(maker):
    MAKERS[maker.__name__] = maker
    return maker


@model_of
def plain(base):
    class Plain(base):
        def __init__(self):
            super().__init__()
            self.net = nn.Sequential(nn.Linear(256, 512), nn.BatchNorm1d(512))

        def forward(self, x):
            return self.net(x)

    return Plain()


@model_of
def with_example(base):
    model = plain(base)
    model.example_input_array = torch.zeros(10, 256)
    return model


@model_of
def convolutional(base):
    class Convolutional(base):
        def __init__(self):
            super().__init__()
            self.features = nn.Sequential(
                nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Sequential(nn.Conv2d(8, 4, 3), nn.Flatten())
            )
            self.unused = nn.Linear(3, 3)
            self.head = nn.Linear(4 * 4 * 4, 5)
            self.example_input_array = torch.zeros(2, 3, 8, 8)

        def forward(self, x):
            return self.head(self.features(x))

    model = Convolutional()
    model.features[0].requires_grad_(False)
    model.features.eval()
    return model


@model_of
def several_inputs(base):
    class Several(base):
        def __init__(self):
            super().__init__()
            self.gate = nn.Bilinear(4, 6, 3)
            self.recurrent = nn.LSTM(3, 5, batch_first=True)
            self.example_input_array = {"left": torch.zeros(2, 7, 4), "right": torch.zeros(2, 7, 6)}

        def forward(self, left, right):
            return self.recurrent(self.gate(left, right))

    return Several()


@model_of
def with_parameters_of_its_own(base):
    class Own(base):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(3, 3)
            self.scale = nn.Parameter(torch.ones(1234))
            self.example_input_array = (torch.zeros(2, 3),)

        def forward(self, x):
            return self.layer(x)

    return Own()


@model_of
def shared(base):
    class Shared(base):
        def __init__(self):
            super().__init__()
            self.embedding = nn.Embedding(50, 8)
            self.head = nn.Linear(8, 50, bias=False)
            self.head.weight = self.embedding.weight
            self.again = self.head
            self.example_input_array = torch.zeros(2, 3, dtype=torch.long)

        def forward(self, x):
            return self.head(self.embedding(x))

    return Shared()


@model_of
def lazy(base):
    class Lazy(base):
        def __init__(self):
            super().__init__()
            self.layer = nn.LazyLinear(5)
            self.example_input_array = torch.zeros(2, 3)

        def forward(self, x):
            return self.layer(x)

    return Lazy()


@model_of
def double(base):
    return plain(base)


@pytest.mark.parametrize("max_depth", [-1, 0, 1, 2])
@pytest.mark.parametrize("name", MAKERS)
def test_the_numbers_are_lightnings(name, max_depth):
    ours = ModelSummary(MAKERS[name](leyden.LightningModule), max_depth)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = LightningSummary(MAKERS[name](pytorch_lightning.LightningModule), max_depth)
        for attribute in (
            "layer_names", "layer_types", "param_nums", "in_sizes", "out_sizes", "training_modes",
            "total_training_modes", "total_parameters", "trainable_parameters", "total_flops", "flop_counts",
        ):  # fmt: skip
            assert getattr(ours, attribute) == getattr(theirs, attribute), attribute
        assert ours.model_size == pytest.approx(theirs.model_size)


def test_the_table_is_lightnings():
    theirs = str(LightningSummary(with_example(pytorch_lightning.LightningModule), -1))
    ours = str(ModelSummary(with_example(leyden.LightningModule), -1))
    assert [line.rstrip("- ") for line in ours.lower().splitlines()] == [
        line.rstrip("- ") for line in theirs.lower().splitlines()
    ]


def test_without_an_example_nothing_is_claimed_about_shapes_and_flops():
    text = str(summarize(plain(leyden.LightningModule), max_depth=2))
    assert text.splitlines()[0].split() == ["|", "Name", "|", "Type", "|", "Params", "|", "Mode"]
    assert "FLOPs" not in text


def test_a_plain_module_will_do():
    summary = ModelSummary(nn.Sequential(nn.Linear(2, 3), nn.ReLU()))
    assert summary.layer_names == ["0", "1"]
    assert summary.total_parameters == 9
    assert "Linear" in repr(summary)


def test_parameters_that_belong_to_no_listed_layer_have_a_row_at_any_depth():
    for depth in (1, -1):
        summary = ModelSummary(with_parameters_of_its_own(leyden.LightningModule), depth)
        row = str(summary).splitlines()[3]
        assert [cell.strip() for cell in row.split("|")] == [
            "",
            "other params",
            "n/a",
            "1.2 K",
            "n/a",
            "n/a",
            "n/a",
            "n/a",
        ]
        assert summary.total_layer_params == 12


def test_shared_parameters_count_once_in_the_totals():
    summary = ModelSummary(shared(leyden.LightningModule), -1)
    assert summary.param_nums == [400, 400]
    assert summary.total_parameters == summary.total_layer_params == 400
    assert "other params" not in str(summary)


def test_lazy_parameters_are_counted_once_an_example_has_made_them():
    model = lazy(leyden.LightningModule)
    summary = ModelSummary(model)
    assert summary.param_nums == [20]
    assert summary.layer_types == ["Linear"]
    unknown = nn.Sequential(nn.LazyLinear(5), nn.Linear(5, 1))
    with pytest.warns(UserWarning, match="lazy parameters, which count as 0"):
        summary = ModelSummary(unknown)
    assert summary.total_parameters == 6
    assert summary.model_size == pytest.approx(24e-6)


def test_the_size_is_that_of_the_real_number_formats():
    model = nn.Sequential(nn.Linear(10, 10).half(), nn.Linear(10, 10).double())
    assert ModelSummary(model).model_size == pytest.approx(110 * 2e-6 + 110 * 8e-6)


def test_a_summary_only_looks():
    class Random(leyden.LightningModule):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(3, 3)
            self.norm = nn.BatchNorm1d(3)
            self.example_input_array = torch.ones(4, 3)

        def forward(self, x):
            return self.norm(self.layer(x + torch.rand_like(x)))

    model = Random()
    model.norm.eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    ModelSummary(model)
    assert torch.equal(torch.rand(3), expected)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert (model.training, model.layer.training, model.norm.training) == (True, True, False)
    assert not any(module._forward_hooks for module in model.modules())


def test_an_example_that_fails_is_an_error_that_leaves_no_trace():
    model = with_example(leyden.LightningModule)
    model.example_input_array = torch.zeros(10, 3)
    with pytest.raises(RuntimeError, match="shape"):
        ModelSummary(model)
    assert model.net.training
    assert not any(module._forward_hooks for module in model.modules())


def test_the_modules_own_transfer_hooks_prepare_the_example():
    class Hooked(leyden.LightningModule):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(3, 2)
            self.example_input_array = torch.zeros(4, 2)

        def on_after_batch_transfer(self, batch, dataloader_idx):
            return torch.cat([batch, batch[:, :1]], dim=1)

        def forward(self, x):
            return self.layer(x)

    assert ModelSummary(Hooked()).in_sizes == [[4, 3]]


@pytest.mark.parametrize("max_depth", [-2, 1.0, None])
def test_a_depth_that_is_none_is_refused(max_depth):
    with pytest.raises(ValueError, match=r"max_depth=.* must be -1"):
        ModelSummary(nn.Linear(1, 1), max_depth)


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0  "),
        (123, "123  "),
        (1234, "1.2 K"),
        (99_999, "100.0 K"),
        (999_999, "999 K"),
        (2e6, "2.0 M"),
        (4e14, "400 T"),
        (5e15, "5,000 T"),
    ],
)
def test_numbers_for_people(number, text):
    assert human_readable_count(number) == text
