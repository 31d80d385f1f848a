"""What can go wrong in the engine, without HTTP: each error carries the code that its Reply tells (saas.lib.errors)."""

from typing import ClassVar


class EngineError(Exception):
    """A call that the engine refuses or fails; its text is meant for the caller."""

    code: ClassVar[str] = "model_failed"


class InvalidRequest(EngineError):
    """An item is no image, no text, too large."""

    code = "invalid_request"


class InvalidTensor(EngineError):
    """An input is not what the model's signature says."""

    code = "invalid_tensor"


class ModelFailed(EngineError):
    """The model itself failed, or its output has not one row per row of input."""


class TokenizerFailed(ModelFailed):
    """The declared tokenizer cannot read a text, as when its regular expression takes more steps than the library allows."""


class ProcessDied(ModelFailed):
    """The process ended while it was asked, or said what no model says: of several calls, nobody knows which is to blame."""


class OutOfMemory(ProcessDied):
    """The process was ended, because it had grown beyond what it may have, or beyond what was free."""

    code = "out_of_memory"


class OutputTooLarge(EngineError):
    """The outputs are more than a worker hands on for one call."""

    code = "output_too_large"


class OutputNotFinite(EngineError):
    """The scores that were to be labelled hold an infinity or no number."""

    code = "output_not_finite"


class ModelUnavailable(EngineError):
    """The version cannot be loaded now."""

    code = "model_unavailable"


class MemoryExhausted(ModelUnavailable):
    """No memory is free for the version's process now, or it needs more than its organization may have."""

    code = "memory_exhausted"

    def __init__(self, reason: str, *, lacking: int = 0) -> None:
        """`lacking`: bytes that are taken by others, and might come free."""
        super().__init__(reason)
        self.lacking = lacking


class ProcessEnded(ModelUnavailable):
    """The process that was asked had ended before: a new one would answer."""


class DeadlineExceeded(EngineError):
    """The run was stopped, or not begun, because nobody waits for it any more."""

    code = "deadline_exceeded"
