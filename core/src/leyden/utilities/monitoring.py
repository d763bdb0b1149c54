"""The error text for a monitored metric that was not logged."""

import difflib
from collections.abc import Iterable


def missing_metric(owner: str, monitor: str, logged: Iterable[str]) -> str:
    """Return the error text for a monitored metric that was not logged.

    Args:
        owner: The name of what monitors the metric, such as a callback's class.
        monitor: The name of the monitored metric.
        logged: The names of the logged metrics.

    Returns:
        A sentence that lists the logged names, and suggests one that is similar or how to log the metric.
    """
    names = sorted(logged)
    near = difflib.get_close_matches(monitor, names, n=1)
    listed = ", ".join(map(repr, names)) or "nothing"
    advice = f"did you mean {near[0]!r}?" if near else f"log it with self.log({monitor!r}, value) or monitor another."
    return f"{owner} monitors {monitor!r}, which was not logged (logged: {listed}); {advice}"
