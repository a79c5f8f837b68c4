"""What a machine keeps, also when the power goes, the disk is full or a file is damaged."""

from __future__ import annotations

import errno
import json
import logging
import os
from dataclasses import replace
from pathlib import Path

import pytest

from agent.config import load_config
from agent.crypto.auth import key_text
from agent.engine.entries import MediatorPlace
from agent.errors import ConfigError, InputError
from agent.house import House, read_config
from agent.invitation import EnrolResult, encode_enrolment
from agent.layout import Layout
from agent.peers import MAX_INVITATIONS, KnownPeer, Peers
from agent.profiles import Keys
from board.clock import BUILT, LATEST, LOOKS
from board.errors import StorageError
from board.storage import JsonState
from tests.support.pair import key_of
from tests.unit.board.power_cut import Disk, PowerCut

KEY = key_text(key_of("med").public)
CONFIG = f'name = "cabin"\n[mediator.main]\naddress = "med.example.org"\nkey = "{KEY}"\n'
PEERS = "peers.json"


def house(disk: Disk | None = None, config: str = CONFIG, peers: Peers | None = None) -> House:
    """A house in memory: its state is on `disk`."""
    keys = Keys(identity=key_of("cabin"), mediation=key_of("mediation cabin"))
    made = House(Layout(Path("/nowhere")), load_config(config), keys, peers or Peers())
    made._file = JsonState(Path("/d") / PEERS, version=1, files=disk or Disk())
    return made


def enrolment(made: House, invitation, who: str = "laptop") -> tuple[bytes, bytes]:
    one_time = invitation.identity.public
    data = encode_enrolment(
        key_of(who), key_of(f"mediation {who}"), one_time, made.keys.identity.public
    )
    return one_time, data


def known(name: str) -> KnownPeer:
    return KnownPeer(
        name=name,
        identity=key_text(key_of(name).public),
        mediation=key_text(key_of("mediation " + name).public),
    )


# --- invitations -------------------------------------------------------------------------------


def test_an_invitation_is_stored_before_it_is_given_out():
    disk = Disk()
    made = house(disk)
    invitation = made.invite("laptop", "operator", 3600)
    stored = JsonState(Path("/d") / PEERS, files=Disk.holding(disk.contents())).load()
    assert stored["invitations"][0]["identity"] == key_text(invitation.identity.public)
    assert invitation.mediator == "med.example.org"
    assert invitation.name == "cabin"
    assert invitation.seed.hex() not in json.dumps(stored)


def test_the_port_of_the_mediator_goes_along():
    text = CONFIG.replace("med.example.org", "[2001:db8::1]:4600")
    assert house(config=text).invite("a", "reader", 60).mediator == "[2001:db8::1]:4600"


def test_invitations_differ():
    made = house()
    seeds = {made.invite(f"peer{i}", "reader", 60).seed for i in range(20)}
    assert len(seeds) == 20


def test_invited_are_sent_to_a_server_that_its_key_is_enough_for():
    other = f'[mediator.a]\naddress = "a"\nid = "ms"\nkey_sha256 = "{"ab" * 32}"\n'
    made = house(config=CONFIG.replace("[mediator", other + "[mediator", 1))
    assert [m.name for m in made.config.mediators] == ["a", "main"]
    assert made.invite("laptop", "reader", 60).mediator == "med.example.org"
    with pytest.raises(ConfigError, match="of hearthgate's kind"):
        house(config=other).invite("laptop", "reader", 60)


def test_nobody_to_be_invited_by():
    with pytest.raises(ConfigError, match="hearthgate setup"):
        house(config="").invite("a", "reader", 60)


@pytest.mark.parametrize("name", ["taken", "configured"])
def test_a_taken_name(name):
    text = CONFIG + f'[peer.configured]\nkey = "{KEY}"\n'
    with pytest.raises(InputError, match="revoke it or take another name"):
        house(config=text, peers=Peers((known("taken"),))).invite(name, "reader", 60)


def test_too_many_invitations():
    made = house()
    for number in range(MAX_INVITATIONS):
        made.invite(f"peer{number}", "reader", 60)
    with pytest.raises(InputError, match="Too many"):
        made.invite("one-more", "reader", 60)


