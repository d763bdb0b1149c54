"""What is said where a metric that something monitors is not there."""

import difflib
from collections.abc import Iterable


def missing_metric(owner: str, monitor: str, logged: Iterable[str]) -> str:
    """The sentence for a monitored metric that nothing logged.

    Args:
        owner: Who monitors it, such as the name of a callback's class.
        monitor: The metric that it was asked to monitor.
        logged: The names that were logged.
    """
    names = sorted(logged)
    near = difflib.get_close_matches(monitor, names, n=1)
    listed = ", ".join(map(repr, names)) or "nothing"
    advice = f"did you mean {near[0]!r}?" if near else f"log it with self.log({monitor!r}, value) or monitor another."
    return f"{owner} monitors {monitor!r}, which was not logged (logged: {listed}); {advice}"
