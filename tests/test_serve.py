"""``medvlm-r1 serve`` as it is started, with the embedded model: the docs' own example, and a quiet end."""

import base64
import importlib.util
import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import suppress
from pathlib import Path

import httpx
import pytest
from PIL import Image

from medvlm_r1.data.dataset import load_dataset
from medvlm_r1.data.images import load_image
from medvlm_r1.data.manifest import write_manifest
from medvlm_r1.serving.calibrated import read

openai = pytest.importorskip("openai")
DOCS = Path(__file__).parents[1] / "docs" / "serving.md"


def is_ready(process, port):
    """Whether a server came to answer, in the end."""
    until = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < until:
        with suppress(OSError):
            urllib.request.urlopen(f"http://127.0.0.1:{port}/ready", timeout=5).close()
            return True
        time.sleep(0.2)
    return False


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """Should somebody take the port between its choice and the server's start, another is chosen."""
    folder = tmp_path_factory.mktemp("serve")
    load_image("phantom:mri/test/0").save(folder / "scan.png")
    (folder / "tmp").mkdir()
    places = {"TMPDIR": str(folder / "tmp"), "HOME": str(folder), "XDG_CACHE_HOME": str(folder / "cache")}  # wherever it could leave something
    for _ in range(3):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        words = [sys.executable, "-m", "medvlm_r1", "serve", "--model", "nano", "--port", str(port), "--audit-log", str(folder / "audit.jsonl")]
        process = subprocess.Popen(words, stderr=(folder / "log").open("w"), cwd=Path(__file__).parents[1], env=os.environ | places)
        if is_ready(process, port) or "is the port in use?" not in (folder / "log").read_text():
            break
    try:
        assert process.poll() is None, (folder / "log").read_text()
        yield process, port, folder
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def client(server):
    return openai.OpenAI(base_url=f"http://127.0.0.1:{server[1]}/v1", api_key="none", max_retries=0)