def test_without_a_clock_an_invitation_lasts_by_running_time(monkeypatch):
    made = house()
    monkeypatch.setattr("agent.house.time.time", lambda: 100.0)  # 1970: nobody set it
    invitation = made.invite("laptop", "operator", 120)
    assert invitation.expires == 0
    assert not made.expire_invitations(60)
    answer, _ = made.enrol(*enrolment(made, invitation))
    assert answer == b"\0operator"


def test_it_is_over_after_its_running_time(monkeypatch):
    made = house()
    monkeypatch.setattr("agent.house.time.time", lambda: 100.0)
    invitation = made.invite("laptop", "operator", 120)
    assert not made.expire_invitations(60)
    assert made.expire_invitations(60)
    assert made.enrol(*enrolment(made, invitation)) == (bytes((EnrolResult.EXPIRED,)), False)


def test_the_date_and_a_clock_that_went_back(tmp_path, monkeypatch):
    """After a restart in 1970 the latest date that was seen is what is known."""
    seen = BUILT + 200 * 86400.0

    def at(wall: float) -> House:
        monkeypatch.setattr("agent.house.time.time", lambda: wall)
        return House.open(Layout(tmp_path))

    assert at(100.0).date() == (BUILT, False)
    made = at(seen)
    assert made.date() == (seen, True)
    made.note_time()
    for wall in (100.0, BUILT + 5.0, seen - 86400.0, LATEST + 1.0):
        assert at(wall).date() == (seen, False)
        assert at(wall).wall() is None
        at(wall).note_time()
    assert at(seen + 60.0).date() == (seen + 60.0, True)
    assert at(seen + 60.0).wall() == seen + 60.0


def test_a_date_that_never_was_is_forgotten_by_ntp_and_said(tmp_path, monkeypatch, caplog):
    now, future = BUILT + 300 * 86400.0, BUILT + 3000 * 86400.0
    made = House.open(Layout(tmp_path))
    monkeypatch.setattr("agent.house.time.time", lambda: future)
    made.note_time()
    monkeypatch.setattr("agent.house.time.time", lambda: now)
    made.note_time()
    assert made.date() == (future, False)
    marker = tmp_path / "synchronized"
    marker.touch()
    os.utime(marker, (now, now))
    monkeypatch.setattr("board.clock.SYNCHRONIZED", marker)
    for _ in range(LOOKS):
        assert caplog.text == ""
        made.note_time()
    assert made.date() == (now, True)
    assert "NTP" in caplog.text
    assert House.open(Layout(tmp_path)).date() == (now, True)


def test_a_date_that_cannot_be_stored_harms_nothing(tmp_path, monkeypatch, caplog):
    made = House.open(Layout(tmp_path))
    full = StorageError("no space left")
    monkeypatch.setattr("board.clock.JsonState.save", lambda self, content: _raise(full))
    monkeypatch.setattr("agent.house.time.time", lambda: BUILT + 86400.0)
    made.note_time()
    assert "no space left" in caplog.text
    assert made.date() == (BUILT + 86400.0, True)


def _raise(error: Exception) -> None:
    raise error


# --- enrolment and the disk --------------------------------------------------------------------


def test_enrolment_is_answered_after_it_is_stored():
    disk = Disk()
    made = house(disk)
    invitation = made.invite("laptop", "owner", 3600)
    answer, changed = made.enrol(*enrolment(made, invitation))
    assert (answer, changed) == (b"\0owner", True)
    stored = JsonState(Path("/d") / PEERS, files=Disk.holding(disk.contents())).load()
    assert stored["peers"][0]["name"] == "laptop"
    assert stored["invitations"][0]["used_by"] == stored["peers"][0]["identity"]


def test_the_same_again_writes_nothing():
    disk = Disk()
    made = house(disk)
    invitation = made.invite("laptop", "owner", 3600)
    made.enrol(*enrolment(made, invitation))
    before = len(disk.operations)
    assert made.enrol(*enrolment(made, invitation)) == (b"\0owner", False)
    assert len(disk.operations) == before


