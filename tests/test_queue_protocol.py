"""What clients and a scheduler say to one another, and who is let in."""

from __future__ import annotations

import json
import os
import socket
import stat
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from queues import flow

from rlsched.queue.address import TcpAddress, UnixAddress, read_token, tcp_address, unix_address
from rlsched.queue.client import Client
from rlsched.queue.listener import Listener
from rlsched.queue.protocol import VERSION, Message, Refusal
from rlsched.queue.submission import (
    plain_environment,
    plain_workflow,
    read_environment,
    read_workflow,
    with_terms,
)
from rlsched.workflow import load_workflow

ROOT = Path(__file__).parents[1]
TOKEN = "0123456789abcdef"


class Echo:
    """Answers every request with what it was; `big` with a megabyte."""

    def __init__(self, folder: Path) -> None:
        self.unix = UnixAddress(folder / "s")
        self.listener = Listener()
        self.listener.answer = self._answer
        self.listener.listen_unix(self.unix)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.tcp = TcpAddress("127.0.0.1", probe.getsockname()[1], TOKEN)
        self.listener.listen_tcp(self.tcp)
        self.seen: list[int] = []
        self._ends = False
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def close(self) -> None:
        self._ends = True
        self._thread.join()
        self.listener.close()

    def _run(self) -> None:
        import select

        poll = select.poll()
        poll.register(self.listener, select.POLLIN)
        while not self._ends:
            if poll.poll(20):
                self.listener.serve()

    def _answer(self, uid: int, message: Message) -> Message:
        self.seen.append(uid)
        if message["request"] == "broken":
            raise ZeroDivisionError("by zero")
        return {"was": message["request"], "big": "x" * 2**20 if message["request"] == "big" else ""}


@pytest.fixture
def echo(tmp_path: Path) -> Iterator[Echo]:
    running = Echo(tmp_path)
    yield running
    running.close()


