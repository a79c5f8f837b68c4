"""A board is replaced: export and import of its identity."""

from __future__ import annotations

import base64
import json
from types import SimpleNamespace

import pytest

from agent.crypto.auth import key_text
from agent.engine.entries import MediatorPlace
from agent.errors import HearthgateError, InputError
from agent.house import House
from agent.layout import Layout
from agent.operations import identity
from agent.operations.identity import MAGIC, export_identity, import_identity, read_password
from agent.peers import KnownPeer, Peers
from tests.support.pair import key_of

PASSWORD = "correct horse"


@pytest.fixture(autouse=True)
def _cheap(monkeypatch):
    monkeypatch.setattr(identity, "SCRYPT_N", 2)


@pytest.fixture
def board(tmp_path):
    layout = Layout(tmp_path / "old")
    house = House.open(layout)
    layout.config.write_text(
        'name = "cabin"\n[peer.x]\nid = "x"\npsk_file = "x.psk"\nassign = "10.3.0.1"\n'
    )
    peer = KnownPeer(
        name="a", identity=key_text(key_of("a").public), mediation=key_text(key_of("b").public)
    )
    house.save(Peers((peer,)))
    return SimpleNamespace(layout=layout, house=house, file=tmp_path / "saved")


def test_round_trip(board, tmp_path):
    export_identity(board.layout, board.file, PASSWORD)
    assert board.file.stat().st_mode & 0o777 == 0o600
    new = Layout(tmp_path / "new")
    written = import_identity(new, board.file, PASSWORD, replace=False)
    assert len(written) == 4
    (new.config.parent / "x.psk").write_text("correct horse battery")
    house = House.open(new)
    assert house.keys.identity.public == board.house.keys.identity.public
    assert house.keys.mediation.public == board.house.keys.mediation.public
    assert house.peers.peers == board.house.peers.peers
    assert new.config.read_text() == board.layout.config.read_text()
    assert new.identity_key.stat().st_mode & 0o777 == 0o600


def test_where_the_board_was_handed_over_to_goes_along(board, tmp_path):
    """Its configured mediation server may be off for good."""
    config = 'name = "cabin"\n[mediator.m]\naddress = "m"\nkey = "{}"\n'
    board.layout.config.write_text(config.format(key_text(key_of("m").public)))
    there = MediatorPlace("m2", 4500, key_of("m2").public)
    house = House.open(board.layout)
    house.set_moved("m", there)
    export_identity(board.layout, board.file, PASSWORD)
    new = Layout(tmp_path / "new")
    assert len(import_identity(new, board.file, PASSWORD, replace=False)) == 5
    assert [e.moved for e in House.open(new).mediators()] == [there]


def test_nothing_readable_in_the_file(board):
    export_identity(board.layout, board.file, PASSWORD)
    data = board.file.read_bytes()
    assert b"PRIVATE" not in data
    assert b"cabin" not in data


def test_two_exports_share_neither_salt_nor_nonce(board, tmp_path):
    export_identity(board.layout, board.file, PASSWORD)
    export_identity(board.layout, tmp_path / "two", PASSWORD)
    one, two = board.file.read_bytes(), (tmp_path / "two").read_bytes()
    assert one[5:21] != two[5:21]
    assert one[21:33] != two[21:33]


def test_the_wrong_password(board, tmp_path):
    export_identity(board.layout, board.file, PASSWORD)
    with pytest.raises(InputError, match="password is wrong"):
        import_identity(Layout(tmp_path / "new"), board.file, PASSWORD + "!", replace=False)
    assert not (tmp_path / "new").exists()


def test_a_bit_flipped_anywhere(board, tmp_path):
    export_identity(board.layout, board.file, PASSWORD)
    data = board.file.read_bytes()
    for at in [*range(40), *range(40, len(data), 97), len(data) - 1]:
        board.file.write_bytes(data[:at] + bytes((data[at] ^ 4,)) + data[at + 1 :])
        with pytest.raises(InputError):
            import_identity(Layout(tmp_path / "new"), board.file, PASSWORD, replace=False)
    for length in (0, 4, 5, 20, 33, 49, len(data) - 1):
        board.file.write_bytes(data[:length])
        with pytest.raises(InputError):
            import_identity(Layout(tmp_path / "new"), board.file, PASSWORD, replace=False)
    assert not (tmp_path / "new").exists()


