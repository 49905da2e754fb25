"""Reading first, held by the server; work lists, readers, and the table of a study. No browser."""

import asyncio
import csv
import hashlib
import io
import json
from dataclasses import replace
from itertools import pairwise

import pytest
from reading_kit import ANNA, BERT, DEVELOPER, PngFiles, Ward, cases, followed, own_question
from serving_kit import Scripted, opened_files, png, question

from medvlm_r1.data.study import Instance
from medvlm_r1.errors import ConfigError, DataError, RunError
from medvlm_r1.launch.serving import Reading, Serving, check
from medvlm_r1.reading import study
from medvlm_r1.reading.reads import WORDS_LOST
from medvlm_r1.reading.worklist import Case, order, read_worklist
from medvlm_r1.serving.audit_log import verify
from medvlm_r1.serving.people import People, read_readers
from medvlm_r1.serving.schema import Place

DICOM = Instance("1.2.1", "1.2.2", "1.2.840.10008.5.1.4.1.1.2", "1.2.3")

SECRET = "Dark there. Hence left."  # of the scripted model's thought


def people(**changes):
    readers = {hashlib.sha256(key.encode()).hexdigest(): name for key, name in ((ANNA, "anna"), (BERT, "bert"))}
    return People(DEVELOPER, readers, **{"read_first": True, **changes})


@pytest.fixture
def ward(tmp_path):
    made = Ward(tmp_path, cases=cases(tmp_path), people=people())
    yield made
    made.close()


async def opened(http, **body):
    response = await http.post("/reading/reads", json=body)
    assert response.status_code == 200, response.text
    return response.json()


async def settled(ward):
    """Every model's answer is there: what leaks would leak now."""
    await asyncio.gather(*(read.task for read in ward.reads._reads.values()))


# ---------------------------------------------------------------- read first


def test_nothing_gives_the_answer_away_before_the_readers_own(ward):
    """Every route, with the reader's own key, once the model has answered: neither its letter's words nor its thought."""

    async def play(http):
        read = (await opened(http, case="c0"))["read"]
        await settled(ward)
        found = [await http.post("/reading/reads", json={"case": "c0"}), await http.get("/reading/state")]  # a page loaded anew, a second tab
        refused = [await http.get(f"/reading/reads/{read}/{part}") for part in ("events", "report?format=fhir", "report?format=sr")]
        refused += [await http.post(f"/reading/reads/{read}/final", json={"action": "agree"}), await http.post("/reading/reads", json={"case": "c1"})]
        refused += [await http.post("/v1/chat/completions", json=question())]
        refused += [await http.get(path) for path in ("/metrics", "/openapi.json")]
        refused += [await http.post("/v1/feedback", json={}), await http.get("/v1/chat/completions"), await http.post("//v1/chat/completions", json=question())]
        return read, found, refused

    read, found, refused = ward.run(play, ANNA)
    assert [response.status_code for response in refused] == [403, 403, 403, 403, 409, 403, 403, 403, 403, 403, 403]
    assert all(response.status_code == 200 for response in found) and found[0].json()["read"] == read and found[1].json()["open"]["read"] == read
    assert not any(word in response.text for response in (*found, *refused) for word in (SECRET, '"A"', "answered", "0.8", "medical"))
    assert ward.rows("answer") and not ward.rows("read-shown")  # it was there, and was not shown


def test_the_answer_comes_once_the_own_one_is_in_the_log(ward):
    async def play(http):
        read = (await opened(http, case="c0"))["read"]
        await settled(ward)
        own = await http.post(f"/reading/reads/{read}/own", json={"answer": "B"})
        before = [row["event"] for row in study.read_log(ward.log)]
        event = await followed(http, read)
        again = await http.post(f"/reading/reads/{read}/own", json={"answer": "A"})
        final = await http.post(f"/reading/reads/{read}/final", json={"action": "agree"})
        twice = [await http.post(f"/reading/reads/{read}/final", json={"action": "skip"}), await http.post("/reading/reads", json={"case": "c0"})]
        return own.json(), before, event["message"], again, final.json(), twice

    own, before, message, again, final, twice = ward.run(play, ANNA)
    assert own["stage"] == "shown" and "read-own" in before and "read-shown" not in before
    assert message["content"] == "A" and message["reasoning"] == SECRET
    assert again.status_code == 409 and [response.status_code for response in twice] == [409, 409]
    assert (final["stage"], final["own"], final["final"]) == ("done", "B", "A")
    assert [row["event"] for row in study.read_log(ward.log)] == ["read-opened", "answer", "read-own", "read-shown", "read-final"]
    assert ward.rows("read-final")[0]["reference"] == "A" and verify(ward.log).n == 5


