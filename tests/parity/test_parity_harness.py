"""The harness notices a difference of each kind; otherwise equal records would mean nothing."""

import pytest
import torch

from leyden_testing.models import rows

from .parity_harness import parity

DIFFERENCES = {
    "weights": lambda pl, lab: nudged(lab),
    "note": lambda pl, lab: lab.note("framework", pl.__name__),
    "file": lambda pl, lab: (lab.tmp_path / pl.__name__).touch(),
    "limit": lambda pl, lab: lab.trainer(max_epochs=1 + (pl.__name__ == "leyden")).fit(lab.model(), rows(1)),
    "logged": lambda pl, lab: lab.logger.log_metrics({"x": float(pl.__name__ == "leyden")}, step=0),
}


def nudged(lab):
    """A model whose first weight differs in its last bit in one framework."""
    model = lab.model()
    if lab.pl.__name__ == "leyden":
        with torch.no_grad():
            weight = model.layer.weight.flatten()
            weight[0] = torch.nextafter(weight[0], torch.tensor(1.0))
    return model


@pytest.mark.parametrize("difference", DIFFERENCES)
def test_a_difference_fails(difference, tmp_path):
    with pytest.raises(AssertionError, match="Leyden differs"):
        parity(DIFFERENCES[difference])(tmp_path)


def test_an_exception_that_is_not_raised_fails(tmp_path):
    def scenario(pl, lab):
        with lab.raises("ValueError"):
            pass

    with pytest.raises(AssertionError, match="raised nothing"):
        parity(scenario)(tmp_path)


def test_another_exception_passes_through(tmp_path):
    def scenario(pl, lab):
        with lab.raises("ValueError"):
            raise KeyError("x")

    with pytest.raises(KeyError):
        parity(scenario)(tmp_path)
