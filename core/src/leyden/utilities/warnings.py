"""Categories of warnings that users filter by."""

import warnings


class PossibleUserWarning(UserWarning):
    """A warning of a possible mistake, which may also be intended."""


def disable_possible_user_warnings(module: str = "") -> None:
    """Silence the warnings of category :class:`PossibleUserWarning`.

    Args:
        module: A regular expression for the modules whose warnings are silenced; by default all modules.
    """
    warnings.filterwarnings("ignore", module=module, category=PossibleUserWarning)