class Full:
    """A disk that is full."""

    def write(self, event, values):
        raise RunError("no space left")


def test_where_the_log_cannot_be_written_nothing_is_shown(ward):
    async def play(http):
        read = (await opened(http, case="c0"))["read"]
        await settled(ward)
        whole, ward.service.audit = ward.service.audit, Full()
        own = await http.post(f"/reading/reads/{read}/own", json={"answer": "B"})
        unread = await followed(http, read)
        ward.service.audit = whole
        await http.post(f"/reading/reads/{read}/own", json={"answer": "B"})
        ward.service.audit = Full()
        unshown = await followed(http, read)
        ward.service.audit = whole
        return own.status_code, unread.status_code, unshown

    own, unread, unshown = ward.run(play, ANNA)
    assert (own, unread) == (503, 403) and unshown.keys() == {"error"} and not ward.rows("read-shown")


def test_a_reader_sees_her_own_reads_alone(ward):
    async def anna(http):
        read = (await opened(http, case="c0"))["read"]
        await http.post(f"/reading/reads/{read}/own", json={"answer": "B"})
        return read

    async def bert(http, read):
        return [await http.get(f"/reading/reads/{read}/{part}") for part in ("events", "picture", "report?format=fhir")] + [
            await http.post(f"/reading/reads/{read}/own", json={"answer": "B"})
        ]

    async def both(http):
        read = await anna(http)
        http.headers["authorization"] = f"Bearer {BERT}"
        return await bert(http, read)

    assert [response.status_code for response in ward.run(both, ANNA)] == [404] * 4


def test_a_study_is_about_its_cases_alone_and_developers_may_ask(ward):
    async def play(http):
        refused = await http.post("/reading/reads", json=own_question())
        http.headers["authorization"] = f"Bearer {DEVELOPER}"
        return refused, await http.post("/v1/chat/completions", json=question())

    refused, answered = ward.run(play, ANNA)
    assert refused.status_code == 403 and answered.status_code == 200


def test_whoever_sits_at_a_machine_without_keys_reads_first_too(tmp_path):
    ward = Ward(tmp_path, people=People(read_first=True))

    async def play(http):
        return await http.post("/v1/chat/completions", json=question()), await http.get("/reading/state"), await http.get("/")

    chat, state, page = ward.run(play)
    assert (chat.status_code, state.json()["read_first"], page.status_code) == (403, True, 200)


def test_a_server_started_anew_goes_on_where_the_log_ends(tmp_path, ward):
    async def first(http):
        done = (await opened(http, case="c0"))["read"]
        await http.post(f"/reading/reads/{done}/own", json={"answer": "B"})
        await followed(http, done)
        await http.post(f"/reading/reads/{done}/final", json={"action": "skip"})
        begun = (await opened(http, case="c1"))["read"]
        await http.post(f"/reading/reads/{begun}/own", json={"answer": "C"})
        return begun

    begun = ward.run(first, ANNA)
    ward.close()
    again = Ward(tmp_path, cases=ward.reads.cases, people=people())

    async def second(http):
        stages = {case["case"]: case["stage"] for case in (await http.get("/reading/state")).json()["cases"]}
        refused = await http.post("/reading/reads", json={"case": "c0"})
        return stages, refused.status_code, await opened(http, case="c1")

    stages, refused, read = again.run(second, ANNA)
    assert stages == {"c0": "done", "c1": "open", "c2": "new"} and refused == 409
    assert (read["read"], read["own"], read["stage"]) == (begun, "C", "shown")
    again.close()


# ---------------------------------------------------------------- what may be answered


def test_what_is_no_answer_is_refused_and_not_recorded(ward):
    async def play(http):
        read = (await opened(http, case="c0"))["read"]
        own = [(await http.post(f"/reading/reads/{read}/own", json=body)).status_code for body in ({"answer": "D"}, {"answer": "left"}, {}, {"answer": 1})]
        await http.post(f"/reading/reads/{read}/own", json={"answer": ""})  # cannot say
        await followed(http, read)
        bodies = ({"action": "disagree", "answer": "A"}, {"action": "disagree", "answer": "Z"}, {"action": "like"})
        final = [(await http.post(f"/reading/reads/{read}/final", json=body)).status_code for body in bodies]
        return own, final, (await http.post(f"/reading/reads/{read}/final", json={"action": "disagree", "answer": "C"})).json()

    own, final, ended = ward.run(play, ANNA)
    assert own == [422] * 4 and final == [422] * 3 and (ended["own"], ended["final"]) == ("", "C")
    assert [row["own"] for row in ward.rows("read-own")] == [""] and ward.rows("read-final")[0]["final"] == "C"


