// The keys, in a dialog; single letters can be turned off there, for whoever speaks to her machine.

import { $, el, t } from "./dom.js";

let singles = true;

export const isSingle = () => singles;

export function showHelp(viewer) {
  const list = (pairs) => el("dl", {}, ...pairs.flatMap(([key, text]) => [el("dt", {}, el("kbd", {}, key)), el("dd", {}, text)]));
  const box = el("input", { type: "checkbox", id: "singles", checked: singles, onchange: () => { singles = box.checked; } });
  const keys = viewer.help();
  $("help").replaceChildren(el("h2", { id: "help-title" }, t("help.title")), list(t("help.keys")),
    el("label", { class: "choice" }, box, " ", t("help.singles")),
    ...(keys.length ? [el("h3", {}, t("help.viewer")), list(keys)] : []),
    el("button", { type: "button", class: "main", onclick: () => $("help").close() }, t("help.close")));
  $("help").showModal();
}
