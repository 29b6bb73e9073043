"""A digest in words: short, whole, and always something that the channel takes."""

from __future__ import annotations

import dataclasses
import json
import re
from datetime import date, datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dwhctl.alerts import telegram as telegram_html
from dwhctl.alerts.channels import render
from dwhctl.alerts.digest import Digest, Reason, Recovery, RunKind, StillFailing
from dwhctl.alerts.message import TEMPLATES, Message
from dwhctl.alerts.smtp import read
from dwhctl.check.offline import _check_alert
from dwhctl.core.errors import ConfigError
from dwhctl.core.secrets import MASKED, remember
from dwhctl.project.model import Project
from tests.servers.telegram_html import parse, utf16_units
from tests.support.digests import DAY, DIGEST, MAIL, TELEGRAM, channels_in, project_with

PROJECT, CHANNELS = channels_in(TELEGRAM + MAIL)


def telegram(digest: Digest) -> Message:
    """Render for the chat, and check what is always so."""
    message = render(PROJECT, CHANNELS["failures"], digest)
    parsed = parse(message.html)
    assert parsed.text == message.text
    assert 0 < parsed.units <= telegram_html.LIMIT
    return message


def mail(digest: Digest) -> Message:
    """Render for the list, and check what is always so."""
    message = render(PROJECT, CHANNELS["mail"], digest)
    message.html.encode()
    message.text.encode()
    assert "\n" not in message.subject
    return message


def test_the_chat_reads_what_failed_why_since_when_and_what_to_type() -> None:
    assert telegram(DIGEST).text == (
        "🔴 dwh: orders, calls: 41 slices failed\n"
        "109 of 150 loaded, 2020-07-14\n"
        "\n"
        "orders: 38 shards on mssql_1\n"
        "mssql_1: connection refused\n"
        "city_0, city_1, city_2, city_3, city_4, city_5, city_6, city_7 ... and 30 more\n"
        "3 days in a row, since 2020-07-12\n"
        "\n"
        "orders: chita on mssql_0\n"
        "column price: the source has <nvarchar(10)>, the target NUMERIC & more\n"
        "since 2020-07-14\n"
        "\n"
        "calls: 2 shards on dwh\n"
        "lock timeout\n"
        "omsk, tomsk\n"
        "\n"
        "Recovered\n"
        "orders: tver\n"
        "\n"
        "Look closer:\n"
        "dwhctl report failures --days 2"
    )


def test_errors_and_commands_stand_where_telegram_makes_no_links_of_them() -> None:
    html = telegram(DIGEST).html
    assert "<code>mssql_1: connection refused</code>" in html
    assert "<code>dwhctl report failures --days 2</code>" in html


def test_the_mail_says_the_same_in_its_two_parts() -> None:
    message = mail(DIGEST)
    assert message.subject == "[dwhctl] dwh: orders, calls: 41 slices failed"
    assert message.text.startswith(
        "dwh: orders, calls: 41 slices failed\n\n109 of 150 loaded, 2020-07-14\n\n"
        "orders: 38 shards on mssql_1\nmssql_1: connection refused\ncity_0, city_1, "
    )
    assert (
        "city_37\n3 days in a row, since 2020-07-12, ConnectError\n\norders: chita on mssql_0\n"
        in message.text
    )
    assert "the source has <nvarchar(10)>, the target NUMERIC & more" in message.text
    assert message.text.endswith("dwhctl load --date today --lookback 1, run 20200714T060001-4f1c")


