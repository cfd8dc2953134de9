"""Chat templates: rendered as Hugging Face's tokenizers render them, in a sandbox that also bounds time and size.

A template comes with a downloaded model, so it is a stranger's program. Jinja's sandbox keeps it away from Python;
what it leaves open (loops over loops, strings that double, widths of a billion) is counted here: every loop turn,
call, filter and printed value draws on one budget of steps, characters and seconds.
"""

from __future__ import annotations

import datetime
import json
import re
import time
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from typing import Any, cast

import jinja2
import jinja2.ext
from jinja2 import nodes
from jinja2.parser import Parser
from jinja2.runtime import Context, LoopContext, Undefined
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

from exo_rkllm.errors import TemplateError

SOURCE_LIMIT = 128 * 1024
CHARACTERS = 8 * 1024 * 1024
STEPS = 300_000
SECONDS = 0.7
LONGEST_RANGE = 10_000
WIDEST = 1000
BITS = 1024
# Compiled templates that are kept: more than a board has models.
TEMPLATES = 64

# Everything that published templates use, and what is as harmless; `items` is ours since Jinja 3.0 lacks it.
FILTERS = (
    *("abs", "capitalize", "count", "d", "default", "dictsort", "e", "escape", "first", "float"),
    *("forceescape", "format", "groupby", "indent", "int", "join", "last", "length", "list", "lower", "map", "max"),
    *("min", "reject", "rejectattr", "replace", "reverse", "round", "safe", "select", "selectattr", "sort"),
    *("string", "striptags", "sum", "title", "trim", "truncate", "unique", "upper", "wordcount"),
)
GLOBALS = ("dict", "namespace", "cycler", "joiner")
# Methods of strings that make long ones out of short ones.
WIDE_METHODS = {"center", "ljust", "rjust", "zfill", "expandtabs"}
NEVER_METHODS = {"translate", "maketrans"}
METHODS_OF_DICTS = frozenset(dir(dict))
PLACES_IN_LOOPS = frozenset({"first", "last", "index", "index0", "length", "revindex", "revindex0"})
# A filter's name that no template can write.
TURN = "a turn of the meter"


class Exhausted(Exception):
    """The template asked for more than a chat template needs."""


class Budget:
    """What is left of one rendering's steps, characters and seconds."""

    __slots__ = ("characters", "deadline", "steps")

    def __init__(self) -> None:
        self.steps = STEPS
        self.characters = CHARACTERS
        self.deadline = time.process_time() + SECONDS

    def spend(self, characters: int) -> None:
        """One step, and so many characters. Every value that a template prints comes by here."""
        self.steps -= 1
        self.characters -= characters
        if self.characters < 0:
            raise Exhausted(f"it makes more than {CHARACTERS // 1024 // 1024} million characters")
        if self.steps < 0 or (self.steps % 64 == 0 and time.process_time() > self.deadline):
            raise Exhausted("it runs for too long")


def _size(value: object) -> int:
    return len(value) if isinstance(value, str | bytes | list | tuple | dict) else 1


def _wide(value: object) -> bool:
    return isinstance(value, int) and abs(value) > WIDEST


class Generation(jinja2.ext.Extension):
    """`{% generation %}` marks the assistant's words for training; here its body is simply printed."""

    tags = {"generation"}  # noqa: RUF012 - Jinja's own way to declare them

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("body"), [], [], body).set_lineno(line)

    def body(self, caller: Callable[[], str]) -> str:
        return caller()


class Guarded(jinja2.ext.Extension):
    """The function that `Meter` puts into a template's tree for each `~`."""

    def concat(self, *parts: object) -> str:
        texts = [str(part) for part in parts]
        cast("Sandbox", self.environment).budget.spend(sum(map(len, texts)))
        return "".join(texts)


class Meter(NodeTransformer):
    """Puts a turn of the meter into every loop and macro, and `~` under it: Jinja itself lets neither be watched.

    The turn is a filter, since the sandbox looks at each call of a function for longer than the rest of a turn takes.
    """

    def _count_turn(self, body: list[nodes.Node]) -> nodes.Node:
        plain = sum(len(data.data) for node in body for data in node.find_all(nodes.TemplateData))
        return nodes.ExprStmt(nodes.Filter(nodes.Const(plain + 1), TURN, [], [], None, None))

    def visit_For(self, node: nodes.For) -> nodes.Node:  # noqa: N802 - Jinja's naming
        self.generic_visit(node)
        node.body.insert(0, self._count_turn(node.body).set_lineno(node.lineno))
        return node

    def visit_Macro(self, node: nodes.Macro) -> nodes.Node:  # noqa: N802 - Jinja's naming
        self.generic_visit(node)
        node.body.insert(0, self._count_turn(node.body).set_lineno(node.lineno))
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:  # noqa: N802 - Jinja's naming
        self.generic_visit(node)
        attribute = nodes.ExtensionAttribute(Guarded.identifier, "concat")
        return nodes.Call(attribute, node.nodes, [], None, None).set_lineno(node.lineno)


