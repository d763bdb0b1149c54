"""The progress bars and the model's summaries are callbacks, by the conformance kit.

``RichProgressBarTheme`` is found beside them, for Lightning's imports, and is none.
"""

import pytest

from leyden_testing import CallbackConformance


class TestProgress(CallbackConformance):
    @pytest.fixture(params=["ModelSummary", "ProgressBar", "RichModelSummary", "RichProgressBar", "TQDMProgressBar"])
    def name(self, request):
        return request.param