def say(address: UnixAddress, *lines: bytes) -> list[Any]:
    """What is answered to bytes that no client would send, until the scheduler hangs up or has nothing to add."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(str(address.path))
        sock.settimeout(20)
        with suppress(BrokenPipeError):  # it has hung up already
            for line in lines:
                sock.sendall(line)
        sock.shutdown(socket.SHUT_WR)
        answer, piece = b"", b" "
        while piece:
            with suppress(ConnectionResetError):  # it has hung up before it had read all; what it said comes next
                piece = sock.recv(1 << 16)
                answer += piece
    return [json.loads(line) for line in answer.splitlines()]


HELLO = json.dumps({"request": "hello", "version": VERSION}).encode() + b"\n"


def test_the_kernel_says_who_is_at_a_socket(echo: Echo) -> None:
    with Client(echo.unix) as client:
        assert client.request({"request": "x"})["was"] == "x"
    assert echo.seen == [os.getuid()]
    assert stat.S_IMODE(echo.unix.path.stat().st_mode) == 0o600


def test_long_answers_and_many_requests_at_once_arrive_whole(echo: Echo) -> None:
    """A client that has not read the first answer yet gets the others later."""
    with Client(echo.unix) as client:
        assert [len(client.request({"request": "big"})["big"]) for _ in range(3)] == [2**20] * 3
    answers = say(echo.unix, HELLO + b'{"request": "big"}\n{"request": "a"}\n{"request": "b"}\n')
    assert [answer.get("was") for answer in answers] == [None, "big", "a", "b"]


@pytest.mark.parametrize(
    ("greeting", "error"),
    [
        (
            {"request": "hello", "version": 99},
            "this scheduler speaks version 1 of the protocol, and the client version 99",
        ),
        ({"request": "hello"}, "this scheduler speaks version 1 of the protocol, and the client version None"),
        ({"request": "queue"}, "expected a greeting first"),
    ],
)
def test_who_speaks_another_language_is_told(greeting: Message, error: str, echo: Echo) -> None:
    """And the conversation is over."""
    (answer,) = say(echo.unix, json.dumps(greeting).encode() + b"\n", b'{"request": "x"}\n')
    assert not answer["ok"]
    assert error in answer["error"]
    assert echo.seen == []


def test_nonsense_is_refused_and_does_no_harm(echo: Echo) -> None:
    """Neither does a request that the scheduler stumbles over."""
    (answer,) = say(echo.unix, b"\xff\xfe\n")
    assert answer == {"ok": False, "error": "expected a JSON object in a line"}
    (answer,) = say(echo.unix, b"x" * 5000)
    assert answer == {"ok": False, "error": "the line is too long"}
    nonsense = [b"[1]\n", b'{"request": NaN}\n', b'{"request": 1e999}\n', b'{"request": "broken"}\n']
    answers = say(echo.unix, HELLO, *nonsense, b'{"request": "x"}\n')
    assert [answer["ok"] for answer in answers] == [True, False, False, False, False, True]
    assert answers[3]["error"] == "expected a JSON object in a line"
    assert "ZeroDivisionError" in answers[4]["error"]


def test_a_client_that_says_nothing_holds_nobody_up(echo: Echo) -> None:
    with socket.socket(socket.AF_UNIX) as silent, Client(echo.unix) as client:
        silent.connect(str(echo.unix.path))
        silent.sendall(b'{"request": "hel')
        assert client.request({"request": "x"})["was"] == "x"


def test_over_tcp_the_token_opens(echo: Echo) -> None:
    """Whoever shows it is the user of the scheduler; any other is refused."""
    with Client(echo.tcp) as client:
        assert client.request({"request": "x"})["was"] == "x"
    assert echo.seen == [os.getuid()]
    for wrong in ("", "0123456789abcdeX", "ü" * 16):
        with pytest.raises(Refusal, match="the token is not that of this scheduler"):
            Client(TcpAddress("127.0.0.1", echo.tcp.port, wrong)).request({"request": "x"})
    assert len(echo.seen) == 1


def test_a_token_that_others_can_read_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(f"{TOKEN}\n")
    file.chmod(0o644)
    with pytest.raises(ValueError, match="others may read this token: chmod 600"):
        read_token(file)
    file.chmod(0o600)
    assert tcp_address("7077", file) == TcpAddress("127.0.0.1", 7077, TOKEN)
    assert tcp_address("[::1]:7077", file).host == "::1"
    file.write_text("short")
    with pytest.raises(ValueError, match="expected a token of 16 or more ASCII characters"):
        read_token(file)
    with pytest.raises(ValueError, match="a TCP port needs a token"):
        tcp_address("7077", None)
    with pytest.raises(ValueError, match="expected HOST:PORT or PORT, found 'here'"):
        tcp_address("here", file)


def test_a_socket_can_be_opened_to_a_group(tmp_path: Path) -> None:
    """To read and write, for its owner and the group and nobody else. A socket that nobody listens on is replaced."""
    group = os.getgroups()[0] if os.getgroups() else os.getgid()
    address = UnixAddress(tmp_path / "s")
    for _ in range(2):
        listener = Listener()
        listener.listen_unix(address, group)
        status = address.path.stat()
        assert (stat.S_IMODE(status.st_mode), status.st_gid) == (0o660, group)
        copy = tmp_path / "left"
        copy.unlink(missing_ok=True)
        os.link(address.path, copy)
        listener.close()
        assert not address.path.exists()
        copy.rename(address.path)  # as after kill -9
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="file is no socket, something else is in the way"):
        Listener().listen_unix(UnixAddress(tmp_path / "file"))


def test_a_path_that_is_too_long_for_a_socket_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected a path of at most 107 bytes for a socket, found"):
        unix_address(tmp_path / ("x" * 100))


@pytest.mark.parametrize("file", sorted(ROOT.glob("experiments/workflows/*.yaml")), ids=lambda file: file.stem)
def test_a_workflow_is_the_same_after_its_journey(file: Path) -> None:
    """As plain data, through JSON and back."""
    workflow = load_workflow(file)
    assert read_workflow(json.loads(json.dumps(plain_workflow(workflow)))) == workflow


@given(st.dictionaries(st.binary(min_size=1).filter(lambda name: not set(name) & {0, 61}), st.binary()))
def test_an_environment_is_the_same_after_its_journey(variables: dict[bytes, bytes]) -> None:
    """Whatever bytes it holds, except for NUL."""
    given_ = {os.fsdecode(name): os.fsdecode(text.replace(b"\0", b"")) for name, text in variables.items()}
    assert read_environment(json.loads(json.dumps(plain_environment(given_)))) == given_


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"folder": "relative"}, "workflow: expected absolute paths, found 'relative'"),
        ({"commands": []}, "workflow: expected a command for each of 1 tasks, found 0"),
        ({"job": 3}, "workflow.job: "),
        ({"job": {"name": "x", "tasks": []}}, "workflow.job: .*job 'x' has no task"),
    ],
)
def test_a_workflow_that_is_none_is_refused(change: Message, error: str, tmp_path: Path) -> None:
    """A scheduler believes no client."""
    plain = plain_workflow(flow(tmp_path / "a", "t: {run: echo}"))
    with pytest.raises(ValueError, match=error):
        read_workflow(plain | change)


def test_terms_are_on_top_of_the_workflows_own(tmp_path: Path) -> None:
    """Priorities are added, name and deadline replaced where they are given."""
    workflow = flow(tmp_path / "a", "t: {run: echo, priority: 2}\nu: {run: echo}", deadline="60")
    changed = with_terms(workflow, "other", 1.5, 30.0)
    assert [task.priority for task in changed.job.tasks] == [3.5, 1.5]
    assert (changed.name, changed.job.name, changed.job.deadline) == ("other", "other", 30.0)
    assert with_terms(workflow, None, 0.0, None) == workflow