class Sandbox(ImmutableSandboxedEnvironment):
    intercepted_binops = frozenset(["+", "*", "**", "%"])

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=[Generation, Guarded, jinja2.ext.loopcontrols],
            finalize=self._finalize,
        )
        self.budget = Budget()  # of the rendering that is under way: there is never a second one
        builtin = {name: self.filters[name] for name in FILTERS}
        self.filters.clear()
        self.filters.update({name: self._with_budget(name, one) for name, one in builtin.items()})
        self.filters["items"] = _items
        self.filters[TURN] = self._turn
        self.filters["tojson"] = self._tojson
        allowed = {name: self.globals[name] for name in GLOBALS}
        self.globals.clear()
        self.globals.update(allowed)
        self.globals.update(range=self._range, raise_exception=_raise_exception, strftime_now=_strftime_now)

    # ── what is watched ──────────────────────────────────────────────────────────────────────────

    @jinja2.pass_context  # so that Jinja does not compute it while it compiles
    def _turn(self, _context: Context, characters: int) -> None:
        self.budget.spend(characters)

    def _finalize(self, value: Any) -> Any:
        if isinstance(value, str):
            self.budget.spend(len(value))
        return value

    def _with_budget(self, name: str, inner: Callable[..., Any]) -> Callable[..., Any]:
        def checked(*args: Any, **keywords: Any) -> Any:
            values = args
            if values and isinstance(values[0], Context | jinja2.Environment | jinja2.nodes.EvalContext):
                values = values[1:]
            self._check(name, values, keywords)
            result = inner(*args, **keywords)
            self.budget.spend(_size(result))
            return result

        for mark in ("jinja_pass_arg",):  # how Jinja knows that a filter wants its context first
            if hasattr(inner, mark):
                setattr(checked, mark, getattr(inner, mark))
        return checked

    def _check(self, name: str, values: tuple[Any, ...], keywords: Mapping[str, Any]) -> None:
        """Refuse before it is made what would be too large once it is."""
        if name in ("indent", "truncate", "format", *WIDE_METHODS) and any(map(_wide, (*values, *keywords.values()))):
            raise Exhausted(f"{name} with a width over {WIDEST}")
        if name == "format" and values and isinstance(values[0], str):
            self._check_format(values[0])
        if name == "replace" and len(values) >= 3:
            text, old, new = (str(value) for value in values[:3])
            self.budget.spend(len(text) + text.count(old) * len(new))
        if name == "join" and values and isinstance(values[0], list | tuple | str):
            joint = str(values[1]) if len(values) > 1 else str(keywords.get("d", ""))
            self.budget.spend(len(values[0]) * len(joint) + sum(_size(one) for one in values[0]))
        if name == "indent" and values and isinstance(values[0], str):
            width = values[1] if len(values) > 1 else keywords.get("width", 4)
            self.budget.spend((values[0].count("\n") + 1) * (width if isinstance(width, int) else _size(width)))

    def _check_format(self, pattern: str) -> None:
        if re.search(r"\*|\d{4,}|\{[^{}]*\{", pattern):
            raise Exhausted("a format with a width over 999, or with a width that is computed")

    def getattr(self, obj: Any, attribute: str) -> Any:
        if type(obj) is dict and attribute not in METHODS_OF_DICTS:  # what Jinja does after an exception
            return obj[attribute] if attribute in obj else self.undefined(obj=obj, name=attribute)
        if type(obj) is LoopContext and attribute in PLACES_IN_LOOPS:
            return getattr(obj, attribute)
        self._check_attribute(obj, attribute)
        return super().getattr(obj, attribute)

    def getitem(self, obj: Any, argument: Any) -> Any:
        self._check_attribute(obj, argument)
        return super().getitem(obj, argument)

    def _check_attribute(self, obj: object, name: object) -> None:
        """Here, since Jinja wraps `format` and `format_map` before a call could tell them."""
        if isinstance(obj, str) and name in ("format", "format_map"):
            self._check_format(obj)

    def call(self, context: Context, obj: Any, /, *args: Any, **keywords: Any) -> Any:
        self.budget.spend(0)
        owner = getattr(obj, "__self__", None)
        if isinstance(owner, str):
            name = obj.__name__
            if name in NEVER_METHODS:
                raise Exhausted(f"the method {name}() of strings is not offered here")
            values = (args[0], owner) if name == "join" and args else (owner, *args)
            self._check(name, values, keywords)
        result = super().call(context, obj, *args, **keywords)
        self.budget.spend(_size(result))
        return result

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        if operator == "+" and type(left) is str and type(right) is str:
            self.budget.spend(len(left) + len(right))
            return left + right
        if operator == "+":
            self.budget.spend(_size(left) + _size(right))
        elif operator == "*":
            for many, often in ((left, right), (right, left)):
                if isinstance(many, str | bytes | list | tuple) and isinstance(often, int):
                    self.budget.spend(len(many) * max(often, 0))
        elif operator == "%" and isinstance(left, str):
            self._check_format(left)
            if any(map(_wide, right if isinstance(right, tuple) else (right,))) and "c" not in left:
                self.budget.spend(0)
        elif operator == "**" and isinstance(right, int) and abs(right) > BITS:
            raise Exhausted("a power that large")
        result = super().call_binop(context, operator, left, right)
        if isinstance(result, int) and result.bit_length() > BITS:
            raise Exhausted("a number that large")
        return result

    # ── what templates are offered ───────────────────────────────────────────────────────────────

    def _range(self, *args: int) -> range:
        result = range(*args)
        if len(result) > LONGEST_RANGE:
            raise Exhausted(f"a range of more than {LONGEST_RANGE}")
        return result

    def _tojson(
        self,
        value: Any,
        ensure_ascii: bool = False,  # noqa: FBT001, FBT002 - Hugging Face's signature, called by position
        indent: int | str | None = None,
        separators: tuple[str, str] | None = None,
        sort_keys: bool = False,  # noqa: FBT001, FBT002 - see above
    ) -> str:
        if _wide(indent) or (isinstance(indent, str) and len(indent) > WIDEST):
            raise Exhausted(f"tojson with an indent over {WIDEST}")
        result = json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
        self.budget.spend(len(result))
        return result


