"""What the pages claim of the studies, held against the numbers that the studies left: every sentence, and no number beside them."""

import json
import re
from pathlib import Path
from statistics import mean

import pytest

from medvlm_r1.experiments import looking, planted, real_told

ROOT = Path(__file__).resolve().parents[1]
MODALITIES = ("mri", "ct", "xray")


class Study:
    """A study's JSON, in per cent and points as the pages write them."""

    def __init__(self, name):
        self.data = json.loads((ROOT / "benchmarks" / "results" / f"study-{name}.json").read_text())

    def gain(self, other, scope="all"):
        return 100 * self.data["paired"][f"grpo-{other}"][scope]["mean_difference"]

    def interval(self, other, scope="all"):
        return tuple(100 * bound for bound in self.data["paired"][f"grpo-{other}"][scope]["ci95"])

    def greedy(self, other, scope="all"):
        found = self.data["paired"][f"grpo-{other}"][scope]["greedy"]
        return tuple(100 * value for value in (found["mean_difference"], *found["ci95"]))

    def gains(self, other, kind="sampled_seeds", modalities=MODALITIES):
        """GRPO minus the other, seed by seed, the least first."""
        arms = self.data["arms"]
        rows = [[a - b for a, b in zip(arms["grpo"][m][kind], arms[other][m][kind], strict=True)] for m in modalities]
        return sorted(100 * mean(of_seed) for of_seed in zip(*rows, strict=True))

    def cell(self, arm, kind="sampled", modalities=MODALITIES):
        return 100 * mean(self.data["arms"][arm][m][kind] for m in modalities)

    def seeds(self, arm, modality, kind="accuracy_seeds"):
        return sorted(100 * value for value in self.data["arms"][arm][modality][kind])

    def chance(self, *modalities):
        return 100 * mean(self.data["chance"][m]["accuracy"] for m in modalities or MODALITIES)


NANO, OPENRAD = Study("nano"), Study("openrad")
CT, XRAY = ("ct",), ("xray",)
NAMES = {"mri": "MRI", "ct": "CT", "xray": "X-ray"}

