"""Documents as stores: ``file:settings.toml``, and `Store.document` for one that a store holds."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

from datastream._upstream import Upstream
from datastream.errors import DatastreamError
from datastream.sources._common.paths import local_path
from datastream.sources.document import DocumentSource, is_document
from datastream.store import Store
from datastream.url import Location, Seconds, configured


def document(store: Store, key: str, *, create: bool = False) -> Store:
    """See `Store.document`."""
    upstream = Upstream(store, owned=False)
    return Store(DocumentSource(upstream, key, create=create), name=f"{store.name} {key}")


def names_document(location: Location) -> bool:
    """Whether a ``file:`` URL names a document, rather than a directory."""
    return is_document(location.path) and not Path(_path(location)).is_dir()


def open_document(location: Location, **options: object) -> DocumentSource:
    """The Source of ``file:settings.toml`` and ``file:///etc/app/settings.yaml``."""
    return configured(partial(_open, _path(location)), location, options)


def _path(location: Location) -> str:
    return local_path(location, "file:settings.toml", "file")


def _open(
    path: str,
    *,
    create: bool = False,
    readonly: bool = False,
    polling: bool = False,
    interval: Seconds = 5.0,
) -> DocumentSource:
    from datastream.sources.files.one import DirectorySource

    folder, name = Path(path).parent, Path(path).name
    if not folder.is_dir():
        raise DatastreamError(f"{folder}: no such directory; make it, or check the path")
    _check_link(Path(path))
    files = DirectorySource(
        folder,
        readonly=readonly,
        hidden=name.startswith("."),
        polling=polling,
        interval=interval,
    )
    holder = Upstream(Store(files, name=str(folder)), owned=True)
    try:
        return DocumentSource(holder, name, create=create, torn=True)
    except BaseException:
        holder.close()
        raise


def _check_link(path: Path) -> None:
    """Refuse a link that is not followed: the document would be called missing, or made anew."""
    if not path.is_symlink():
        return
    target = os.path.realpath(path)
    if not Path(target).is_relative_to(os.path.realpath(path.parent)):
        raise DatastreamError(
            f"{path} is a link that leads out of {path.parent}, where it is not followed; "
            f"name the file itself: {target}"
        )