def _items(value: Any) -> Iterable[tuple[Any, Any]]:
    if isinstance(value, Undefined):
        return ()
    if not isinstance(value, Mapping):
        raise TypeError("Can only get item pairs from a mapping.")
    return value.items()


def _raise_exception(message: object) -> None:
    raise jinja2.TemplateError(str(message))


def _strftime_now(pattern: str) -> str:
    return datetime.datetime.now().strftime(str(pattern)[:256])


class Template:
    """One compiled chat template. Raises TemplateError where the source is no template, or too large."""

    def __init__(self, source: str, special: Mapping[str, str] | None = None, model: str = "this model") -> None:
        self._title = f"The chat template of {model}"
        if len(source) > SOURCE_LIMIT:
            raise TemplateError(f"{self._title} has more than {SOURCE_LIMIT // 1024} KiB.", "Give the model another.")
        self.source = source
        self.special = dict(special or {})
        self._sandbox = Sandbox()
        self._sandbox.budget = Budget()
        try:
            tree = self._sandbox.parse(source)
            # Jinja's own answer to this question compiles the template once more, which doubles the time.
            self.names = frozenset(node.name for node in tree.find_all(nodes.Name) if node.ctx == "load")
            code = self._sandbox.compile(Meter().visit(tree))
        except jinja2.TemplateSyntaxError as error:
            raise TemplateError(
                f"{self._title} cannot be read: {error.message} (line {error.lineno}).", "Give the model another."
            ) from None
        except (RecursionError, Exhausted, ValueError, SyntaxError, MemoryError) as error:
            raise TemplateError(f"{self._title} cannot be read: {error}.", "Give the model another.") from None
        self._compiled = jinja2.Template.from_code(self._sandbox, code, self._sandbox.globals)

    def render(self, **values: Any) -> str:
        """The prompt, or a `TemplateError` with what the template itself says against the conversation."""
        self._sandbox.budget = Budget()
        try:
            return self._compiled.render(**{**self.special, **values})
        except Exhausted as error:
            raise TemplateError(f"{self._title} was stopped: {error}.", "Give the model another template.") from None
        except RecursionError:
            raise TemplateError(f"{self._title} calls itself without end.", "Give the model another.") from None
        except jinja2.TemplateError as error:
            reason = str(error)[:300] or type(error).__name__
            raise TemplateError(f"{self._title} refuses this: {reason.rstrip('.')}.") from None
        except Exception as error:  # noqa: BLE001 - a stranger's program may raise anything
            reason = f"{type(error).__name__}: {error}"[:300]
            raise TemplateError(f"{self._title} fails: {reason.rstrip('.')}.") from None


@lru_cache(maxsize=TEMPLATES)
def compiled(text: str, special: tuple[tuple[str, str], ...] = (), model: str = "this model") -> Template:
    """The template as a program, kept for its next conversation."""
    return Template(text, dict(special), model)