def content(folder):
    url = "data:image/png;base64," + base64.b64encode((folder / "scan.png").read_bytes()).decode()
    return [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": "What is the imaging plane?"}]


MEDICAL = {"medical": {"options": ["sagittal", "coronal", "axial"]}}


def test_the_example_of_the_docs_runs_as_it_stands(server, monkeypatch, capsys):
    _, port, folder = server
    example = re.search(r"```python\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL)[1]
    monkeypatch.chdir(folder)
    exec(example.replace(":8000", f":{port}"), {})
    letter, *_ = capsys.readouterr().out.split()
    assert letter == "A"


def test_curl_as_in_the_docs(server):
    _, port, folder = server
    example = re.search(r"```bash\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL)[1]
    found = subprocess.run(["bash", "-c", example.replace(":8000", f":{port}")], cwd=folder, capture_output=True, check=True)
    assert json.loads(found.stdout)["choices"][0]["message"]["content"] == "A"


def test_the_server_says_what_ask_says(server, client, command):
    """The same letter, thought and probabilities, whole and as a stream."""
    folder = server[2]
    out = command("ask", "--model", "nano", folder / "scan.png", "What is the imaging plane?", "--options", *MEDICAL["medical"]["options"], "--json")[1]
    asked = json.loads(out)
    turns = [{"role": "user", "content": content(folder)}]
    message = client.chat.completions.create(model="nano", messages=turns, extra_body=MEDICAL).choices[0].message
    assert (message.content, message.reasoning) == (asked["answer"], asked["reasoning"])
    assert message.medical["option_probs"] == pytest.approx(asked["option_probs"], abs=1e-5)
    chunks = list(client.chat.completions.create(model="nano", messages=turns, extra_body=MEDICAL, stream=True))
    assert "".join(c.choices[0].delta.content or "" for c in chunks) == asked["answer"]
    assert "".join(getattr(c.choices[0].delta, "reasoning_content", None) or "" for c in chunks) == asked["reasoning"]


def test_the_server_writes_what_the_local_engine_writes_token_by_token(server):
    """Four questions greedy and drawn, alone and together; benchmarks/served_equal.py does it with 300."""
    spec = importlib.util.spec_from_file_location("served_equal", Path(__file__).parents[1] / "benchmarks" / "served_equal.py")
    served_equal = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = served_equal
    spec.loader.exec_module(served_equal)
    found = served_equal.compare(f"http://127.0.0.1:{server[1]}", 4)
    assert [each["equal"] for each in found.values()] == [4] * 4 and min(each["tokens"] for each in found.values()) > 40


def test_its_page_is_there(server):
    with urllib.request.urlopen(f"http://127.0.0.1:{server[1]}/", timeout=5) as found:
        assert b"page/page.js" in found.read() and "default-src 'none'" in found.headers["content-security-policy"]


def test_errors_are_openais(server, client):
    turns = [{"role": "user", "content": content(server[2])}]
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(model="gpt", messages=turns)
    with pytest.raises(openai.UnprocessableEntityError):
        client.chat.completions.create(model="nano", messages=turns, n=1000)
    elsewhere = [{"type": "image_url", "image_url": {"url": "http://127.0.0.1/a.png"}}, content(server[2])[1]]
    with pytest.raises(openai.BadRequestError):
        client.chat.completions.create(model="nano", messages=[{"role": "user", "content": elsewhere}])
    assert [model.id for model in client.models.list()] == ["nano"]


TEXTS = ("LO", "SH", "PN", "ST", "LT", "UT", "UC", "AE")  # what a person may have typed


def canary(n):
    return f"CANARY{n:03d}"


def dicom_with_canaries(n):
    """A DICOM file whose ``n`` texts are canaries: elements of the dictionary, in front a few of every patient's, and a private block."""
    pydicom = pytest.importorskip("pydicom")
    import drawn_files

    read = {"PhotometricInterpretation", "PresentationLUTShape", "WindowCenterWidthExplanation"}
    known = [(tag, entry) for tag, entry in sorted(pydicom.datadict.DicomDictionary.items()) if entry[0] in TEXTS and entry[4] and entry[4] not in read]
    chosen = [*(each for each in known if each[0] >> 16 == 0x0010), *(each for each in known if each[0] >> 16 not in (0x0000, 0x0002, 0x0010))][: n - 20]
    dataset = drawn_files.dicom(drawn_files.RAMP, **{entry[4]: canary(k) for k, (_, entry) in enumerate(chosen)})
    block = dataset.private_block(0x0099, canary(n - 20), create=True)
    for k in range(1, 20):
        block.add_new(k, "LO", canary(n - 20 + k))
    memory = io.BytesIO()
    dataset.save_as(memory, enforce_file_format=True)
    data = memory.getvalue()
    assert all(canary(k).encode() in data for k in range(n))
    return data


def jpeg_with_canaries(first, n):
    exif = Image.Exif()
    for k, tag in enumerate((0x010E, 0x010F, 0x0110, 0x0131, 0x013B, 0x8298, 0x9C9B, 0xA420, 0xC614, 0x9286)[:n]):
        exif[tag] = canary(first + k)
    memory = io.BytesIO()
    Image.new("RGB", (64, 64), "grey").save(memory, "JPEG", exif=exif, comment=canary(first))
    return memory.getvalue()


def test_seven_hundred_canaries_get_nowhere(server):
    """What stands in a file beside its pixels, and in what a client says beside its question: not in the log, the audit, a file, the metrics, an answer."""
    _, port, folder = server
    tags, exif = dicom_with_canaries(680), jpeg_with_canaries(680, 10)
    broken = [tags[: len(tags) // 2], tags[:-20], exif[: len(exif) // 2]]
    names = [f"data:application/dicom;name={canary(690)}.dcm;base64,", f"data:image/jpeg;name={canary(691)};base64,"]
    said = {"user": canary(692), "metadata": {canary(693): canary(694)}, "safety_identifier": canary(695)}
    headers = {"User-Agent": canary(696), "X-Patient": canary(697), "Referer": f"http://{canary(698)}/", "Cookie": f"name={canary(699)}"}
    heard, statuses = "", []
    for data, name in ((tags, names[0]), (exif, names[1]), *((data, names[0]) for data in broken)):
        for stream in (False, True):
            parts = [{"type": "image_url", "image_url": {"url": name + base64.b64encode(data).decode()}}, {"type": "text", "text": f"Which? {canary(695)}"}]
            body = {"model": "nano", "messages": [{"role": "user", "content": parts}], **MEDICAL, **said, "stream": stream, "max_tokens": 48}
            response = httpx.post(f"http://127.0.0.1:{port}/v1/chat/completions?name={canary(690)}", json=body, headers=headers, timeout=60)
            statuses.append(response.status_code)
            heard += response.text + str(response.headers)
    assert statuses == [200] * 4 + [400] * 6
    kept = [file for file in folder.rglob("*") if file.is_file() and file.name != "scan.png"]
    assert {"log", "audit.jsonl"} <= {file.name for file in kept}
    heard += httpx.get(f"http://127.0.0.1:{port}/metrics").text + "".join(str(file) + file.read_text(errors="replace") for file in kept)
    assert "CANARY" not in heard


def test_it_ends_quietly_and_leaves_no_process_and_a_whole_audit_log(server, command):
    process, _, folder = server
    children = [int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]
    assert len(children) == 2 and "torch" not in Path(f"/proc/{process.pid}/maps").read_text()  # none in the front
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 0
    until = time.monotonic() + 60
    while any(os.path.exists(f"/proc/{pid}") for pid in children):
        assert time.monotonic() < until
        time.sleep(0.05)
    assert command("audit-log", "verify", folder / "audit.jsonl")[0] == 0
    for line in (folder / "log").read_text().splitlines():
        assert line.startswith("{") or line.startswith("nano is served at ")


def test_calibrate_writes_what_serve_reads(command, tmp_path, refused):
    out = tmp_path / "c.json"
    write_manifest(tmp_path / "few.jsonl", load_dataset("phantom:mri?split=test&question_type=plane").head(24))
    words = ["calibrate", "--model", "nano", "--data", tmp_path / "few.jsonl", "--max-tokens", "48", "--out", out]
    code, said, _ = command(*words)
    found = read(out)
    assert code == 0 and "Not for diagnosis" in said and found.n >= 20 and found.blocks[0].low > 0.2 and found.threshold == 0.0
    assert sum(block.n for block in found.blocks) == found.n and all(a.share < b.share for a, b in zip(found.blocks, found.blocks[1:], strict=False))
    refused([*words[:4], "phantom:mri?split=train", *words[5:]], "held-out")
    refused([*words, "--error", "0.0001"], "no confidence keeps the error")
