"""Broken records: each logs a tally, with one thing wrong."""

import torch

from leyden.plugins import Record
from leyden_testing import RecordConformance

from .twins import breaks


class Tally:
    """A metric of a made-up library: the sum of the last batch's first numbers, and the total of all batches."""

    def __init__(self):
        self.batch, self.total = torch.tensor(0.0), torch.tensor(0.0)

    def add(self, numbers):
        self.batch = numbers.sum()
        self.total = self.total + self.batch


LIBRARY = {
    "make": Tally,
    "take": lambda tally, batch: tally.add(batch[0]),
    "value": lambda tally: tally.total,
}
NAMED = {"aliases": [f"{Tally.__module__}.{Tally.__qualname__}"]}


def breaks_(check, message, options=NAMED):
    return breaks(RecordConformance, check, message, options, **LIBRARY)


class TallyRecord(Record):
    """A correct record."""

    tally = None

    def update(self, value, batch_size, counts=True):
        if not isinstance(value, Tally):
            raise ValueError(f"self.log({self.name!r}, …) got {value!r} after a tally; log it under another name.")
        self.tally, self.final = value, None

    def step_value(self):
        return self.tally.batch if self.options.on_step else None

    def reduce_epoch(self):
        if not self.options.on_epoch:
            return None
        total = self.tally.total.clone()
        return self.strategy.reduce(total, "sum") if self.strategy.world_size > 1 else total

    def forget(self):
        self.tally.__init__()

    def outline(self):
        return {}

    def take_part(self, outline):
        self.tally = Tally()

    def state_dict(self):
        attributes = vars(self.trainer.lightning_module)
        [attribute] = [name for name, value in attributes.items() if value is self.tally]
        return {"attribute": attribute, **vars(self.tally)}

    def load_state_dict(self, state):
        self.tally = getattr(self.trainer.lightning_module, state["attribute"])
        self.tally.batch, self.tally.total = state["batch"], state["total"]


@breaks_("its_name_is_that_of_the_class_that_it_logs", "twins_of_records.Tally is None", None)
class Unnamed(TallyRecord):
    pass


@breaks_("a_value_of_another_type_is_refused", "DID NOT RAISE")
class Careless(TallyRecord):
    def update(self, value, batch_size, counts=True):
        self.tally, self.final = value, None


@breaks_("a_step_has_the_value_of_its_batch", "train_step is")
class Accumulating(TallyRecord):
    def step_value(self):
        return self.tally.total if self.options.on_step else None


@breaks_("an_epoch_has_the_value_of_all_its_batches", "train_epoch is")
class Last(TallyRecord):
    def reduce_epoch(self):
        return self.tally.batch


@breaks_("each_epoch_starts_anew", "val_epoch/dataloader_idx_0 is")
class OfEvaluationForgetful(TallyRecord):
    def forget(self):
        if self.trainer.training:
            super().forget()


@breaks_("each_run_starts_anew", "val is")
class Growing(TallyRecord):
    def forget(self):
        pass


@breaks_("a_resumed_run_logs_what_the_uninterrupted_one_does", "a resumed run logs")
class OfTheTotalForgetful(TallyRecord):
    def load_state_dict(self, state):
        super().load_state_dict({**state, "total": torch.tensor(0.0)})


@breaks_("its_state_is_plain_data", "the checkpoint, since loading it")
class Whole(TallyRecord):
    def state_dict(self):
        return {**super().state_dict(), "tally": self.tally}


@breaks_("processes_have_the_value_of_all_batches", "val is")
class OfOneProcess(TallyRecord):
    def reduce_epoch(self):
        return self.tally.total if self.options.on_epoch else None
