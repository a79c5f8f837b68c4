"""What an export of a board's identity leaves out is told."""

from __future__ import annotations

import pytest

from agent.cli import main
from agent.crypto.auth import SigningKey
from agent.layout import Layout

PSK = "correct horse battery staple"


@pytest.mark.parametrize("is_readable", [True, False])
def test_a_psk_file_is_named(tmp_path, capsys, is_readable):
    layout = Layout(tmp_path)
    layout.keys.mkdir(parents=True)
    for path in (layout.identity_key, layout.mediation_key):
        path.write_bytes(SigningKey.from_seed(bytes(32)).pem())
    layout.config.write_text(
        '[peer.office]\nid = "office"\npsk_file = "office.psk"\nassign = "10.3.0.1"\n'
    )
    if is_readable:
        (layout.config.parent / "office.psk").write_text(PSK)
    (tmp_path / "password").write_text("long enough\n")
    words = ("--password-file", str(tmp_path / "password"))
    assert main(["--root", str(tmp_path), "export-identity", str(tmp_path / "id"), *words]) == 0
    said = capsys.readouterr().out
    assert (
        f"Not in it: {layout.config.parent / 'office.psk'}, which the configuration names" in said
    )
    assert PSK not in said