def test_no_answer_cannot_be_agreed_with(tmp_path):
    ward = Ward(tmp_path, backend=Scripted("<think>Hence right.</think><answer>A</answer>"))

    async def play(http):
        read = (await opened(http, **own_question()))["read"]
        message = (await followed(http, read))["message"]
        agreed = await http.post(f"/reading/reads/{read}/final", json={"action": "agree"})
        return message, agreed.status_code, (await http.post(f"/reading/reads/{read}/final", json={"action": "skip"})).json()["final"]

    message, agreed, final = ward.run(play)
    assert (message["medical"]["status"], message["content"], agreed, final) == ("contradicted", "", 422, "")


def test_words_of_a_free_answer_are_not_in_the_log(tmp_path):
    ward = Ward(tmp_path, backend=Scripted("A nodule.", probs=()), people=People(read_first=True))

    async def play(http):
        read = (await opened(http, **own_question(question="What is DOE^JANE's finding?", medical={})))["read"]
        await http.post(f"/reading/reads/{read}/own", json={"answer": "A cyst of JANE"})
        message = (await followed(http, read))["message"]
        return message["content"], (await http.post(f"/reading/reads/{read}/final", json={"action": "disagree"})).json()["final"]

    assert ward.run(play) == ("A nodule.", "A cyst of JANE")
    assert not any(word in ward.log.read_text() for word in ("JANE", "cyst", "nodule", "finding"))
    [row] = study.reads(study.read_log(ward.log))
    assert (row["own"], row["model"], row["final"], row["switch"]) == ("text", "text", "text", None)


def test_words_that_only_the_ended_server_knew_are_not_made_up(tmp_path):
    (tmp_path / "c0.png").write_bytes(png())
    case = [Case("c0", "What is abnormal?", (), "", tmp_path / "c0.png")]

    def begun():
        return Ward(tmp_path, Scripted("<think>x</think><answer>Effusion</answer>"), case, People(read_first=True), PngFiles(DICOM))

    async def answers(http):
        read = (await http.post("/reading/reads", json={"case": "c0"})).json()["read"]
        await http.post(f"/reading/reads/{read}/own", json={"answer": "a rib fracture"})

    async def goes_on(http):
        read = (await http.post("/reading/reads", json={"case": "c0"})).json()
        await followed(http, read["read"])
        await http.post(f"/reading/reads/{read['read']}/final", json={"action": "disagree"})
        report = (await http.get(f"/reading/reads/{read['read']}/report?format=fhir")).text
        return read["own"], report

    first = begun()
    first.run(answers)
    first.close()
    own, report = (second := begun()).run(goes_on)
    assert own == WORDS_LOST and WORDS_LOST in report
    assert second.rows("read-final")[0]["final"] == "text"
    second.close()


def test_a_picture_that_no_sr_can_refer_to_and_a_model_that_lies_elsewhere(tmp_path):
    """Its address is no hash of its files, and no report's."""
    elsewhere = Scripted(probs=())
    elsewhere.about = {"model": "my model", "identity": "http://10.0.0.5:8000/v1#my model", "template": "paper-eval"}

    async def reports(http):
        read = (await http.post("/reading/reads", json=own_question())).json()["read"]
        await followed(http, read)
        return [await http.get(f"/reading/reads/{read}/report?format={kind}") for kind in ("sr", "fhir")]

    sr, fhir = Ward(None, elsewhere, files=PngFiles(DICOM)).run(reports)
    assert sr.status_code == 200 and b"10.0.0.5" not in sr.content
    device = fhir.json()["entry"][0]["resource"]
    assert "10.0.0.5" not in fhir.text and "serialNumber" not in device and [version["type"]["text"] for version in device["version"]] == ["software"]
    sr, fhir = Ward(None, Scripted(), files=PngFiles(replace(DICOM, sop_class_uid="1.2.840.113619.4.30"))).run(reports)
    assert sr.status_code == 422 and fhir.status_code == 200


