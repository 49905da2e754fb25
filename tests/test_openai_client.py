"""The official client against our routes, over a socket: answers, streams, pictures, and every error as its own class."""

import asyncio

import pytest
from serving_kit import AtAPort, NoFiles, Scripted, data_url, opened_files, png, question, service

openai = pytest.importorskip("openai")
KEY = "0123456789abcdef-key"


def client(server, key="none"):
    return openai.OpenAI(base_url=f"http://127.0.0.1:{server.port}/v1", api_key=key, max_retries=0)


def ask(server, key="none", **changes):
    asked = question()
    medical = {"medical": asked.pop("medical")}
    return client(server, key).chat.completions.create(**{**asked, "extra_body": medical, **changes})


def test_answers_and_streams():
    with AtAPort(service()) as server:
        whole = ask(server, n=2)
        assert [choice.message.content for choice in whole.choices] == ["A", "A"] and whole.usage.total_tokens == 54
        assert whole.choices[0].finish_reason == "stop" and whole.choices[0].message.medical["status"] == "answered"
        chunks = list(ask(server, stream=True, stream_options={"include_usage": True}))
        assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == "A" and chunks[-1].usage.completion_tokens == 7
        assert [model.id for model in client(server).models.list()] == ["scripted"] and client(server).models.retrieve("scripted").owned_by == "medvlm-r1"


def test_the_asynchronous_client():
    async def go(port):
        async with openai.AsyncOpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", max_retries=0) as http:
            asked = question(stream=True)
            medical = {"medical": asked.pop("medical")}
            stream = await http.chat.completions.create(**asked, extra_body=medical)
            return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

    with AtAPort(service()) as server:
        assert asyncio.run(go(server.port)) == "A"


def test_pictures_go_as_the_client_sends_them():
    async def go():
        async with opened_files() as files:
            backend = Scripted()
            with AtAPort(service(backend, files)) as server:
                asked = question(data_url(png((40, 30))), data_url(png((20, 50), "RGB")))
                await asyncio.to_thread(ask, server, messages=asked["messages"])
        return backend.asked[0].pictures

    assert [(picture.width, picture.height) for picture in asyncio.run(go())] == [(40, 30), (20, 50)]


class Refusing(NoFiles):
    """Opens nothing, for a reason that the bytes name."""

    async def open(self, data, place=""):
        from medvlm_r1.serving.refusals import Refused

        raise Refused(int(data), "no")


def shown(data):
    return question(data_url(data))["messages"]


ERRORS = {
    "no such model": ({"model": "gpt"}, openai.NotFoundError, 404), "out of bounds": ({"n": 1000}, openai.UnprocessableEntityError, 422),
    "fetched": ({"messages": question("https://a.b/c.png")["messages"]}, openai.BadRequestError, 400), "corrupt": ({"messages": shown(b"400")}, openai.BadRequestError, 400),
    "large": ({"messages": shown(b"413")}, openai.APIStatusError, 413), "unknown kind": ({"messages": shown(b"415")}, openai.APIStatusError, 415),
    "unknown field": ({"extra_body": {"tools": []}}, openai.UnprocessableEntityError, 422), "huge body": ({"user": "x" * 2**21}, openai.APIStatusError, 413),
}  # fmt: skip


def test_every_error_is_the_clients_own_class():
    with AtAPort(service(files=Refusing()), body_bytes=2**20) as server:
        for name, (changes, kind, status) in ERRORS.items():
            with pytest.raises(kind) as caught:
                ask(server, **changes)
            assert caught.value.status_code == status, name
            assert caught.value.body["message"] and caught.value.body["type"].endswith("error"), name
        with pytest.raises(openai.NotFoundError):
            client(server).models.retrieve("gpt")


def test_keys_waiting_and_faults():
    with AtAPort(service(), key=KEY) as server:
        for key in ("wrong", "none"):
            with pytest.raises(openai.AuthenticationError):
                ask(server, key)
        assert ask(server, KEY).choices[0].message.content == "A"
    with AtAPort(service(), rows=0) as server, pytest.raises(openai.RateLimitError) as full:
        ask(server)
    assert int(full.value.response.headers["retry-after"]) >= 1
    offered = service()
    offered.backend.ready = False
    with AtAPort(offered) as server, pytest.raises(openai.InternalServerError) as early:
        ask(server)
    assert early.value.status_code == 503
    with AtAPort(service(Scripted(why=(20, 502)))) as server:
        with pytest.raises(openai.InternalServerError):
            ask(server)
        with pytest.raises(openai.APIError, match="out of order"):  # and no end that could pass for one
            list(ask(server, stream=True))