@pytest.mark.parametrize(
    ("changes", "first_line"),
    [
        ({"subject": "recovered", "reasons": (), "done": 150}, "🟢 dwh: orders recovered on 1 shard"),
        (
            {"subject": "recovered", "still_failing": (StillFailing("orders", 6, (date(2020, 7, 12),)),)},
            "🟠 dwh: orders recovered on 1 shard; 6 slices of 2020-07-12 still fail",
        ),
        (
            {
                "subject": "recovered",
                "recoveries": (Recovery("orders"), Recovery("calls")),
                "still_failing": (
                    StillFailing("orders", 1, (date(2020, 7, 12),)),
                    StillFailing("b", 0, (date(2020, 7, 13),)),
                ),
            },
            "🟠 dwh: orders, calls recovered; orders: 1 slice of 2020-07-12 still fails; b of 2020-07-13 still fails",
        ),
        (
            {"subject": "recovered", "kind": RunKind.WATCH},
            "🟠 dwh: orders recovered on 1 shard; orders, calls: 41 tasks still not in time",
        ),
        ({"subject": "succeeded", "reasons": (), "done": 150}, "🟢 dwh: all 150 slices loaded"),
        ({"subject": "done"}, "🔴 dwh: orders, calls: 41 slices failed"),
        ({"subject": "done", "reasons": (), "done": 150}, "🟢 dwh: all 150 slices loaded"),
        ({"subject": "done", "reasons": (), "done": 1, "total": 1}, "🟢 dwh: 1 slice loaded"),
        ({"subject": "missed", "kind": RunKind.WATCH}, "🟠 dwh: orders, calls: 41 tasks not in time"),
        ({"subject": "stopped", "total": 0}, "⛔ dwh: dwhctl load --date today --lookback 1 did not run"),
        ({"subject": "test"}, "🔔 dwh: a test: orders, calls: 41 slices failed"),
        (
            {"kind": RunKind.REFRESH, "done": 4, "total": 5, "reasons": DIGEST.reasons[2:]},
            "🔴 dwh: calls: 1 report failed",
        ),
    ],
)
def test_the_first_line_tells_it_all(changes: dict[str, object], first_line: str) -> None:
    digest = dataclasses.replace(DIGEST, **changes)  # type: ignore[arg-type]
    assert telegram(digest).text.splitlines()[0] == first_line
    assert mail(digest).subject == f"[dwhctl] {first_line.partition(' ')[2]}"


def test_a_backfill_says_on_which_days() -> None:
    days = tuple(DAY - timedelta(days=number) for number in range(13))
    reason = dataclasses.replace(DIGEST.reasons[0], days=days[:2])
    text = telegram(dataclasses.replace(DIGEST, days=days, reasons=(reason,))).text
    assert "109 of 150 loaded, 13 days from 2020-07-02 to 2020-07-14" in text
    assert "on 2 days from 2020-07-13 to 2020-07-14, 3 days in a row, since 2020-07-12" in text


def test_reports_without_shards_and_missing_shards_and_last_lines() -> None:
    reason = Reason("city_orders", "dwh", "TargetRefusedError", "no such column", last_lines=("a <b>", "c"))
    digest = dataclasses.replace(
        DIGEST, kind=RunKind.REFRESH, reasons=(reason,), missing=("omsk", "tomsk"), recoveries=()
    )
    for text in (telegram(digest).text, mail(digest).text):
        assert "city_orders on dwh\nno such column\n" in text
        assert "\na <b>\nc\n" in text
        assert "Without 2 shards\nomsk, tomsk" in text


def test_a_hundred_and_fifty_reasons_leave_out_by_number() -> None:
    reasons = tuple(
        Reason("orders", "mssql_1", "QueryError", f"error {number}: {'x' * 300}", (f"city_{number}",))
        for number in range(150)
    )
    digest = dataclasses.replace(DIGEST, reasons=reasons, done=0)
    told = telegram(digest).text
    assert len(re.findall(r"^error \d+: ", told, re.MULTILINE)) == 8
    assert "\n... and 142 more reasons\n" in told
    assert told.endswith("Look closer:\ndwhctl report failures --days 2")
    assert "... and 90 more reasons" in mail(digest).text


def test_where_it_is_too_long_fewer_are_told_not_half_of_them() -> None:
    shards = tuple(
        f"shard_with_a_long_name_so_that_it_does_not_fit_{number:04}_xyz" for number in range(3000)
    )
    reasons = tuple(
        Reason("orders", f"server_{number}", "E", "m" * 500, shards, streak=3, since=DAY)
        for number in range(20)
    )
    told = telegram(dataclasses.replace(DIGEST, reasons=reasons, total=60_000)).text
    assert "orders: 3,000 shards on server_0\n" in told
    assert "... and 2,995 more\n" in told
    assert "... and 15 more reasons" in told
    assert told.endswith("dwhctl report failures --days 2")


def test_a_secret_in_an_error_is_masked() -> None:
    remember("pa<ss&word")
    digest = dataclasses.replace(
        DIGEST, reasons=(dataclasses.replace(DIGEST.reasons[0], message="login with pa<ss&word failed"),)
    )
    for message in (telegram(digest), mail(digest)):
        assert f"login with {MASKED} failed" in message.text
        assert "word failed" not in message.html.replace(MASKED, "").replace(" failed", "")


# Any text

