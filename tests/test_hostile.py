"""Models made up to fool the verdict, each asked through the product's own ``evaluate`` at an endpoint, and the sentence that a careful reader should get."""

import base64
import io
import json
import re

import numpy as np
import pytest
from fake_endpoint import Server
from PIL import Image

from medvlm_r1.launch.evaluating import evaluate
from medvlm_r1.launch.request import Request
from medvlm_r1.report.glance import spoken

MODALITIES = ("mri", "ct", "xray")
OPTIONS = ("left", "right", "both", "none")
N = 20  # questions, each of a patient, in each modality
LETTERS = "ABCD"


class Asked:
    """A question as the model gets it: which, its right letter, and what the picture shows."""

    def __init__(self, body):
        parts = body["messages"][-1]["content"]
        text = next(part["text"] for part in parts if part["type"] == "text")
        url = next(part["image_url"]["url"] for part in parts if part["type"] == "image_url")
        self.pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))).convert("RGB"), float)
        self.modality, number = re.search(r"Question (\w+) (\d+)", text).groups()
        self.i = int(number)
        red, green, blue = self.pixels[8:-8, 8:-8].mean((0, 1))
        self.is_blank = np.ptp(self.pixels) == 0
        self.seen = None if self.is_blank else LETTERS[round(red / 60) % 4]
        self.is_own = not self.is_blank and round(green / 6) == self.i and round(blue / 80) == MODALITIES.index(self.modality)
        self.right = None  # set by the set


def drawn(i, modality, answer):
    """Red is the answer, green the question, blue the modality; the frame is noise."""
    pixels = np.random.default_rng(1000 * MODALITIES.index(modality) + i).integers(0, 255, (48, 48, 3))
    pixels[6:-6, 6:-6] = 60 * LETTERS.index(answer), 6 * i, 80 * MODALITIES.index(modality)
    return Image.fromarray(pixels.astype(np.uint8))


def right_letter(i, *_):
    return LETTERS[i % 4]


