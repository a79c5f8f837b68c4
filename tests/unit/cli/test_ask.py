"""Commands and a daemon that does not answer."""

from __future__ import annotations

import socket

import pytest

from agent.cli import ask as asking
from agent.errors import UnavailableError
from agent.layout import Layout


@pytest.mark.parametrize("command", ["status", "connect"])
def test_a_hung_daemon_is_not_waited_for_without_end(tmp_path, monkeypatch, command):
    monkeypatch.setattr(asking, "PROMPT_SECONDS", 0.02)
    monkeypatch.setattr(asking, "PATIENCE_SECONDS", {"connect": 0.03})
    layout = Layout(tmp_path)
    layout.run.mkdir(parents=True)
    with socket.socket(socket.AF_UNIX) as hung:
        hung.bind(str(layout.socket))
        hung.listen()
        with pytest.raises(UnavailableError, match="does not answer: restart it"):
            asking.ask(tmp_path, {"command": command})
