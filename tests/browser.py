"""A page as headless Chromium sees it, driven over a pipe with the DevTools protocol."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update",
    "--disable-sync", "--disable-dev-shm-usage", "--no-first-run", "--remote-debugging-pipe",
)  # fmt: skip


def chromium() -> str | None:
    """The browser's path; None where there is none."""
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


class Browser:
    """One tab: `open` a file, `ask` it for values; `requests` are all addresses it asked for."""

    def __init__(self, profile: Path) -> None:
        to_browser, self.send_end = os.pipe()
        self.receive_end, from_browser = os.pipe()
        command = [str(chromium()), *FLAGS, f"--user-data-dir={profile}"]
        shell = f'exec "$@" 3<&{to_browser} 4>&{from_browser}'  # the protocol speaks on descriptors 3 and 4
        self.process = subprocess.Popen(["bash", "-c", shell, "-", *command], pass_fds=(to_browser, from_browser),
                                        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # fmt: skip
        os.close(to_browser)
        os.close(from_browser)
        self.answers, self.number = os.fdopen(self.receive_end, "rb"), 0
        self.session: dict[str, str] = {}
        self.requests: list[str] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self.session = {"sessionId": attached["sessionId"]}
        for domain in ("Page", "Network", "Runtime"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> Any:
        """The answer to one call; what happens meanwhile is noted."""
        self.number += 1
        message = {"id": self.number, "method": method, "params": parameters} | self.session
        os.write(self.send_end, json.dumps(message).encode() + b"\0")
        while True:
            answer = self.next()
            if answer.get("id") == self.number:
                assert "error" not in answer, answer
                return answer["result"]

    def next(self) -> dict[str, Any]:
        text = b""
        while not text.endswith(b"\0"):
            byte = self.answers.read(1)
            assert byte, "the browser is gone"
            text += byte
        message: dict[str, Any] = json.loads(text[:-1])
        if message.get("method") == "Network.requestWillBeSent":
            self.requests.append(message["params"]["request"]["url"])
        return message

    def open(self, page: Path) -> None:
        """Load a file and wait for it and all its pictures."""
        self.call("Page.navigate", url=page.resolve().as_uri())
        while self.next().get("method") != "Page.loadEventFired":
            pass

    def ask(self, script: str) -> Any:
        """The value of an expression in the page."""
        answer = self.call("Runtime.evaluate", expression=script, returnByValue=True)
        return answer["result"].get("value")

    def close(self) -> None:
        self.process.terminate()
        self.process.wait(timeout=20)
        os.close(self.send_end)
        self.answers.close()
