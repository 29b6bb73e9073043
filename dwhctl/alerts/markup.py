"""The HTML of chats as a message of Slack, Mattermost or Teams.

Slack and Teams get texts with a style and no markup, so that no value can be markup. Mattermost has Markdown only.
A tag that a service has no style for is left out.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from html import unescape
from typing import Any, NamedTuple

from dwhctl.alerts.message import Message
from dwhctl.alerts.telegram import ENTITY, LIMIT, TAG, cut, plain

Payload = dict[str, Any]
_STYLES = {
    **dict.fromkeys(("b", "strong"), "bold"),
    **dict.fromkeys(("i", "em"), "italic"),
    **dict.fromkeys(("s", "del", "strike"), "strike"),
    "code": "code",
    "pre": "pre",
}
#: A message is cut further where a service's form of it is too long: a line may take a hundred octets of JSON.
_LIMITS = (LIMIT, 2500, 1500, 800, 400, 200)


class StyledText(NamedTuple):
    """A text, without markup, and its styles."""

    text: str
    styles: frozenset[str]


def pieces(html: str) -> Iterator[StyledText]:
    """Yield the texts between the tags."""
    tags: list[str] = []
    start = 0
    for tag in [*TAG.finditer(html), None]:
        text = html[start : tag.start() if tag else len(html)]
        if text:
            found = frozenset(_STYLES[name] for name in tags if name in _STYLES)
            yield StyledText(ENTITY.sub(lambda entity: unescape(entity[0]), text), found)
        if tag is None:
            return
        start, name = tag.end(), tag[2].lower()
        if not tag[1]:
            tags.append(name)
        elif name in tags:
            tags.reverse()
            tags.remove(name)
            tags.reverse()


def fitted(message: Message, build: Callable[[Message], Payload], most: int) -> bytes:
    """Return the message as JSON of at most so many octets: as many of its lines as fit."""
    body = b""
    for limit in _LIMITS:
        html = cut(message.html, limit)
        payload = build(Message(message.subject, html, plain(html)))
        body = json.dumps(payload, ensure_ascii=False).encode()
        if len(body) <= most:
            break
    return body


#: The characters of a text of a block, of which a message has 50:
#: https://docs.slack.dev/reference/block-kit/blocks
SLACK_BLOCK = 3000
#: The characters of a text; longer ones are cut: https://docs.slack.dev/changelog/2018-truncating-really-long-messages
SLACK_CHARACTERS = 40_000
_SLACK_STYLES = frozenset({"bold", "italic", "strike", "code"})


def slack(message: Message) -> Payload:
    """Return blocks of rich text. `text` is what a notification shows."""
    blocks: list[Payload] = []
    room = 0
    for piece in pieces(message.html):
        for start in range(0, len(piece.text), SLACK_BLOCK):
            text = piece.text[start : start + SLACK_BLOCK]
            if len(text) > room:
                blocks.append({"type": "rich_text", "elements": []})
                room = SLACK_BLOCK
            room -= len(text)
            _add_to_slack(blocks[-1]["elements"], StyledText(text, piece.styles))
    shown = message.subject.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return {"text": shown, "blocks": blocks, "unfurl_links": False, "unfurl_media": False}


def _add_to_slack(elements: list[Payload], piece: StyledText) -> None:
    kind = "rich_text_preformatted" if "pre" in piece.styles else "rich_text_section"
    if not elements or elements[-1]["type"] != kind:
        elements.append({"type": kind, "elements": []})
    element: Payload = {"type": "text", "text": piece.text}
    styles = piece.styles & _SLACK_STYLES
    if styles and kind == "rich_text_section":
        element["style"] = dict.fromkeys(sorted(styles), True)
    elements[-1]["elements"].append(element)


#: Teams takes 28 KB, and counts two octets for a character where the service before it has decoded the message:
#: https://learn.microsoft.com/microsoftteams/platform/webhooks-and-connectors/how-to/connectors-using
TEAMS_OCTETS = 14 * 1000


def teams(message: Message) -> Payload:
    """Return an Adaptive Card, a block for each line. Its text runs know no Markdown."""
    lines: list[list[Payload]] = [[]]
    for piece in pieces(message.html):
        for number, text in enumerate(piece.text.split("\n")):
            if number:
                lines.append([])
            if text:
                lines[-1].append(_text_run(text, piece.styles))
    body: list[Payload] = []
    follows_empty = False
    for runs in lines:
        if runs:
            spacing = "Medium" if follows_empty else "None"
            body.append({"type": "RichTextBlock", "spacing": spacing, "inlines": runs})
        follows_empty = not runs
    card = {
        "$schema": "http://adaptivecards.io/schemas/adaptive-card.json",
        "type": "AdaptiveCard",
        "version": "1.4",
        "fallbackText": message.subject,
        "msteams": {"width": "Full"},
        "body": body,
    }
    kind = "application/vnd.microsoft.card.adaptive"
    return {"type": "message", "attachments": [{"contentType": kind, "contentUrl": None, "content": card}]}


def _text_run(text: str, styles: frozenset[str]) -> Payload:
    run: Payload = {"type": "TextRun", "text": text}
    if "bold" in styles:
        run["weight"] = "Bolder"
    if "italic" in styles:
        run["italic"] = True
    if "strike" in styles:
        run["strikethrough"] = True
    if styles & {"code", "pre"}:
        run["fontType"] = "Monospace"
    return run


#: The characters of a post; a longer one is split: https://developers.mattermost.com/integrate/webhooks/incoming
MATTERMOST_CHARACTERS = 16_383
_MARKDOWN = re.compile(r"[\\`*_{}\[\]()#+\-.!>~|]")
#: What begins a mention, HTML or an emoji has no escape: an invisible character parts it.
_ACTS = re.compile(r"[@<]|:(?=\w)|(?<=:)(?=//)")
_BACKTICKS = re.compile(r"`+")


def mattermost(message: Message) -> Payload:
    """Return Markdown with every value escaped, and no mention of anyone."""
    return {"text": "".join(map(_markdown, pieces(message.html)))}


def _markdown(piece: StyledText) -> str:
    text, styles = piece
    if "pre" in styles:
        fence = _fence(text, 3)
        return f"\n{fence}\n{text}\n{fence}\n"
    if "code" in styles:
        return "\n".join(_code(line) for line in text.split("\n"))
    escaped = _ACTS.sub(lambda found: f"{found[0]}\u200b", _MARKDOWN.sub(r"\\\g<0>", text))
    marks = "".join(mark for style, mark in _MARKS if style in styles)
    return "\n".join(_marked(line, marks) for line in escaped.split("\n"))


_MARKS = (("bold", "**"), ("italic", "_"), ("strike", "~~"))


def _marked(line: str, marks: str) -> str:
    return f"{marks}{line}{marks[::-1]}" if line.strip() and marks else line


def _code(line: str) -> str:
    if not line.strip():
        return line
    fence = _fence(line, 1)
    return f"{fence} {line} {fence}" if "`" in line else f"{fence}{line}{fence}"


def _fence(text: str, least: int) -> str:
    return "`" * max([least, *(len(run) + 1 for run in _BACKTICKS.findall(text))])
