"""Categories of warnings that users filter by."""


class PossibleUserWarning(UserWarning):
    """Something is probably, not certainly, a mistake."""