# Sentence with places for numbers, and the numbers; {:+.1f} is a difference.
READ = {
    ("docs/study.md", "## How to read it", "Beyond the study"): (
        ("raises sampled accuracy by {:.1f} points ({:.1f} to {:.1f})", (NANO.gain("base"), *NANO.interval("base"))),
        ("in each of five seeds ({:.1f} to {:.1f})", (NANO.gains("base")[0], NANO.gains("base")[-1])),
        ("Greedy answers gain {:.1f} (seeds {:.1f} to {:.1f})", (mean(g := NANO.gains("base", "accuracy_seeds")), g[0], g[-1])),
        (
            "fall by {:.1f} points ({:.1f} to {:.1f}), to {:.1f} where chance is {:.1f}",
            (NANO.gain("grpo-shown-blank"), *NANO.interval("grpo-shown-blank"), NANO.cell("grpo-shown-blank"), NANO.chance()),
        ),
        ("{:.1f} against the base's {:.1f} sampled", (NANO.cell("blank"), NANO.cell("base"))),
        ("{:.1f} against {:.1f} greedy", (NANO.cell("blank", "accuracy"), NANO.cell("base", "accuracy"))),
        ("(X-ray greedy {:.1f} to {:.1f})", ((s := NANO.seeds("blank", "xray"))[0], s[-1])),
        *((f"{name} {{:.1f}} → {{:.1f}}", (NANO.cell("base", modalities=(m,)), NANO.cell("grpo", modalities=(m,)))) for m, name in NAMES.items()),
        ("{:.1f} against {:.1f} for the base asked for the letter", (NANO.cell("sft"), NANO.cell("base-direct"))),
        ("is {:.1f} points ({:.1f} to {:.1f}) better in sampled accuracy", (-NANO.gain("traces"), *(-b for b in NANO.interval("traces")[::-1]))),
        ("no difference is shown (GRPO {:+.1f}, {:+.1f} to {:+.1f})", NANO.greedy("traces")),
        ("(GRPO with both: {:+.1f}, {:+.1f} to {:+.1f})", (NANO.gain("accuracy-only"), *NANO.interval("accuracy-only"))),
        ("GRPO is {:.1f} points ({:.1f} to {:.1f}) above the format reward alone", (NANO.gain("format-only"), *NANO.interval("format-only"))),
        ("(greedy {:.1f}), four did not ({:.1f} to {:.1f})", ((s := NANO.seeds("format-only", "xray"))[4], s[0], s[3])),
        ("GRPO without thinking ends at {:.1f}", (NANO.cell("no-think"),)),
        ("Greedy GRPO ({:.1f}) and greedy gold traces ({:.1f}) come near", (NANO.cell("grpo", "accuracy"), NANO.cell("traces", "accuracy"))),
    ),
    ("docs/study.md", "How to read it:", "- **SFT on letters learns in domain too**"): (
        ("on MRI {:.1f} → {:.1f} sampled", (OPENRAD.cell("base", modalities=("mri",)), OPENRAD.cell("grpo", modalities=("mri",)))),
        ("{:+.1f} ({:+.1f} to {:+.1f}), in each seed", (OPENRAD.gain("base", "mri"), *OPENRAD.interval("base", "mri"))),
        ("{:+.1f} ({:+.1f} to {:+.1f}) over SFT on the same letters", (OPENRAD.gain("sft", "mri"), *OPENRAD.interval("sft", "mri"))),
        ("at chance ({:.1f})", (OPENRAD.cell("grpo-shown-blank", modalities=("mri",)),)),
        ("{:+.1f} ({:+.1f} to {:+.1f}) on CT and", (OPENRAD.gain("base", "ct"), *OPENRAD.interval("base", "ct"))),
        ("{:+.1f} ({:+.1f} to {:+.1f}) on X-ray over the base, sampled", (OPENRAD.gain("base", "xray"), *OPENRAD.interval("base", "xray"))),
        ("includes zero for X-ray ({:+.1f} to {:+.1f}, patients alone)", [100 * bound for bound in OPENRAD.data["paired"]["grpo-base"]["xray"]["ci95_patients"]]),
        ("CT {:+.1f} ({:+.1f} to {:+.1f}), X-ray {:+.1f} ({:+.1f} to {:+.1f})", (*OPENRAD.greedy("base", "ct"), *OPENRAD.greedy("base", "xray"))),
        (
            "{:.1f} and {:.1f} % of the base's sampled answers there have no letter, {:.1f} and {:.1f} % of GRPO's",
            [100 * OPENRAD.data["no_letter"][arm][m] for arm in ("base", "grpo") for m in MODALITIES[1:]],
        ),
        (
            "of those that have one {:.1f} → {:.1f} and {:.1f} → {:.1f} % are right",
            [OPENRAD.cell(arm, modalities=(m,)) / (1 - OPENRAD.data["no_letter"][arm][m]) for m in MODALITIES[1:] for arm in ("base", "grpo")],
        ),
        ("where the base has {:.1f}", (OPENRAD.cell("base", "accuracy", XRAY),)),
        ("read by anyone ({:.1f}, chance 50)", (OPENRAD.cell("grpo", modalities=CT),)),
        *(
            ("stand in {:.0f}, {:.0f}, {:.0f} % of the base's answers (MRI, CT, X-ray) and in {:.0f}, {:.0f}, {:.0f} % of GRPO's", values)
            for values in [[100 * OPENRAD.data["reports"][arm][m] for arm in ("base", "grpo") for m in MODALITIES]]
        ),
    ),
    ("README.md", "GRPO − base:", "On patients' pictures,"): (
        ("GRPO − base: {:+.1f} points sampled (95 % interval over seeds and patients {:.1f} to {:.1f})", (NANO.gain("base"), *NANO.interval("base"))),
        ("GRPO − SFT on CT and X-ray: {:+.1f} ({:.1f} to {:.1f})", (NANO.gain("sft", "ct+xray"), *NANO.interval("sft", "ct+xray"))),
        ("GRPO − gold traces: {:+.1f} ({:+.1f} to {:+.1f})", (NANO.gain("traces"), *NANO.interval("traces"))),
    ),
}  # fmt: skip