any_text = st.text(
    st.characters(codec=None, categories=None),
    max_size=300,  # half surrogates and controls too
) | st.sampled_from(
    [
        "",
        "<b>",
        "&amp;",
        "</code>",
        "a\nb",
        "\ud83d",
        "👩‍👩‍👧‍👦" * 50,
        "x" * 6000,
        "\x00\x1b[31m",
        "\u202e",
        "&#0;",
    ]
)
some_days = st.lists(st.dates(date(2020, 1, 1), date(2020, 12, 31)), max_size=4).map(tuple)
some_texts = st.lists(any_text, max_size=12).map(tuple)
many_shards = some_texts | st.integers(0, 5000).map(lambda n: tuple(f"shard_{number}" for number in range(n)))
any_reason = st.builds(
    Reason,
    work=any_text,
    connection=any_text,
    error_class=any_text,
    message=any_text,
    shards=many_shards,
    days=some_days,
    streak=st.integers(0, 10_000),
    since=st.none() | st.dates(),
    last_lines=some_texts,
)
any_digest = st.builds(
    Digest,
    subject=st.sampled_from(["failed", "recovered", "succeeded", "done", "missed", "stopped", "test"]),
    project=any_text,
    command=any_text,
    kind=st.sampled_from(RunKind),
    run_id=st.none() | any_text,
    days=some_days,
    done=st.integers(0, 10_000),
    total=st.integers(0, 10_000),
    reasons=st.lists(any_reason, max_size=12).map(tuple),
    recoveries=st.lists(st.builds(Recovery, work=any_text, shards=many_shards), max_size=12).map(tuple),
    missing=many_shards,
    look=st.none() | any_text,
    remark=st.none() | any_text,
)


class _Strict(HTMLParser):
    """Every tag of a page is closed in its turn."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@settings(max_examples=20, deadline=None)
@given(any_digest)
def test_whatever_a_digest_holds_goes_out(digest: Digest) -> None:
    _goes_out(digest)


@pytest.mark.long
@pytest.mark.timeout(1800)
@settings(max_examples=1000, deadline=None)
@given(any_digest)
def test_whatever_many_digests_hold_goes_out(digest: Digest) -> None:
    _goes_out(digest)


def _goes_out(digest: Digest) -> None:
    telegram(digest)
    page = _Strict()
    page.feed(mail(digest).html)
    page.close()
    assert page.open == []


visible = st.text(
    st.characters(codec="utf-8", exclude_categories=["C", "Z"]) | st.sampled_from(" <>&'\""),
    min_size=1,
    max_size=200,
)


@settings(max_examples=30, deadline=None)
@given(visible.map(str.strip).filter(bool))
def test_a_message_arrives_as_it_was(message: str) -> None:
    """What a person sees is the error's own text, in both channels and both forms."""
    digest = dataclasses.replace(DIGEST, reasons=(dataclasses.replace(DIGEST.reasons[0], message=message),))
    assert f"\n{message}\n" in telegram(digest).text
    assert f"\n{message}\n" in mail(digest).text


pieces = st.sampled_from(["\n", "&lt;", "&amp;", "a & b", "😀", "x" * 90]) | st.text("ab c\n", max_size=40)


