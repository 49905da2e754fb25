// What the model said, so that an answer looks like one, and nothing else does.

import { blob } from "./api.js";
import { cellOf, outlined } from "./cells.js";
import { el, percent, t, visible } from "./dom.js";

const LETTERS = "ABCDEFGHIJ";

/** The letter and the option's words, or the words alone where there are no options; "" for none. */
export function spoken(answer, options) {
  if (!answer) return "";
  return options.length ? `${answer}) ${visible(options[LETTERS.indexOf(answer)] ?? "")}` : visible(answer);
}

/** The place where an answer grows while it is written: the reasoning, folded, and room above it. */
export class Answer {
  constructor(read) {
    this.read = read;
    this.thought = el("pre", { class: "thought", tabindex: "0" });
    this.title = el("h2", { tabindex: "-1" }, t("wait.title"));
    this.body = el("div", { class: "body" });
    this.reasoning = el("details", { class: "reasoning" }, el("summary", {}, t("reasoning.title")), el("p", { class: "note" }, t("reasoning.note")), this.thought);
    this.element = el("section", { id: "answer", class: "waiting", "aria-busy": "true" }, this.title, this.body, this.reasoning);
    this.written = "";
  }

  grow(text) {
    this.written += text;
    this.thought.textContent = visible(this.written);
  }

  /** The whole of it; returns what is said to a screen reader. */
  end(message) {
    const medical = message.medical, options = this.read.options;
    const stands = medical.status === "answered";
    this.element.className = stands ? "answered" : "no-answer";
    this.element.setAttribute("aria-busy", "false");
    this.element.dataset.status = medical.status;
    this.title.textContent = t(stands ? "answer.title" : "none.title");
    const said = stands ? spoken(medical.answer ?? medical.answer_text, options) : "";
    const cell = stands ? cellOf(this.read.question, options, options[LETTERS.indexOf(medical.answer)]) : "";
    this.thought.textContent = message.reasoning ? visible(message.reasoning) : t("reasoning.none");
    this.body.replaceChildren(
      stands ? el("p", { class: "letter" }, said) : el("p", { class: "reason" }, t(`none.${medical.status}`)),
      ...(cell ? [el("p", { class: "note" }, t("answer.on-screen"))] : []),
      ...listed("warnings", t("warnings.title"), medical.warnings.map((warned) => warned.text)),
      ...(stands ? confidence(medical) : [el("h3", {}, t("confidence.title")), el("p", {}, t("confidence.no-answer"))]),
      ...(stands ? bars(medical, options) : []),
      ...listed("input", t("input.title"), medical.input_warnings),
    );
    this.element.append(seen(this.read, medical, cell));
    return stands ? t("answer.said", { answer: cell ? `${said}. ${t("answer.on-screen")}` : said }) : `${t("none.title")}. ${t(`none.${medical.status}`)}`;
  }

  fail(text, again) {
    this.element.className = "no-answer";
    this.element.setAttribute("aria-busy", "false");
    this.title.textContent = t("none.title");
    this.body.replaceChildren(el("p", { class: "reason" }, text), el("button", { type: "button", onclick: again }, t("again")));
    this.reasoning.remove();
  }
}

function listed(name, title, texts) {
  if (!texts.length) return [];
  return [el("h3", {}, title), el("ul", { class: name }, ...texts.map((text) => el("li", {}, visible(text))))];
}

/** The number, and beside it on what it rests; or the words that there is none. */
function confidence({ confidence: value, calibrated_on: on }) {
  const title = el("h3", {}, t("confidence.title"));
  if (value === null || !on) return [title, el("p", { class: "confidence" }, t("confidence.none"))];
  const rests = { low: percent(on.ci95[0]), high: percent(on.ci95[1]), n: on.n, set: visible(on.set.split("/").pop()), all: on.n_of_set };
  return [title, el("p", { class: "confidence" }, el("strong", {}, t("confidence.number", { percent: percent(value) })), " ", el("span", {}, t("confidence.rests", rests)))];
}

function bars(medical, options) {
  const probs = Object.entries(medical.option_probs);
  if (!probs.length) return [];
  const rows = probs.map(([letter, share]) => {
    const bar = el("span", { class: "fill" });
    bar.style.width = `${Math.round(1000 * share) / 10}%`;
    return el("li", {}, el("span", { class: "name" }, spoken(letter, options)), el("span", { class: "bar", "aria-hidden": "true" }, bar), el("span", { class: "number" }, percent(share)));
  });
  return [el("h3", {}, t("probs.title")), el("p", { class: "note" }, t("probs.note")), el("ul", { class: "bars" }, ...rows)];
}

/** The picture as the model was given it, fetched when it is asked for, the cell that was answered outlined, and its hash counted here again. */
function seen(read, medical, cell) {
  const room = el("div", {});
  const details = el("details", { class: "seen" }, el("summary", {}, t("seen.title")), el("p", { class: "note" }, t("seen.note")), room);
  const [hash] = medical.image_sha256, [size] = medical.images_seen;
  details.addEventListener("toggle", async () => {
    if (!details.open || room.hasChildNodes() || !hash) return;
    const checked = el("p", { class: "check" });
    room.append(el("p", { class: "hash" }, t("seen.hash", { hash })), checked);
    if (size) room.append(el("p", {}, t("seen.size", { width: size[0], height: size[1] })));
    try {
      const picture = await blob(`reading/reads/${read.read}/picture`);
      const image = el("img", { alt: cell ? t("seen.alt-cell", { cell }) : t("seen.alt") });
      image.src = URL.createObjectURL(picture);
      image.addEventListener("load", () => URL.revokeObjectURL(image.src), { once: true });
      room.prepend(...(cell ? [outlined(image, cell), el("p", { class: "note" }, `${t("seen.cell", { cell })} ${t("answer.on-screen")}`)] : [image]));
      checked.textContent = t(await verdict(picture, hash));
    } catch (error) {
      checked.textContent = error.message || t("unreachable");
    }
  });
  return details;
}

async function verdict(picture, hash) {
  if (!globalThis.crypto?.subtle) return "seen.unchecked";
  const bytes = new Uint8Array(await crypto.subtle.digest("SHA-256", await picture.arrayBuffer()));
  return [...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join("") === hash ? "seen.checked" : "seen.differs";
}
