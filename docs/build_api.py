"""Writes ``docs/api.md`` from the docstrings: ``python docs/build_api.py``."""

from __future__ import annotations

import ast
import inspect
import re
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import datastream_grpc

import datastream
import datastream.errors
import datastream.source
import datastream.testing
import datastream.url
from datastream import selection
from datastream._async import AsyncTwins
from datastream._consumers import StoreConsumers
from datastream._exploring import StoreExploring
from datastream._mapping import StoreMapping
from datastream._past import History
from datastream._views import StoreViews
from datastream._watches import StoreWatches
from datastream.binding import Binding, BindingChange, Explained, Hidden
from datastream.consume import (
    Consumer,
    ConsumerCounts,
    ConsumerStatus,
    Lag,
    Retry,
    Taken,
    Undeliverable,
    verify,
)
from datastream.notebook import LivePlot, LiveTable, Recording, Timeline
from datastream.notebook._live import Live

PAGE = Path(__file__).with_name("api.md")
WIDTH = 96
SECTIONS = "Args|Returns|Raises|Yields"
HEAD = """\
# API reference

Made from the docstrings by `docs/build_api.py`; do not edit. The [glossary](glossary.md) has the
words, [the promises](promises.md) what holds for all of it.
"""
MAPPING = (
    "get",
    "keys",
    "values",
    "items",
    "copy",
    "pop",
    "popitem",
    "setdefault",
    "update",
    "clear",
)
LIFE = ("status", "ready", "aready", "close", "aclose")
LIVE = (LiveTable, LivePlot, Timeline)
NOT_CALLED = (
    datastream_grpc.Server,
    datastream.Overlay,
    datastream.testing.Conformance,
    datastream.View,
    datastream.Snapshot,
    datastream.ViewSnapshot,
    datastream.Diff,
    datastream.Entries,
    datastream.Mirror,
    Binding,
    Consumer,
    ConsumerStatus,
    History,
    Recording,
)
BETWEEN = (
    "diff",
    "Diff",
    "Difference",
    "mirror",
    "Mirror",
    "MirrorCounts",
    "Conflict",
    "drift",
    "translated",
)
OF_CONSUMERS = (ConsumerStatus, ConsumerCounts, Lag, Retry, Undeliverable, Taken)
PREFIXES = {
    "Store": "store",
    "Overlay": "overlay",
    "View": "view",
    "Binding": "settings",
    "Mirror": "mirror",
    "Consumer": "consumer",
    "History": "history",
    "Entries": "entries",
    "Recording": "recording",
}
WITHOUT_METHODS = (datastream.testing.Spy, datastream.testing.Conformance)
SOURCE = ("Source", "Reading", "Written", "Health", "HasHistory", "HasAt", "HasReplay", "HasWalk")
SOURCE += ("HasChanges", "Summary", "HasSummaries", "HasStreams")


