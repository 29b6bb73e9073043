"""What a webhook sends: every value is text, whatever it holds, and the message fits the service."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dwhctl.alerts import markup
from dwhctl.alerts.channels import open_channel, render
from dwhctl.alerts.digest import Digest, Reason
from dwhctl.alerts.message import Message
from dwhctl.check.connections import in_clear
from dwhctl.check.offline import _check_alert
from dwhctl.core.errors import ConfigError
from dwhctl.core.secrets import MASKED, Secret, mask
from dwhctl.project.model import WebhookAlert
from tests.support.digests import DAY, DIGEST, channels_in, project_with

HOOKS = "".join(
    f'[alerts.{name}]\ntype = "webhook"\nservice = "{name}"\nwhen = ["one_failed"]\nurl = {{ env = "HOOK" }}\n'
    for name in ("slack", "mattermost", "teams", "json")
)
PROJECT, ALERTS = channels_in(HOOKS)
OWN = """
[alerts.pager]
type = "webhook"
when = ["one_failed"]
url = "https://h.example.com/x"
template = "mine.jinja"
"""
HOSTILE = (
    '<script>alert(1)</script> "x", \\ {{7*7}} '
    "*b* _i_ `c` ~s~ [l](http://evil) <!channel> @all :fire: </code></b> \u202e"
)


def hostile(text: str) -> Digest:
    """Give a digest with this text in every field that others write."""
    reason = Reason(
        "orders", text, text, text, (text, text + "2"), (DAY,), advice=text, remedy=text, last_lines=(text,)
    )
    return dataclasses.replace(
        DIGEST, project=text, command=text, look=text, remark=text, missing=(text,), reasons=(reason,)
    )


def slack_text(payload: dict[str, object]) -> str:
    blocks = payload["blocks"]
    assert isinstance(blocks, list)
    return "".join(
        part["text"] for block in blocks for element in block["elements"] for part in element["elements"]
    )


def teams_text(payload: dict[str, Any]) -> list[str]:
    (attachment,) = payload["attachments"]
    return ["".join(run["text"] for run in block["inlines"]) for block in attachment["content"]["body"]]


@given(st.text(max_size=200))
@example(HOSTILE)
@settings(max_examples=25, deadline=None)
def test_slack_and_teams_show_every_text_as_it_is(text: str) -> None:
    message = render(PROJECT, ALERTS["slack"], hostile(text))
    assert slack_text(markup.slack(message)) == message.text
    lines = [line for line in message.text.split("\n") if line]
    assert teams_text(markup.teams(message)) == lines


def test_styles() -> None:
    message = Message("a <b>", "<b>bold &lt;!channel&gt;</b>\n<code>x_y</code> <pre>1\n2</pre>", "")
    payload = markup.slack(message)
    assert payload["text"] == "a &lt;b&gt;"
    assert payload["blocks"] == [
        {
            "type": "rich_text",
            "elements": [
                {
                    "type": "rich_text_section",
                    "elements": [
                        {"type": "text", "text": "bold <!channel>", "style": {"bold": True}},
                        {"type": "text", "text": "\n"},
                        {"type": "text", "text": "x_y", "style": {"code": True}},
                        {"type": "text", "text": " "},
                    ],
                },
                {"type": "rich_text_preformatted", "elements": [{"type": "text", "text": "1\n2"}]},
            ],
        }
    ]
    assert markup.mattermost(message)["text"] == "**bold <\u200b\\!channel\\>**\n`x_y` \n```\n1\n2\n```\n"


def test_mattermost_escapes_and_mentions_no_one() -> None:
    html = "@all *b* _i_ [l](http://evil) :fire: #tag 1. x &lt;i&gt;\n<code>a`b``c @here</code>"
    text = str(markup.mattermost(Message("", html, ""))["text"])
    first, second = text.split("\n")
    assert first == (
        "@\u200ball \\*b\\* \\_i\\_ \\[l\\]\\(http:\u200b//evil\\) :\u200bfire: \\#tag 1\\. x <\u200bi\\>"
    )
    assert second == "``` a`b``c @here ```"


@pytest.mark.parametrize("name", ["slack", "mattermost", "teams"])
@pytest.mark.parametrize("html", ["<b>x</b>\n" * 3000, "\\" * 9000, "<code>ы</code>\n\n" * 3000, "😀" * 9000])
def test_every_message_fits_its_service(name: str, html: str) -> None:
    build = {"slack": markup.slack, "mattermost": markup.mattermost, "teams": markup.teams}[name]
    most = {"slack": 40_000, "mattermost": 16_383, "teams": 14_000}[name]
    body = markup.fitted(Message("s", html, ""), build, most)
    assert 0 < len(body) <= most
    assert json.loads(body)
    if name == "slack":
        assert len(json.loads(body)["blocks"]) <= 50


@given(st.text(max_size=200))
@example(HOSTILE)
@settings(max_examples=25, deadline=None)
def test_the_document_of_a_program_is_json_with_every_text_in_its_place(text: str) -> None:
    digest = hostile(text)
    document = json.loads(render(PROJECT, ALERTS["json"], digest).html)
    assert document.keys() >= {"project", "headline", "reasons", "recoveries", "look", "days"}
    (reason,) = document["reasons"]
    assert reason["shards"][0] == document["look"] == document["missing"][0] == document["project"]
    assert reason["work"] == "orders", "no text leaves its place"
    assert document["days"] == ["2020-07-14"]
    assert (document["done"], document["total"], document["is_bad"]) == (109, 150, True)


def test_a_template_of_your_own_writes_the_document(tmp_path: Path) -> None:
    mine = '{"title": "{{ digest | headline }}", "n": {{ digest.total }}, "why": "{{ digest.reasons[0].message }}"}'
    project = project_with(tmp_path, OWN, mine=mine)
    message = render(project, project.alerts["pager"], hostile('a "quote" & \\ <b>'))
    document = json.loads(message.html)
    assert document["why"] == 'a "quote" & \\ <b>'
    assert document["n"] == 150
    assert message.subject.startswith('a "quote" & \\ <b>: orders')


def test_the_example_of_the_documentation(tmp_path: Path) -> None:
    page = (Path(__file__).parents[3] / "docs" / "alerts.md").read_text()
    (example,) = re.findall(r"```json\n(.*?)```", page, re.DOTALL)
    project = project_with(tmp_path, OWN, mine=example)
    document = json.loads(render(project, project.alerts["pager"], DIGEST).html)
    assert (document["failed"], document["who"]) == (41, ["orders", "orders", "calls"])


def test_a_template_that_renders_no_json_is_an_error_of_config_check(tmp_path: Path) -> None:
    project = project_with(tmp_path, OWN, mine='{\n"title": {{ digest | headline }}}')
    found: list[str] = []
    _check_alert(project, project.alerts["pager"], DAY, found)
    assert found[0].startswith(
        "config/alerts/mine.jinja: what it renders to is no JSON (line 2); write texts as"
    )


def alert(url: str, **keys: object) -> WebhookAlert:
    return WebhookAlert(name="hook", when=("one_failed",), url=Secret(url)).model_copy(update=keys)


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("hooks.slack.com/services/T0/B0/key-of-the-hook-1", "is no address of a webhook"),
        ("https://h.example.com/key of the hook 12345", "is no address of a webhook"),
        ("http://h.example.com/key-of-the-hook-12345", "is http://, and the address is a secret"),
        ("https://ann:key-of-the-hook-12345@h.example.com/", "has a login"),
    ],
)
def test_a_wrong_address_is_refused_and_not_shown(url: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=f"alerts.hook.url: {problem}") as caught:
        open_channel(PROJECT, alert(url))
    assert "key" not in str(caught.value).replace("keys", "")


def test_http_is_for_this_machine_or_on_demand(tmp_path: Path) -> None:
    for wanted in (alert("http://127.0.0.1:9/x"), alert("http://h.example.com/x", allow_http=True)):
        assert open_channel(PROJECT, wanted).address in ("127.0.0.1", "h.example.com")
    keys = '[alerts.a]\ntype = "webhook"\nwhen = ["all_done"]\nurl = "http://h.example.com/x"\nallow_http = true\n'
    assert "alerts.a.url: the address, which is the secret, travels in clear" in str(
        list(in_clear(project_with(tmp_path, keys)))
    )


def test_the_secret_parts_of_an_address_are_masked_and_its_words_are_not() -> None:
    open_channel(
        PROJECT, alert("https://h.example.com/services/T0/B0/qzqzqzqzqzqzqzqzqzqz?sig=wxwxwxwxwxwxwxwxwx")
    )
    said = mask("services at h.example.com: qzqzqzqzqzqzqzqzqzqz, wxwxwxwxwxwxwxwxwx")
    assert said == f"services at h.example.com: {MASKED}, {MASKED}"