# Numbers of these sections that are not the study's results: the paper's, counts of the set-up, another page's.
ELSEWHERE = {"600", "34", "94", "100", "87.7", "900", "50", "233"}


def section(page, start, end):
    text = re.sub(r"\s+", " ", (ROOT / page).read_text(encoding="utf-8").replace("−", "-").replace("**", ""))
    start, end = (re.sub(r"\s+", " ", mark.replace("−", "-").replace("**", "")) for mark in (start, end))
    return start + text.split(start, 1)[1].split(end, 1)[0]


@pytest.mark.parametrize("place", READ, ids=lambda place: f"{place[0]} {place[1]}")
def test_every_claim_has_its_number_and_every_number_its_claim(place):
    left = section(*place)
    for words, values in READ[place]:
        sentence = words.replace("−", "-").format(*values)
        assert sentence in left, f"the study says: {sentence}"
        left = left.replace(sentence, " ")
    assert set(re.findall(r"\d+(?:\.\d+)?", left)) <= ELSEWHERE


def test_the_study_keeps_both_sources_of_chance():
    """Where patients are many: with few the inner interval has a least width (``clusters``), and may be the wider one."""
    for study, many in ((NANO, ("all", "ct+xray")), (OPENRAD, ("mri",))):
        for scopes in study.data["paired"].values():
            for scope, found in scopes.items():
                (low, high), (inner_low, inner_high) = found["ci95"], found["ci95_patients"]
                assert scope not in many or high - low > 0.98 * (inner_high - inner_low)
                assert found["mean_difference"] == pytest.approx(mean(found["seeds"]))


# ---------------------------------------------------------------- the study of looking

LOOKING = json.loads((ROOT / "benchmarks" / "results" / "study-looking.json").read_text())
PRIOR, HONEST, DRAWN = "prior-wrong", "honest", "honest, sampled"


def point(pair, measure, sign=1):
    """A difference and its interval, in points; ``sign`` -1: the other way round."""
    found = LOOKING["paired"][pair][measure]
    low, high = sorted(sign * bound for bound in found["ci95"])
    return 100 * sign * found["mean_difference"], 100 * low, 100 * high


def of_arm(arm, measure):
    return 100 * LOOKING["arms"][arm]["measures"][measure]["value"]


def told(arm, key):
    return [seed[key] for seed in LOOKING["arms"][arm]["seeds"]]


def fewest_reports(arm):
    return 100 * min(min(reports.values()) for reports in told(arm, "reports"))