def test_a_power_cut_at_any_step_leaves_it_unused_or_burned_with_its_peer():
    prepared = Disk()
    made = house(prepared)
    invitation = made.invite("laptop", "owner", 3600)
    before, peers = prepared.contents(), made.peers
    seen = set()
    for cut in range(60):
        disk = Disk.holding(before, cut_at=cut, short_writes=True)
        cabin = house(disk, peers=peers)
        try:
            answer, _ = cabin.enrol(*enrolment(cabin, invitation))
            ended = True
        except PowerCut:
            ended = False
        for found in disk.survivors():
            state = JsonState(Path("/d") / PEERS, files=Disk.holding(found)).load()
            after = Peers.from_json(state)
            used = [bool(i.used_by) for i in after.invitations.values()]
            assert used == [bool(after.peers)]
            seen.add(used[0])
            assert used[0] or not ended  # what was answered is stored
        if ended:
            assert answer == b"\0owner"
            break
    else:
        raise AssertionError("it never ended")
    assert seen == {True, False}


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EIO])
def test_a_disk_that_takes_nothing_refuses_and_the_invitation_stays(code, caplog):
    made = house()
    invitation = made.invite("laptop", "owner", 3600)
    failing = Disk(fail_at=dict.fromkeys(range(100), code))
    made._file = JsonState(Path("/d") / PEERS, files=failing)
    with caplog.at_level(logging.ERROR):
        assert made.enrol(*enrolment(made, invitation)) == (bytes((EnrolResult.FULL,)), False)
    assert made.peers.peers == {}
    assert "peers.json" in caplog.text
    made._file = JsonState(Path("/d") / PEERS, files=Disk())
    assert made.enrol(*enrolment(made, invitation))[0] == b"\0owner"


def test_a_disk_that_takes_nothing_does_not_keep_us_from_connecting(caplog):
    made = house(Disk(fail_at=dict.fromkeys(range(100), errno.EROFS)), peers=Peers((known("a"),)))
    with caplog.at_level(logging.ERROR):
        made.set_wanted("a", True)
    assert made.peers.peers["a"].wanted
    assert "read-only" in caplog.text


def test_wanted_is_written_only_if_it_changes():
    disk = Disk()
    made = house(disk, peers=Peers((known("a"),)))
    made.set_wanted("a", False)
    made.set_wanted("nobody", True)
    assert disk.operations == []
    made.set_wanted("a", True)
    assert disk.operations != []


def test_no_proof_no_peer():
    made = house()
    invitation = made.invite("laptop", "owner", 3600)
    one_time, data = enrolment(made, invitation)
    assert made.enrol(one_time, data[:-1] + b"x") == (bytes((EnrolResult.INVALID,)), False)


def test_the_gateway_cannot_be_paired_with_itself():
    made = house()
    invitation = made.invite("laptop", "owner", 3600)
    one_time, data = enrolment(made, invitation, "cabin")
    assert made.enrol(one_time, data) == (bytes((EnrolResult.INVALID,)), False)


def test_the_name_of_a_configured_peer_is_not_taken_over():
    text = CONFIG
    made = house(config=text)
    invitation = made.invite("laptop", "owner", 3600)
    made.config = load_config(CONFIG + f'[peer.laptop]\nkey = "{KEY}"\n')
    made.enrol(*enrolment(made, invitation))
    assert list(made.peers.peers) == ["laptop-2"]


def test_running_time_is_stored_at_the_end_where_an_invitation_is_open():
    disk = Disk()
    made = house(disk)
    made.close()
    assert disk.operations == []
    made.invite("laptop", "owner", 3600)
    made.expire_invitations(60)
    made.close()
    stored = JsonState(Path("/d") / PEERS, files=Disk.holding(disk.contents())).load()
    assert stored["invitations"][0]["served"] == 60


# --- files -------------------------------------------------------------------------------------


def test_first_start_makes_keys_that_stay(tmp_path):
    layout = Layout(tmp_path)
    first = House.open(layout)
    again = House.open(layout)
    assert first.keys.identity.public == again.keys.identity.public
    assert first.keys.mediation.public != first.keys.identity.public
    for path in (layout.identity_key, layout.mediation_key):
        assert path.stat().st_mode & 0o777 == 0o600
    assert layout.keys.stat().st_mode & 0o077 == 0
    assert layout.state.stat().st_mode & 0o077 == 0
    assert not layout.config.exists()  # people write it


