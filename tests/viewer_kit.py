"""What tests and the benchmark of the viewer share: a server with its route and files, a page with nothing but a viewer, and a browser at it."""

import base64
import json
import shutil
from contextlib import contextmanager

import serving_kit

from medvlm_r1.reading import pictures, static_files
from medvlm_r1.serving import app
from medvlm_r1.serving.app import Response, Route
from medvlm_r1.serving.file_client import Files
from medvlm_r1.serving.guard import LOOPBACK, Guard
from medvlm_r1.serving.measured import Measured

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
PAGE = """<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>Viewer</title><link rel="icon" href="data:,">
<link rel="stylesheet" href="/page/viewer.css"><link rel="stylesheet" href="/try.css"></head>
<body><main><h1>Viewer</h1><section id="viewer" aria-label="Picture"></section><p id="aloud" role="status"></p></main><script type="module" src="/try.js"></script></body></html>"""
STYLE = """:root { color-scheme: light dark } body { margin: 1rem; background: Canvas; color: CanvasText } h1 { display: none } main { height: calc(100vh - 5rem) } #viewer { height: 100% } #aloud { position: absolute; left: -999rem }"""
SCRIPT = """import {Viewer} from "/page/viewer.js";
import * as stepping from "/page/window.js";
const texts = (await (await fetch("/page/texts.en.json")).json()).viewer;
window.viewer = new Viewer(document.querySelector("#viewer"), texts, (text) => { document.querySelector("#aloud").textContent = text; });
window.stepping = stepping;
window.places = [];
document.querySelector("#viewer").addEventListener("place", (event) => window.places.push(event.detail));
"""
EXPECTED = ("Failed to load resource: the server responded", "Canvas2D: Multiple readback")  # refused files, and tests that look at the canvas
PIXELS = {
    "shown": "viewer.surface.shown()",
    "drawn": "viewer.surface.context.getImageData(viewer.surface.place.x, viewer.surface.place.y, columns, rows).data",
}


def at(path, content, kind):
    async def file() -> Response:
        return Response(
            content, media_type=f"{kind}; charset=utf-8", headers={"Content-Security-Policy": static_files.POLICY, "X-Content-Type-Options": "nosniff"}
        )

    return Route(path, file)


def routes(files):
    own = [at("/", PAGE, "text/html"), at("/try.css", STYLE, "text/css"), at("/try.js", SCRIPT, "text/javascript")]
    return [*own, *(route for route in static_files.static() if route.path != "/"), pictures.route(files)]


class Desk(serving_kit.Listening):
    """The server in a thread, and its file process."""

    def __init__(self):
        self.files, self.log = Files(), []
        self.files.start()
        offered = serving_kit.service(files=self.files)
        super().__init__(Measured(Guard(app.build(offered, routes(self.files)), frozenset(LOOPBACK)), offered.metrics, self.log.append))

    def __exit__(self, *raised):
        super().__exit__(*raised)
        self.files.close()


@contextmanager
def browser():
    """Headless Chromium, by a library that not everybody has."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield found
        found.close()


class Seen:
    """A viewer in a browser. Scripts of the page's policy may not be strings, so that everything goes through ``evaluate``."""

    def __init__(self, browser, desk, **options):
        self.context = browser.new_context(viewport={"width": 1280, "height": 900}, **options)
        self.page, self.faults, self.asked = self.context.new_page(), [], []
        self.page.on(
            "console", lambda said: self.faults.append(said.text) if said.type in ("error", "warning") and not said.text.startswith(EXPECTED) else None
        )
        self.page.on("pageerror", lambda error: self.faults.append(str(error)))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.goto(f"{desk.address}/")
        self.until("Boolean(window.viewer)")

    def until(self, condition, most_s=10):
        for _ in range(most_s * 100):
            if self.page.evaluate(condition):
                return
            self.page.wait_for_timeout(10)
        raise AssertionError(f"never: {condition}")

    def open(self, data, name="scan"):
        """As a page would: a File, posted by the viewer. The error it throws, or None."""
        return self.page.evaluate(
            """async ([text, name]) => {
              const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
              try { await viewer.open(new File([bytes], name)); return null; } catch (error) { return {status: error.status, message: error.message}; }
            }""",
            [base64.b64encode(data).decode(), name],
        )

    def run(self, script):
        """A line of script, then what is due is painted; its value."""
        return self.page.evaluate(f"(() => {{ const found = ({script}); viewer.paintNow(); return found; }})()")

    def shown(self):
        """(rows, columns, RGBA) of the picture as it is painted, before it is drawn smaller or larger."""
        return self._pixels(PIXELS["shown"])

    def drawn(self):
        """The same of the part of the canvas that the picture covers, drawn 1:1; the canvas is larger here."""
        self.run("viewer.oneToOne()")
        return self._pixels(PIXELS["drawn"])

    def digest(self, what):
        """The SHA-256 of what ``shown`` or ``drawn`` would bring."""
        if what == "drawn":
            self.run("viewer.oneToOne()")
        pixels = PIXELS[what]
        script = f"""async () => {{ viewer.paintNow(); viewer.rest(); const {{rows, columns}} = viewer.surface.frame;
          return Array.from(new Uint8Array(await crypto.subtle.digest("SHA-256", {pixels})), (byte) => byte.toString(16).padStart(2, "0")).join(""); }}"""
        return self.page.evaluate(script)

    def _pixels(self, what):
        rows, columns, text = self.page.evaluate(
            f"""() => {{ viewer.paintNow(); viewer.rest(); const {{rows, columns}} = viewer.surface.frame, data = {what}; let s = "";
              for (let i = 0; i < data.length; i += 8192) s += String.fromCharCode(...data.subarray(i, i + 8192));
              return [rows, columns, btoa(s)]; }}"""
        )
        return rows, columns, base64.b64decode(text)

    def text(self, name):
        return self.page.locator(f".viewer-{name}").text_content()

    def place(self):
        return json.loads(self.page.evaluate("JSON.stringify(viewer.place())"))
