"""Categories of warnings that users filter by."""

import warnings


class PossibleUserWarning(UserWarning):
    """Something is probably, not certainly, a mistake."""


def disable_possible_user_warnings(module: str = "") -> None:
    """Say nothing of what is probably, not certainly, a mistake.

    Args:
        module: A pattern of the modules whose lines are warned of; all by default.
    """
    warnings.filterwarnings("ignore", module=module, category=PossibleUserWarning)
