"""Python values to bytes and back, by ``value_type``.

Short names ``int float bool str json bytes`` and media types: ``text/*``, ``application/json``
and ``*+json``, ``application/toml``, ``application/yaml``. Any other type is handed through as
bytes, so that a store can carry what this library does not know.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from typing import Any

from datastream._aliases import check_size
from datastream.errors import InvalidValue, shown

MAX_TYPE = 255
"""Longest value_type."""


def encode(value: Any, value_type: str | None = None, *, key: str = "") -> tuple[bytes, str]:
    """Bytes and value_type of a Python value.

    Args:
        value: bytes are stored as they are, under any type; anything else must fit the type.
        value_type: inferred when None or empty: ``20`` is "int", ``{"a": 1}`` is "json".
        key: named in the error.

    Raises:
        InvalidValue: the value does not fit the type, or no type fits the value.
    """
    if value_type:
        check_type(value_type, key=key)
    plain = None if value_type else _INFERRED.get(type(value))
    try:
        if plain is not None:
            return plain[1](value), plain[0]
        return _encode(value, value_type)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        wanted = f"as {value_type!r}" if value_type else "as any known type"
        raise InvalidValue(
            f"cannot store this {type(value).__name__} at {shown(key)} {wanted}: {error}; "
            "give a value that fits, or bytes with a value_type"
        ) from error


def decode(value: bytes, value_type: str, *, key: str = "") -> Any:
    """The Python value that `value` stands for under `value_type`; unknown types give the bytes.

    Raises:
        InvalidValue: the bytes are not what the type says.
        ImportError: ``application/yaml`` without PyYAML.
    """
    try:
        return decoder(value_type)(value)
    except (ValueError, RecursionError) as error:
        fault = "it is nested too deeply" if isinstance(error, RecursionError) else error
        raise InvalidValue(
            f"the {len(value)} bytes at {shown(key)} are no {value_type!r}: {fault}; "
            "its entry has the raw bytes"
        ) from error


def decoder(value_type: str) -> Callable[[bytes], Any]:
    """What `decode` calls for this type; raises what it finds, such as ValueError."""
    return _DECODERS.get(value_type) or _DECODERS[_family(value_type)]


def decode_all(values: Sequence[bytes], value_type: str) -> list[Any] | None:
    """What `decode` gives for each value; None if one does not decode, or might not.

    Several times quicker than one by one for numbers and text.
    """
    try:
        if value_type not in ("int", "float"):
            return list(map(decoder(value_type), values))
        together = b"".join(values)
        if b"_" in together or not together.isascii():
            return None
        numbers = list(map(int if value_type == "int" else float, values))
        return None if math.inf in numbers or -math.inf in numbers else numbers
    except (ValueError, RecursionError, ImportError):
        return None


def check_type(value_type: str, *, key: str = "") -> None:
    """Refuse what can be no type's name: other than printable ASCII, or longer than 255.

    Raises:
        InvalidValue: it is such.
    """
    if not isinstance(value_type, str):
        raise InvalidValue(f"the value_type of {shown(key)} is text such as 'int'")
    if value_type in _DECODERS or not value_type:
        return
    if len(value_type) > MAX_TYPE or not (value_type.isascii() and value_type.isprintable()):
        raise InvalidValue(
            f"{shown(value_type)} is no value_type for {shown(key)}; "
            "use int, float, bool, str, json, bytes or a media type"
        )


def _encode(value: Any, value_type: str | None) -> tuple[bytes, str]:
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value), value_type or "bytes"
    name = value_type or _infer(value)
    encoder = _ENCODERS.get(_family(name))
    if encoder is None:
        raise TypeError("only bytes can be stored under this type")
    return encoder(value), name


def _infer(value: Any) -> str:
    for kind, name in ((bool, "bool"), (int, "int"), (float, "float"), (str, "str")):
        if isinstance(value, kind):
            return name
    if value is None or isinstance(value, dict | list | tuple):
        return "json"
    raise TypeError("no value_type is known for it")


def _family(value_type: str) -> str:
    """The short name whose codec serves this type; "bytes" for what is not known."""
    if value_type in _DECODERS:
        return value_type
    media = value_type.partition(";")[0].strip().lower()
    if media == "application/json" or media.endswith("+json"):
        return "json"
    if media in ("application/toml", "application/yaml", "application/x-yaml"):
        return media.rpartition("/")[2].removeprefix("x-")
    return "str" if media.startswith("text/") else "bytes"


def _exactly(kind: type) -> Callable[[Any], bytes]:
    def encoder(value: Any) -> bytes:
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise TypeError(f"it wants a {kind.__name__}")
        return str(value).encode()

    return encoder


def _encode_float(value: Any) -> bytes:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError("it wants a float")
    return repr(float(value)).encode()


def _encode_bool(value: Any) -> bytes:
    if not isinstance(value, bool):
        raise TypeError("it wants a bool")
    return b"true" if value else b"false"


def _encode_json(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()


def _encode_bytes(value: Any) -> bytes:
    raise TypeError("only bytes can be stored under this type")


def _decode_bool(value: bytes) -> bool:
    known = {b"true": True, b"1": True, b"false": False, b"0": False}.get(value.strip().lower())
    if known is None:
        raise ValueError("it is neither true nor false")
    return known


def _decode_int(value: bytes) -> int:
    text = _ascii_number(value)
    try:
        return int(text)
    except ValueError:
        # Python's text quotes the value, which may be a secret.
        raise ValueError("it is not a whole number, or too long for one") from None


def _decode_float(value: bytes) -> float:
    text = _ascii_number(value)
    try:
        number = float(text)
    except ValueError:
        raise ValueError("it is not a number") from None
    if math.isinf(number) and "inf" not in text.lower():
        raise ValueError("it is too large for a float")
    return number


def _ascii_number(value: bytes) -> str:
    """int() and float() also take "1_000", which no other program means as a number."""
    text = value.decode("ascii")
    if "_" in text:
        raise ValueError("it is not a number")
    return text


def _decode_toml(value: bytes) -> Any:
    import tomllib

    return tomllib.loads(value.decode())


def _decode_yaml(value: bytes) -> Any:
    try:
        import yaml
    except ImportError as error:
        raise ImportError(
            'reading application/yaml needs PyYAML: pip install "datastream-kv[yaml]"'
        ) from error
    try:
        document = yaml.safe_load(value)
        check_size(document, len(value))
        return document
    except yaml.YAMLError as error:
        # Its own text quotes the document, which may hold secrets, over several lines.
        problem = getattr(error, "problem", None) or "it holds what YAML does not allow"
        mark = getattr(error, "problem_mark", None)
        place = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise ValueError(f"{problem}{place}") from error
    except (ValueError, RecursionError):
        raise
    except Exception as error:
        # Whatever a tag that does not fit its text makes of it, such as `!!bool x`.
        raise ValueError("a value does not fit its tag") from error


_ENCODERS: dict[str, Callable[[Any], bytes]] = {
    "int": _exactly(int),
    "float": _encode_float,
    "bool": _encode_bool,
    "str": _exactly(str),
    "json": _encode_json,
    "bytes": _encode_bytes,
    # No TOML or YAML writer is shipped: the text is taken as it is.
    "toml": _exactly(str),
    "yaml": _exactly(str),
}

_DECODERS: dict[str, Callable[[bytes], Any]] = {
    "int": _decode_int,
    "float": _decode_float,
    "bool": _decode_bool,
    "str": bytes.decode,
    "json": json.loads,
    "bytes": bytes,
    "toml": _decode_toml,
    "yaml": _decode_yaml,
}

# The types met most, decided by one dictionary look-up instead of a chain of isinstance.
_INFERRED: dict[type, tuple[str, Callable[[Any], bytes]]] = {
    bytes: ("bytes", bytes),
    int: ("int", lambda value: b"%d" % value),
    float: ("float", lambda value: repr(value).encode()),
    bool: ("bool", _encode_bool),
    str: ("str", str.encode),
}
