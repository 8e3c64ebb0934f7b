"""Templates: everything is escaped, and a misspelled value is an error."""

from __future__ import annotations

import base64
import hashlib
import re
from pathlib import Path

import pytest
from jinja2 import Environment, UndefinedError
from markupsafe import Markup

import vla
from vla.common.html import asset, content_policy, encoded, environment, macro, render

ROOT = Path(vla.__file__).parent
TEMPLATES = sorted(str(p.relative_to(ROOT)) for p in ROOT.rglob("*.html.j2"))


def test_texts_are_escaped_and_html_is_not() -> None:
    template = environment().from_string('<p title="{{ text }}">{{ text }}{{ html }}</p>')
    made = template.render(text="<b> & \"'", html=Markup("<i>"))
    assert made == '<p title="&lt;b&gt; &amp; &#34;&#39;">&lt;b&gt; &amp; &#34;&#39;<i></p>'


@pytest.mark.parametrize("name", TEMPLATES)
def test_every_template_escapes_by_itself(name: str) -> None:
    """`| safe` is for attributes that the template itself writes, and nothing switches escaping off."""
    source = (ROOT / name).read_text(encoding="utf-8")
    environment().get_template(name)
    assert "autoescape" not in source
    assert set(re.findall(r"[^{]*\|\s*safe", source)) <= {" ' scope=\"row\"' | safe"}


def test_a_misspelled_value_is_an_error() -> None:
    with pytest.raises(UndefinedError):
        render("sim_eval/report/refused.html.j2", raeson="?")


def test_there_is_one_environment() -> None:
    assert environment() is environment()
    files = [path for path in ROOT.rglob("*.py") if "Environment(" in path.read_text()]
    assert [path.name for path in files] == ["html.py"]
    assert isinstance(environment(), Environment)


def test_a_macro_is_a_function() -> None:
    axis = macro("sim_eval/report/plots.html.j2", "axis")
    svg = axis(("0", "<", "1"))
    assert re.findall(r'x="([\d.]+)%" y="13" text-anchor="(\w+)">(\S+)</text>', svg) == [
        ("2.00", "start", "0"),
        ("50.00", "middle", "&lt;"),
        ("98.00", "end", "1"),
    ]


def test_assets_are_as_they_are() -> None:
    script = asset("data/view/page.js")
    assert script == (ROOT / "data" / "view" / "page.js").read_text(encoding="utf-8")
    # what a page holds has the hash that its policy names
    page = environment().from_string("<script>{{ js }}</script>").render(js=script)
    inside = page.removeprefix("<script>").removesuffix("</script>")
    digests = [hashlib.sha256(text.encode()).digest() for text in (script, inside)]
    assert base64.b64encode(digests[0]) == base64.b64encode(digests[1])


def test_the_policy_allows_one_script_and_no_address() -> None:
    digest = base64.b64encode(hashlib.sha256(b"run()").digest()).decode()
    policy = content_policy("run()")
    assert policy.startswith("default-src 'none'; ")
    assert f"script-src 'sha256-{digest}';" in policy
    assert "http" not in policy


PAGES = [name for name in TEMPLATES if "<html" in (ROOT / name).read_text(encoding="utf-8")]


@pytest.mark.parametrize("name", PAGES)
def test_every_page_has_a_policy_and_one_script(name: str) -> None:
    source = (ROOT / name).read_text(encoding="utf-8")
    head = '<meta http-equiv="Content-Security-Policy" content="{{ policy }}">'
    assert source.index(head) < source.index("<title>")
    assert re.findall(r"<script.*", source) == ["<script>{{ js }}</script>"]
    # no template writes attributes that run code, which the policy would refuse
    assert not re.search(r"\son\w+=|javascript:", source)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\ud800b", b"a\\ud800b"),  # half a letter
        ("\x1b[2J\x9b1m", b"\\x1b[2J\\x9b1m"),
        ("gnp\u202e.exe", b"gnp\\u202e.exe"),
        ("a\n\tb", b"a\n\tb"),
    ],
)
def test_what_cannot_be_seen_is_written_as_what_it_is(text: str, shown: bytes) -> None:
    assert encoded(text) == shown


@pytest.mark.parametrize("ending", ["js", "css", "j2"])
def test_own_files_hold_nothing_that_is_written_otherwise(ending: str) -> None:
    """The hash of a script in a page's policy is that of the file."""
    files = list(ROOT.rglob(f"*.{ending}"))
    assert files
    for file in files:
        text = file.read_text(encoding="utf-8")
        assert encoded(text) == text.encode()
