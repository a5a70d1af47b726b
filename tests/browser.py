"""Headless Chromium driven through its DevTools pipe: no driver, no package, no port.

Messages of the DevTools protocol go to its file descriptor 3 and come from 4, each a JSON object and a NUL.
"""

import base64
import fcntl
import json
import os
import select
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--hide-scrollbars",
)  # fmt: skip
TIMEOUT = 60.0
"""seconds for any one answer"""


class Chromium:
    """One browser process; tabs are opened one after another."""

    def __init__(self, executable: str, profile: Path) -> None:
        commands, self._commands = _pipe()
        self._answers, answers = _pipe()

        def connect() -> None:
            os.dup2(commands, 3)
            os.dup2(answers, 4)

        self._process = subprocess.Popen(
            [executable, *FLAGS, f"--user-data-dir={profile}", "--remote-debugging-pipe", "about:blank"],
            preexec_fn=connect,  # noqa: PLW1509 (no threads here)
            pass_fds=(3, 4),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(commands)
        os.close(answers)
        self._unread = b""
        self._last_id = 0
        self.events: list[dict[str, Any]] = []

    def call(self, method: str, session: str | None = None, **parameters: Any) -> dict[str, Any]:
        """The answer to one command; events that arrive meanwhile are kept in `events`."""
        self._last_id += 1
        message = {"id": self._last_id, "method": method, "params": parameters}
        if session:
            message["sessionId"] = session
        os.write(self._commands, json.dumps(message).encode() + b"\0")
        deadline = time.monotonic() + TIMEOUT
        while True:
            answer = self._read(deadline)
            if answer.get("id") == self._last_id:
                assert "error" not in answer, (method, answer["error"])
                result: dict[str, Any] = answer["result"]
                return result
            self.events.append(answer)

    def _read(self, deadline: float) -> dict[str, Any]:
        while b"\0" not in self._unread:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self._answers], [], [], left)[0]:
                raise TimeoutError("the browser does not answer")
            chunk = os.read(self._answers, 1 << 16)
            if not chunk:
                raise ConnectionError("the browser has gone")
            self._unread += chunk
        message, _, self._unread = self._unread.partition(b"\0")
        found: dict[str, Any] = json.loads(message)
        return found

    def close(self) -> None:
        os.close(self._commands)
        os.close(self._answers)
        self._process.terminate()
        self._process.wait(timeout=TIMEOUT)


def _pipe() -> tuple[int, int]:
    """A pipe whose file descriptors do not collide with the browser's 3 and 4."""
    ends = []
    for end in os.pipe():
        ends.append(fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10))
        os.close(end)
    return ends[0], ends[1]


@dataclass
class Tab:
    """One page with its own window size and colour scheme."""

    browser: Chromium
    session: str
    _seen: list[dict[str, Any]] = field(default_factory=list)

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        return self.browser.call(method, self.session, **parameters)

    def open(self, file: Path) -> None:
        self.call("Page.navigate", url=file.as_uri())
        self.wait_for("document.readyState === 'complete'")

    def run(self, expression: str) -> Any:
        """The value of a JavaScript expression, as JSON."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def wait_for(self, expression: str) -> Any:
        """The value of the expression as soon as it is true."""
        deadline = time.monotonic() + TIMEOUT
        while not (value := self.run(expression)):
            assert time.monotonic() < deadline, f"never became true: {expression}"
            time.sleep(0.05)
        return value

    def middle_of(self, expression: str) -> tuple[float, float]:
        """Coordinates of the element that `expression` gives, after scrolling to it."""
        x, y = self.run(
            f"(() => {{ const found = {expression}; found.scrollIntoView({{block: 'center'}}); "
            "const box = (found.getClientRects()[0] ?? found.getBoundingClientRect()); "
            "return [box.left + box.width / 2, box.top + box.height / 2]; })()"
        )
        return x, y

    def hover(self, expression: str) -> None:
        """Move the mouse onto an element from beside it."""
        x, y = self.middle_of(expression)
        self.call("Input.dispatchMouseEvent", type="mouseMoved", x=x + 2, y=y + 1)
        self.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    def click(self, expression: str) -> None:
        x, y = self.middle_of(expression)
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def screenshot(self, file: Path) -> None:
        shot = self.call("Page.captureScreenshot", format="png")
        file.write_bytes(base64.b64decode(shot["data"]))

    def _events(self, *methods: str) -> list[dict[str, Any]]:
        own = [event for event in self.browser.events if event.get("sessionId") == self.session]
        return [event["params"] for event in own if event["method"] in methods]

    @property
    def complaints(self) -> list[str]:
        """Console messages, exceptions and refused requests of the page."""
        found = self._events("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded")
        return [json.dumps(event)[:500] for event in found]

    @property
    def requests(self) -> list[str]:
        """URLs that the page requested."""
        return [event["request"]["url"] for event in self._events("Network.requestWillBeSent")]


@contextmanager
def opened(browser: Chromium, width: int, height: int, scheme: str) -> Iterator[Tab]:
    """A tab of that size in CSS pixels, whose reader prefers the "light" or the "dark" scheme."""
    target = browser.call("Target.createTarget", url="about:blank")["targetId"]
    session = browser.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
    tab = Tab(browser, session)
    for domain in ("Page", "Runtime", "Log", "Network"):
        tab.call(f"{domain}.enable")
    tab.call(
        "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False
    )
    tab.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
    try:
        yield tab
    finally:
        browser.call("Target.closeTarget", targetId=target)