def page() -> str:
    """The whole reference."""
    store, names = datastream.Store, datastream.__all__
    errors = [name for name in names if _is_error(getattr(datastream, name))]
    own_sections = ("Entries", "Store", "View", "open", "Overlay", "overlay", "webhook", *BETWEEN)
    values = [n for n in names if n not in (*errors, *own_sections)]
    parts = [
        HEAD,
        "## datastream",
        *_function("datastream.open", datastream.open),
        *_class("Store", store, _own_methods(store)),
        "#### Watching",
        _prose(StoreWatches),
        *_methods("store", StoreWatches, _own_methods(StoreWatches)),
        "#### Values in memory",
        *_methods("store", StoreViews, _own_methods(StoreViews)),
        "#### Handling changes",
        *_methods("store", StoreConsumers, _own_methods(StoreConsumers)),
        "#### Data frames and live views",
        *_methods("store", StoreExploring, _own_methods(StoreExploring)),
        *_class("History", History, _own_methods(History), "####"),
        *_class("Entries", datastream.Entries, ("close",), "####"),
        *_class("Recording", Recording, ("to_pandas", "to_polars", "close"), "####"),
        *(p for kind in LIVE for p in _class(kind.__name__, kind, (), "####")),
        *_methods("live", Live, ("widget", "close", "html")),
        "#### Reading and writing like a dict",
        _prose(StoreMapping),
        *_methods("store", StoreMapping, MAPPING),
        "#### From asyncio",
        _prose(AsyncTwins),
        _signatures("await store", AsyncTwins, _own_methods(AsyncTwins)),
        *_class("View", datastream.View, (*_own_methods(datastream.View), *LIFE)),
        *_class("Binding", Binding, (*_own_methods(Binding), *LIFE)),
        *_class("BindingChange", BindingChange, (), "####"),
        *_class("Explained", Explained, (), "####"),
        *_class("Hidden", Hidden, (), "####"),
        *_class("Consumer", Consumer, _own_methods(Consumer)),
        *(part for one in OF_CONSUMERS for part in _class(one.__name__, one, (), "####")),
        *_function("datastream.webhook", datastream.webhook, "####"),
        *_function("datastream.consume.verify", verify, "####"),
        "### Layers",
        *_function("datastream.overlay", datastream.overlay, "####"),
        *_class("Overlay", datastream.Overlay, _own_methods(datastream.Overlay), "####"),
        "### Between stores",
        *(part for name in BETWEEN for part in _between(name)),
        "### Values, changes, status",
        *(part for name in values for part in _class(name, getattr(datastream, name), (), "####")),
        "### Errors",
        _module_text(datastream.errors),
        "## datastream.source",
        _module_text(datastream.source),
        *(part for name in SOURCE for part in _member(datastream.source, name)),
        *_function("check_expected", datastream.source.check_expected),
        "## datastream.testing",
        _module_text(datastream.testing),
        *(p for name in datastream.testing.__all__ for p in _member(datastream.testing, name)),
        "## datastream.selection and datastream.url",
        *_function("selection.escape", selection.escape),
        *_function("url.parse", datastream.url.parse),
        *_class("url.Location", datastream.url.Location, ()),
        *_function("url.configured", datastream.url.configured),
        "## datastream_grpc",
        *_function("serve", datastream_grpc.serve),
        *_function("shared", datastream_grpc.shared),
        *_class("Server", datastream_grpc.Server, _own_methods(datastream_grpc.Server)),
    ]
    return "\n\n".join(part.strip() for part in parts if part.strip()) + "\n"


def _between(name: str) -> Iterator[str]:
    member = getattr(datastream, name)
    if inspect.isclass(member):
        yield from _class(name, member, _own_methods(member), "####")
    else:
        yield from _function(f"datastream.{name}", member, "####")


def _member(module: ModuleType, name: str) -> Iterator[str]:
    member = getattr(module, name)
    if not inspect.isclass(member):
        return
    methods = () if member in WITHOUT_METHODS else _own_methods(member)
    yield from _class(name, member, methods)


def _class(name: str, cls: type, methods: tuple[str, ...], level: str = "###") -> Iterator[str]:
    yield f"{level} {name}"
    is_protocol = getattr(cls, "_is_protocol", False)
    if "__init__" in vars(cls) and not is_protocol and cls not in NOT_CALLED:
        signature = _signature(vars(cls)["__init__"]).removesuffix(" -> None")
        yield _code(f"{name.rpartition('.')[2]}{signature}")
    yield _prose(cls)
    yield _attributes(cls)
    yield from _methods(PREFIXES.get(name, ""), cls, methods)


def _methods(prefix: str, cls: type, names: tuple[str, ...]) -> Iterator[str]:
    for name in names:
        member = inspect.getattr_static(cls, name)
        dotted = f"{prefix}.{name}" if prefix else name
        if isinstance(member, property):
            yield f"#### `{dotted}`"
            yield _prose(member)
        else:
            yield from _function(dotted, getattr(cls, name), "####")


