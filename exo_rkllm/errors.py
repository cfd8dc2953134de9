"""Every failure that a user can meet: a sentence with the facts, and the command that repairs it."""

from __future__ import annotations

from typing import Literal, TypeAlias


class ExoRkllmError(Exception):
    """The base of all of them; the journal, the CLI and every API show the same two lines.

    `sentence` says what is wrong, with its facts; `hint` says what to do, with a command if there is one. `code` is
    stable, for programs; `status` is the HTTP status of the APIs.
    """

    code = "error"
    status = 500

    def __init__(self, sentence: str, hint: str = "") -> None:
        super().__init__(sentence)
        self.sentence = sentence
        self.hint = hint

    @classmethod
    def rebuilt(cls, sentence: str, hint: str) -> ExoRkllmError:
        """The same error on the other side of a process boundary, from its two lines."""
        return cls(sentence, hint)

    def __str__(self) -> str:
        return f"{self.sentence} {self.hint}".rstrip()


class UsageError(ExoRkllmError):
    """The request makes no sense on any machine: exit code 2."""

    code = "usage"
    status = 400


class ConfigError(ExoRkllmError):
    """A configuration file, variable or flag cannot be used."""

    code = "config"


class RuntimeMissing(ExoRkllmError):
    """No librkllmrt.so was found, or it cannot be opened."""

    code = "runtime_missing"
    status = 503


class RuntimeUnsupported(ExoRkllmError):
    """The layout of this librkllmrt.so is not known: it is refused, never guessed."""

    code = "runtime_unsupported"
    status = 503


class NotSupported(ExoRkllmError):
    """The loaded runtime or backend has no such function."""

    code = "not_supported"
    status = 400


class NpuUnavailable(ExoRkllmError):
    """No model can use the NPU: its SoC, driver, device tree or device nodes forbid it."""

    code = "board"
    status = 503


class ClocksError(ExoRkllmError):
    """The unit that raises the clocks cannot be reached."""

    code = "clocks"
    status = 503


class ModelNotFound(ExoRkllmError):
    """There is no such file, or no such entry in the catalogue."""

    code = "model_not_found"
    status = 404


class ModelFileError(ExoRkllmError):
    """The file exists but is not a model that can be loaded here."""

    code = "model_file"
    status = 422


class ModelExists(ExoRkllmError):
    """The catalogue already has an entry of that name."""

    code = "model_exists"
    status = 409


class CardError(ExoRkllmError):
    """A model's card cannot be used."""

    code = "card"
    status = 422


class PluginError(ExoRkllmError):
    """A plugin, or something that it contributes, cannot be used."""

    code = "plugin"


class PluginMissing(PluginError, ImportError):
    """There is no plugin of that name."""

    code = "plugin_missing"
    status = 404


class PluginInvalid(PluginError, ValueError):
    """What a plugin registers is incomplete or wrong."""

    code = "plugin_invalid"


class PluginConflict(PluginError, ValueError):
    """Two plugins claim the same name, or one claims a built-in name."""

    code = "plugin_conflict"


class PullError(ExoRkllmError):
    """A model could not be downloaded."""

    code = "pull_failed"
    status = 502


class TemplateError(ExoRkllmError):
    """A chat template refused the conversation, or cannot be rendered at all."""

    code = "template"
    status = 400


class PictureError(ExoRkllmError):
    """A picture of a request cannot be used."""

    code = "picture"
    status = 400


class EncoderLost(ExoRkllmError):
    """The process that held a vision encoder is gone; the next picture starts another one."""

    code = "encoder_lost"
    status = 502


class LoadError(ExoRkllmError):
    """The runtime refused the model."""

    code = "load_failed"
    status = 503


class OutOfMemory(LoadError):
    """There is too little RAM or NPU address space for the model."""

    code = "out_of_memory"


class ContextOverflow(ExoRkllmError):
    """The prompt does not fit into the model's context."""

    code = "context_overflow"
    status = 400


class AnswerInvalid(ExoRkllmError):
    """The model's answer is not what the request demanded; nothing here can force a model's hand."""

    code = "invalid_answer"
    status = 422


class RunError(ExoRkllmError):
    """The runtime gave up on one answer."""

    code = "run_failed"


LossCause: TypeAlias = Literal["crash", "hang", "protocol", "unreachable", "unloaded"]


class RunnerLost(ExoRkllmError):
    """The process or server that held the model is gone; `cause` is a row of `observer.RESTART_REASONS`.

    The cause `unloaded` is no failure: the daemon ended it.
    """

    code = "runner_lost"
    status = 502

    def __init__(self, sentence: str, hint: str = "", cause: LossCause = "crash") -> None:
        super().__init__(sentence, hint)
        self.cause = cause


def unloaded(model: str) -> RunnerLost:
    """The error for a reader of an engine that has been closed."""
    return RunnerLost(f"{model} was unloaded.", "Ask again: it is loaded on demand.", "unloaded")


class Busy(ExoRkllmError):
    """A queue is full; `retry_after` is the estimated wait in seconds."""

    code = "busy"
    status = 503

    def __init__(self, sentence: str, hint: str = "", retry_after: float = 1.0) -> None:
        super().__init__(sentence, hint)
        self.retry_after = retry_after


def _all_classes(base: type[ExoRkllmError]) -> list[type[ExoRkllmError]]:
    return [base, *(kind for child in base.__subclasses__() for kind in _all_classes(child))]


def codes() -> dict[str, str]:
    """Every code with the first line of its meaning."""
    return {kind.code: (kind.__doc__ or "").partition("\n")[0] for kind in _all_classes(ExoRkllmError)}


def from_code(code: str, sentence: str, hint: str = "") -> ExoRkllmError:
    """Rebuild an error from the code and the two lines that crossed a process boundary."""
    for kind in _all_classes(ExoRkllmError):
        if kind.code == code:
            return kind.rebuilt(sentence, hint)
    return ExoRkllmError(sentence, hint)
