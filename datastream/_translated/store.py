"""`translated`: a store in other words."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from datastream import _registry
from datastream._translated.rules import Pair, SpellKey, SpellValue, Translation
from datastream._translated.source import TranslatedSource
from datastream._upstream import Upstream
from datastream.errors import DatastreamError, InvalidValue
from datastream.store import Store


def translated(
    store: Store | str,
    *,
    key: SpellKey | None = None,
    key_back: SpellKey | None = None,
    value: SpellValue | None = None,
    value_back: SpellValue | None = None,
    prefix: tuple[str, str] | None = None,
) -> Store:
    """A store as others would spell it: for `mirror`, `diff` and `drift` between unlike backends.

    Its keys and values are those of `store`, spelled otherwise there. Each function comes with the
    one that undoes it, and every write is checked against that: what would not come back as it was
    is refused with `InvalidKey` or `InvalidValue`, so that no two keys become one, and nothing is
    mangled. Keys of `store` that stand for no key here are not there. Keys below ``_datastream/``
    stay as they are.

    Args:
        store: a store, which stays open, or a URL, which is opened and closed with this one.
        key: the key in `store` of a key here; None or ValueError where it has none.
        key_back: the key here of one in `store`; None or ValueError where it has none.
        value: takes an `Entry`, and returns it with the value and type for `store`; ValueError
            where there is none. Its key is that here.
        value_back: likewise, from `store`.
        prefix: instead of `key`: a prefix here, and the one that stands for it in `store`; either
            may be "". Only keys below it are there.

    Raises:
        InvalidValue: a function without the one that undoes it.
        DatastreamError: the store cannot be opened.
    """
    pair = _pair(key, key_back, "key")
    if prefix is not None:
        _check_prefix(prefix, pair)
    translation = Translation.of(pair, _pair(value, value_back, "value"), prefix)
    owned = not isinstance(store, Store)
    below = store if isinstance(store, Store) else _registry.open(store)
    upstream = Upstream(below, owned=owned)
    return Store(TranslatedSource(upstream, translation), name=upstream.name)


def _pair(
    there: Callable[..., Any] | None, back: Callable[..., Any] | None, what: str
) -> Pair | None:
    if there is None and back is None:
        return None
    if not (callable(there) and callable(back)):
        raise InvalidValue(f"give both, {what}= and {what}_back=, the function that undoes it")
    return Pair(there, back)


def _check_prefix(prefix: tuple[str, str], key: Pair | None) -> None:
    if key is not None:
        raise InvalidValue("give either prefix= or key=, which can do the same")
    if len(prefix) != 2:
        raise InvalidValue('prefix takes two: prefix=("app/", "settings/")')
    for part in prefix:
        if part and not part.endswith("/"):
            raise InvalidValue(f"prefix={prefix!r}: a prefix is empty, or ends with a slash")
    if prefix == ("", ""):
        raise DatastreamError("both prefixes are empty, which translates nothing")
