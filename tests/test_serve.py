"""``medvlm-r1 serve`` as it is started, with the embedded model: the docs' own example, and a quiet end."""

import base64
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from medvlm_r1.data.dataset import load_dataset
from medvlm_r1.data.images import load_image
from medvlm_r1.data.manifest import write_manifest
from medvlm_r1.serving.calibrated import read

openai = pytest.importorskip("openai")
DOCS = Path(__file__).parents[1] / "docs" / "serving.md"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("serve")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    load_image("phantom:mri/test/0").save(folder / "scan.png")
    words = [sys.executable, "-m", "medvlm_r1", "serve", "--model", "nano", "--port", str(port), "--audit-log", str(folder / "audit.jsonl")]
    process = subprocess.Popen(words, stderr=(folder / "log").open("w"), cwd=Path(__file__).parents[1])
    try:
        until = time.monotonic() + 120
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/ready", timeout=5).close()
                break
            except OSError:
                assert process.poll() is None and time.monotonic() < until, (folder / "log").read_text()
                time.sleep(0.2)
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


def test_it_ends_quietly_and_leaves_no_process_and_a_whole_audit_log(server, command):
    process, _, folder = server
    children = [int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]
    assert len(children) == 2 and "torch" not in Path(f"/proc/{process.pid}/maps").read_text()  # none in the front
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 0
    until = time.monotonic() + 5
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
    assert code == 0 and "Not for diagnosis" in said and found.n >= 20 and found.blocks[0].low == 0.0 and found.threshold == 0.0
    assert sum(block.n for block in found.blocks) == found.n and all(a.share < b.share for a, b in zip(found.blocks, found.blocks[1:], strict=False))
    refused([*words[:4], "phantom:mri?split=train", *words[5:]], "held-out")
    refused([*words, "--error", "0.0001"], "no confidence keeps the error")
