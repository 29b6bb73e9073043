"""The server with the Bot API's behaviour parses a message as tests/servers/BEHAVIOUR.md says."""

from __future__ import annotations

import pytest

from tests.servers.telegram_html import CannotParse, parse


@pytest.mark.parametrize(
    ("html", "text", "entities"),
    [
        ("a &lt;b&gt; &amp; &quot; &#39; &#x1F600;", "a <b> & \" ' 😀", ()),
        ("&nbsp; &copy &amp &#0;", "&nbsp; &copy & &#0;", ()),
        ("😀<b>x<i>y</i></b>", "😀xy", (("i", 3, 1), ("b", 2, 2))),
        ("<B>x</>", "x", (("b", 0, 1),)),
        ("<b></b>", "", ()),
        ('<a href="https://e.org/?a=1&amp;b">x</a>', "x", (("a", 0, 1),)),
        ("<code class='language-sql'>x</code >", "x", (("code", 0, 1),)),
        ('<span class="tg-spoiler">x</span>', "x", (("span", 0, 1),)),
        ("a > b", "a > b", ()),
    ],
)
def test_what_parses(html: str, text: str, entities: tuple[tuple[str, int, int], ...]) -> None:
    parsed = parse(html)
    assert (parsed.text, parsed.entities) == (text, entities)


@pytest.mark.parametrize(
    ("html", "refusal"),
    [
        ("я <br> b", 'Unsupported start tag "br" at byte offset 3'),
        ("a < b", 'Unsupported start tag "" at byte offset 2'),
        ("a <b", "Unclosed start tag at byte offset 2"),
        ("<b>x", 'Can\'t find end tag corresponding to start tag "b"'),
        ("x</b>", "Unexpected end tag at byte offset 1"),
        ("<b>x</i>", 'Unmatched end tag at byte offset 4, expected "</b>", found "</i>"'),
        ("<b>x</b", "Unclosed end tag at byte offset 4"),
        ("<span>x</span>", 'Tag "span" must have class "tg-spoiler" at byte offset 0'),
        ("<a =x>x</a>", 'Empty attribute name in the tag "a" at byte offset 0'),
        (
            "<a href>x</a>",
            'Expected equal sign in declaration of an attribute of the tag "a" at byte offset 0',
        ),
        ('<a href="x>x</a>', "Unclosed start tag at byte offset 0"),
        ("<a href=x/y>x</a>", "Unexpected end of name token at byte offset 8"),
        ("&#xd800;", "Text contains invalid Unicode characters after decoding HTML entities"),
    ],
)
def test_what_is_refused_and_in_which_words(html: str, refusal: str) -> None:
    with pytest.raises(CannotParse) as caught:
        parse(html)
    assert str(caught.value).startswith(refusal)