def test_a_damaged_key_is_never_replaced(tmp_path):
    layout = Layout(tmp_path)
    House.open(layout)
    layout.identity_key.write_bytes(
        b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"
    )
    before = layout.identity_key.read_bytes()
    with pytest.raises(StorageError, match="never replaced by itself"):
        House.open(layout)
    assert layout.identity_key.read_bytes() == before


def test_a_key_that_others_can_read_is_told_and_used(tmp_path, caplog):
    layout = Layout(tmp_path)
    House.open(layout)
    layout.identity_key.chmod(0o644)
    with caplog.at_level(logging.WARNING):
        House.open(layout)
    assert f"chmod 600 {layout.identity_key}" in caplog.text


def test_peers_survive(tmp_path):
    layout = Layout(tmp_path)
    made = House.open(layout)
    peers = made.copy_peers()
    peers.peers["a"] = known("a")
    made.save(peers)
    assert House.open(layout).peers.peers == {"a": replace(known("a"), number=2)}


def test_damaged_peers_are_kept_aside_and_the_board_comes_up(tmp_path, caplog):
    layout = Layout(tmp_path)
    made = House.open(layout)
    made.save(Peers((known("a"),)))
    layout.peers.write_bytes(layout.peers.read_bytes().replace(b'"a"', b'"b"'))
    with caplog.at_level(logging.ERROR):
        assert House.open(layout).peers.peers == {}
    assert "damaged" in caplog.text
    kept = [p for p in layout.state.iterdir() if p.name != PEERS and b'"b"' in p.read_bytes()]
    assert len(kept) == 1


def test_peers_that_make_no_sense_are_told_and_left_alone(tmp_path):
    layout = Layout(tmp_path)
    House.open(layout)
    JsonState(layout.peers, version=1).save({"peers": [{"name": 7}], "invitations": []})
    before = layout.peers.read_bytes()
    with pytest.raises(StorageError, match="pair again"):
        House.open(layout)
    assert layout.peers.read_bytes() == before


def test_a_peer_hidden_by_another_of_its_name_is_told(tmp_path, caplog):
    layout = Layout(tmp_path)
    House.open(layout).save(Peers((known("a"),)))
    layout.config.write_text(f'[peer.a]\nkey = "{KEY}"\n')
    with caplog.at_level(logging.WARNING):
        House.open(layout)
    assert "[peer.a] is hidden" in caplog.text


def test_name(tmp_path, monkeypatch):
    assert house().name == "cabin"
    for host, name in (
        ("pi", "pi"),
        ("my pi.lan", "my-pi.lan"),
        ("-é", "hearthgate"),
        ("", "hearthgate"),
    ):
        monkeypatch.setattr("agent.house.socket.gethostname", lambda host=host: host)
        assert house(config="").name == name


@pytest.mark.parametrize(
    ("given", "config", "address"),
    [
        ("med.example.org", "", "med.example.org"),
        ("med.example.org", "port = 4600", "med.example.org:4600"),
        ("med.example.org:4700", "port = 4600", "med.example.org:4700"),
        ("2001:db8::1", "port = 4600", "[2001:db8::1]:4600"),
        ("2001:db8::1", "", "2001:db8::1"),
        ("", '[mediate]\naddress = "a.example.org"', "a.example.org"),
    ],
)
def test_what_a_mediator_is_called(tmp_path, given, config, address):
    layout = Layout(tmp_path)
    layout.config.parent.mkdir(parents=True)
    layout.config.write_text(config)
    assert House.open(layout, mediate=given).config.mediate.address == address


def test_a_mediator_with_an_impossible_address(tmp_path):
    with pytest.raises(InputError, match="--address"):
        House.open(Layout(tmp_path), mediate="a b")


def test_config_that_is_no_text(tmp_path):
    layout = Layout(tmp_path)
    layout.config.parent.mkdir(parents=True)
    layout.config.write_bytes(b'name = "\xff"')
    with pytest.raises(ConfigError, match="not UTF-8"):
        read_config(layout)
    with pytest.raises(ConfigError, match="no such file"):
        read_config(layout, tmp_path / "other.toml")


