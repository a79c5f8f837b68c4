"""What `doctor` says about the date and about certificates."""

from __future__ import annotations

from datetime import timedelta

import pytest

from agent.crypto.signatures import KeyKind
from agent.layout import Layout
from agent.operations.doctor import Finding, examine
from board.clock import SavedTime
from tests.support.certificates import NOW, issue

DAY = timedelta(days=1)
CONFIG = """
[peer.office]
id = "office.example.org"
ca_files = "root.pem"
remote_ts = "10.2.0.0/16"
local_key_file = "own.key"
local_certificate_files = ["own.pem", "root.pem"]
"""


@pytest.fixture
def layout(tmp_path):
    made = Layout(tmp_path)
    made.state.mkdir(parents=True)
    made.config.parent.mkdir(parents=True)
    made.config.write_text(CONFIG)
    root = issue("root", ends=NOW + 365 * DAY)
    own = issue("own", root, kind=KeyKind.P256, ends=NOW + 40 * DAY)
    for name, content in (("root.pem", root.pem), ("own.pem", own.pem), ("own.key", own.key_pem)):
        (made.config.parent / name).write_bytes(content)
    return made


def found(layout: Layout, what: str) -> list[Finding]:
    return [finding for finding in examine(layout) if finding.what == what]


@pytest.mark.parametrize(
    ("days", "ok", "text"),
    [
        (0, True, "CN=own is good until 2026-07-11"),
        (20, None, "CN=own is good until 2026-07-11"),
        (41, False, "CN=own ended on 2026-07-11 00:00:00 UTC: renew it"),
    ],
)
def test_certificates(layout, monkeypatch, days, ok, text):
    monkeypatch.setattr("time.time", lambda: (NOW + days * DAY).timestamp())
    own, root = found(layout, "certificate for peer office")
    assert own.ok is ok
    assert text in own.text
    assert root.ok is True


@pytest.mark.parametrize(
    ("table", "whom"),
    [
        ('[mediator.office]\naddress = "192.0.2.1"\n', "mediator office"),
        ("[mediate.peer.office]\n", "mediated peer office"),
    ],
)
def test_certificates_of_mediation(layout, monkeypatch, table, whom):
    monkeypatch.setattr("time.time", lambda: NOW.timestamp())
    text = CONFIG.replace("[peer.office]\n", table).replace('remote_ts = "10.2.0.0/16"\n', "")
    if "mediate." in table:
        own = "".join(line for line in text.splitlines(True) if line.startswith("local_"))
        text = f"[mediate]\n{own}" + text.replace(own, "")
    layout.config.write_text(text)
    own, root = found(layout, f"certificate for {whom}")
    assert "CN=own is good until" in own.text
    assert "CN=root is good until" in root.text


def test_a_clock_that_is_not_believed(layout, monkeypatch):
    """Then they are judged by the latest date that was seen."""
    SavedTime(layout.time).observe((NOW + 41 * DAY).timestamp())
    for wall, words in (
        (100.0, "cannot be right"),
        (NOW.timestamp(), "is earlier than 2026-07-12"),
    ):
        monkeypatch.setattr("time.time", lambda wall=wall: wall)
        (clock,) = found(layout, "clock")
        assert clock.ok is None
        assert words in clock.text
        assert found(layout, "certificate for peer office")[0].ok is False
    assert str(layout.time) in clock.text
    monkeypatch.setattr("time.time", lambda: (NOW + 42 * DAY).timestamp())
    assert found(layout, "clock")[0].ok is True


def test_a_key_that_does_not_belong_to_the_certificate(layout):
    (layout.config.parent / "own.pem").write_bytes((layout.config.parent / "root.pem").read_bytes())
    (configuration,) = found(layout, "configuration")
    assert configuration.ok is False
    assert "not that of local_key_file" in configuration.text
