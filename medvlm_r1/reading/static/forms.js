// The forms of a read: what is asked, the reader's own answer, and what she makes of the model's.

import { el, t, visible } from "./dom.js";
import { spoken } from "./answer.js";

const LETTERS = "ABCDEFGHIJ";

/** A question of the reader's own; ``send`` gets {question, options}. */
export function askForm(readFirst, send) {
  const question = el("textarea", { id: "question", rows: "2", maxlength: "1000", required: true });
  const options = el("textarea", { id: "options", rows: "3", "aria-describedby": "options-note" });
  const usual = el("select", { id: "usual" }, el("option", { value: "" }, t("ask.own")), ...t("ask.presets").map(([text], k) => el("option", { value: String(k) }, text)));
  usual.addEventListener("change", () => {
    const [text, possible] = t("ask.presets")[usual.value] ?? ["", []];
    question.value = text;
    options.value = possible.join("\n");
  });
  question.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && !event.shiftKey) { event.preventDefault(); form.requestSubmit(); }
  });
  const form = el("form", { id: "ask", novalidate: true }, el("h2", {}, t("ask.title")),
    el("label", { for: "usual" }, t("ask.usual")), usual,
    el("label", { for: "question" }, t("ask.question")), question,
    el("label", { for: "options" }, t("ask.options")), options, el("p", { class: "note", id: "options-note" }, t("ask.options.note")),
    el("button", { type: "submit", class: "main" }, t(readFirst ? "ask.begin" : "ask.send")));
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    send({ question: question.value.trim(), options: options.value.split("\n").map((line) => line.trim()).filter(Boolean) });
  });
  return form;
}

/** The question as it stands, with what may be answered; ``button``: what to press where the model is asked. */
export function questionCard(question, options, send) {
  const list = options.length ? el("ol", { class: "options" }, ...options.map((option) => el("li", {}, visible(option)))) : null;
  return el("section", { id: "question-card" }, el("h2", { tabindex: "-1", id: "asked" }, visible(question)), send ? list : null,
    send ? el("button", { type: "button", class: "main", onclick: send }, t("ask.send")) : null);
}

/** Letters and digits choose, when the options have the focus. */
function choices(name, legend, options, chosen, cannot) {
  const rows = options.map((option, k) => [LETTERS[k], `${LETTERS[k]}) ${visible(option)}`]);
  if (cannot) rows.push(["", t("own.cannot")]);
  const set = el("fieldset", { "aria-describedby": "asked" }, el("legend", {}, legend), ...rows.map(([value, text], k) =>
    el("label", { class: "choice" }, el("input", { type: "radio", name, value, checked: value === chosen, id: `${name}-${k}` }), " ", text)));
  set.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const k = /^[1-9]$/.test(event.key) ? Number(event.key) - 1 : LETTERS.indexOf(event.key.toUpperCase());
    const input = event.key.length === 1 && k >= 0 && k < options.length ? set.querySelectorAll("input")[k] : null;
    if (event.key === "Enter") { event.preventDefault(); set.closest("form").requestSubmit(); }
    if (!input) return;
    input.checked = true;
    input.focus();
    event.preventDefault();
    event.stopPropagation();
  });
  return set;
}

const picked = (form, name) => form.querySelector(`input[name="${name}"]:checked`)?.value;

/** The reader's own answer; ``send`` gets it, "" for one that cannot say, undefined where nothing was chosen. */
export function ownForm(read, send) {
  const words = read.options.length ? null : el("input", { type: "text", id: "own-words", maxlength: "1000", autocomplete: "off" });
  const cannot = words ? el("label", { class: "choice" }, el("input", { type: "checkbox", id: "own-cannot" }), " ", t("own.cannot")) : null;
  const form = el("form", { id: "own", novalidate: true }, el("h3", {}, t("own.title")), el("p", { class: "note" }, t("own.note")),
    words ? el("label", { for: "own-words" }, t("own.words")) : choices("own", t("own.legend"), read.options, undefined, true), words, cannot,
    el("button", { type: "submit", class: "main" }, t("own.send")));
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const written = words ? words.value.trim() || (cannot.querySelector("input").checked ? "" : undefined) : picked(form, "own");
    send(written);
  });
  return form;
}

/** What she makes of it; ``decide`` gets the action and, where she disagrees, the final answer. */
export function decisionForm(read, medical, decide) {
  const stands = medical.status === "answered";
  const words = read.options.length || !stands ? null : el("input", { type: "text", id: "final-words", maxlength: "1000", value: read.own ?? "", autocomplete: "off" });
  const label = words ? el("label", { for: "final-words" }, t("decide.words")) : null;
  const final = stands && read.options.length ? choices("final", t("decide.final"), read.options, read.own || undefined, false) : null;
  const form = el("form", { id: "decide", novalidate: true });
  const disagree = () => {
    const answer = words ? words.value.trim() : picked(form, "final");
    decide("disagree", answer === undefined ? "" : answer);
  };
  form.append(el("h3", {}, t("decide.title")), ...[label, words, final].filter(Boolean), el("div", { class: "buttons" },
    ...(stands ? [el("button", { type: "button", "data-action": "agree", onclick: () => decide("agree") }, t("decide.agree")),
      el("button", { type: "button", "data-action": "disagree", onclick: disagree }, t("decide.disagree"))] : []),
    el("button", { type: "button", "data-action": "skip", onclick: () => decide("skip") }, t(stands ? "decide.skip" : "decide.keep"))));
  form.addEventListener("submit", (event) => event.preventDefault());
  return form;
}

export const yours = (read) => el("p", { class: "yours" }, t("yours", { answer: spoken(read.own, read.options) || t("own.cannot") }));
