"""The other processes of a run: if one dies or fails, the others notice within seconds, and end as well.

JAX alone waits 100 s for a heartbeat, or ends without a useful message. Process 0 holds a TCP connection to each of the
others; the kernel closes it when its process ends, keepalives notice a machine that is gone.
"""

import ctypes
import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from jaxft.problems import RunInterrupted

AGAIN = RunInterrupted.exit_code
ORDERLY = (0, AGAIN)  # exit codes on which all processes agree
GRACE = 10.0  # seconds for the other processes to meet the same error and report it themselves
KEEPALIVE = {"TCP_KEEPIDLE": 10, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 4}  # seconds, seconds, tries: 30 s of silence


class Peers:
    """Connections between process `number` and the `count - 1` others, until the process ends.

    `publish(port)` and `find()` exchange the port of process 0. `advice()` is the last part of the message: what to do
    now. Raises OSError if the others cannot be reached.
    """

    def __init__(
        self, number: int, count: int, host: str, publish: Callable, find: Callable, advice: Callable[[], str]
    ):
        self.number, self.count, self.advice = number, count, advice
        self.links: dict[int, socket.socket] = {}
        self.left: dict[int, int] = {}  # process -> the exit code that it announced
        self.lock = threading.Lock()
        self.handler: Any = None  # of SIGABRT, kept alive here
        if number == 0:
            self._accept(publish)
        else:
            self.links[0] = socket.create_connection((host, int(find())), timeout=60)
            self._send(0, {"process": number})
        for peer, link in self.links.items():
            _keep_alive(link)
            threading.Thread(target=self._listen, args=(peer, link), daemon=True, name=f"peer-{peer}").start()

    def leave(self, code: int, asked: bool = False) -> None:
        """Tell the others that this process ends with this code; `asked`: by a signal, so that they end as well."""
        self._tell({"process": self.number, "code": code, "asked": asked})

    def wait(self) -> None:
        """Wait for news: if another process died or failed, this one ends here."""
        time.sleep(5.0)
        if not set(self.left.values()) <= set(ORDERLY):
            time.sleep(GRACE)

    def _accept(self, publish):
        listener = socket.create_server(("", 0), backlog=self.count)
        listener.settimeout(60)
        publish(str(listener.getsockname()[1]))
        with listener:
            while len(self.links) < self.count - 1:
                link, _ = listener.accept()
                link.settimeout(60)
                self.links[json.loads(_line(link))["process"]] = link

    def _listen(self, peer: int, link: socket.socket):
        while True:
            try:
                line = _line(link)
            except OSError:
                line = b""
            news = json.loads(line) if line else {"process": peer, "code": self.left.get(peer)}
            if line and self.number == 0:
                self._tell(news, but=peer)
            self._hear(news, but=peer)
            if not line:
                return

    def _hear(self, news: dict, but: int):
        process, code = news["process"], news["code"]
        if code is None:
            self._tell(news, but)
            self._end(AGAIN, f"process {process} of {self.count} has died: {self.advice()}")
        if process in self.left:
            return
        self.left[process] = code
        if news.get("asked"):
            self._end(code, f"process {process} of {self.count} was asked to end: {self.advice()}")
        if code not in ORDERLY:
            time.sleep(GRACE)
            self._end(code, f"process {process} of {self.count} failed (exit code {code}): its own message says why")

    def _tell(self, news: dict, but: int | None = None):
        for peer in self.links:
            if peer != but:
                self._send(peer, news)

    def _send(self, peer: int, news: dict):
        try:
            self.links[peer].sendall(json.dumps(news).encode() + b"\n")
        except OSError:
            pass  # the peer's own listener reports it

    def _end(self, code: int, message: str):
        """End the process from any thread; only the first one prints."""
        self.lock.acquire()
        sys.stdout.flush()
        # Not with print, which writes the newline separately without a buffer: JAX's service may write in between.
        sys.stderr.write(f"stopped: {message}\n")
        sys.stderr.flush()
        os._exit(code)


def after_aborts(wait: Callable[[], None]) -> Any:
    """Call `wait` on SIGABRT: JAX's own service aborts if it notices first, and the listeners need time to report.

    Returns the handler, which the caller must keep alive. A Python handler would never run: abort() does not return.
    """

    def aborting(number):
        wait()

    handler = ctypes.CFUNCTYPE(None, ctypes.c_int)(aborting)
    libc = ctypes.CDLL(None)
    libc.signal.argtypes = [ctypes.c_int, ctypes.c_void_p]
    libc.signal(int(signal.SIGABRT), ctypes.cast(handler, ctypes.c_void_p))
    return handler


def _line(link: socket.socket) -> bytes:
    """The bytes up to the next newline; b"" at the end of the connection. One at a time: messages are few and short."""
    read = b""
    while not read.endswith(b"\n"):
        byte = link.recv(1)
        if not byte:
            return b""
        read += byte
    return read


def _keep_alive(link: socket.socket) -> None:
    link.settimeout(None)
    link.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in KEEPALIVE.items():
        if hasattr(socket, name):  # not on every system
            link.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
