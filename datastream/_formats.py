"""What a document is written in: how it is read, changed in place, and written again.

What is read is plain; what is changed keeps comments and formatting, as far as its library can.
"""

from __future__ import annotations

import io
import json
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, MutableMapping
from typing import Any

from datastream._aliases import check_size
from datastream.errors import DatastreamError, InvalidValue

EXTRA = 'pip install "datastream-kv[documents]"'


MERGED = "YAML merges this into another place (<<); nothing was written: edit the text"


class Malformed(ValueError):
    """The text is no document of this format, such as one that is half saved."""


class Format(ABC):
    """One of the formats."""

    name: str
    empty = b""
    """A document without leaves."""

    def check(self) -> None:  # noqa: B027
        """Refuse at once if a library for reading is missing.

        Raises:
            ImportError: it is; the text says what to install.
        """

    def read(self, data: bytes) -> Mapping[Any, Any]:
        """The document as plain mappings, lists and values.

        Raises:
            Malformed: it is none.
        """
        document: Mapping[Any, Any] = self._checked(self._read, data)
        return document

    def edit(self, data: bytes, change: Callable[[MutableMapping[Any, Any]], None]) -> bytes:
        """The document with a change made to it, and all else as it was.

        Raises:
            Malformed: it is no document.
            InvalidValue: it cannot hold a value that it was given.
        """
        lines = data.replace(b"\r\n", b"\n")
        document = self._checked(self._load, lines)
        try:
            change(document)
            made = self._dump(document, lines)
        except DatastreamError:
            raise
        except Exception as error:
            raise InvalidValue(f"{self.name} cannot hold this value: {_fault(error)}") from error
        # One that was written on Windows stays so, as a whole: git shows what has changed.
        return made.replace(b"\n", b"\r\n") if _ends_in_crlf(data) else made

    def _checked(self, load: Callable[[bytes], Any], data: bytes) -> Any:
        try:
            document = load(data)
        except (DatastreamError, ImportError):
            raise
        except Exception as error:
            raise Malformed(f"it is no {self.name}: {_fault(error)}") from error
        if not isinstance(document, Mapping):
            raise Malformed(f"it is no {self.name} table, but a {type(document).__name__}")
        return document

    @abstractmethod
    def _read(self, data: bytes) -> Any: ...

    @abstractmethod
    def _load(self, data: bytes) -> Any: ...

    @abstractmethod
    def _dump(self, document: Any, before: bytes) -> bytes: ...


class Toml(Format):
    """Read by the standard library, changed by tomlkit."""

    name = "TOML"

    def _read(self, data: bytes) -> Any:
        import tomllib

        return tomllib.loads(data.decode("utf-8-sig"))

    def _load(self, data: bytes) -> Any:
        try:
            import tomlkit
        except ImportError as error:
            raise ImportError(f"writing TOML needs tomlkit: {EXTRA}") from error
        return tomlkit.parse(data.decode("utf-8-sig"))

    def _dump(self, document: Any, before: bytes) -> bytes:
        import tomllib

        import tomlkit

        data = tomlkit.dumps(document).encode()
        # What was written must be what is read.
        tomllib.loads(data.decode())
        return data


class Yaml(Format):
    """Read and changed by ruamel.yaml, as YAML 1.2."""

    name = "YAML"

    def check(self) -> None:
        self._parser("safe")

    def _parser(self, kind: str) -> Any:
        try:
            from ruamel.yaml import YAML
        except ImportError as error:
            raise ImportError(f"YAML documents need ruamel.yaml: {EXTRA}") from error
        parser = YAML(typ=kind, pure=True)
        parser.preserve_quotes = True
        parser.width = 1 << 20
        return parser

    def _read(self, data: bytes) -> Any:
        return self._parsed("safe", data)

    def _load(self, data: bytes) -> Any:
        return self._parsed("rt", _yaml_parts(data)[1])

    def _parsed(self, kind: str, data: bytes) -> Any:
        from ruamel.yaml.comments import CommentedMap
        from ruamel.yaml.error import YAMLError

        try:
            document = self._parser(kind).load(data.decode())
        except YAMLError as error:
            raise ValueError(_yaml_problem(error)) from None
        check_size(document, len(data))
        return CommentedMap() if document is None else document

    def edit(self, data: bytes, change: Callable[[MutableMapping[Any, Any]], None]) -> bytes:
        try:
            return super().edit(data, change)
        except InvalidValue as error:
            # The library loses its way where what is removed was merged elsewhere.
            if isinstance(error.__cause__, KeyError) and b"<<" in data:
                raise InvalidValue(MERGED) from error
            raise

    def _dump(self, document: Any, before: bytes) -> bytes:
        parser = self._parser("rt")
        mapping, sequence, offset = _yaml_indents(before.decode())
        parser.indent(mapping=mapping, sequence=sequence, offset=offset)
        stream = io.StringIO()
        parser.dump(document, stream)
        begin, _, end = _yaml_parts(before)
        return begin + stream.getvalue().encode() + end