SAID = (
    ("changes prior-wrong by {:.1f} points ({:.1f} to {:.1f})", point("contrast - plain", PRIOR)),
    ("and reversed by {:+.1f} ({:.1f} to {:.1f})", point("contrast - plain", "reversed")),
    ("prior-wrong {:+.1f} ({:.1f} to {:.1f}), reversed {:+.1f} ({:.1f} to {:.1f})", (*point("stranger - plain", PRIOR), *point("stranger - plain", "reversed"))),
    ("the honest mean {:+.1f} ({:.1f} to {:.1f}) over plain training", point("stranger - plain", HONEST)),
    ("the model has {:.1f} % of the honest ones right", (of_arm("stranger", HONEST),)),
    ("ends at {:.1f}, on the shortcut at {:.1f}", (of_arm("honest-plain", HONEST), of_arm("plain", HONEST))),
    ("have {:.1f} on prior-wrong where all have {:.1f}", (of_arm("early", PRIOR), of_arm("plain", PRIOR))),
    ("{:+.1f} ({:.1f} to {:.1f}) on prior-wrong and {:+.1f} ({:.1f} to {:.1f}) on", (*point("stranger - early", PRIOR), *point("stranger - early", "reversed"))),
    ("({:+.1f}, {:.1f} to {:.1f}; with λ = 0.5 {:+.1f}, {:.1f} to {:.1f})", (*point("stranger - early", HONEST), *point("stranger-half - early", HONEST))),
    ("from {:.1f} to {:.1f} in the honest mean", (of_arm("plain", HONEST), of_arm("plain-100", HONEST))),
    ("from {:.1f} to {:.1f} on prior-wrong; with strangers", (of_arm("plain", PRIOR), of_arm("plain-100", PRIOR))),
    ("from {:.1f} to {:.1f} and from {:.1f} to {:.1f}.", [of_arm(arm, m) for m in (HONEST, PRIOR) for arm in ("stranger", "stranger-100")]),
    ("is {:.0f} and {:.0f} % (X-ray) with λ = 1, {:.0f} and {:.0f} % with", [fewest_reports(f"stranger{x}") for x in ("", "-100", "-half", "-half-100")]),
    ("plain has {:.1f} % of them right, with strangers {:.1f}", [100 * mean(told(arm, "grey")) for arm in ("plain", "stranger")]),
    ("greedy {:.1f} ({:.1f} to {:.1f}), sampled", point("honest-stranger - honest-plain", HONEST)),
    ("sampled {:.1f} ({:.1f} to {:.1f}). Where", point("honest-stranger - honest-plain", DRAWN)),
    ("{:.1f} sampled points ({:.1f} to {:.1f}) of the", point("honest-anyone - honest-plain", DRAWN, -1)),
    ("of the {:.1f} that plain training gains there", (of_arm("honest-plain", DRAWN) - of_arm("base", DRAWN),)),
    ("and greedy {:.1f} ({:.1f} to {:.1f})", point("honest-anyone - honest-plain", HONEST, -1)),
    ("(prior-wrong {:+.1f}, {:.1f} to {:.1f}; sampled {:+.1f}, {:.1f} to {:.1f})", (*point("stranger - anyone", PRIOR), *point("stranger - anyone", DRAWN))),
    ("from {:.1f} to {:.1f} %, not to zero", [100 * mean(told(arm, "contradicted")) for arm in ("plain", "consistent")]),
    ("honest {:+.1f} ({:.1f} to {:.1f}), sampled {:+.1f} ({:.1f} to {:.1f})", (*point("consistent - plain", HONEST), *point("consistent - plain", DRAWN))),
    ("(kept {:.0f} %)", (100 * mean(told("consistent", "kept")),)),
)  # fmt: skip


def test_the_page_tells_what_the_study_of_looking_found():
    whole = (ROOT / "docs" / "study.md").read_text(encoding="utf-8")
    assert all(part in whole for part in looking.table(LOOKING).split("\n\n"))
    page = section("docs/study.md", "- **The contrast as it was planned fails.**", "## The real base: planned")
    assert not [sentence for words, values in SAID if (sentence := words.format(*values)) not in page]
    hardly = {arm: sum(told(arm, "hardly_reports")) for arm in ("contrast", "stranger", "stranger-100", "stranger-half", "stranger-half-100")}
    assert hardly == {"contrast": 2, "stranger": 0, "stranger-100": 0, "stranger-half": 0, "stranger-half-100": 0}
    assert [told(arm, "looking").count("looks") for arm in ("stranger", "plain")] == [4, 0]


def test_the_claims_that_were_written_before_hold_with_strangers_and_not_with_partners_alone():
    """Prior-wrong 10, reversed 5, intervals clear of zero, the honest mean not worse by more than 1.5."""

    def holds(arm):
        (prior, prior_low, _), (turned, turned_low, _), (_, honest_low, _) = (point(f"{arm} - plain", m) for m in (PRIOR, "reversed", HONEST))
        return prior >= 10 and turned >= 5 and min(prior_low, turned_low) > 0 and honest_low > -1.5

    assert [holds(arm) for arm in ("stranger", "stranger-half", "contrast", "contrast-half")] == [True, True, False, False]


