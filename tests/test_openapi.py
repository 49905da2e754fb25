"""The OpenAPI document holds together, and what it allows never ends in a fault: schemathesis makes it up, where it is installed."""

import json
import re
import shutil
import subprocess

import pytest
from serving_kit import AtAPort, get, post, question, service


def test_every_reference_of_the_document_leads_somewhere():
    document = get(service(), "/openapi.json").json()
    references = set(re.findall(r'"\$ref": "#/components/schemas/([^"]+)"', json.dumps(document)))
    assert {"ChatRequest", "FeedbackRequest", "ErrorBody", "Medical", "Place"} <= references <= set(document["components"]["schemas"])
    chat = document["paths"]["/v1/chat/completions"]["post"]
    assert chat["requestBody"]["required"] and "text/event-stream" in chat["responses"]["200"]["content"] and "400" in chat["responses"]
    fields = document["components"]["schemas"]["ChatRequest"]
    assert set(question()) <= set(fields["properties"]) and fields["additionalProperties"] is False and "title" in document["info"]


def test_a_body_of_another_kind_is_not_read():
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""):
        assert post(service(), question(), headers={"content-type": kind}).status_code == 415
    assert post(service(), question(), headers={"content-type": "application/json; charset=utf-8"}).status_code == 200


@pytest.mark.skipif(not shutil.which("schemathesis"), reason="the command schemathesis is not here; pip install schemathesis, in an environment of its own")
def test_schemathesis_finds_no_fault(tmp_path):
    with AtAPort(service()) as server:
        words = ["run", f"http://127.0.0.1:{server.port}/openapi.json", "--max-examples", "5", "--seed", "1"]
        checks = ["--checks", "not_a_server_error,content_type_conformance,status_code_conformance,response_schema_conformance"]
        done = subprocess.run(["schemathesis", *words, *checks, "--no-color"], capture_output=True, text=True, timeout=120, cwd=tmp_path)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-1000:]
