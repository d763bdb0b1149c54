"""The conformance kit's checks of the progress bars and summaries, which are callbacks.

``RichProgressBarTheme`` is left out: it is a component only because Lightning has it in ``callbacks``.
"""

import pytest

from leyden_testing import CallbackConformance


class TestProgress(CallbackConformance):
    @pytest.fixture(params=["ModelSummary", "ProgressBar", "RichModelSummary", "RichProgressBar", "TQDMProgressBar"])
    def name(self, request):
        return request.param
