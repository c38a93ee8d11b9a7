"""The other processes of a run: each hears within seconds when one of them has died or failed, and ends as well.

JAX alone would wait 100 s for a heartbeat, or end without a word that helps. Process 0 holds one TCP connection to each
of the others; the kernel closes it with its process, keepalives notice a machine that is gone.
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

from jaxft.problems import RunInterrupted

AGAIN = RunInterrupted.exit_code
ORDERLY = (0, AGAIN)  # these ends are agreed upon by all
GRACE = 10.0  # seconds in which the rest may meet the same error and say it themselves
KEEPALIVE = {"TCP_KEEPIDLE": 10, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 4}  # seconds, seconds, tries: 30 s of silence


class Peers:
    """Connections between process `number` and the `count - 1` others; they last until the process ends.

    `publish(address)` and `find()` exchange the address of process 0. `advice()` is the last part of the message: what
    to do now. Raises OSError if the others cannot be reached.
    """

    def __init__(
        self, number: int, count: int, host: str, publish: Callable, find: Callable, advice: Callable[[], str]
    ):
        self.number, self.count, self.advice = number, count, advice
        self.links: dict[int, socket.socket] = {}
        self.left: dict[int, int] = {}  # process -> exit code that it announced
        self.lock = threading.Lock()
        if number == 0:
            self._accept(publish)
        else:
            self.links[0] = socket.create_connection((host, int(find())), timeout=60)
            self._send(0, {"process": number})
        for peer, link in self.links.items():
            _keep_alive(link)
            threading.Thread(target=self._listen, args=(peer, link), daemon=True, name=f"peer-{peer}").start()

    def leave(self, code: int, asked: bool = False) -> None:
        """Tell the others that this process ends now, with this exit code; `asked` by a signal, they end as well."""
        self._tell({"process": self.number, "code": code, "asked": asked})

    def wait(self) -> None:
        """Time for news: if one of the others died or failed, this process ends in here."""
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
            pass  # its own listener says so

    def _end(self, code: int, message: str):
        """End the process from whichever thread; the first one speaks."""
        self.lock.acquire()
        sys.stdout.flush()
        # Not by print, which without buffers writes the end of the line apart: JAX's service may speak between.
        sys.stderr.write(f"stopped: {message}\n")
        sys.stderr.flush()
        os._exit(code)


def after_aborts(wait: Callable[[], None]):
    """When JAX's own service notices first, it aborts: the listeners get some seconds to say what happened.

    Returns the handler, which has to be kept. A Python handler would never run, since abort() does not return.
    """

    def aborting(number):
        wait()

    handler = ctypes.CFUNCTYPE(None, ctypes.c_int)(aborting)
    libc = ctypes.CDLL(None)
    libc.signal.argtypes = [ctypes.c_int, ctypes.c_void_p]
    libc.signal(int(signal.SIGABRT), ctypes.cast(handler, ctypes.c_void_p))
    return handler


def _line(link: socket.socket) -> bytes:
    """Up to the next newline; b"" at the end of the connection. Byte by byte: messages are few and short."""
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
