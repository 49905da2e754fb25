// One read after the other: a picture, a question, the reader's own answer where that comes first, the model's, and what she makes of it.

import { blob, dataUrl, events, get, post, setKey } from "./api.js";
import { Answer, spoken } from "./answer.js";
import { showHelp, isSingle } from "./help.js";
import { $, announce, el, loadTexts, t, visible } from "./dom.js";
import { askForm, decisionForm, ownForm, questionCard, yours } from "./forms.js";
import { Viewer } from "./viewer.js";

let session = null; // what /reading/state said
let viewer = null;
let read = null; // the read under way, as the server shows it
let earlier = []; // answers about this picture, which the server does not remember
let busy = false;

async function start() {
  acceptFiles(); // first: a file that is dropped before would take the page's place
  const words = await loadTexts("en");
  viewer = new Viewer($("viewer"), words.viewer, announce);
  $("help-button").addEventListener("click", () => showHelp(viewer));
  $("key").addEventListener("cancel", (event) => event.preventDefault()); // without a key there is nothing to go back to
  document.addEventListener("keydown", pressed);
  await enter();
}

async function enter() {
  try {
    session = await get("reading/state");
  } catch (error) {
    if (error.status === 401) return askKey();
    return complain(error, enter);
  }
  if (!session.model) {
    $("who").textContent = t("starting");
    return setTimeout(enter, 1000);
  }
  $("who").textContent = t(session.read_first ? "who.first" : "who", { reader: session.reader, model: visible(session.model) });
  $("drop").hidden = !session.is_free;
  if (session.read_first && session.open && !session.open.is_listed) return resume(session.open);
  return session.cases.length ? next() : steps(askForm(session.read_first, ask));
}

// ---------------------------------------------------------------- the key

function askKey(wrong = false) {
  const input = el("input", { type: "password", id: "key-input", autocomplete: "off", required: true });
  const form = el("form", { method: "dialog" }, el("h2", { id: "key-title" }, t("key.title")), wrong ? el("p", { role: "alert" }, t("key.wrong")) : null,
    el("label", { for: "key-input" }, t("key.label")), input, el("p", { class: "note" }, t("key.note")), el("button", { type: "submit", class: "main" }, t("key.send")));
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    viewer.headers = setKey(input.value.trim());
    try {
      await get("reading/state");
    } catch (error) {
      if (error.status === 401) return askKey(true);
    }
    $("key").close();
    await enter();
  });
  $("key").replaceChildren(form);
  if (!$("key").open) $("key").showModal();
  input.focus();
}

// ---------------------------------------------------------------- pictures

function acceptFiles() {
  $("file").addEventListener("change", () => { if ($("file").files[0]) openFile($("file").files[0]); });
  for (const name of ["dragover", "drop"]) document.addEventListener(name, (event) => event.preventDefault());
  document.addEventListener("dragover", () => $("drop").classList.add("over"));
  document.addEventListener("dragleave", () => $("drop").classList.remove("over"));
  document.addEventListener("drop", (event) => {
    $("drop").classList.remove("over");
    const file = event.dataTransfer.files[0];
    if (file && !$("drop").hidden) openFile(file);
  });
}

async function openFile(file) {
  if (session.read_first && read && read.final === null) return complain({ message: t("study.first") });
  read = null; // an answer that is still being written is about another picture
  if (!(await show(file))) return;
  earlier = [];
  $("drop").classList.add("small");
  if (!$("ask")) steps(askForm(session.read_first, ask));
  announce(t("study.opened"));
  $("question").focus();
}

async function show(file) {
  calm();
  try {
    $("viewer").hidden = false;
    await viewer.open(file);
    return true;
  } catch (error) {
    $("viewer").hidden = true;
    complain({ ...error, message: t("study.failed", { why: visible(error.message || t("unreachable")) }) });
    return false;
  }
}

// ---------------------------------------------------------------- the work list

const next = () => attempt(nextCase, next);

async function nextCase() {
  session = await get("reading/state");
  const left = session.cases.filter((one) => one.stage !== "done");
  const case_ = left.find((one) => one.stage !== "new") ?? left[0];
  read = null;
  progress(session.cases.length - left.length, session.cases.indexOf(case_) + 1);
  if (!case_) {
    viewer.close();
    $("viewer").hidden = true;
    steps(...(session.is_free ? [askForm(session.read_first, ask)] : []));
    return announce(t("progress.end", { all: session.cases.length }));
  }
  steps();
  if (!(await show(new File([await blob(`reading/cases/${case_.case}/picture`)], case_.case)))) return;
  if (session.read_first) return begin({ case: case_.case });
  const asked = () => attempt(() => begin({ case: case_.case, medical: { place: viewer.place() } }), asked);
  steps(questionCard(case_.question, case_.options, asked));
  $("question-card").querySelector("h2").focus();
}

function progress(done, number) {
  const all = session.cases.length;
  $("progress").hidden = false;
  const bar = el("progress", { max: String(all), value: String(done), "aria-label": t("progress.done", { done, all }) });
  $("progress").replaceChildren(el("span", {}, number ? t("progress", { number, all }) : t("progress.end", { all })), bar, el("span", {}, t("progress.done", { done, all })));
}

// ---------------------------------------------------------------- a read

