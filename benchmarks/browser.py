"""A headless Chromium that a program drives, over the pipe of its DevTools protocol.

with Browser(width=400, dark=True) as browser:
    browser.open("http://127.0.0.1:8501/")
    browser.type("#text", "cat")
    browser.wait("document.querySelectorAll('.tile img').length == 48")
    browser.screenshot("page.png")
"""

import base64
import json
import os
import pathlib
import select
import shutil
import subprocess
import tempfile
import time

from jest_tf.errors import UserError

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
# --no-sandbox: as root, as in containers, there is none. The pages are our own.
OPTIONS = ("--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run")
OFFLINE = "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"
KEYS = {"Enter": 13, "ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40}


def program() -> str:
    """The browser of this machine.

    Raises:
        UserError: there is none.
    """
    found = next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        raise UserError(f"none of {', '.join(NAMES)} is installed; install Chromium.")
    return found


class Browser:
    """One page, `width` x `height` CSS pixels, without a network beyond this machine."""

    def __init__(self, width: int = 1400, height: int = 900, dark: bool = False, patience=120.0):
        self._size, self._dark, self._patience = (width, height), dark, patience

    def __enter__(self) -> "Browser":
        self._profile = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        to_browser, self._out = os.pipe()
        self._in, from_browser = os.pipe()
        # The protocol wants descriptors 3 and 4, which a shell gives it.
        words = [program(), *OPTIONS, OFFLINE, f"--user-data-dir={self._profile.name}",
                 "--remote-debugging-pipe", "about:blank"]  # fmt: skip
        self._process = subprocess.Popen(
            ["bash", "-c", f'exec "$@" 3<&{to_browser} 4>&{from_browser}', "browser", *words],
            pass_fds=(to_browser, from_browser),
            stderr=subprocess.DEVNULL,
        )
        os.close(to_browser), os.close(from_browser)
        self._number, self._rest, self._session = 0, b"", None
        (page,) = (t for t in self._ask("Target.getTargets")["targetInfos"] if t["type"] == "page")
        attached = self._ask("Target.attachToTarget", targetId=page["targetId"], flatten=True)
        self._session = attached["sessionId"]
        self._ask("Page.enable")
        scheme = {"name": "prefers-color-scheme", "value": "dark" if self._dark else "light"}
        self._ask("Emulation.setEmulatedMedia", features=[scheme])
        self.resize(*self._size)
        return self

    def __exit__(self, *_) -> None:
        self._process.terminate()
        self._process.wait()
        os.close(self._in), os.close(self._out)
        self._profile.cleanup()

    def resize(self, width: int, height: int) -> None:
        metrics = {"deviceScaleFactor": 1, "mobile": width < 600}
        self._ask("Emulation.setDeviceMetricsOverride", width=width, height=height, **metrics)

    def open(self, url: str) -> None:
        """Goes to a page and waits until it has loaded."""
        answer = self._ask("Page.navigate", url=url)
        if "errorText" in answer:
            raise RuntimeError(f"{url}: {answer['errorText']}")
        self.wait("document.readyState == 'complete'")

    def value(self, script: str):
        """The JSON value of a JavaScript expression in the page."""
        answer = self._ask(
            "Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True
        )
        if "exceptionDetails" in answer:
            raise RuntimeError(f"{script}: {answer['exceptionDetails']}")
        return answer["result"].get("value")

    def wait(self, script: str):
        """The value of an expression as soon as it is true."""
        deadline = time.monotonic() + self._patience
        while True:
            try:
                if value := self.value(script):
                    return value
            except RuntimeError as error:  # between two pages there is nothing to ask
                if time.monotonic() > deadline:
                    raise error
            if time.monotonic() > deadline:
                raise TimeoutError(f"{script} did not become true: {self.value('document.URL')}")
            time.sleep(0.05)

    def type(self, selector: str, text: str) -> None:
        """Writes into a field, in place of what it holds."""
        self.value(f"document.querySelector({json.dumps(selector)}).select()")
        self._ask("Input.insertText", text=text)

    def press(self, key: str) -> None:
        """One of KEYS, or a letter."""
        code = {"windowsVirtualKeyCode": KEYS[key]} if key in KEYS else {"text": key}
        code |= {"text": "\r"} if key == "Enter" else {}
        self._ask("Input.dispatchKeyEvent", type="keyDown", key=key, **code)
        self._ask("Input.dispatchKeyEvent", type="keyUp", key=key)

    def click(self, selector: str) -> None:
        """Clicks with the mouse on the middle of an element."""
        script = (
            f"(() => {{const e = document.querySelector({json.dumps(selector)}); "
            "e.scrollIntoView({block: 'center'}); const r = e.getBoundingClientRect(); "
            "return [r.x + r.width / 2, r.y + r.height / 2]})()"
        )
        x, y = self.value(script)
        for kind in ("mousePressed", "mouseReleased"):
            self._ask("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def upload(self, selector: str, path: str | os.PathLike) -> None:
        """Chooses a file in a field for files."""
        document = self._ask("DOM.getDocument")["root"]["nodeId"]
        node = self._ask("DOM.querySelector", nodeId=document, selector=selector)["nodeId"]
        self._ask("DOM.setFileInputFiles", files=[str(path)], nodeId=node)

    def screenshot(self, path: str | os.PathLike) -> None:
        """What is seen, as PNG."""
        picture = self._ask("Page.captureScreenshot", format="png")["data"]
        pathlib.Path(path).write_bytes(base64.b64decode(picture))

    def _ask(self, method: str, **params) -> dict:
        self._number += 1
        message = {"id": self._number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        deadline = time.monotonic() + self._patience
        while True:
            *whole, self._rest = self._rest.split(b"\0")
            for text in whole:
                answer = json.loads(text)
                if answer.get("id") == self._number:
                    if "error" in answer:
                        raise RuntimeError(f"{method}: {answer['error']['message']}")
                    return answer["result"]
            ready, _, _ = select.select([self._in], [], [], max(0, deadline - time.monotonic()))
            read = os.read(self._in, 2**20) if ready else b""
            if not read:
                raise TimeoutError(f"the browser did not answer {method}")
            self._rest += read
