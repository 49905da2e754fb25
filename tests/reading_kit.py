"""What tests of the page share: the server with its page over a scripted backend, called in this process or at a port, and a browser."""

import asyncio
import hashlib
from dataclasses import replace

import httpx
from serving_kit import OPTIONS, Listening, Scripted, data_url, events, png

from medvlm_r1.reading import pictures, routes, static_files
from medvlm_r1.reading.reads import Reads
from medvlm_r1.reading.study import read_log
from medvlm_r1.reading.worklist import Case
from medvlm_r1.serving import app
from medvlm_r1.serving.audit_log import AuditLog
from medvlm_r1.serving.guard import LOOPBACK, OPEN_PATHS, Guard
from medvlm_r1.serving.people import People
from medvlm_r1.serving.service import Service
from medvlm_r1.serving.wire import Picture

ANNA, BERT, DEVELOPER = "annas-key-0123456789", "berts-key-0123456789", "developers-key-0123456789"


class TakenFor:
    """Real files, opened by their process; ``instance``: the UIDs that each is taken to have."""

    def __init__(self, files, instance=None):
        self.files, self.instance = files, instance
        self.whole = files.whole

    async def open(self, data, place=""):
        found = await self.files.open(data, place)
        return replace(found, instance=self.instance or found.instance)


class PngFiles:
    """Opens every PNG as itself; ``instance``: the UIDs that it has."""

    def __init__(self, instance=None):
        self.instance = instance

    async def open(self, data, place=""):
        return Picture(data, hashlib.sha256(data).hexdigest(), 40, 30, instance=self.instance)


class Ward:
    """A server for readers. ``log``: where its audit log lies."""

    def __init__(self, folder=None, backend=None, cases=(), people=None, files=None, **changes):
        self.people, self.log = people or People(), folder / "audit.jsonl" if folder else None
        audit = AuditLog(self.log) if self.log else None
        self.service = Service(backend or Scripted(), files or PngFiles(), audit=audit, **changes)
        self.reads = Reads(self.service, tuple(cases), self.people.names, self.people.read_first)
        if self.log:
            self.reads.recall(read_log(self.log))
        opener = pictures.route(self.service.files)
        page = [*static_files.static(), opener, *routes.routes(self.reads)]
        paths = frozenset({*OPEN_PATHS, *(route.path for route in page if route.is_open)})
        self.app = Guard(app.build(self.service, page), frozenset(LOOPBACK), self.people, self.service.limits, paths)

    def close(self):
        if self.service.audit:
            self.service.audit.close()

    def rows(self, event):
        return [row for row in read_log(self.log) if row["event"] == event]

    def run(self, play, key=""):
        """What ``play(http)`` comes to, in one event loop: reads go on behind the requests."""

        async def go():
            transport = httpx.ASGITransport(self.app, raise_app_exceptions=False)
            headers = {"authorization": f"Bearer {key}"} if key else {}
            async with httpx.AsyncClient(transport=transport, base_url="http://localhost", headers=headers) as http:
                return await play(http)

        return asyncio.run(go())


class WardAtAPort(Listening):
    """A ward that a browser can call."""

    def __init__(self, ward):
        self.ward = ward
        super().__init__(ward.app)


def cases(folder, n=3, reference="A"):
    """A work list of small pictures."""
    found = []
    for k in range(n):
        (folder / f"c{k}.png").write_bytes(png((40 + k, 30)))
        found.append(Case(f"c{k}", f"Which side is lesion {k} on?", tuple(OPTIONS), reference, folder / f"c{k}.png"))
    return found


def own_question(**changes):
    return {"picture": data_url(png()), "question": "Which side?", "medical": {"options": OPTIONS}, **changes}


async def followed(http, id):
    """The message of a read, or the response that refused it."""
    response = await http.get(f"/reading/reads/{id}/events")
    if response.status_code != 200:
        return response
    return events(response.text)[-1]


class Desk:
    """A page of a browser at a ward; ``faults``: what its console complains about; ``foreign``: requests to anybody else."""

    def __init__(self, browser, address, **options):
        self.context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **options})
        self.page, self.faults, self.requests = self.context.new_page(), [], []
        self.page.on("console", lambda said: self.faults.append(said.text) if said.type in ("error", "warning") else None)
        self.page.on("pageerror", lambda error: self.faults.append(str(error)))
        self.context.on("request", lambda request: self.requests.append(request.url))
        self.address = address
        self.context.set_default_timeout(10_000)
        self.page.goto(f"{address}/")

    @property
    def foreign(self):
        return [url for url in self.requests if not url.startswith((f"{self.address}/", f"blob:{self.address}/", "data:"))]

    def drop(self, data, name="scan.png"):
        self.page.locator("#drop").wait_for()  # there once the page knows who reads
        self.page.locator("#file").set_input_files({"name": name, "mimeType": "application/octet-stream", "buffer": data})
        self.page.locator("#viewer.viewer-open").wait_for()

    def ask(self, question="Which side?", options=OPTIONS):
        self.page.fill("#question", question)
        self.page.fill("#options", "\n".join(options))
        self.page.click("#ask button[type=submit]")

    def answered(self):
        self.page.locator("#answer[aria-busy=false]").wait_for()
        return self.page.locator("#answer")
