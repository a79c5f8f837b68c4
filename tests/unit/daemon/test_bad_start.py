"""A daemon that cannot start says why in one sentence, with the exit code of sysexits."""

from __future__ import annotations

import socket
import subprocess

import pytest

from agent.crypto.auth import key_text
from agent.layout import Layout
from board.storage import JsonState
from tests.support.pair import key_of
from tests.unit.daemon.process import argv, config, environment, run, wait

pytestmark = pytest.mark.netns

KEY = key_text(key_of("med").public)
UNSHARE = ["unshare", "-m", "sh", "-c"]


def mounted(script: str) -> list[str]:
    """A wrapper that runs the command with a view of the files of its own."""
    return [*UNSHARE, f'{script} && exec "$@"', "sh"]


CONFIGURATIONS = [
    ("broken TOML", "port = ", 78, "hearthgate.toml: this is not valid TOML"),
    ("unknown key", "prot = 4500", 78, 'prot is an unknown key: did you mean "port"?'),
    ("out of range", "mtu = 100", 78, "mtu = 100: a whole number from 1280 to 9000 is wanted."),
    ("no text", "\udcff", 78, "this file is not UTF-8 text"),
    ("weak psk", '[peer.x]\nid="a"\npsk="secret"', 78, "openssl rand"),
    ("no psk_file", '[peer.x]\nid="a"\npsk_file="none"', 78, "No such file"),
    ("mediate", '[mediate]\naddress = "a b"', 78, "[mediate] address"),
]


@pytest.mark.parametrize(
    ("text", "code", "said"), [c[1:] for c in CONFIGURATIONS], ids=[c[0] for c in CONFIGURATIONS]
)
def test_configuration(host, tmp_path, text, code, said):
    path = config(tmp_path, "")
    path.write_bytes(text.encode(errors="surrogateescape"))
    ended = run(host, tmp_path, "run")
    assert ended.code == code
    assert said in ended.sentence
    assert str(path) in ended.sentence
    assert "secret" not in ended.err
    checked = run(host, tmp_path, "check-config")
    assert (checked.code, checked.sentence) == (code, ended.sentence)


