"""The errors a caller may want to tell apart; each is also the built-in that fits."""

import os


class DataNotFoundError(FileNotFoundError):
    """A data set could not be found or did not have the content it must have."""


class ConfigError(ValueError):
    """A config names a key or a value that does not exist or cannot be used."""


class RequestError(ValueError):
    """A learn or forget request cannot be carried out as it stands."""


class CheckpointError(RuntimeError):
    """A checkpoint cannot be read, or belongs to another run."""


class Preempted(SystemExit):
    """A run saved its state and stopped because it was told to; uncaught, the process ends with status 143.

    No `except Exception` takes it for a failure of what was running.

    Attributes:
        CODE: 128 + SIGTERM, what a shell reports of a process that the signal ended.
        step: the first step that is still to be taken.
        directory: where the checkpoint is, None when nothing could be saved.
    """

    CODE = 143

    def __init__(self, message: str, step: int, directory: os.PathLike | None):
        super().__init__(message)
        self.code = self.CODE
        self.step, self.directory = step, directory