async function ask({ question, options }) {
  if (!viewer.file) return complain({ message: t("ask.needs") });
  if (!question) return complain({ message: t("ask.empty") });
  await attempt(async () => begin({ picture: await dataUrl(viewer.file), question, medical: { options, place: viewer.place(), earlier: [...earlier] } }), () => ask({ question, options }));
}

/** A read that was open when the page was loaded anew: its picture is the one that the model was given. */
async function resume(open) {
  await attempt(async () => {
    await show(new File([await blob(`reading/reads/${open.read}/picture`)], "picture.png"));
    await go(open);
  }, enter);
}

async function begin(request) {
  await go(await post("reading/reads", request));
}

async function go(opened) {
  read = opened;
  steps(questionCard(read.question, read.options));
  if (read.stage === "open") {
    steps(questionCard(read.question, read.options), ownForm(read, own));
    return $("own").querySelector("input").focus();
  }
  follow();
}

async function own(answer) {
  if (answer === undefined) return complain({ message: t("own.needs") });
  await attempt(async () => {
    read = await post(`reading/reads/${read.read}/own`, { answer });
    follow();
  });
}

async function follow() {
  const mine = read, answer = new Answer(mine);
  steps(questionCard(read.question, read.options), ...(session.read_first ? [yours(read)] : []), answer.element);
  announce(t(session.read_first ? "wait.own" : "wait.said"));
  try {
    for await (const event of events(`reading/reads/${read.read}/events`)) {
      if (read !== mine) return;
      if (event.reasoning) answer.grow(event.reasoning);
      if (event.message) return ended(answer, event.message);
    }
    throw Object.assign(new Error(""), { status: 0 });
  } catch (error) {
    if (read !== mine) return;
    answer.fail(visible(error.message || t("unreachable")), follow); // the server asks the model again
    answer.title.focus();
  }
}

function ended(answer, message) {
  const said = answer.end(message), medical = message.medical;
  if (medical.status === "answered") earlier.push({ question: read.question, options: read.options, answer_text: medical.answer_text });
  $("steps").append(read.final === null ? decisionForm(read, medical, decide) : outcome(), reports());
  answer.title.focus();
  announce(said);
}

async function decide(action, answer = null) {
  if (action === "disagree" && answer === "" && session.read_first) return complain({ message: t("decide.choose") });
  await attempt(async () => {
    read = await post(`reading/reads/${read.read}/final`, answer === null ? { action } : { action, answer });
    const told = outcome();
    $("decide").replaceWith(told);
    told.querySelector("button").focus();
    announce(told.querySelector("p").textContent);
  });
}

function outcome() {
  const values = { action: t(`decide.${read.action}.done`), answer: spoken(read.final, read.options) || t("decide.none") };
  const onward = read.is_listed ? el("button", { type: "button", id: "next", class: "main", onclick: next }, t("decide.next"))
    : el("button", { type: "button", id: "next", class: "main", onclick: askAgain }, t("decide.again"));
  return el("section", { id: "outcome" }, el("p", {}, t(session.is_recorded ? "decide.done" : "decide.unrecorded", values)), onward);
}

function askAgain() {
  read = null;
  calm();
  steps(askForm(session.read_first, ask));
  $("question").focus();
}

function reports() {
  const save = (format, name) => () => attempt(async () => {
    const link = el("a", { download: name });
    link.href = URL.createObjectURL(await blob(`reading/reads/${read.read}/report?format=${format}`));
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
    announce(t("reports.saved", { name }));
  });
  return el("section", { id: "reports" }, el("h3", {}, t("reports.title")), el("p", { class: "note" }, t("reports.note")), el("div", { class: "buttons" },
    el("button", { type: "button", onclick: save("sr", "answer.dcm") }, t("reports.sr")), el("button", { type: "button", onclick: save("fhir", "answer.json") }, t("reports.fhir"))));
}

// ---------------------------------------------------------------- the page itself

function steps(...parts) {
  $("steps").replaceChildren(...parts);
}

/** Do it once at a time; what goes wrong is said, and can be tried ``again``. */
async function attempt(work, retry) {
  if (busy) return;
  busy = true;
  calm();
  try {
    await work();
  } catch (error) {
    complain(error, retry);
  } finally {
    busy = false;
  }
}

function complain(error, retry) {
  if (error.status === 401) return askKey();
  const text = error.message ? visible(error.message) : t("unreachable");
  $("error").replaceChildren(text, ...(retry ? [" ", el("button", { type: "button", onclick: () => { calm(); retry(); } }, t("again"))] : []));
  $("error").hidden = false;
}

function calm() {
  $("error").hidden = true;
  $("error").replaceChildren();
}

function pressed(event) {
  const writing = event.target.closest?.("textarea, select, dialog, input:not([type=radio]):not([type=checkbox])");
  if (writing || event.ctrlKey || event.metaKey || event.altKey || event.defaultPrevented) return;
  if (event.key === "?") return showHelp(viewer);
  const action = isSingle() && { a: "agree", d: "disagree", s: "skip" }[event.key];
  const button = action ? document.querySelector(`[data-action="${action}"]`) : isSingle() && event.key === "n" ? $("next") : null;
  if (button) { event.preventDefault(); button.click(); }
}

start();