def test_the_page_tells_what_the_planted_study_found():
    """Its claim did not hold, and the page says so."""
    result = json.loads((ROOT / "benchmarks" / "results" / "study-planted.json").read_text())
    whole = (ROOT / "docs" / "study.md").read_text(encoding="utf-8").replace("−", "-")
    assert all(part in whole for part in planted.table(result).split("\n\n"))
    found, early = (result["paired"][pair] for pair in ("stranger - plain", "stranger - early"))
    wrong, mri = found["MRI, prior-wrong, sampled"], early["MRI, sampled"]
    assert wrong["ci95"][0] < 0 < wrong["value"]
    assert "{:+.1f} on prior-wrong questions, sampled, {:.1f} to {:.1f}".format(*(100 * x for x in (wrong["value"], *wrong["ci95"]))) in whole
    assert "{:.1f} points ({:.1f} to {:.1f}) more than the contrast".format(*(-100 * x for x in (mri["value"], *mri["ci95"][::-1]))) in whole
    says = [100 * result["arms"][arm]["says"] for arm in ("stranger", "plain")]
    assert "in {:.0f} % of answers (plain {:.0f}, the truth 26)".format(*says) in whole


# ---------------------------------------------------------------- the study on the real base

REAL, EARLY = (json.loads((ROOT / "benchmarks" / "results" / f"study-{name}.json").read_text()) for name in ("real", "real-early"))


def points_of(pair, measure, scope, study=REAL):
    """A difference and its interval, in points."""
    found = study["paired"][pair][measure][scope]
    return [100 * value for value in (found["value"], *found["ci95"])]


def luck(arm, way, study=REAL):
    found = study["arms"][arm]["right_under_wrong_thoughts"]["all"][way]
    return found["by_luck"], found["right"]


def cell(arm, measure, scope="all", study=REAL):
    found = study["arms"][arm]["measures"][measure][scope]
    return [100 * value for value in (found["value"], *found["ci95"])]


REAL_SAID = (
    ("GRPO − base on MRI, sampled: {:+.1f} ({:.1f} to {:.1f})", points_of("grpo - base", "sampled", "mri")),
    ("greedy {:+.1f} ({:.1f} to {:.1f})", points_of("grpo - base", "greedy", "mri")),
    ("from {:.1f} to {:.1f} %, its greedy answers are at {:.1f}", [cell(*of)[0] for of in (("base", "sampled", "mri"), ("grpo", "sampled", "mri"), ("grpo", "greedy", "mri"))]),
    ("CT and X-ray {:+.1f} ({:.1f} to {:.1f}) sampled and", points_of("grpo - base", "sampled", "ct+xray")),
    ("and {:+.1f} ({:.1f} to {:.1f}) greedy", points_of("grpo - base", "greedy", "ct+xray")),
    ("is the choice in {:.1f} % of greedy answers", cell("grpo", "finding is the choice")[:1]),
    ("and in {:.1f} % of drawn ones (base {:.1f} and {:.1f})", [cell(*of)[0] for of in (("grpo", "finding is the choice, sampled"), ("base", "finding is the choice"), ("base", "finding is the choice, sampled"))]),
    ("{} of {} before and {} of {} after", (*luck("base", "sampled"), *luck("grpo", "sampled"))),
    ("greedy {} of {} and {} of {}", (*luck("base", "greedy"), *luck("grpo", "greedy"))),
    ("With a grey picture it has {:.1f} % of MRI right ({:.1f} to {:.1f})", cell("grpo", "blank", "mri")),
    ("GRPO − SFT: {:+.1f} ({:.1f} to {:.1f})", points_of("grpo - sft", "sampled", "all")),
    ("SFT has {:.1f} % of MRI right, {:.1f} with another patient's picture", [cell("sft", way, "mri")[0] for way in ("greedy", "mismatch")]),
    ("minus half the steps: {:+.1f} ({:.1f} to {:.1f})", points_of("grpo - early", "sampled", "mri")),
    ("minus GRPO {:+.1f} ({:.1f} to {:.1f}) sampled on all three,", points_of("contrast - grpo", "sampled", "all")),
    ("all three, {:+.1f} ({:.1f} to {:.1f}) on MRI", points_of("contrast - grpo", "sampled", "mri")),
    ("has {:.1f} % right, and nobody", cell("base", "mismatch")[:1]),
    ("perplexity {:.1f} before, {:.1f} after", [mean(REAL["arms"][arm]["english"]) for arm in ("base", "grpo")]),
)  # fmt: skip