def test_the_port_is_in_use(host, tmp_path):
    script = (
        "import socket,sys; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); "
        "s.bind(('', 4500)); print('bound', flush=True); sys.stdin.read()"
    )
    holder = subprocess.Popen(
        host.argv(["/usr/bin/env", "python3", "-c", script]),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        assert holder.stdout.readline() == b"bound\n"
        ended = run(host, tmp_path, "run")
    finally:
        holder.communicate()
    assert ended.code == 71
    assert "UDP port 4500 cannot be opened: another program uses it" in ended.sentence
    assert "Traceback" not in ended.err
    assert not Layout(tmp_path).socket.exists()


def test_there_is_no_tun(host, tmp_path):
    ended = run(host, tmp_path, "run", wrap=mounted("mount -t tmpfs tmpfs /dev/net"))
    assert ended.code == 71
    assert "modprobe tun" in ended.sentence
    doctor = run(host, tmp_path, "doctor", wrap=mounted("mount -t tmpfs tmpfs /dev/net"))
    assert doctor.code == 1
    assert "FAIL  tun: /dev/net/tun is missing: modprobe tun" in doctor.out


def test_a_mere_mediator_needs_no_tun(host, tmp_path):
    wrap = mounted("mount -t tmpfs tmpfs /dev/net")
    with start(host, tmp_path, "mediate", "--address", "med.example.org", wrap=wrap) as daemon:
        line = daemon.stdout.readline().decode()
        assert line.startswith("med.example.org#")


def test_no_right_to_make_the_device(host, tmp_path):
    wrap = ["setpriv", "--bounding-set=-net_admin", "--inh-caps=-all"]
    ended = run(host, tmp_path, "run", wrap=wrap)
    assert ended.code == 71
    assert "start it as root or give it CAP_NET_ADMIN" in ended.sentence


def test_an_ordinary_user(host, tmp_path):
    nobody = ["setpriv", "--reuid=65534", "--clear-groups"]
    if (
        run(host, tmp_path, "--version", wrap=nobody).code != 0
    ):  # a checkout in root's home: without any capability it is alike
        nobody = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"]
        tmp_path.chmod(0o500)
    ended = run(host, tmp_path, "run", wrap=nobody)
    assert ended.code in (71, 74, 77)
    assert "as root" in ended.sentence
    for words in (["status"], ["invite", "x"], ["connect", "x"]):
        asked = run(host, tmp_path, *words, wrap=nobody)
        assert asked.code in (69, 77)
    doctor = run(host, tmp_path, "doctor", wrap=nobody)
    assert "tun" in doctor.out
    assert "daemon" in doctor.out


def start(host, root, *words, wrap=()):
    return Started(
        subprocess.Popen(
            host.argv([*wrap, *argv(root, *words)]),
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
        )
    )


class Started:
    """A daemon that is ended at the end of the `with`."""

    def __init__(self, child):
        self.child = child
        self.stdout = child.stdout

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.child.terminate()
        self.out, err = self.child.communicate(timeout=10)
        self.err = err.decode()
        assert "Traceback" not in self.err, self.err
        assert self.child.returncode == 0, self.err


def answers(root):
    from agent.operations.setup import daemon_runs

    return lambda: daemon_runs(root)


def test_a_second_daemon_touches_nothing_of_the_first(host, tmp_path):
    config(tmp_path, "port = 4501\n")
    with start(host, tmp_path, "run"):
        wait("up", answers(tmp_path))
        half_written = Layout(tmp_path).state / ".peers.json.1.new"
        half_written.write_text("a write under way")
        ended = run(host, tmp_path, "run")
        assert ended.code == 69
        assert "Another hearthgate daemon" in ended.sentence
        assert half_written.exists()
        assert answers(tmp_path)()


def test_two_daemons_of_two_roots_need_two_devices(host, tmp_path):
    config(tmp_path / "a", "port = 4501\n")
    config(tmp_path / "b", "port = 4502\n")
    with start(host, tmp_path / "a", "run"):
        wait("up", answers(tmp_path / "a"))
        ended = run(host, tmp_path / "b", "run")
        assert ended.code == 71
        assert "the TUN device hearth0 cannot be made: another program uses that" in ended.sentence
        config(tmp_path / "b", 'port = 4502\ntun = "hearth1"\n')
        with start(host, tmp_path / "b", "run"):
            wait("up", answers(tmp_path / "b"))


def test_damaged_peers_do_not_keep_it_down(host, tmp_path):
    layout = Layout(tmp_path)
    layout.state.mkdir(parents=True)
    layout.peers.write_bytes(b"\x00\xff not even JSON")
    with start(host, tmp_path, "run") as daemon:
        wait("up", answers(tmp_path))
        doctor = run(host, tmp_path, "doctor")
        assert doctor.code == 1
        assert "kept aside" in doctor.out
    assert "damaged" in daemon.err


def test_peers_that_make_no_sense_keep_it_down(host, tmp_path):
    layout = Layout(tmp_path)
    layout.state.mkdir(parents=True)
    JsonState(layout.peers, version=1).save({"peers": [7], "invitations": []})
    ended = run(host, tmp_path, "run")
    assert ended.code == 74
    assert "restore it from a backup, or move it away and pair again" in ended.sentence


def test_state_of_a_newer_version(host, tmp_path):
    layout = Layout(tmp_path)
    layout.state.mkdir(parents=True)
    JsonState(layout.peers, version=99).save({})
    ended = run(host, tmp_path, "run")
    assert ended.code == 74
    assert "version 99" in ended.sentence


def test_a_damaged_key(host, tmp_path):
    layout = Layout(tmp_path)
    layout.keys.mkdir(parents=True)
    layout.identity_key.write_text("garbage")
    ended = run(host, tmp_path, "run")
    assert ended.code == 74
    assert str(layout.identity_key) in ended.sentence
    assert "never replaced by itself" in ended.sentence


def test_a_read_only_file_system_at_the_first_start(host, tmp_path):
    script = f"mount --bind {tmp_path} {tmp_path} && mount -o remount,bind,ro {tmp_path}"
    ended = run(host, tmp_path, "run", wrap=mounted(script))
    assert ended.code == 74
    assert "read-only" in ended.sentence


def test_a_full_disk_at_the_first_start(host, tmp_path):
    script = (
        f"mount -t tmpfs -o size=16k tmpfs {tmp_path} && mkdir -p {tmp_path}/run && "
        f"(head -c 100000 /dev/zero > {tmp_path}/fill; true) 2>/dev/null && "
        f"mount -t tmpfs tmpfs {tmp_path}/run"
    )
    ended = run(host, tmp_path, "run", wrap=mounted(script))
    assert ended.code == 74
    assert "no space is left" in ended.sentence


def test_nobody_asks_a_daemon_that_is_not_there(host, tmp_path):
    for words in (["status"], ["peers"], ["get", "boiler"], ["connect", "x"], ["revoke", "x"]):
        ended = run(host, tmp_path, *words)
        assert ended.code == 69
        assert "The hearthgate daemon does not run" in ended.sentence
        assert "hearthgate run" in ended.sentence


def test_a_socket_that_a_crash_left_behind(host, tmp_path):
    layout = Layout(tmp_path)
    layout.run.mkdir(parents=True)
    left = socket.socket(socket.AF_UNIX)
    left.bind(str(layout.socket))
    left.close()
    assert run(host, tmp_path, "status").code == 69
    with start(host, tmp_path, "run"):
        wait("up", answers(tmp_path))


@pytest.mark.parametrize("command", ["run", "mediate"])
def test_the_key_log_cannot_be_written(host, tmp_path, command):
    """Whoever asked for the keys must not find out afterwards that there are none."""
    config(tmp_path, "")
    ended = run(host, tmp_path, command, "--keylog", str(tmp_path / "missing" / "keys"))
    assert ended.code == 74
    assert "The key log" in ended.sentence
    assert "No such file" in ended.sentence
    ended = run(host, tmp_path, command, "--keylog", "/dev/null")
    assert (ended.code, "file of its own" in ended.sentence) == (74, True)
