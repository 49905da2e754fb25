"""Every row of the table of attacks in docs/serving.md: what must happen, happens."""

import asyncio
import hashlib
import io
import json
import os
import signal
import socket
import struct
import time
import zlib
from pathlib import Path

import pytest
from serving_kit import AtAPort, NoFiles, Scripted, client, data_url, get, opened_files, png, post, question, service

from medvlm_r1.data.clean import clean
from medvlm_r1.errors import ConfigError
from medvlm_r1.launch.serving import Serving, check, hosts
from medvlm_r1.rollout.engine import Sampling
from medvlm_r1.rollout.told import Reading, unseen
from medvlm_r1.serving.file_client import Files
from medvlm_r1.serving.guard import Limits
from medvlm_r1.serving.refusals import Refused
from medvlm_r1.serving.schema import ChatRequest
from medvlm_r1.serving.upstream import Upstream
from medvlm_r1.serving.wire import Ask, Picture
from medvlm_r1.types import Example

KEY = "0123456789abcdef-key"

# ---------------------------------------------------------------- nothing is fetched


@pytest.mark.parametrize("url", [
    "http://127.0.0.1:{port}/a.png", "https://127.0.0.1:{port}/", "http://2130706433:{port}/", "http://0177.0.0.1:{port}/", "http://[::1]:{port}/a",
    "http://localhost:{port}/", "gopher://127.0.0.1:{port}/", "ftp://127.0.0.1:{port}/", "file:///etc/passwd", "/etc/passwd", "//127.0.0.1:{port}/a",
    "phantom:mri/test/0", "data:,http://127.0.0.1:{port}/", "data:text/html;base64,aHR0cDovLzEyNy4wLjAuMS8=", "HTTP://127.0.0.1:{port}/", "blank:a.png", "",
])  # fmt: skip
def test_no_url_opens_a_socket(url):
    async def go():
        hits = []
        server = await asyncio.start_server(lambda reader, writer: hits.append(1) or writer.close(), "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        async with opened_files() as files, client(service(files=files)) as http:
            response = await http.post("/v1/chat/completions", json=question(url.format(port=port)))
        server.close()
        return response.status_code, hits

    status, hits = asyncio.run(go())
    assert status in (400, 415) and hits == []


# ---------------------------------------------------------------- files that attack


def huge_png():
    """100 megapixels in a few kB."""
    head = struct.pack(">IIBBBBB", 10_000, 10_000, 8, 0, 0, 0, 0)
    chunks = [(b"IHDR", head), (b"IDAT", zlib.compress(bytes(10_001 * 1_000))), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in chunks)


FILES = {
    "100 megapixels": (huge_png(), 413), "GIF": (b"GIF89a" + bytes(50), 415), "WebP": (b"RIFF\0\0\0\0WEBPVP8 ", 415), "SVG": (b"<svg onload='alert(1)'/>", 415),
    "PDF": (b"%PDF-1.7", 415), "zip": (b"PK\x03\x04" + bytes(50), 415), "truncated": (png()[:-200], 400), "a header alone": (png()[:33], 400),
    "DICOM of nothing": (bytes(128) + b"DICM" + b"DOE^JANE" * 20, 400), "gzip bomb": (zlib.compress(bytes(10), wbits=31), 400), "text": (b"hello", 415),
}  # fmt: skip


def hostile_dicoms():
    """(bytes, status) of data sets that promise what they do not hold."""
    pydicom = pytest.importorskip("pydicom")
    import drawn_files as drawn

    def file(*args, **values):
        memory = io.BytesIO()
        drawn.dicom(drawn.RAMP, *args, **values).save_as(memory, enforce_file_format=True)
        return memory.getvalue()

    rle, few = pydicom.uid.RLELossless, pydicom.encaps.encapsulate([struct.pack("<16L", 1, 64, *[0] * 14) + b"\x81\0" * 8])
    nested = bytes.fromhex("400030a7") + b"SQ\0\0" + b"\xff" * 4 + bytes.fromhex("feff00e0") + b"\xff" * 4
    whole = file()
    return {
        "RLE of 400 megapixels": (file(syntax=rle, Rows=20_000, Columns=20_000, PixelData=few), 413),
        "2^31 frames": (file(NumberOfFrames=2**31 - 1), 400),
        "5,000 nested sequences": (whole[: whole.index(b"CS\x02\0CT")][:-4] + nested * 5_000, 400),
        "a wrong VR": (whole.replace(b"\x28\0\x10\0US", b"\x28\0\x10\0UN"), 400),
        "cut in its pixels": (whole[:-300], 400),
        "a window of words": (drawn.with_element(drawn.dicom(drawn.RAMP), "WindowWidth", "DS", b"DOE^JANE"), 400),
        "deflated, 100 MB": (whole[:132] + deflated_meta(whole) + zlib.compress(bytes(100 * 2**20), 1, wbits=-15), 413),
    }


def deflated_meta(whole):
    """The file meta information of a file, which says that what follows is deflated."""
    import pydicom

    meta = pydicom.dcmread(io.BytesIO(whole)).file_meta
    meta.TransferSyntaxUID = pydicom.uid.DeflatedExplicitVRLittleEndian
    memory = pydicom.filebase.DicomBytesIO()
    pydicom.filewriter.write_file_meta_info(memory, meta)
    return memory.getvalue()


def test_hostile_dicoms_are_refused_each_by_itself():
    cases = hostile_dicoms()

    async def go():
        found = {}
        async with opened_files() as files:
            for name, (data, _) in cases.items():
                try:
                    await files.open(data)
                    found[name] = (200, "")
                except Refused as refused:
                    found[name] = (refused.status, str(refused))
            await files.open(png(mode="RGBA"))  # and it goes on
        return found

    found = asyncio.run(go())
    assert {name: status for name, (status, _) in found.items()} == {name: status for name, (_, status) in cases.items()}, found
    assert not any("DOE" in why or "/proc" in why for _, why in found.values())


def test_files_that_attack_cost_themselves_and_nothing_else():
    async def go():
        found = {}
        async with opened_files() as files:
            await files.open(png((40, 30), "RGBA"))  # seconds are a file's own, not the start's
            for name, (data, _) in FILES.items():
                began = time.monotonic()
                try:
                    await files.open(data)
                    found[name] = (200, "")
                except Refused as refused:
                    found[name] = (refused.status, str(refused))
                found[name] += (time.monotonic() - began,)
            good = await files.open(png((40, 30), "RGBA"))
        return found, good

    found, good = asyncio.run(go())
    assert {name: status for name, (status, _, _) in found.items()} == {name: status for name, (_, status) in FILES.items()}
    assert not any("DOE" in why or "/proc" in why for _, why, _ in found.values()) and max(s for _, _, s in found.values()) < 8
    assert (good.width, good.height) == (40, 30)


def test_the_first_file_does_not_pay_for_the_start():
    """The process is held while it starts, longer than a file may take."""

    async def go():
        files = Files(patience_s=2.0)
        files.start()
        os.kill(files._process.pid, signal.SIGSTOP)
        asked = asyncio.create_task(files.open(png((40, 30), "RGBA")))
        try:
            await asyncio.wait([asked], timeout=3.0)
        finally:
            os.kill(files._process.pid, signal.SIGCONT)
        try:
            return await asked
        finally:
            files.close()

    found = asyncio.run(go())
    assert (found.width, found.height) == (40, 30)


def test_a_file_is_opened_as_everywhere_else_and_nothing_is_written(tmp_path, monkeypatch):
    """The very pixels of ``load_image``, and no file is made while it is opened."""
    import hashlib
    import io

    from PIL import Image

    from medvlm_r1.data.images import content_hash, load_image

    path = tmp_path / "a.png"
    path.write_bytes(png((40, 30), "RGBA"))

    async def go():
        async with opened_files() as files:
            return await files.open(path.read_bytes())

    before = set(tmp_path.iterdir())
    picture = asyncio.run(go())
    assert content_hash(Image.open(io.BytesIO(picture.png)).convert("RGB")) == content_hash(load_image(str(path)))
    assert picture.sha256 == hashlib.sha256(picture.png).hexdigest() and set(tmp_path.iterdir()) == before


# ---------------------------------------------------------------- who may ask


@pytest.mark.parametrize("headers", [
    {"host": "evil.example"}, {"host": "localhost.evil.example:8000"}, {"host": ""}, {"origin": "http://evil.example"}, {"origin": "null"}, {"origin": "http://["},
    {"origin": "http://localhost:3000"}, {"host": "169.254.169.254"},
])  # fmt: skip
def test_a_foreign_page_is_refused_on_loopback_too(headers):
    for response in (get(service(), "/health", headers), post(service(), question(), headers=headers)):
        assert response.status_code == 403
        assert not any(name.startswith("access-control") or name == "set-cookie" for name in response.headers)


def test_the_page_of_this_server_may_ask():
    assert post(service(), question(), headers={"origin": "http://localhost"}).status_code == 200


def test_every_route_but_health_wants_the_key():
    for path in ("/ready", "/metrics", "/v1/models", "/openapi.json", "/nowhere", "/v1/chat/completions"):
        for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": KEY}, {"authorization": f"Bearer {KEY}x"}):
            assert get(service(), path, headers, key=KEY).status_code == 401, path
    assert get(service(), "/health", key=KEY).status_code == 200
    assert get(service(), "/ready", {"authorization": f"Bearer {KEY}"}, key=KEY).status_code == 200


@pytest.mark.parametrize(("serving", "key", "part"), [
    (Serving("nano", host="0.0.0.0"), "", "a key is needed"), (Serving("nano", host="10.0.0.7"), "", "a key is needed"),
    (Serving("nano"), "short", "16 or more"), (Serving(), "", "either --model or --upstream"), (Serving("nano", upstream="http://a/v1"), "", "either"),
])  # fmt: skip
def test_what_would_not_be_safe_is_not_begun(serving, key, part):
    with pytest.raises(ConfigError, match=part):
        check(serving, key)
    check(Serving("nano"), "")
    check(Serving("nano", host="0.0.0.0"), KEY)
    assert "0.0.0.0" not in hosts(Serving("nano", host="0.0.0.0"))


# ---------------------------------------------------------------- slow and endless clients


def said(port, *parts, pause_s=0.0, wait_s=20.0):
    """What the server answers to bytes that come in parts, and after how many seconds."""
    began = time.monotonic()
    with socket.create_connection(("127.0.0.1", port), timeout=wait_s) as connection:
        try:
            for part in parts:
                connection.sendall(part)
                time.sleep(pause_s)
            return connection.recv(4096), time.monotonic() - began
        except (ConnectionError, TimeoutError):
            return b"", time.monotonic() - began


HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"


def test_slow_lying_and_endless_requests():
    with AtAPort(service(), header_s=1.0, body_s=0.3, body_bytes=10_000) as server:
        late, seconds = said(server.port, b"GET /health HTTP/1.1\r\nHost: localhost\r\n")
        assert late.startswith(b"HTTP/1.1 408") and 0.9 < seconds < 4.5  # 5 s are usual
        again, _ = said(server.port, b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n", b"GET /health HTTP/1.1\r\nHo", pause_s=0.1)
        assert again.startswith(b"HTTP/1.1 200")
        slow, seconds = said(server.port, HEAD + b"Content-Length: 100\r\n\r\n{")
        assert slow.startswith(b"HTTP/1.1 408") and 0.2 < seconds < 9  # 10 s are usual
        for length in (b"10001", b"-1", b"1e3"):
            lie, _ = said(server.port, HEAD + b"Content-Length: " + length + b"\r\n\r\n")
            assert lie[:12] in (b"HTTP/1.1 413", b"HTTP/1.1 400")
        endless, _ = said(server.port, HEAD + b"Transfer-Encoding: chunked\r\n\r\n", *[b"1000\r\n" + bytes(4096) + b"\r\n"] * 4)
        assert endless[:12] in (b"HTTP/1.1 413", b"")  # refused, and cut off
        fine, _ = said(server.port, b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert fine.startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/feedback"])
def test_a_body_of_a_million_parts_is_refused_unread(path):
    bodies = [b'{"metadata": [' + b"{}," * 10**6 + b"1]}", b"{" + b'"k": 1,' * 10**5 + b'"k": 1}', b"[" * 10**5 + b"]" * 10**5]
    for body in bodies:
        for kind in ("application/json", "Application/JSON; charset=utf-8", "application/fhir+json"):
            found = post(service(), body, path, {"content-type": kind})
            assert found.status_code == 413 and "20000 parts" in found.json()["error"]["message"]


def test_a_question_with_its_picture_and_a_table_of_values_has_few_parts():
    asked = question()
    asked["messages"][0]["content"][-1]["text"] = "1.5, " * 3_000
    assert post(service(), asked).status_code == 200


@pytest.fixture
def soon():
    """Whoever reads a sign in two ways needs minutes or hours for what follows, and is stopped."""

    def stop(*_):
        raise TimeoutError("a text is read again from each of its signs")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(20)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def test_a_long_head_of_a_picture_costs_nobody_the_server(soon):
    assert post(service(), question("data:" + "a" * 10**6 + "!,AAAA")).status_code == 400


@pytest.mark.parametrize("text", [" " * 10**6 + "é", "<image>a" + " " * 10**6 + "b", "Which?" + "<image>" * 10**5 + "?"])
def test_a_long_question_is_tidied_by_reading_it_once(soon, text):
    clean(Example("q", ("a.png",), text, ("left", "right"), "left", "ct", group=text))


def test_a_long_earlier_question_is_read_once(soon):
    assert unseen("Which side is the lesion on?", [Reading("is " * 10**5, ("yes", "no"), "no")]) == ""


def test_an_endless_body_leaves_the_memory_flat():
    def resident():
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

    with AtAPort(service(), body_bytes=2**20) as server:
        said(server.port, HEAD + b"Transfer-Encoding: chunked\r\n\r\n", *[b"1000\r\n" + bytes(4096) + b"\r\n"] * 300)
        before, chunk = resident(), b"100000\r\n" + bytes(2**20) + b"\r\n"
        for _ in range(4):
            refused, _ = said(server.port, HEAD + b"Transfer-Encoding: chunked\r\n\r\n", *[chunk] * 32)
            assert refused[:12] in (b"HTTP/1.1 413", b"")
        assert resident() - before < 16 * 2**20  # of 128 MiB


def test_a_reader_that_takes_nothing_is_cut_off_and_its_row_is_dropped():
    backend = Scripted("<think>" + "x" * 8_000_000, size=20_000)
    with AtAPort(service(backend), write_s=0.3) as server:
        body = json.dumps(question(stream=True)).encode()
        with socket.socket() as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
            connection.connect(("127.0.0.1", server.port))
            connection.sendall(HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body)
            until = time.monotonic() + 20
            while not backend.asked or backend.rows:
                assert time.monotonic() < until
                time.sleep(0.02)


@pytest.mark.parametrize("stream", [False, True])
def test_who_leaves_is_not_answered_any_more(stream):
    held = asyncio.Event()  # never set
    backend = Scripted(held=held)
    with AtAPort(service(backend)) as server:
        body = json.dumps(question(stream=stream)).encode()
        with socket.create_connection(("127.0.0.1", server.port)) as connection:
            connection.sendall(HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body)
            until = time.monotonic() + 20
            while not backend.rows:
                assert time.monotonic() < until
                time.sleep(0.01)
        while backend.rows:
            assert time.monotonic() < until
            time.sleep(0.01)


# ---------------------------------------------------------------- words that attack, and words that must not get out

NASTY = "<script>alert(1)</script>\x1b[31m\u202eDOE^JANE\n"


def test_nothing_that_was_sent_gets_into_logs_metrics_or_the_audit(tmp_path):
    from medvlm_r1.serving.audit_log import AuditLog

    lines = []
    offered = service(Scripted(f"<think>{NASTY}left</think><answer>A</answer>"), audit=AuditLog(tmp_path / "audit.jsonl"))
    body = question(text=f"Which side? {NASTY}", options=["left", f"right {NASTY}"])
    assert post(offered, body, log=lines.append, headers={"user-agent": "DOE^JANE", "x-name": "DOE^JANE"}).status_code == 200
    assert post(offered, {**body, "DOE^JANE": 1}, log=lines.append).status_code == 422
    assert get(offered, "/DOE^JANE?name=DOE^JANE", log=lines.append).status_code == 404
    metrics = get(offered, "/metrics", log=lines.append).text
    kept = "".join(lines) + metrics + (tmp_path / "audit.jsonl").read_text()
    for canary in ("DOE", "JANE", "script", "\x1b", "\u202e", "Which", "left"):
        assert canary not in kept
    assert all(line.isascii() and line.isprintable() for line in lines)


# ---------------------------------------------------------------- an upstream that lies


UPSTREAM = {
    "answers 500": ((500, {}, {"error": "DOE^JANE"}), 502), "answers nonsense": ((200, {}, {"choices": []}), 502), "refuses": ((400, {}, {"error": "no"}), 502),
    "breaks off": ((200, {}, {"choices": [{"message": {"content": "<answer>A</answer>"}, "finish_reason": "abort"}]}), 502),
    "answers": ((200, {}, {"choices": [{"message": {"content": "<think>Hence left.</think><answer>A</answer>"}, "finish_reason": "stop"}]}), 200),
}  # fmt: skip


@pytest.mark.parametrize("case", UPSTREAM)
def test_an_upstream_that_lies_is_no_answer(serve, case):
    from medvlm_r1.rollout.calling import Endpoint

    answer, status = UPSTREAM[case]
    server = serve(answer)
    offered = service(Upstream(Endpoint(server.url, "big", attempts=1, timeout_s=5), "think"))
    response = post(offered, {**question(), "model": "big", "messages": [{"role": "user", "content": "Which side?"}]})
    assert response.status_code == status and "DOE" not in response.text
    if status == 200:
        medical = response.json()["choices"][0]["message"]["medical"]
        assert (medical["answer"], medical["status"], medical["option_probs"], medical["confidence"]) == ("A", "answered", {}, None)


def test_an_upstream_is_sent_each_picture_as_often_as_it_was_given(serve):
    from medvlm_r1.rollout.calling import Endpoint

    server, same = serve(UPSTREAM["answers"][0]), Picture(png(), hashlib.sha256(png()).hexdigest(), 40, 30)
    upstream = Upstream(Endpoint(server.url, "big", attempts=1, timeout_s=5), "think")

    async def go():
        return [said async for said in upstream.ask(Ask("Are they the same?", ("yes", "no"), (same, same), None, Sampling(1, 0.0)))]

    asyncio.run(go())
    assert [part["type"] for part in server.asked[-1]["messages"][-1]["content"]].count("image_url") == 2


def test_an_upstream_that_hangs():
    from medvlm_r1.rollout.calling import Endpoint

    with socket.create_server(("127.0.0.1", 0)) as hanging:
        address = f"http://127.0.0.1:{hanging.getsockname()[1]}/v1"
        offered = service(Upstream(Endpoint(address, "big", attempts=1, timeout_s=0.2), "think"))
        response = post(offered, {**question(), "model": "big", "messages": [{"role": "user", "content": "Which side?"}]})
    assert response.status_code == 504


def test_the_answer_of_a_request_is_bounded_before_anything_is_opened():
    """A picture is decoded for nobody whose request would be refused."""
    files = NoFiles()
    assert post(service(files=files), question(n=17)).status_code == 422
    assert post(service(files=files, limits=Limits(rows=0)), question()).status_code == 429
    assert post(service(files=files), {**question(), "model": "other"}).status_code == 404
    assert files.opened == []


def test_many_pictures_are_bounded():
    many = [data_url(png())] * 65
    assert post(service(), question(*many)).status_code == 422 and ChatRequest.model_validate(question()).n is None