def test_asked_about_another_slice_it_is_asked_anew(tmp_path):
    """Without reading first; what is on the screen is what the answer is about."""
    (tmp_path / "c0.png").write_bytes(png())
    ward = Ward(None, Scripted(), [Case("c0", "Which side?", ("left", "right"), "", tmp_path / "c0.png")])

    async def twice(http):
        found = [await http.post("/reading/reads", json={"case": "c0", "medical": {"place": {"slice": number}}}) for number in (10, 10, 40)]
        return [one.json()["read"] for one in found]

    first, same, other = ward.run(twice)
    assert first == same != other


def test_a_fault_of_the_model_is_no_answer_and_it_can_be_asked_again(tmp_path):
    backend = Scripted(why=(5, 502))
    ward = Ward(tmp_path, backend=backend)

    async def play(http):
        read = (await opened(http, **own_question()))["read"]
        refused = await followed(http, read)
        backend.why = None
        return refused, await followed(http, read)

    refused, event = ward.run(play)
    assert (refused["error"] if isinstance(refused, dict) else refused.json()["error"])["message"] == "out of order"
    assert event["message"]["content"] == "A" and not ward.rows("read-final")


def test_what_the_model_saw_is_what_it_was_given(tmp_path):
    ward = Ward(tmp_path)

    async def play(http):
        read = (await opened(http, **own_question()))["read"]
        medical = (await followed(http, read))["message"]["medical"]
        return medical["image_sha256"], await http.get(f"/reading/reads/{read}/picture")

    [sha], picture = ward.run(play)
    assert hashlib.sha256(picture.content).hexdigest() == sha == ward.service.backend.asked[0].pictures[0].sha256
    assert picture.headers["content-type"] == "image/png" and {path.name for path in tmp_path.iterdir()} == {"audit.jsonl"}


def test_few_reads_are_kept(tmp_path):
    ward = Ward(tmp_path)

    async def play(http):
        ids = []
        for n in range(6):
            ids.append((await opened(http, **own_question(question=f"Side {n}?")))["read"])
            await followed(http, ids[-1])
        return [(await http.get(f"/reading/reads/{id}/picture")).status_code for id in ids]

    assert ward.run(play) == [404, 404, 200, 200, 200, 200]


# ---------------------------------------------------------------- the page's files, and the key