class Json(Format):
    """Read and written by the standard library, with the indentation that was there."""

    name = "JSON"
    empty = b"{}\n"

    def _read(self, data: bytes) -> Any:
        return json.loads(data)

    def _load(self, data: bytes) -> Any:
        return json.loads(data)

    def _dump(self, document: Any, before: bytes) -> bytes:
        before = before or self.empty
        is_new = not before.strip(b"{} \t\r\n")
        return json_text(document, before, "  " if is_new else None)


def spelled_as(before: Any, value: Any) -> Any:
    """`value`; where it takes the place of a list that YAML has in one line, it is in one, too.

    Of texts the library keeps quotes and blocks itself.
    """
    is_list = isinstance(before, list) and isinstance(value, list)
    style = getattr(before, "fa", None)
    if not is_list or style is None or not style.flow_style():
        return value
    made: Any = type(before)(value)
    made.fa.set_flow_style()
    return made


_JSON_INDENT = re.compile(rb"(?:\xef\xbb\xbf)?\s*[{\[][^\S\n]*\n([ \t]+)\S")


def json_text(content: Any, before: bytes, indent: str | None) -> bytes:
    """`content` as JSON, indented like what was there; by `indent` where that cannot be seen.

    Raises:
        TypeError, ValueError: JSON cannot say it.
    """
    found = _JSON_INDENT.match(before)
    indent = found[1].decode() if found is not None else indent
    text = json.dumps(content, ensure_ascii=False, allow_nan=False, indent=indent)
    return text.encode() + (b"\n" if before.endswith(b"\n") else b"")


def _ends_in_crlf(data: bytes) -> bool:
    return data.partition(b"\n")[0].endswith(b"\r")


def _fault(error: Exception) -> str:
    """What a library found; those of YAML raise anything for a tag that does not fit its text."""
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    if str(error).endswith("<class 'NoneType'> to a TOML item"):
        return "it has no null; delete the key, or leave it out of its list"
    is_told = isinstance(error, ValueError | TypeError)
    return str(error) if is_told else "a value does not fit its tag"


# A name without a value, and below it the first line that is no comment.
_BELOW = r"[^\s#-][^\n]*:[ \t]*(?:#[^\n]*)?\n(?:[ \t]*(?:#[^\n]*)?\n)*"
_NESTED = re.compile(rf"^{_BELOW}( +)[^\s#-]", re.MULTILINE)
_DASHES = re.compile(rf"^( *){_BELOW}( *)-( +)", re.MULTILINE)


def _yaml_problem(error: Exception) -> str:
    """What is wrong and where, without the text that is there: it may be a password."""
    from ruamel.yaml.constructor import DuplicateKeyError

    problem = getattr(error, "problem", None) or "it holds what YAML does not allow"
    if isinstance(error, DuplicateKeyError):
        problem = "a name is there twice"
    mark = getattr(error, "problem_mark", None)
    return problem if mark is None else f"{problem} (line {mark.line + 1})"


# Lines that are empty or a comment, and the marks of a document's begin and end.
_NO_CONTENT = rb"(?:[ \t]*(?:#[^\n]*)?\n)*"
_YAML_BEGIN = re.compile(rb"%b---[ \t]*(?:#[^\n]*)?\n" % _NO_CONTENT)
_YAML_END = re.compile(rb"^\.\.\.(?:[ \t][^\n]*)?\n%b\Z" % _NO_CONTENT, re.MULTILINE)


def _yaml_parts(data: bytes) -> tuple[bytes, bytes, bytes]:
    """What the library forgets, on both sides of what it keeps: marks, and comments alone."""
    if data and not data.endswith(b"\n"):
        data += b"\n"
    found = _YAML_BEGIN.match(data)
    begin = found[0] if found is not None else b""
    body = data[len(begin) :]
    found = _YAML_END.search(body)
    end = found[0] if found is not None else b""
    body = body[: len(body) - len(end)]
    return (begin + body, b"", end) if re.fullmatch(_NO_CONTENT, body) else (begin, body, end)


def _yaml_indents(text: str) -> tuple[int, int, int]:
    """How far a document indents: mappings, items of lists, and their dashes."""
    nested, dashes = _NESTED.search(text), _DASHES.search(text)
    mapping = len(nested[1]) if nested else 2
    if dashes is None:
        return mapping, 4, 2
    offset = max(0, len(dashes[2]) - len(dashes[1]))
    return mapping, offset + 1 + len(dashes[3]), offset


_FORMATS: dict[str, type[Format]] = {"toml": Toml, "yaml": Yaml, "yml": Yaml, "json": Json}


def is_document(name: str) -> bool:
    """Whether a name has the extension of a format."""
    return name.rpartition(".")[2].lower() in _FORMATS and "." in name


def format_of(name: str) -> Format:
    """The format that the extension of `name` stands for.

    Raises:
        DatastreamError: none.
        ImportError: a library for reading it is missing.
    """
    if not is_document(name):
        raise DatastreamError(
            f"{name!r} is no document: its name must end in {', '.join('.' + n for n in _FORMATS)}"
        )
    found = _FORMATS[name.rpartition(".")[2].lower()]()
    found.check()
    return found
