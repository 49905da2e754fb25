// The nine cells of a grid over a picture as it stands on the screen, as medvlm_r1/cells.py has them: left and right are the screen's.

import { el } from "./dom.js";

export const CELLS = ["upper left", "upper middle", "upper right", "middle left", "centre", "middle right", "lower left", "lower middle", "lower right"];

/** The cell that was answered, where a question's options are cells and it speaks of the screen; else "". */
export function cellOf(question, options, answered) {
  const asks = question.toLowerCase().includes("screen") && options.every((option) => CELLS.includes(option.toLowerCase()));
  const cell = (answered ?? "").toLowerCase();
  return asks && CELLS.includes(cell) ? cell : "";
}

/** A picture with a cell outlined; what it says in words is the caller's business. */
export function outlined(image, cell) {
  const at = CELLS.indexOf(cell), one = el("span", { class: "cell" });
  one.style.gridArea = `${1 + Math.floor(at / 3)} / ${1 + (at % 3)}`;
  return el("div", { class: "marked" }, image, el("div", { class: "grid", "aria-hidden": "true" }, one));
}