def test_the_page_wants_no_key_and_all_that_it_shows_does(ward):
    async def play(http):
        index = await http.get("/")
        words = json.loads((await http.get("/page/texts.en.json")).text)
        return (
            index,
            words,
            [(await http.get(path)).status_code for path in ("/reading/state", "/reading/cases/c0/picture", "/page/../reads.py", "/page/nothing.js")],
        )

    index, words, refused = ward.run(play)
    policy = index.headers["content-security-policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy and index.headers["x-content-type-options"] == "nosniff"
    assert index.headers["referrer-policy"] == "no-referrer" and "no-store" in index.headers["cache-control"]
    assert words["banner"] == "Research use only. Not for diagnosis." and refused == [401] * 4


# ---------------------------------------------------------------- the study


def test_the_table_says_what_was_done(ward):
    """Three reads of one reader: talked out of the right answer, talked into it, and one begun alone. Worked out by hand."""
    ward.reads.clock = iter(range(0, 1000, 10)).__next__  # begun 0, own after 10, shown 20, ended after 10

    async def play(http):
        cases = [case["case"] for case in (await http.get("/reading/state")).json()["cases"]]
        for case, own, body in ((cases[0], "A", {"action": "disagree", "answer": "B"}), (cases[1], "C", {"action": "agree"})):
            read = (await opened(http, case=case))["read"]
            await http.post(f"/reading/reads/{read}/own", json={"answer": own})
            await followed(http, read)
            assert (await http.post(f"/reading/reads/{read}/final", json=body)).status_code == 200
        await opened(http, case=cases[2])
        return cases

    order_of_anna = ward.run(play, ANNA)
    rows = study.reads(study.read_log(ward.log))
    found = list(csv.DictReader(io.StringIO(study.table(rows))))
    columns = ("reader", "order", "own", "model", "final", "action", "own_right", "model_right", "final_right", "switch", "seconds_own", "seconds_final")
    assert [[row[name] for name in columns] for row in found] == [
        ["anna", "1", "A", "A", "B", "disagree", "1", "1", "0", "right-wrong", "10", "10"],
        ["anna", "2", "C", "A", "A", "agree", "0", "1", "1", "wrong-right", "10", "10"],
        ["anna", "3", "", "", "", "", "", "", "", "", "", ""],
    ]
    assert [row["case"] for row in found] == order_of_anna
    assert study.summary(rows) == "2 of 3 reads ended; right → wrong 1, wrong → right 1"


def test_the_command_writes_the_table_of_a_whole_log_and_none_of_a_changed_one(ward, command, refused, tmp_path):
    async def play(http):
        await opened(http, case="c0")

    ward.run(play, ANNA)
    ward.close()
    code, said, _ = command("audit-log", "reads", ward.log, tmp_path / "reads.csv")
    assert code == 0 and "0 of 1 reads ended" in said and (tmp_path / "reads.csv").read_text().count("\n") == 2
    ward.log.write_text(ward.log.read_text().replace('"anna"', '"bert"'))
    refused(["audit-log", "reads", ward.log, tmp_path / "again.csv"], "it was changed")
    refused(["audit-log", "reads", ward.log], "wants the log and the CSV file")
    assert not (tmp_path / "again.csv").exists()


@pytest.mark.parametrize("n", [4, 6])
def test_every_case_is_once_at_every_place_and_once_behind_every_other(n):
    rows = [order([str(k) for k in range(n)], reader, seed=3) for reader in range(n)]
    assert all(len({row[place] for row in rows}) == n for place in range(n))
    assert len({pair for row in rows for pair in pairwise(row)}) == n * (n - 1)


def test_of_an_odd_number_twice_as_many_readers_are_balanced():
    rows = [order("abc", reader, seed=3) for reader in range(6)]
    pairs = [pair for row in rows for pair in pairwise(row)]
    assert {pairs.count(pair) for pair in pairs} == {2} and len(set(pairs)) == 6


# ---------------------------------------------------------------- reports


def test_reports_say_what_the_model_and_the_reader_said(tmp_path):
    pytest.importorskip("highdicom")
    import pydicom

    ward = Ward(tmp_path, files=PngFiles(DICOM))

    async def play(http):
        read = (await opened(http, **own_question()))["read"]
        await followed(http, read)
        await http.post(f"/reading/reads/{read}/final", json={"action": "disagree", "answer": "B"})
        return [await http.get(f"/reading/reads/{read}/report?format={name}") for name in ("sr", "fhir", "pdf")]

    sr, fhir, unknown = ward.run(play)
    document = pydicom.dcmread(io.BytesIO(sr.content))
    assert (document.StudyInstanceUID, document.VerificationFlag, document.PreliminaryFlag) == ("1.2.1", "UNVERIFIED", "PRELIMINARY")
    observation = next(entry["resource"] for entry in fhir.json()["entry"] if entry["resource"]["resourceType"] == "Observation")
    assert observation["code"]["text"] == "Which side?" and "right" in json.dumps(observation["note"]) and SECRET not in fhir.text
    assert unknown.status_code == 422


def test_the_file_process_knows_the_uids_of_a_dicom_file_and_of_nothing_else(tmp_path):
    pytest.importorskip("pydicom")
    from drawn_files import RAMP, save_dicom

    uids = {"StudyInstanceUID": "1.2.1", "SeriesInstanceUID": "1.2.2", "PatientName": "DOE^JANE"}
    path = save_dicom(tmp_path / "a.dcm", [RAMP, RAMP], **uids)

    async def play():
        async with opened_files() as files:
            return [await files.open(data) for data in (path.read_bytes(), save_dicom(path, RAMP).read_bytes(), png())]

    known, without, picture = asyncio.run(play())
    assert known.instance == Instance("1.2.1", "1.2.2", "1.2.840.10008.5.1.4.1.1.2", "1.2.3", 2) and without.instance is picture.instance is None
    assert "DOE" not in repr(vars(known))


def test_a_picture_without_uids_has_no_report(tmp_path):
    ward = Ward(tmp_path)

    async def play(http):
        read = (await opened(http, **own_question()))["read"]
        early = await http.get(f"/reading/reads/{read}/report?format=fhir")
        await followed(http, read)
        return early.status_code, (await http.get(f"/reading/reads/{read}/report?format=fhir")).json()["error"]["message"]

    early, why = ward.run(play)
    assert early == 403 and "no UIDs" in why


# ---------------------------------------------------------------- work lists and readers


def row(**changes):
    return {"id": "c1", "image": "a.png", "question": "Which side?", "options": ["left", "right"], "answer": "right", **changes}


def written(folder, *rows):
    (folder / "a.png").write_bytes(b"png")
    path = folder / "cases.jsonl"
    path.write_text("\n".join(json.dumps(each) for each in rows))
    return path


def test_a_manifest_is_a_work_list(tmp_path):
    one, two = read_worklist(written(tmp_path, row(modality="mri"), row(id="c2", image=["a.png"], answer="", options=[])))
    assert (one.id, one.options, one.reference, one.path) == ("c1", ("left", "right"), "B", tmp_path / "a.png")
    assert (two.options, two.reference) == ((), "")
    (tmp_path / "head.nii").write_bytes(b"")
    framed, sliced = read_worklist(written(tmp_path, row(image="a.png#frame=3"), row(id="c2", image="head.nii#axis=1&slice=40&center=40&width=400")))
    assert (framed.path, framed.place) == (tmp_path / "a.png", Place(frame=3))
    assert (sliced.path, sliced.place) == (tmp_path / "head.nii", Place(axis=1, slice=40, center=40, width=400))
    for image, part in (("head.nii", "a volume has many slices; name the one"), ("head.nii#slice=4&volume=2", 'a case has no "volume"')):
        with pytest.raises(DataError, match=part):
            read_worklist(written(tmp_path, row(image=image)))
    with (tmp_path / "large.dcm").open("wb") as file:
        file.truncate(2**25 + 1)  # holes: nothing is written
    with pytest.raises(DataError, match="has 32 MiB, and a page is shown 32 at most"):
        read_worklist(written(tmp_path, row(image="large.dcm")))


def test_a_study_shows_the_model_the_place_that_its_line_names(tmp_path):
    """Not the one that the reader looks at, who sends none before she has answered."""
    (tmp_path / "c0.png").write_bytes(png())
    files, asked = PngFiles(), []

    class Placed:
        async def open(self, data, place=""):
            asked.append(place)
            return await files.open(data, place)

    case = Case("c0", "Which side?", ("left", "right"), "", tmp_path / "c0.png", Place(axis=2, slice=40))
    Ward(tmp_path, Scripted(), [case], People(read_first=True), Placed()).run(lambda http: http.post("/reading/reads", json={"case": "c0"}))
    assert asked == ["#axis=2&slice=40"]


@pytest.mark.parametrize(("rows", "part"), [
    ([row(image="b.png")], ":1: there is no picture"), ([row(), row()], ':2: the id "c1" stands there twice'), ([row(id="Jane Doe")], "nobody's name"),
    ([row(answer="both")], "none of the options"), ([row(options=["left"])], "options wants 2 to"), ([row(question=3)], "one picture and one question"),
    ([row(image=["a.png", "b.png"])], "one picture and one question"), ([], "is empty"),
])  # fmt: skip
def test_what_is_wrong_with_a_work_list_is_named(tmp_path, rows, part):
    with pytest.raises(DataError, match=part):
        read_worklist(written(tmp_path, *rows))


HASH = hashlib.sha256(ANNA.encode()).hexdigest()


@pytest.mark.parametrize(("text", "part"), [
    ("anna", "line 1: no reader"), (f"anna {HASH}\nanna {'0' * 64}", "line 2: the name"), (f"anna {HASH}\nbert {HASH}", "is taken"), ("# none", "names nobody"),
    (f"developer {HASH}", "is taken"),
])  # fmt: skip
def test_what_is_wrong_with_a_list_of_readers_is_named(tmp_path, text, part):
    (tmp_path / "readers").write_text(text)
    with pytest.raises(DataError, match=part):
        read_readers(tmp_path / "readers")


def test_readers_of_a_file(tmp_path):
    (tmp_path / "readers").write_text(f"# who reads\n\nanna {HASH}   # since May\n")
    assert read_readers(tmp_path / "readers") == {HASH: "anna"}


@pytest.mark.parametrize(("changes", "key", "part"), [
    ({"reading": Reading(read_first=True)}, "", "--audit-log"), ({"reading": Reading(read_first=True), "audit_log": "a"}, DEVELOPER, "--readers"),
    ({"reading": Reading(worklist="w"), "page": False}, "", "--no-page"),
])  # fmt: skip
def test_what_would_hold_nobody_back_is_not_begun(changes, key, part):
    with pytest.raises(ConfigError, match=part):
        check(Serving("nano", **changes), key)
    check(Serving("nano", reading=Reading(read_first=True, readers="r"), audit_log="a", host="0.0.0.0"), "")
