"""The webhooks of Slack, Mattermost and Teams: their limits, and what they answer.

Slack: https://docs.slack.dev/messaging/sending-messages-using-incoming-webhooks (answers),
https://docs.slack.dev/reference/block-kit/blocks (limits). Mattermost:
https://developers.mattermost.com/integrate/webhooks/incoming. Teams:
https://learn.microsoft.com/microsoftteams/platform/webhooks-and-connectors/how-to/connectors-using, with the answers of
the workflows' service, Azure Logic Apps.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.servers.http import Asked, Reply, page

SLACK_PATH = "/services/T00000000/B00000000/aXbXcXdXeXfXgXhXiXjXkXlX"
MATTERMOST_PATH = "/hooks/8ztn3dxs1tfz9j6ckm8qxqeuqr"
TEAMS_SIGNATURE = "q1w2e3r4t5y6u7i8o9p0a1s2d3f4g5h6"
TEAMS_PATH = f"/workflows/0a1b/triggers/manual/paths/invoke?api-version=2016-06-01&sig={TEAMS_SIGNATURE}"
_TEXT = {"Content-Type": "text/html"}


def slack(asked: Asked) -> Reply:
    """Answer as Slack."""
    if asked.path != SLACK_PATH:
        return Reply(404, b"no_service", _TEXT)
    try:
        message = asked.json
    except ValueError:
        return Reply(400, b"invalid_payload", _TEXT)
    if not message.get("text") and not message.get("blocks"):
        return Reply(400, b"no_text", _TEXT)
    blocks = message.get("blocks", [])
    lengths = [sum(map(len, map(str, _texts(block)))) for block in blocks]
    if len(blocks) > 50 or any(length > 3000 for length in lengths) or not all(map(_is_block, blocks)):
        return Reply(400, b"invalid_blocks", _TEXT)
    return Reply(200, b"ok", _TEXT)


def _is_block(block: dict[str, Any]) -> bool:
    styles = {"bold", "italic", "strike", "code"}
    return block["type"] == "rich_text" and all(
        element["type"] in ("rich_text_section", "rich_text_preformatted")
        and all(
            part["type"] == "text" and part["text"] and part.get("style", {}).keys() <= styles
            for part in parts
        )
        for element in block["elements"]
        for parts in [element["elements"]]
    )


def _texts(block: dict[str, Any]) -> list[str]:
    return [part["text"] for element in block["elements"] for part in element["elements"]]


def mattermost(asked: Asked) -> Reply:
    """Answer as Mattermost; a text that it would split is refused."""
    if asked.path != MATTERMOST_PATH:
        problem = {
            "id": "web.incoming_webhook.invalid.app_error",
            "message": "Invalid webhook.",
            "status_code": 400,
        }
        return page(problem, 400)
    text = asked.json.get("text", "")
    if not text.strip() or len(text) > 16_383:
        problem = {
            "id": "web.incoming_webhook.text.app_error",
            "message": "No text specified.",
            "status_code": 400,
        }
        return page(problem, 400)
    return Reply(200, b"ok", {"Content-Type": "text/plain"})


def teams(asked: Asked) -> Reply:
    """Answer as a workflow of Teams."""
    if asked.params.get("sig") != TEAMS_SIGNATURE:
        return page(
            {
                "error": {
                    "code": "DirectApiAuthorizationRequired",
                    "message": "The request must be authenticated.",
                }
            },
            401,
        )
    if len(asked.body.decode().encode("utf-16-le")) > 28 * 1024:
        return page({"error": {"code": "RequestEntityTooLarge", "message": "The request is too large."}}, 413)
    (attachment,) = asked.json["attachments"]
    card = attachment["content"]
    is_card = (
        attachment["contentType"] == "application/vnd.microsoft.card.adaptive"
        and card["type"] == "AdaptiveCard"
    )
    if not is_card or card["version"] > "1.5" or not card["body"]:
        return page(
            {"error": {"code": "TriggerInputSchemaMismatch", "message": "The input is invalid."}}, 400
        )
    return Reply(202)


SERVICES: dict[str, tuple[Callable[[Asked], Reply], str]] = {
    "slack": (slack, SLACK_PATH),
    "mattermost": (mattermost, MATTERMOST_PATH),
    "teams": (teams, TEAMS_PATH),
}
