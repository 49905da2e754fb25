// Elements and words. Text goes in as text: nothing here makes HTML of it.

export const $ = (id) => document.getElementById(id);

/** el("p", {class: "note"}, "text", other) — attributes by name, handlers as on…, children that are null left out. */
export function el(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (value === true) made.setAttribute(name, "");
    else if (value !== false && value !== null) made.setAttribute(name, value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

let words = {};

export async function loadTexts(language) {
  words = await (await fetch(`page/texts.${language}.json`)).json();
  document.documentElement.lang = words.lang;
  for (const one of document.querySelectorAll("[data-text]")) one.textContent = t(one.dataset.text);
  for (const one of document.querySelectorAll("[data-label]")) one.setAttribute("aria-label", t(one.dataset.label));
  return words;
}

/** The words for a key, with values in their places; a list as it stands. */
export function t(key, values = {}) {
  const found = words[key] ?? key;
  return typeof found === "string" ? found.replace(/\{(\w+)\}/g, (whole, name) => values[name] ?? whole) : found;
}

/** What a model or a server wrote, with signs that a screen would obey shown as signs. */
export function visible(text) {
  return String(text)
    .replace(/[\u0000-\u0008\u000b-\u001f]/g, (sign) => String.fromCodePoint(0x2400 + sign.codePointAt(0)))
    .replace(/[\u007f-\u009f\u061c\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff]/g, (sign) => `⟦U+${sign.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}⟧`);
}

export const percent = (share) => `${Math.round(100 * share)} %`;

/** Say it to a screen reader. */
export function announce(text) {
  $("said").textContent = "";
  setTimeout(() => { $("said").textContent = text; }, 50);
}