def test_psk_file_is_found_beside_the_configuration(tmp_path):
    layout = Layout(tmp_path)
    layout.config.parent.mkdir(parents=True)
    (layout.config.parent / "x.psk").write_text("correct horse battery\n")
    layout.config.write_text('[peer.x]\nid = "x"\npsk_file = "x.psk"\nassign = "10.3.0.1"\n')
    assert read_config(layout).peers[0].psk == b"correct horse battery"


def test_audit(tmp_path):
    made = House.open(Layout(tmp_path))
    assert made.audit_lines(5) == []
    for number in range(10):
        made.audit({"n": number, "text": "°"})
    assert [r["n"] for r in made.audit_lines(3)] == [7, 8, 9]
    assert made.layout.audit.read_bytes().startswith(b'{"n":0,"text":"\\u00b0"}\n')
    with made.layout.audit.open("a") as file:
        file.write('{"n": 1')  # the power went
    assert [r["n"] for r in made.audit_lines(2)] == [9]


def test_an_audit_log_that_cannot_be_written_stops_nothing(tmp_path, caplog):
    made = House.open(Layout(tmp_path))
    made.layout.audit.mkdir()
    with caplog.at_level(logging.ERROR):
        made.audit({"n": 1})
    assert "audit log" in caplog.text


# --- mediation servers that handed us over -------------------------------------------------------

THERE = MediatorPlace("med2.example.org", 4600, key_of("med2").public)


def opened(tmp_path: Path) -> House:
    layout = Layout(tmp_path)
    layout.config.parent.mkdir(parents=True, exist_ok=True)
    layout.config.write_text(CONFIG)
    return House.open(layout)


def test_where_it_was_handed_over_to_outlives_a_restart(tmp_path):
    made = opened(tmp_path)
    assert [e.moved for e in made.mediators()] == [None]
    made.set_moved("main", THERE)
    assert [e.moved for e in made.mediators()] == [THERE]
    again = opened(tmp_path)
    assert [e.moved for e in again.mediators()] == [THERE]
    again.set_moved("main", None)
    assert [e.moved for e in opened(tmp_path).mediators()] == [None]


def test_another_configuration_is_not_concerned(tmp_path):
    opened(tmp_path).set_moved("main", THERE)
    layout = Layout(tmp_path)
    layout.config.write_text(CONFIG.replace("med.example.org", "elsewhere.example.org"))
    assert [e.moved for e in House.open(layout).mediators()] == [None]


def test_invitations_name_the_server_where_it_is_registered(tmp_path):
    made = opened(tmp_path)
    made.set_moved("main", THERE)
    invitation = made.invite("laptop", "operator", 3600)
    assert (invitation.mediator, invitation.mediator_key) == ("med2.example.org:4600", THERE.key)


def test_a_name_that_nobody_has_is_not_stored(tmp_path):
    made = opened(tmp_path)
    made.set_moved("other", THERE)
    assert not made.layout.moves.exists()


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b'{"version":1,"content":{"moves":[{"from":"x","to":"y"}]}}']
)
def test_a_damaged_list_of_servers_is_told_and_the_configured_ones_are_asked(
    tmp_path, caplog, content
):
    opened(tmp_path)
    Layout(tmp_path).moves.write_bytes(content)
    with caplog.at_level(logging.ERROR):
        made = opened(tmp_path)
    assert [e.moved for e in made.mediators()] == [None]
    assert "mediators.json" in caplog.text
    made.set_moved("main", THERE)
    assert [e.moved for e in opened(tmp_path).mediators()] == [THERE]


def test_a_full_disk_costs_the_next_run_only(tmp_path, caplog):
    made = opened(tmp_path)
    disk = Disk(fail_at=dict.fromkeys(range(100), errno.ENOSPC))
    made._moves_file = JsonState(Path("/d") / "mediators.json", version=1, files=disk)
    with caplog.at_level(logging.ERROR):
        made.set_moved("main", THERE)
    assert "mediators.json" in caplog.text
    assert [e.moved for e in made.mediators()] == [THERE]
