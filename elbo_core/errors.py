"""Errors that a caller may want to tell apart. Bad values raise `ValueError`, bad types `TypeError`."""


class UnsupportedModelError(TypeError):
    """A pipeline or network that the companion cannot observe."""


class ModelAccessError(OSError):
    """A model that cannot be read or downloaded."""


class ScheduleError(ValueError):
    """A noise schedule that is not monotone, or a time outside it."""


class ImageReadError(OSError):
    """A file that is not a readable image."""


class DatasetError(OSError):
    """A data set on disk that is incomplete or damaged; the message names the file."""


class ModelOutputError(ArithmeticError):
    """A network returned NaN or infinity."""


class StoreError(RuntimeError):
    """A run store that cannot be read or written, or lacks what was asked."""


class MeasurementError(RuntimeError):
    """An image that could not be measured; its cause says why."""


class EditError(ValueError):
    """A text edit that cannot be carried out as it is written; the message names the word and what to do."""
