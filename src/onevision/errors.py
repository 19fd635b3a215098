"""The one exception that a user's mistake may raise.

Everything the command line catches and prints without a traceback is a `OneVisionError`; anything else is our bug
and keeps its traceback. A message names the file, row or key, and says what would be right.
"""


class OneVisionError(Exception):
    """A mistake in the input, with a message that a user can act on."""


class ContractError(OneVisionError):
    """A table, file or manifest that is not what the contract says."""


class ArtifactError(OneVisionError):
    """An artifact that is missing, half-written, altered, or of another generation."""


class RecipeError(OneVisionError):
    """An unknown recipe key, a value out of range, or a recipe that does not exist."""


class SettingError(OneVisionError):
    """An environment variable that is missing, or holds something else than it may."""


class MissingDependencyError(OneVisionError):
    """An optional package that a stage needs is not installed; the message names the extra."""