def _nested(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    """HTML in a tag, which may go over many lines."""
    content = st.lists(inner, max_size=12).map("".join)
    return st.tuples(st.sampled_from(["b", "i", "code", "pre"]), content).map(
        lambda parts: f"<{parts[0]}>{parts[1]}</{parts[0]}>"
    )


some_html = st.lists(st.recursive(pieces, _nested, max_leaves=20), max_size=20).map("".join)


@settings(max_examples=60, deadline=None)
@example("<pre>" + "a <b>line</b>\n" * 30 + "</pre>", 60)
@given(some_html, st.integers(60, 200))
def test_what_parses_still_parses_when_it_is_cut(html: str, limit: int) -> None:
    whole = parse(html)
    cut = parse(telegram_html.cut(html, limit))
    assert cut.units <= limit
    if whole.units <= limit:
        assert cut == whole
        return
    kept, _, last = cut.text.rpartition("\n")
    if re.fullmatch(r"\.\.\. and \d+ more lines?", last):
        assert whole.text.startswith(kept.removesuffix("…").rstrip())
    else:  # one line, which is too long
        assert cut.text.endswith("…")
        assert whole.text.startswith(cut.text[:-1])
        assert cut.units > limit - 50


def test_length_is_counted_in_utf_16_units_after_parsing() -> None:
    assert telegram_html.length("<b>a&lt;😀</b>") == 4 == parse("<b>a&lt;😀</b>").units
    line = "😀" * 2000
    cut = telegram_html.cut(line)
    assert utf16_units(cut) <= telegram_html.LIMIT
    assert cut.startswith("😀" * 1000)
    assert cut.endswith("😀…")


# Templates of the user's

MINE = 'template = "mine.jinja"\n'


def test_a_template_of_the_users_takes_the_place_of_ours(tmp_path: Path) -> None:
    mine = (
        "{{ digest.done }} of {{ digest.total }} on {{ macros.ds_add(digest.days[0], 1) }}"
        ", ask {{ var.value.who }} at {{ conn.warehouse.conn_type }}: {{ digest.reasons[1].message }}\n"
        '{% include "dwhctl/telegram.jinja" %}'
    )
    variables = '\n[variables]\nwho = "Ann <on call>"\n'
    project = project_with(tmp_path, TELEGRAM + MINE + variables, mine=mine)
    message = render(project, project.alerts["failures"], DIGEST)
    first, second = message.html.splitlines()[:2]
    assert first == (
        "109 of 150 on 2020-07-15, ask Ann &lt;on call&gt; at duckdb: column price:"
        " the source has &lt;nvarchar(10)&gt;, the target NUMERIC &amp; more"
    )
    assert second == "🔴 <b>dwh: orders, calls: 41 slices failed</b>"


def test_what_a_digest_does_not_have_is_printed_as_nothing(tmp_path: Path) -> None:
    """Chats and programs read "None" where a message has no remark."""
    mine = (
        '{"remark": "{{ digest.remark }}", "look": "{{ digest.look }}", "none": {{ digest.remark | tojson }}}'
    )
    plain = dataclasses.replace(DIGEST, remark=None, look=None)
    keys = '[alerts.hook]\ntype = "webhook"\nwhen = ["one_failed"]\nurl = "http://127.0.0.1:1/a"\n'
    project = project_with(tmp_path, keys + MINE, mine=mine)
    sent = json.loads(render(project, project.alerts["hook"], plain).html)
    assert sent == {"remark": "", "look": "", "none": None}
    chat = project_with(tmp_path, TELEGRAM + MINE, mine="{{ digest.look }}[{{ digest.remark }}]")
    assert render(chat, chat.alerts["failures"], plain).text.strip() == "[]"


def test_a_mails_title_is_its_subject(tmp_path: Path) -> None:
    page = "<title>Reports &amp; more: {{ digest.done }}</title><p>Good <b>morning</b></p><table><tr><td>1<td>2</table>"
    project = project_with(tmp_path, MAIL + MINE, mine=page)
    message = render(project, project.alerts["mail"], DIGEST)
    assert message == Message(
        "Reports & more: 109", page.replace("{{ digest.done }}", "109"), "Good morning\n\n1  2"
    )


def test_a_page_without_a_title_has_its_first_line_for_a_subject() -> None:
    assert read("<p>one<br>two</p>") == ("", "one\ntwo")


@pytest.mark.parametrize("change", ["", "|upper", "|lower", "|title", "|urlencode", "|e", "|tojson", "|safe"])
def test_a_secret_that_a_template_prints_is_masked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    monkeypatch.setenv("ALERT_SECRET", "s3cret<&>")
    variables = '\n[variables]\nkey = { env = "ALERT_SECRET" }\n'
    project = project_with(
        tmp_path, TELEGRAM + MINE + variables, mine=f"<b>{{{{ var.value.key{change} }}}}</b>"
    )
    assert "s3cret" not in render(project, project.alerts["failures"], DIGEST).html.lower()


@pytest.mark.parametrize(
    ("template", "problem"),
    [
        ("fine\n{{ digest.don }}", "line 2: 'dwhctl.alerts.digest.Digest object' has no attribute 'don'"),
        ("fine\n{{ 'x'.center(10**10) }}", "line 2: center makes too much text"),
        ("{{ digst }}", "line 1: 'digst' is undefined; did you mean 'digest'?"),
        ("a\n{% if %}", "line 2: "),
        (
            '{% include "other.jinja" %}',
            "line 1: the template 'other.jinja' is missing; name it relative to config/alerts/",
        ),
        ("{{ digest.__class__.__mro__ }}", "line 1: access to attribute '__class__'"),
    ],
)
def test_a_wrong_template_is_told_with_file_and_line(tmp_path: Path, template: str, problem: str) -> None:
    project = project_with(tmp_path, TELEGRAM + MINE, mine=template)
    with pytest.raises(ConfigError) as caught:
        render(project, project.alerts["failures"], DIGEST)
    assert str(caught.value).startswith(f"config/alerts/mine.jinja: {problem}")


RECOVERED = dataclasses.replace(
    DIGEST, subject="recovered", done=150, reasons=(), recoveries=(Recovery("orders", ("tver", "<omsk>")),)
)
FIRE = "🔥 wake up, {{ dag.dag_id }} is down"


def texts_of(folder: Path, mine: str, **others: str) -> tuple[str, str]:
    """Give what a template of the user's makes of a failure, and of its recovery."""
    project = project_with(folder, TELEGRAM + MINE, mine=mine, **others)
    failed, recovered = (render(project, project.alerts["failures"], one).text for one in (DIGEST, RECOVERED))
    return failed.strip(), recovered.strip()


def test_a_template_that_ignores_recoveries_does_not_send_its_failure_for_one(tmp_path: Path) -> None:
    failed, recovered = texts_of(tmp_path, FIRE)
    assert failed == "🔥 wake up, orders, calls is down"
    assert recovered == telegram(RECOVERED).text.strip()
    assert "🔥" not in recovered


@pytest.mark.parametrize(
    "mine",
    [
        FIRE + "{% block recovered %}🧯 {{ dag.dag_id }} is up, {{ recovered }}{% endblock %}",
        "{% if recovered %}🧯 {{ dag.dag_id }} is up, {{ recovered }}{% else %}" + FIRE + "{% endif %}",
        '{% if digest.subject == "recovered" %}🧯 orders is up, True{% else %}' + FIRE + "{% endif %}",
        '{% if digest["subject"] == "recovered" %}🧯 orders is up, True{% else %}' + FIRE + "{% endif %}",
        '{% include "part.jinja" %}',
        '{% extends "base.jinja" %}{% block text %}' + FIRE + "{% endblock %}",
    ],
)
def test_a_failure_and_its_recovery_are_two_texts(tmp_path: Path, mine: str) -> None:
    texts = texts_of(
        tmp_path,
        mine,
        part="{% if recovered %}🧯 orders is up, True{% else %}" + FIRE + "{% endif %}",
        base="{% block text %}{% endblock %}{% block recovered %}🧯 {{ dag.dag_id }} is up, True{% endblock %}",
    )
    assert texts == ("🔥 wake up, orders, calls is down", "🧯 orders is up, True")


def test_the_block_alone_takes_the_place_of_our_text_of_a_recovery(tmp_path: Path) -> None:
    block = "{% block recovered %}up: {{ digest.recoveries[0].shards[1] }}{% endblock %}"
    mine = '{% extends "dwhctl/telegram.jinja" %}' + block
    assert texts_of(tmp_path, mine) == (telegram(DIGEST).text.strip(), "up: <omsk>")


def test_the_block_in_a_mail_is_the_whole_mail(tmp_path: Path) -> None:
    mine = "<title>down</title><p>down{% block recovered %}<title>up</title><p>{{ recovered }}{% endblock %}"
    project = project_with(tmp_path, MAIL + MINE, mine=mine)
    failed, recovered = (render(project, project.alerts["mail"], one) for one in (DIGEST, RECOVERED))
    assert (failed.subject, failed.text) == ("down", "down")
    assert (recovered.subject, recovered.text) == ("up", "True")


@pytest.mark.parametrize(
    ("mine", "key"),
    [
        ('{"text": "{{ digest | headline }}"}', "text"),
        ('{"down": {{ digest | is_bad | tojson }}}', "down"),
        # It says nothing of recoveries, and would be an alarm.
        ('{"event": "trigger"}', "subject"),
    ],
)
def test_a_document_of_one_s_own_is_sent_for_a_recovery_too(tmp_path: Path, mine: str, key: str) -> None:
    """A program cannot read dwhctl's document in its place."""
    keys = '[alerts.hook]\ntype = "webhook"\nwhen = ["one_failed"]\nurl = "http://127.0.0.1:1/a"\n'
    project = project_with(tmp_path, keys + MINE, mine=mine)
    sent = json.loads(render(project, project.alerts["hook"], RECOVERED).html)
    assert key in sent
    assert ("headline" in sent) == (key == "subject")


def test_an_error_in_the_block_is_told_with_its_line(tmp_path: Path) -> None:
    mine = "fine\n{% block recovered %}\nfine\n{{ digst }}\n{% endblock %}"
    project = project_with(tmp_path, TELEGRAM + MINE, mine=mine)
    with pytest.raises(ConfigError, match=r"^config/alerts/mine\.jinja: line 4: 'digst' is undefined; did"):
        render(project, project.alerts["failures"], RECOVERED)
    [problem] = check_alerts(project)
    assert problem.startswith("config/alerts/mine.jinja: line 4: 'digst' is undefined")


@pytest.mark.parametrize("subject", ["failed", "recovered", "succeeded", "test"])
def test_config_check_renders_each_text_of_a_template(tmp_path: Path, subject: str) -> None:
    mine = f'{{% if digest.subject == "{subject}" %}}{{{{ nothing }}}}{{% endif %}}'
    project = project_with(tmp_path, TELEGRAM + MINE, mine=mine)
    [problem] = check_alerts(project)
    assert problem.startswith("config/alerts/mine.jinja: line 1: 'nothing' is undefined")


def check_alerts(project: Project) -> list[str]:
    """Give what `config check` says of the channel."""
    found: list[str] = []
    _check_alert(project, project.alerts["failures"], DAY, found)
    return found


def test_a_template_has_airflows_names(tmp_path: Path) -> None:
    mine = (
        "{{ ds }} {{ ds_nodash }} {{ yesterday_ds }} {{ next_ds }} {{ ts_nodash }} {{ macros.ds_add(ds, 1) }}"
        " {{ logical_date.isoformat() }} {{ run_id }} {{ dag.dag_id }} {{ conn.warehouse.conn_id }}"
    )
    project = project_with(tmp_path, TELEGRAM + MINE, mine=mine)
    days = dataclasses.replace(DIGEST, days=(DAY - timedelta(days=1), DAY))
    assert render(project, project.alerts["failures"], days).text == (
        "2020-07-14 20200714 2020-07-13 2020-07-15 20200714T000000 2020-07-15"
        " 2020-07-14T00:00:00+03:00 20200714T060001-4f1c orders, calls warehouse"
    )


def test_a_message_about_no_day_has_the_names_too(tmp_path: Path) -> None:
    project = project_with(tmp_path, TELEGRAM + MINE, mine="{{ ds }}/{{ run_id }}/{{ dag.dag_id }}")
    stopped = Digest(subject="stopped", project="dwh", command="dwhctl load")
    before = datetime.now(project.zone).date()
    text = render(project, project.alerts["failures"], stopped).text
    after = datetime.now(project.zone).date()
    assert text in {f"{before}//dwh", f"{after}//dwh"}


@pytest.mark.parametrize("name", ["password", "get_password()", "get_uri()", "extra", "extra_dejson"])
def test_a_password_of_a_connection_is_refused_in_a_message(tmp_path: Path, name: str) -> None:
    mine = f"{{% block recovered %}}{{{{ conn.warehouse.{name} }}}}{{% endblock %}}"
    project = project_with(tmp_path, TELEGRAM + MINE, mine=mine)
    with pytest.raises(ConfigError, match=r"'conn\.warehouse\.\w+' is refused"):
        render(project, project.alerts["failures"], RECOVERED)


def test_a_secret_that_the_block_prints_is_masked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALERT_SECRET", "s3cret<&>")
    variables = '\n[variables]\nkey = { env = "ALERT_SECRET" }\n'
    mine = "{% block recovered %}key {{ var.value.key|upper }}{{ var.value.key }}{% endblock %}"
    project = project_with(tmp_path, TELEGRAM + MINE + variables, mine=mine)
    message = render(project, project.alerts["failures"], RECOVERED)
    assert message.text.startswith("key ")
    assert "s3cret" not in message.html.lower()


def test_the_examples_of_the_documentation_are_valid(tmp_path: Path) -> None:
    pages = (Path(__file__).parents[3] / "docs" / "alerts.md", TEMPLATES / "messages.md")
    found = [
        each for page in pages for each in re.findall(r"```jinja\n(.+?)```", page.read_text(), re.DOTALL)
    ]
    assert len(found) == 3
    for number, mine in enumerate(found):
        failed, recovered = texts_of(tmp_path / f"{number}", mine)
        assert failed.startswith("🔥 orders, calls failed")
        assert recovered == "🟢 orders recovered"
        assert check_alerts(project_with(tmp_path / f"check {number}", TELEGRAM + MINE, mine=mine)) == []
