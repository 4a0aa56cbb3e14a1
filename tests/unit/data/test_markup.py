"""Markup to plain text: what goes, what only looks like markup and stays, and text made to take long."""

from __future__ import annotations

import time

import pytest

from metier.data.markup import plain_text, title_of


@pytest.mark.parametrize(
    "text",
    [
        "a < b and c > d",
        "if (a <b && c> d) return;",
        "List<String> names; Map<K, V> m; #include <stdio.h>",
        "vector<int>::iterator </T>",
        "1 &lt 2, ?a=1&copy=2, &unknown; &#99999999999;",
        "`<div>` opens a block; use the <script> tag",
        "```html\n<p>kept</p> &amp;\n```",
        "~~~~\n<b>kept</b>\n~~~~ \n",
        "<!-- nobody closes this",
        "<br",
        "",
    ],
)
def test_what_only_looks_like_markup_stays(text: str) -> None:
    assert plain_text(text) == text
    assert plain_text(text, main=True) == text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<p>One <b>two</b></p><p>three</p>", "One two\n\nthree"),
        ("a<br>b<BR/>c", "a\nb\nc"),
        ("line one\nline <i>two</i>\n  three", "line one\nline two\n  three"),
        ("<div>\n   white\n   space  <em>as</em> shown\n</div>", "white space as shown"),
        ("<p>a</p><ul><li>one<li>two</ul>b", "a\n\none\ntwo\n\nb"),
        ("<table><tr><td>a</td><td>b</td></tr><tr><td>c<td>d</table>", "a\tb\nc\td"),
        ("<pre>def f():\n    return 1 &lt; 2</pre>", "def f():\n    return 1 < 2"),
        ("AT&amp;T &eacute;&#233;&#xe9;", "AT&T ééé"),
        ("&#0;&#xD800;", "\ufffd\ufffd"),
        ("a<script>if (x<y) {}</script>b<style>p {}</STYLE >c<!-- d -->e", "abce"),
        ("<script>one</script> and <script> two", " and <script> two"),
        ("<a href=\"x>y\" title='<b>' data-x=1 hidden>link</a>", "link"),
        ("<!DOCTYPE html><?xml version='1.0'?><p>x</p>", "x"),
        ("<svg><text>drawn</text></svg>said<template><p>t</p></template>", "said"),
        ("<p>one<div>two", "one\ntwo"),
    ],
)
def test_what_a_reader_would_read(text: str, expected: str) -> None:
    assert plain_text(text) == expected


PAGE = """<html><head><title>The  page &amp; more</title></head><body><header>Logo</header>
<nav><ul><li><a href="/">Home</a></li></ul><nav>inner</nav></nav>
<div><a href="/a">First</a> | <a href="/b">Second</a></div>
<main><h1>Head</h1><p>The text, with <a href="/c">a link</a> in it.</p><p>»</p></main>
<aside>Advertisement</aside><form>Subscribe <button>Now</button></form><footer>© 2020</footer></body></html>"""


def test_what_stands_around_the_text_goes_on_request() -> None:
    assert plain_text(PAGE, main=True) == "The page & more\n\nHead\n\nThe text, with a link in it."
    everything = plain_text(PAGE)
    assert all(word in everything for word in ("Logo", "Home", "inner", "First", "Advertisement", "©", "Now"))
    assert plain_text("<nav>one</nav>", main=True) == ""
    assert plain_text("text <nav>never closed", main=True) == "text\nnever closed"
    assert plain_text("</nav>text</footer>", main=True) == "text"


def test_the_title_of_a_page() -> None:
    assert title_of(PAGE) == "The page & more"
    assert title_of("<title></title>") is None
    assert title_of("no page") is None


HOSTILE = {
    "comments": "<!--" * 40_000,
    "tags that never end": '<a x="<a y=' * 20_000,
    "scripts": "<script>" * 20_000,
    "deep": "<nav>" * 15_000 + "</nav>" * 15_000,
    "fences": "~~~a\n```b\n" * 15_000,
    "ever shorter fences": "".join("`" * n + "a\n" for n in range(500, 2, -1)),
    "ampersands": "&a" * 80_000 + "&#" + "9" * 80_000 + ";",
    "blanks": "<a" + " " * 160_000 + "<p" + " =" * 80_000,
    "declarations": "<!DOCTYPE " * 16_000 + "<?xml " * 16_000,
}


@pytest.mark.parametrize("name", sorted(HOSTILE))
def test_no_text_takes_time_out_of_proportion(name: str) -> None:
    """Quadratic work would take minutes here; the bound is far above what a slow machine needs."""
    begun = time.process_time()
    plain_text(HOSTILE[name], main=True)
    assert time.process_time() - begun < 10