def mri(arm, measure):
    return cell(arm, measure, "mri", EARLY)[0]


def with_share(arm):
    by_luck, right = luck(arm, "sampled", EARLY)
    return by_luck, right, 100 * by_luck / right


EARLY_SAID = (
    ("from {:.1f} to {:.1f} %, greedy", (mri("base", "greedy"), mri("grpo", "greedy"))),
    ("GRPO − base {:+.1f} ({:.1f} to {:.1f}), seeds", points_of("grpo - base", "greedy", "mri", EARLY)),
    ("seeds {:+.1f}, {:+.1f} and {:+.1f}", [100 * seed for seed in EARLY["paired"]["grpo - base"]["greedy"]["mri"]["seeds"]]),
    ("sampled {:+.1f} ({:.1f} to {:.1f}), from", points_of("grpo - base", "sampled", "mri", EARLY)),
    ("from {:.1f} to {:.1f}. Both", (mri("base", "sampled"), mri("grpo", "sampled"))),
    ("is right in {:.1f} % of MRI questions where its letter is in {:.1f}", (mri("base", "finding is right"), mri("base", "greedy"))),
    ("behind GRPO in {:.1f} and {:.1f}", (mri("grpo", "finding is right"), mri("grpo", "greedy"))),
    ("is the choice in {:.1f} % of greedy answers (95 were claimed; base {:.1f})", [cell(arm, "finding is the choice", study=EARLY)[0] for arm in ("grpo", "base")]),
    ("right letters {} of {} stand under another finding, {} of {} before", (*luck("grpo", "greedy", EARLY), *luck("base", "greedy", EARLY))),
    ("drawn {} of {} ({:.1f} %) and {} of {} ({:.1f} %)", (*with_share("grpo"), *with_share("base"))),
    ("a grey picture {:.1f} % of MRI ({:.1f} to {:.1f})", cell("grpo", "blank", "mri", EARLY)),
    ("with another patient's {:.1f}, before {:.1f}", (mri("grpo", "mismatch"), mri("base", "mismatch"))),
    ("its own thought {:.1f} %, before {:.1f}", (mri("grpo", "half-thought"), mri("base", "half-thought"))),
    ("CT and X-ray {:+.1f} ({:.1f} to {:.1f}) sampled", points_of("grpo - base", "sampled", "ct+xray", EARLY)),
    ("sampled, {:+.1f} ({:.1f} to {:.1f}) greedy", points_of("grpo - base", "greedy", "ct+xray", EARLY)),
    ("perplexity {:.1f} before, {:.1f} after", [mean(EARLY["arms"][arm]["english"]) for arm in ("base", "grpo")]),
)  # fmt: skip


@pytest.mark.parametrize(
    ("study", "said", "start", "end"),
    [
        (REAL, REAL_SAID, "## The real base: found", "### With more to learn: planned"),
        (EARLY, EARLY_SAID, "### With more to learn: found", "## A shortcut"),
    ],
    ids=("real", "early"),
)
def test_the_page_tells_what_a_study_on_a_real_base_found(study, said, start, end):
    whole = (ROOT / "docs" / "study.md").read_text(encoding="utf-8")
    assert all(part in whole for part in real_told.table(study).split("\n\n"))
    page = section("docs/study.md", start, end)
    assert not [sentence for words, values in said if (sentence := words.replace("−", "-").format(*values)) not in page]
    assert study["paired"]["grpo - base"]["sampled"]["mri"]["ci95"][0] > 0 and study["base"]["go"] is False


def test_the_first_page_tells_what_letters_teach_on_patients_pictures():
    readme = section("README.md", "On patients' pictures,", "## What is here")
    told = (mri("base", "greedy"), mri("grpo", "greedy"), *points_of("grpo - base", "greedy", "mri", EARLY))
    assert "raise MRI from {:.1f} to {:.1f} % greedy, {:+.1f} ({:.1f} to {:.1f})".format(*told) in readme
    assert "the base has {:.1f} % already".format(cell("base", "greedy", "mri")[0]) in readme