@pytest.fixture
def judged(tmp_path):
    """Asks a script the whole set; returns summary.json and the page's text above the tables."""

    def ask(script, arms="image,blank,mismatch", gold=right_letter, groups=lambda m, i: f"{m}-{i}", question_type="side", n=N, modalities=MODALITIES):
        rows = []
        for m in modalities:
            for i in range(n):
                drawn(i, m, gold(i, m)).save(tmp_path / f"{m}-{i}.png")
                kind = question_type if isinstance(question_type, str) else question_type(m, i)
                rows.append({"id": f"{m}-{i}", "image": f"{m}-{i}.png", "question": f"Question {m} {i}: which side?", "options": OPTIONS,
                             "answer": OPTIONS[LETTERS.index(gold(i, m))], "modality": m, "question_type": kind, "group": groups(m, i)})  # fmt: skip
        (tmp_path / "m.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

        def answer(body):
            asked = Asked(body)
            asked.right = gold(asked.i, asked.modality)
            said = script(asked)
            text = said if "<" in said else f"<think>x</think><answer>{said}</answer>"
            return 200, {}, {"choices": [{"message": {"content": text}, "finish_reason": "stop"}]}

        server = Server(answer)
        server.models = (200, {}, {"data": [{"id": "fake"}]})
        try:
            summary = evaluate(Request(f"{server.url}#fake", str(tmp_path / "m.jsonl"), tmp_path / "out", arms, template="think"))
        finally:
            server.close()
        return summary, spoken("fake", summary), (tmp_path / "out" / "report.html").read_text()

    return ask


def wrong(letter):
    return LETTERS[(LETTERS.index(letter) + 1) % 4]


def looks(q):
    return q.seen or "A"


def knows(q):
    return q.right


def levels(summary):
    return {m: one["level"] for m, one in summary["looking"]["modalities"].items()}


def test_a_model_that_looks_keeps_its_verdict(judged):
    summary, said, page = judged(looks)
    assert summary["looking"]["level"] == "looks" and summary["looking"]["words"].startswith("looks: +75.0 points or more")  # of four letters A is right
    for needed in ("keeps 0 %", "answers 100 %", "100 % known to show another answer", "20 questions of 20 patients"):
        assert said.count(needed) >= 3 and needed in page
    assert "no letter read in 0.0 % (strict-1), 0.0 % (strict-2)" in page
    assert "and it looks at the image: +75.0 points or more." in page


def test_what_the_option_texts_give_away_in_one_modality_is_named(judged):
    """MRI is known by heart without a picture; CT and X-ray are looked at."""
    summary, _, page = judged(lambda q: knows(q) if q.modality == "mri" else looks(q))
    assert levels(summary) == {"mri": "not shown to look", "ct": "looks", "xray": "looks"}
    assert summary["looking"]["level"] == "looks in part" and "looks at CT, X-ray (+75.0 points or more); MRI not shown" in page
    assert summary["looking"]["modalities"]["mri"]["line"].startswith("MRI: not shown to look (its own picture makes no clear difference). 0.0 points (")
    assert "keeps 100 %" in summary["looking"]["modalities"]["mri"]["line"]


def test_who_sees_one_modality_does_not_look_at_the_others(judged):
    summary, _, page = judged(lambda q: looks(q) if q.modality == "mri" else LETTERS[q.i * 7 // 3 % 4])
    assert levels(summary) == {"mri": "looks", "ct": "not shown to look", "xray": "not shown to look"}
    assert "looks at MRI (+75.0 points); CT, X-ray not shown" in page


def test_to_refuse_without_the_own_picture_is_no_sight(judged):
    """Blind, 3 of 4 right by heart, silent in 2 of 20 without its picture, of those that it would get right: 90 % are answered, and on these nothing differs."""

    def script(q):
        return "I cannot tell" if not q.is_own and q.i in (0, 10) else knows(q) if q.i % 4 < 3 else wrong(q.right)

    summary, _, _ = judged(script)
    assert set(levels(summary).values()) == {"not shown to look"}
    one = summary["looking"]["modalities"]["ct"]["reliance"]["blank"]
    assert (one["difference"], one["judged_on"], one["n"], one["answered"]) == (0.0, "answered in both", 18, 0.9)
    assert "0.0 points" in (line := summary["looking"]["modalities"]["ct"]["line"]) and "of those answered in both" in line and "answers 90 %" in line


def test_an_arm_that_could_ask_one_modality_decides_there_alone(judged):
    """All questions of CT, and all of X-ray, are of one patient: there is no other picture to show, and one patient shows nothing."""
    summary, said, page = judged(looks, groups=lambda m, i: f"{m}-{i}" if m == "mri" else m)
    assert levels(summary) == {"mri": "looks", "ct": "unclear", "xray": "unclear"}
    assert "looks at MRI (+75.0 points); CT, X-ray unclear" in page
    assert said.count("fewer than three patients show nothing") == 2 and "20 questions of 1 patient" in said
    assert "no interval: fewer than three patients" in page  # 20 of 20 right, of one patient


def test_letters_in_a_form_that_strict_1_does_not_read_leave_it_unclear(judged):
    summary, said, page = judged(lambda q: f"{looks(q)}) {OPTIONS[LETTERS.index(looks(q))]}")
    assert summary["overall"]["image"]["accuracy"] == 0 and summary["looking"]["level"] == "unclear"
    assert "no letter read in 100.0 % (strict-1), 0.0 % (strict-2)" in page
    assert "“not shown to look” as read by strict-1, “looks” as read by strict-2" in said
    assert "and whether it looks at the image is unclear." in page


def test_another_picture_that_shows_the_same_answer_is_not_held_against_it(judged):
    """Each modality's only type of question has one answer, so nobody can be wrong by another's picture."""
    summary, said, _ = judged(lambda q: q.seen or "D", gold=lambda i, m: LETTERS[MODALITIES.index(m)])
    assert summary["looking"]["level"] == "unclear"
    assert "another question's picture mostly shows the same answer (another in 0 %)" in said


def test_half_of_the_pictures_that_show_the_same_answer_are_left_out(judged):
    """Types "a" (always A, 5 of 20) and "rest": of an "a" whose other picture was asked the same, it is known that nothing changes."""
    summary, _, _ = judged(looks, question_type=lambda m, i: "a" if i % 4 == 0 else "rest")
    one = summary["looking"]["modalities"]["mri"]["reliance"]["mismatch"]
    assert (one["another"], one["difference"], one["kept"]) == (0.75, 1.0, 0.0) and 15 <= one["n"] < 20
    assert summary["looking"]["level"] == "looks"


def test_five_patients_show_nothing_however_well_it_does(judged):
    summary, said, _ = judged(looks, groups=lambda m, i: f"{m}-{i % 5}")
    assert summary["looking"]["level"] == "unclear"
    assert "with 5 patients no p can fall below 0.0625, so nothing can be shown" in said
    low, high = summary["looking"]["modalities"]["ct"]["reliance"]["blank"]["ci95"]
    assert low < 0.5 < 0.75 < high  # not +70.1 to +79.9


def test_pictures_known_by_heart_are_told_from_sight(judged):
    heart = {(m, i): np.asarray(drawn(i, m, right_letter(i)), float) for m in MODALITIES for i in range(N)}

    def script(q):
        known = [key for key, pixels in heart.items() if pixels.shape == q.pixels.shape and (pixels == q.pixels).all()]
        return right_letter(known[0][1]) if known else "A"

    fooled, _, _ = judged(script)
    assert fooled["looking"]["level"] == "looks"  # no arm that was asked could tell


def test_pictures_known_by_heart_fall_when_cropped(judged):
    heart = {drawn(i, m, right_letter(i)).tobytes() for m in MODALITIES for i in range(N)}

    def script(q):
        return q.seen if q.pixels.astype(np.uint8).tobytes() in heart else "A"

    summary, said, _ = judged(script, arms="image,blank,mismatch,crop")
    assert summary["looking"]["level"] == "unclear" and "it may know the pictures by heart" in said


def test_who_looks_loses_nothing_by_the_crop(judged):
    summary, _, _ = judged(looks, arms="image,blank,mismatch,crop")
    assert summary["looking"]["level"] == "looks" and summary["looking"]["modalities"]["ct"]["reliance"]["crop"]["difference"] == 0.0


def test_a_small_gain_is_called_small():
    """n = 9,000, +1.7 points: the word has its size."""
    from medvlm_r1.evaluation.measuring.looking import look
    from medvlm_r1.evaluation.samples import Sample

    def arm(name, right, n=3000):
        return [
            Sample(f"q{i}", "ct", "", "", f"W{i}?", ("a", "b"), "A", (f"{i}.png",), name, "", "A" if i < right else "B", "answered", i < right, 1)
            for i in range(n)
        ]

    found = look({"image": arm("image", 1590), "blank": arm("blank", 1539), "mismatch": arm("mismatch", 1539)})  # 53.0 and 51.3 %
    assert found.words in ("looks a little: +1.7 points", "unclear") and found.reliance["blank"].difference == pytest.approx(0.017)


@pytest.mark.parametrize("script", [
    lambda q: "A", lambda q: knows(q) if q.i % 4 < 2 else "A", lambda q: LETTERS[(q.i // 4) % 4], lambda q: "I cannot tell" if not q.is_own else looks(q),
    lambda q: LETTERS[int(q.pixels.sum()) % 4],
])  # fmt: skip
def test_who_does_not_look_is_not_called_looking(judged, script):
    """Always A; by text; by position; silent without its picture; by a hash of the picture."""
    assert judged(script)[0]["looking"]["level"] in ("not shown to look", "not tested", "unclear")
