"""HTML pages out of Jinja2 templates: one environment for all, in which every value is escaped."""

from __future__ import annotations

import base64
import functools
import hashlib
from collections.abc import Callable
from importlib import resources
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from vla.common import number_text
from vla.common.terminal.visible_console import visible


@functools.cache
def environment() -> Environment:
    """Of all templates: files `*.html.j2` of this package, named by their path below `vla/`."""
    made = Environment(
        loader=PackageLoader("vla", "."),
        # always: by default Jinja2 escapes nothing, and its own choice by the ending `.html` does
        # not see it behind `.j2`
        autoescape=True,
        # a misspelled value is an error here; by default it would be an empty text in the page
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    made.filters.update({name: getattr(number_text, name) for name in number_text.__all__})
    return made


def render(template: str, **values: Any) -> Markup:
    """The template with these values: texts among them are escaped, `Markup` is HTML already."""
    return Markup(environment().get_template(template).render(values))


def macro(template: str, name: str) -> Callable[..., Markup]:
    """One macro of a template file as a function, for code that needs a piece of a page alone."""
    found: Callable[..., Markup] = getattr(environment().get_template(template).module, name)
    return found


def asset(path: str) -> Markup:
    """A style sheet or script of this package as it is, by its path below `vla/`.

    It is no template: Jinja2 would read some of its braces, and a content-security policy holds the
    hash of the very text.
    """
    return Markup(resources.files("vla").joinpath(*path.split("/")).read_text(encoding="utf-8"))


def encoded(html: str) -> bytes:
    """As it is written: control characters in texts of others, and what turns the direction of
    writing, are shown as on a terminal. Half characters, which UTF-8 lacks, are among them."""
    return visible(html).encode(errors="replace")


def content_policy(script: str, *, media: str = "data: blob:") -> str:
    """The content-security policy of a page whose only script is this one, to the letter.

    Nothing but what is in the page may be loaded, and no other script may run, whatever texts of
    others stand in the page.

    Args:
        media: where films may come from.
    """
    digest = hashlib.sha256(script.encode()).digest()
    script_hash = base64.b64encode(digest).decode()
    return (
        f"default-src 'none'; script-src 'sha256-{script_hash}'; style-src 'unsafe-inline'; "
        f"img-src data:; media-src {media}; base-uri 'none'; form-action 'none'"
    )
