"""Chromium without a window, driven through the DevTools protocol, for what a page does and how it looks.

`python tests/browser.py` finds one, or installs Debian's where it may: `make test` calls it first.
"""

import base64
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

EVIL = "</script><script>window.caught = 1</script><img src=x onerror='window.caught = 1'>"

NAMES = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
MISSING = (
    "the tests of report.html need Chromium or Chrome, and there is none on the PATH: install it (Debian: sudo apt-get "
    "install chromium-headless-shell; Ubuntu, Fedora, Arch: the package chromium), or name one: CHROMIUM=/path/to/it"
)


def find() -> str | None:
    """The program, or None."""
    return next(filter(None, map(shutil.which, [os.environ.get("CHROMIUM", ""), *NAMES])), None)


def install() -> None:
    """From Debian's packages, as root."""
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        sys.exit(f"error: {MISSING}")
    print("installing Chromium for the tests of report.html", file=sys.stderr)
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    subprocess.run(["apt-get", "update", "-qq"], check=True, env=environment, stdout=sys.stderr)
    package = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", "chromium-headless-shell"]
    done = subprocess.run(package, env=environment, stdout=sys.stderr)
    if done.returncode or find() is None:
        sys.exit(f"error: {MISSING}")


class Page:
    """A tab of a browser of its own. `said` has what its console said, `asked` the addresses it wanted to load."""

    def __init__(self):
        import websocket

        program = find()
        if program is None:
            raise RuntimeError(MISSING)
        self.profile = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        options = ["--headless", "--remote-debugging-port=0", "--remote-allow-origins=*", "--no-first-run"]
        options += ["--disable-gpu", "--host-resolver-rules=MAP * ~NOTFOUND", f"--user-data-dir={self.profile.name}"]
        options += ["--no-sandbox"] if os.geteuid() == 0 else []  # which Chromium refuses to root
        # In a session of its own, since the program may be a script that starts the browser: all of it can be ended.
        silent = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "start_new_session": True}
        self.process = subprocess.Popen([program, *options, "about:blank"], **silent)
        self.socket = websocket.create_connection(self._address(), timeout=60, suppress_origin=True)
        self.count, self.session, self.said, self.asked = 0, {}, [], []
        target = self.do("Target.createTarget", url="about:blank")["targetId"]
        session = self.do("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self.session = {"sessionId": session}
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.do(f"{domain}.enable")

    def do(self, method: str, **parameters):
        """One command of the protocol; returns its result."""
        self.count += 1
        self.socket.send(json.dumps({"id": self.count, "method": method, "params": parameters, **self.session}))
        while True:
            message = json.loads(self.socket.recv())
            if message.get("id") == self.count:
                if "error" in message:
                    raise RuntimeError(f"{method}: {message['error']}")
                return message["result"]
            self._note(message)

    def wait(self, event: str) -> dict:
        while True:
            message = json.loads(self.socket.recv())
            self._note(message)
            if message.get("method") == event:
                return message["params"]

    def open(self, file: Path, width=1200, height=900, scheme="light") -> None:
        """Load a file as a screen of this many CSS pixels shows it."""
        self.said.clear()
        self.asked.clear()
        self.do(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 500
        )
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.do("Emulation.setEmulatedMedia", features=features)
        self.do("Page.navigate", url=file.absolute().as_uri())
        self.wait("Page.loadEventFired")

    def run(self, script: str):
        """The value of a JavaScript expression."""
        answer = self.do("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(json.dumps(answer["exceptionDetails"]))
        return answer["result"].get("value")

    def point(self, x: float, y: float) -> None:
        """Move the mouse."""
        self.do("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    def press(self, key: str) -> None:
        for kind in ("keyDown", "keyUp"):
            self.do("Input.dispatchKeyEvent", type=kind, key=key, code=key)

    def picture(self, file: Path) -> None:
        """The whole page as a PNG."""
        shot = self.do("Page.captureScreenshot", captureBeyondViewport=True, clip=self._whole())
        file.write_bytes(base64.b64decode(shot["data"]))

    def close(self) -> None:
        self.do("Browser.close")
        self.socket.close()
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.profile.cleanup()

    def _address(self) -> str:
        """Where the browser listens, which it writes down once it does."""
        file, deadline = Path(self.profile.name) / "DevToolsActivePort", time.monotonic() + 60
        while not (file.exists() and len(lines := file.read_text().splitlines()) == 2):
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{self.process.args[0]} does not start (exit code {self.process.poll()})")
            time.sleep(0.02)
        return f"ws://127.0.0.1:{lines[0]}{lines[1]}"

    def _whole(self) -> dict:
        size = self.do("Page.getLayoutMetrics")["cssContentSize"]
        return {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}

    def _note(self, message: dict) -> None:
        given = message.get("params", {})
        if message.get("method") == "Network.requestWillBeSent":
            self.asked.append(given["request"]["url"])
        elif message.get("method") == "Runtime.exceptionThrown":
            self.said.append(given["exceptionDetails"])
        elif message.get("method") in ("Runtime.consoleAPICalled", "Log.entryAdded"):
            self.said.append(given)


def contrast(one: list[int], other: list[int]) -> float:
    """As WCAG 2 defines it."""

    def luminance(color):
        share = np.array(color[:3]) / 255
        linear = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
        return linear @ [0.2126, 0.7152, 0.0722]

    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


if __name__ == "__main__":
    if find() is None:
        install()