def test_own_keys_are_not_given_up_by_accident(board, tmp_path):
    export_identity(board.layout, board.file, PASSWORD)
    other = Layout(tmp_path / "other")
    before = House.open(other).keys.identity.public
    with pytest.raises(InputError, match="--replace"):
        import_identity(other, board.file, PASSWORD, replace=False)
    assert House.open(other).keys.identity.public == before
    import_identity(other, board.file, PASSWORD, replace=True)
    (other.config.parent / "x.psk").write_text("correct horse battery")
    assert House.open(other).keys.identity.public == board.house.keys.identity.public


def test_not_under_a_running_daemon(board, tmp_path, monkeypatch):
    export_identity(board.layout, board.file, PASSWORD)
    monkeypatch.setattr(identity, "daemon_runs", lambda root: True)
    with pytest.raises(InputError, match="stop it first"):
        import_identity(Layout(tmp_path / "new"), board.file, PASSWORD, replace=False)


def test_an_existing_file_is_not_overwritten(board):
    board.file.write_text("precious")
    with pytest.raises(InputError, match="exists already"):
        export_identity(board.layout, board.file, PASSWORD)
    assert board.file.read_text() == "precious"


def test_nothing_to_export(tmp_path):
    with pytest.raises(InputError, match="no keys"):
        export_identity(Layout(tmp_path), tmp_path / "f", PASSWORD)


@pytest.mark.parametrize("content", [b"", b"hgid1", b"hgid2" + bytes(99), b"hello world" * 20])
def test_what_is_no_export(tmp_path, content):
    (tmp_path / "f").write_bytes(content)
    with pytest.raises(InputError, match="not made by"):
        import_identity(Layout(tmp_path / "new"), tmp_path / "f", PASSWORD, replace=False)


def made_by_somebody(text: str) -> bytes:
    """A file whose password fits."""
    salt, nonce = bytes(identity.SALT), bytes(identity.NONCE)
    seal = identity._cipher(PASSWORD, salt).encrypt
    return MAGIC + salt + nonce + seal(nonce, text.encode(), MAGIC + salt)


def stored_as(name: str, content: str) -> str:
    """An export in which one file says something else."""
    files = {"identity": key_of("a"), "mediation": key_of("b")}
    texts = {key: value.pem() for key, value in files.items()}
    texts[name] = content.encode()
    return json.dumps({"files": {k: base64.b64encode(v).decode() for k, v in texts.items()}})


NESTED = "[" * 100_000


@pytest.mark.parametrize(
    "text",
    [NESTED, "null", "[]", "{}", '{"files": 7}', '{"files": {"identity": 7}}', "9" * 5000]
    + [stored_as(name, NESTED) for name in ("identity", "peers", "mediators", "config")]
    + [stored_as(name, "{}") for name in ("identity", "peers", "mediators")]
    + [stored_as("elsewhere", "")],
    ids=lambda text: text[:20],
)
def test_anything_in_an_export_is_told_as_one_sentence(tmp_path, text):
    (tmp_path / "f").write_bytes(made_by_somebody(text))
    with pytest.raises(HearthgateError):
        import_identity(Layout(tmp_path / "new"), tmp_path / "f", PASSWORD, replace=False)
    assert not (tmp_path / "new").exists()


def test_no_such_file(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        import_identity(Layout(tmp_path), tmp_path / "f", PASSWORD, replace=False)


def test_password_from_a_file(tmp_path):
    (tmp_path / "p").write_text(PASSWORD + "\nsecond line\n")
    assert read_password(tmp_path / "p") == PASSWORD
    (tmp_path / "p").write_text("short\n")
    with pytest.raises(InputError, match="8 characters"):
        read_password(tmp_path / "p")
    with pytest.raises(InputError, match="no such file"):
        read_password(tmp_path / "q")


def test_password_without_a_terminal(monkeypatch):
    monkeypatch.setattr("sys.stdin", SimpleNamespace(isatty=lambda: False))
    with pytest.raises(InputError, match="--password-file"):
        read_password(None)


@pytest.mark.parametrize(("second", "fits"), [(PASSWORD, True), ("another one", False)])
def test_password_from_the_terminal(monkeypatch, second, fits):
    typed = iter([PASSWORD, second])
    monkeypatch.setattr("sys.stdin", SimpleNamespace(isatty=lambda: True))
    monkeypatch.setattr("getpass.getpass", lambda prompt: next(typed))
    if fits:
        assert read_password(None, repeat=True) == PASSWORD
    else:
        with pytest.raises(InputError, match="not the same"):
            read_password(None, repeat=True)