def _function(name: str, function: Callable[..., Any], level: str = "###") -> Iterator[str]:
    yield f"{level} `{name}`"
    yield _code(f"{name}{_signature(function)}")
    yield _prose(function)


def _signatures(prefix: str, cls: type, names: tuple[str, ...]) -> str:
    lines = []
    for name in names:
        short = "async for … in store" if inspect.isasyncgenfunction(getattr(cls, name)) else prefix
        lines.append(_wrapped(f"{short}.{name}{_signature(getattr(cls, name))}"))
    return "```py\n" + "\n".join(lines) + "\n```"


def _own_methods(cls: type) -> tuple[str, ...]:
    """Public methods and properties in the order in which the class defines them."""
    return tuple(
        name
        for name, member in vars(cls).items()
        if not name.startswith("_") and (inspect.isfunction(member) or isinstance(member, property))
    )


def _signature(function: Callable[..., Any]) -> str:
    signature = inspect.signature(function)
    parameters = [
        p for p in signature.parameters.values() if p.name != "self" and p.name[:1] != "_"
    ]
    text = str(signature.replace(parameters=parameters))
    # Annotations are strings, which are shown with their quotes.
    text = re.sub(r"(: |-> )'([^']*)'", r"\1\2", text)
    return re.sub(r"<object object at \w+>", "…", text)


def _code(line: str) -> str:
    return f"```py\n{_wrapped(line)}\n```"


def _wrapped(line: str) -> str:
    """A long signature with a line for each parameter."""
    if len(line) <= WIDTH:
        return line
    head, _, rest = line.partition("(")
    inner, _, result = rest.rpartition(")")
    parameters = re.split(r", (?=[*\w]+(?:: |, |$)|/|\*,)", inner)
    return f"{head}(\n" + "".join(f"    {p},\n" for p in parameters) + f"){result}"


def _prose(thing: Any) -> str:
    """A docstring with its sections as lists."""
    text = inspect.cleandoc(thing.__doc__ or "")
    return re.sub(
        rf"^({SECTIONS}):\n((?:    .*\n?|\n(?=    ))+)", _section, text, flags=re.MULTILINE
    )


def _section(found: re.Match[str]) -> str:
    body = textwrap.dedent(found[2])
    items = re.split(r"\n(?=\S)", body.strip())
    shown = (" ".join(item.split()) for item in items)
    if found[1] in ("Returns", "Yields"):
        return f"*{found[1]}:* {' '.join(shown)}\n"
    lines = (re.sub(r"^([^:]+):", r"`\1`:", item) for item in shown)
    return f"*{found[1]}:*\n\n" + "\n".join(f"* {line}" for line in lines) + "\n"


def _attributes(cls: type) -> str:
    """The fields of a class with the strings below them."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0]
    assert isinstance(tree, ast.ClassDef)  # noqa: S101
    fields: dict[str, str] = {}
    last = ""
    for node in tree.body:
        if isinstance(node, ast.AnnAssign | ast.Assign):
            target = node.target if isinstance(node, ast.AnnAssign) else node.targets[0]
            last = ast.unparse(target)
            if not last.startswith("_"):
                fields[last] = ""
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and last in fields:
            fields[last] = " ".join(str(node.value.value).split())
        else:
            last = ""
    return "\n".join(
        f"* `{name}`: {text}" if text else f"* `{name}`" for name, text in fields.items()
    )


def _module_text(module: ModuleType) -> str:
    text = inspect.cleandoc(module.__doc__ or "")
    # What reStructuredText indents after "::" is a block.
    return re.sub(
        r"(^|\n)::\n\n((?:    .*\n|\n)+?)(?=\S|\Z)",
        lambda m: f"{m[1]}```py\n{textwrap.dedent(m[2]).strip()}\n```\n\n",
        text + "\n",
    )


def _is_error(thing: object) -> bool:
    return inspect.isclass(thing) and issubclass(thing, Exception)


if __name__ == "__main__":
    PAGE.write_text(page())
    sys.stdout.write(f"{PAGE} written\n")
