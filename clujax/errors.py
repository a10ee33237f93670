"""The errors a caller may want to tell apart; each is also the built-in that fits."""


class DataNotFoundError(FileNotFoundError):
    """A data set could not be found or did not have the content it must have."""


class ConfigError(ValueError):
    """A config names a key or a value that does not exist or cannot be used."""


class RequestError(ValueError):
    """A learn or forget request cannot be carried out as it stands."""


class CheckpointError(RuntimeError):
    """A checkpoint cannot be read, or belongs to another run."""
