"""What `mkdocs build` needs to make a site of pages that are also read in the repository.

The navigation is `docs/index.md`, so that a page is named once. Pages outside `docs/` come along,
and so do the other files that pages lead to: notebooks, the protocol, sources.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

import datastream

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
# In the repository a text made by build_api.py; here mkdocstrings makes it, with links of names.
REFERENCE = "api.md"
FIRST = ("open", "Store", "View", "ViewSnapshot", "overlay", "Overlay")
MODULES = ("datastream.source", "datastream.testing", "datastream.url", "datastream_grpc")
_LINK = re.compile(r"(\]\(|src=\")((?:\.\./|docs/)?[\w./-]+)(#[\w-]+)?([)\"])")
_BLOCK = re.compile(r"^```.*?^```$", re.DOTALL | re.MULTILINE)


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """The navigation: a section for each bold line of the index, with its links in order."""
    config.nav = [{"All pages": "index.md"}, *_sections((DOCS / "index.md").read_text())]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add what pages lead to and what lies outside of `docs/`."""
    for path in sorted(_outside()):
        source = _in_site(path)
        if path.suffix == ".md":
            files.append(File.generated(config, source, content=path.read_text()))
        else:
            files.append(File.generated(config, source, abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Lead to where the files are in the site, and take from fences what only our tests read."""
    if page.file.src_uri == REFERENCE:
        return _reference()
    folder = DOCS
    if page.file.src_uri.startswith("repository/"):
        folder = (ROOT / page.file.src_uri.removeprefix("repository/")).parent
    here = Path(page.file.src_uri).parent
    markdown = re.sub(r"^```python .*$", "```python", markdown, flags=re.MULTILINE)
    return _outside_of_blocks(
        markdown,
        lambda text: _LINK.sub(
            lambda found: found[1] + _led(found[2], folder, here) + (found[3] or "") + found[4],
            text,
        ),
    )


def _reference() -> str:
    """Every public name, the errors last, and the modules for who writes a source or serves."""
    names = [*FIRST, *(name for name in datastream.__all__ if name not in FIRST)]
    names.sort(key=lambda name: _is_error(getattr(datastream, name)))
    parts = ["# API reference", "## datastream"]
    parts += [_directive(f"datastream.{name}", inherits=name in FIRST) for name in names]
    parts += [_directive("datastream.binding.Binding", inherits=True)]
    for module in MODULES:
        parts += [f"## {module}", _directive(module, show_root_heading=False)]
    return "\n\n".join(parts)


def _directive(name: str, *, inherits: bool = False, **options: bool) -> str:
    options["inherited_members"] = inherits
    lines = [f"      {option}: {str(value).lower()}" for option, value in options.items()]
    return "\n".join([f"::: {name}", "    options:", *lines])


def _is_error(thing: object) -> bool:
    return isinstance(thing, type) and issubclass(thing, Exception)


def _sections(index: str) -> Iterator[dict[str, list[dict[str, str]]]]:
    for part in re.split(r"^\*\*(?=[^*\n]+\*\*$)", index, flags=re.MULTILINE)[1:]:
        title, _, rest = part.partition("**")
        links = re.findall(r"^\* \[([^\]]+)\]\(([^)]+)\)", rest, re.MULTILINE)
        yield {title: [{name: _led(target, DOCS, Path())} for name, target in links]}


def _outside() -> set[Path]:
    """Files outside of `docs/` to which pages lead, and those to which these lead."""
    found: set[Path] = set()
    pending = list(DOCS.glob("*.md"))
    while pending:
        page = pending.pop()
        for link in _LINK.finditer(_BLOCK.sub("", page.read_text())):
            target = Path(os.path.normpath(page.parent / link[2]))
            if target.is_file() and DOCS not in target.parents and target not in found:
                found.add(target)
                pending += [target] if target.suffix == ".md" else []
    return found


def _led(target: str, folder: Path, here: Path) -> str:
    """A link of a page in `folder` as it has to be for one at `here` in the site."""
    path = Path(os.path.normpath(folder / target))
    if path.is_dir() and ROOT in path.parents:
        # A folder has no page: its name stands for the page that says what is in it.
        path = DOCS / "notebooks.md"
    if not path.is_file():
        return target
    return os.path.relpath(_in_site(path), here)


def _in_site(path: Path) -> str:
    if DOCS in path.parents:
        return path.relative_to(DOCS).as_posix()
    return f"repository/{path.relative_to(ROOT).as_posix()}"


def _outside_of_blocks(markdown: str, change: Callable[[str], str]) -> str:
    parts = re.split(r"(^```.*?^```$)", markdown, flags=re.DOTALL | re.MULTILINE)
    return "".join(part if part.startswith("```") else change(part) for part in parts)
