// A picture is read here: DICOM, NIfTI, PNG, JPEG, TIFF, as medvlm_r1/reading/pictures.py sends it. No word of a file becomes markup.
import {asked, bounds, tidy, windowOf} from "./window.js";
import {Stack} from "./stack.js";
import {Surface} from "./surface.js";
import {build, fill, put} from "./controls.js";
import {listen} from "./hands.js";

const CT = [["brain", 40, 80], ["stroke", 40, 40], ["subdural", 75, 215], ["soft", 40, 400], ["mediastinum", 50, 350], ["lung", -600, 1500], ["bone", 400, 1800], ["liver", 60, 160]];
const ZOOM_STEP = 1.25, SAID_AFTER_MS = 400, RESTS_AFTER_MS = 200;

export class Viewer {
  constructor(element, texts, announce = () => {}) {
    this.element = element; this.texts = texts; this.announce = announce;
    this.headers = {};
    this.parts = build(element, texts, this);
    this.surface = new Surface(this.parts.canvas);
    listen(this, this.parts.stage);
    this.close();
  }

  // ---- what the page calls

  async open(file) {
    this.close();
    const turn = ++this.turn;
    this.parts.stage.setAttribute("aria-busy", "true");
    this.announce(this.texts.opening);
    try {
      const response = await fetch("/reading/picture", {method: "POST", body: file, headers: {"Content-Type": "application/octet-stream", ...this.headers}});
      if (!response.ok) throw {status: response.status, message: (await response.json().catch(() => ({})))?.error?.message ?? this.texts.broken};
      const buffer = await response.arrayBuffer();
      if (turn !== this.turn) return;
      try { this.stack = new Stack(buffer); } catch { throw {status: 502, message: this.texts.broken}; }
    } finally {
      if (turn === this.turn) this.parts.stage.removeAttribute("aria-busy");
    }
    this.file = file; this.header = this.stack.header;
    this.plane = this.stack.planes[0];
    this.presets = this.#presets();
    this.#middle();
    fill(this);
    this.#cut();
    this.paintNow();
  }

  // What is on the screen, as medical.place takes it: only what differs from what the model is shown of itself.
  place() {
    if (!this.stack) return {};
    const {axis} = this.header.planes[this.plane], place = {};
    if (axis !== null) Object.assign(place, {axis, slice: this.number});
    else if (this.number > 0) place.frame = this.number;
    return this.own && this.isShared ? {...place, ...this.own} : place;
  }

  // A region as shares of the picture, or null; its name beside it.
  mark(region, label = "") {
    this.surface.region = region;
    this.parts.label.textContent = region ? label : "";
    this.later("draw");
  }

  close() {
    this.turn = (this.turn ?? 0) + 1;
    for (const name of ["stack", "file", "header", "own", "pointed"]) this[name] = null;
    Object.assign(this, {plane: "", number: 0, isInverted: false, mode: "", tool: this.tool ?? "window", ends: [], told: "", standing: "", presets: []});
    this.say("");
    this.surface.forget();
    this.surface.fit();
    clearTimeout(this.resting);
    this.element.classList.remove("viewer-open");
    this.parts.label.textContent = "";
    clearTimeout(this.saying);
    cancelAnimationFrame(this.pending);
    this.pending = 0;
  }

  help() { return this.texts.keys.map((pair) => [...pair]); }

  // ---- what is shown

  // Does the model see this window too? It has none for colour, nor for a picture without a header.
  get isShared() { return this.header.kind !== "raster" && !this.stack.colour; }

  get rule() {
    const rule = this.stack.rule(this.number);
    return this.own ? asked(rule, this.own.center, this.own.width) : rule;
  }

  // Center and width in force, as numbers to read and to start from.
  get window() {
    if (this.own) return this.own;
    const rule = this.stack.rule(this.number);
    if (rule.window) return {center: rule.window[0], width: rule.window[1]};
    const {center, width} = rule.function === "TABLE" ? windowOf(rule.first, rule.first + rule.entries.length - 1) : windowOf(rule.low, rule.high);
    const near = (number) => this.isWhole ? Number(number.toFixed(1)) : tidy(number, width, false);
    return {center: near(center), width: near(width)};
  }

  get isWhole() {
    const {slope, intercept} = this.stack.rule(this.number);
    return this.stack.isWhole && Number.isInteger(slope) && Number.isInteger(intercept);
  }

  get count() { return this.header.planes[this.plane].count; }

  setWindow(center, width) {
    if (!this.stack) return;
    const most = Math.max(width, 1e-6), least = this.isWhole ? 1 : 1e-6;
    this.own = {center: tidy(center, most, this.isWhole), width: Math.min(1e6, Math.max(least, tidy(most, most, this.isWhole)))};
    this.later("paint");
  }

  // From a window, `up` widths (or ranges, where levels are no whole numbers: near a width of 1 the two part) to brighter or darker, and `wider` times as wide.
  steer({center, width}, up, wider) {
    if (this.isWhole) { this.setWindow(center + up * width, width * wider); return; }
    const [low, high] = bounds(center, width), middle = (low + high) / 2 + up * (high - low), half = Math.max((high - low) * wider, 1e-6) / 2;
    const next = windowOf(middle - half, middle + half);
    this.setWindow(next.center, next.width);
  }

  preset(index) {
    const chosen = this.presets[index];
    if (!chosen) return;
    if (chosen.center === undefined) { this.own = null; this.later("paint"); } else this.setWindow(chosen.center, chosen.width);
  }

  // The preset in force, or -1.
  get presetIndex() {
    if (!this.own) return 0;
    return this.presets.findIndex((preset) => preset.center === this.own.center && preset.width === this.own.width);
  }

  go(number) {
    if (!this.stack) return;
    const next = Math.max(0, Math.min(this.count - 1, number));
    if (next === this.number) return;
    this.number = next;
    this.#clearEnds();
    if (!this.mode) this.say(this.standing);
    this.#cut();
    this.later("paint");
  }

  turnTo(plane) {
    if (!this.stack || !(plane in this.header.planes) || plane === this.plane) return;
    this.setMode("");
    this.plane = plane;
    this.#middle();
    this.surface.fit();
    fill(this);
    this.#cut();
    this.later("paint");
  }

  invert() { this.isInverted = !this.isInverted; this.later("paint"); }

  reset() {
    this.own = null; this.isInverted = false;
    this.setMode("");
    this.surface.fit();
    this.later("paint");
  }

  fit() { this.surface.fit(); this.later("draw"); }

  oneToOne() { this.surface.zoomTo(1); this.surface.x = this.surface.y = 0; this.later("draw"); }

  zoomBy(factor, x, y) { this.surface.zoomTo(this.surface.scale * factor, x, y); this.later("draw"); }

  zoomIn() { this.zoomBy(ZOOM_STEP); }

  zoomOut() { this.zoomBy(1 / ZOOM_STEP); }

  move(dx, dy) { this.surface.move(dx, dy); this.later("draw"); }

  // "" (arrows change the slice), "window", or "length" (a mark is moved).
  setMode(mode) {
    if (mode === "length" && !this.header.planes[this.plane].scale) { this.announce(this.texts["length-none"]); this.say(this.texts["length-none"]); return; }
    const was = this.mode;
    this.mode = mode;
    this.#clearEnds();
    const {rows, columns} = this.surface.frame;
    this.surface.mark = mode === "length" ? [Math.floor(columns / 2), Math.floor(rows / 2)] : null;
    const text = {window: this.texts["window-mode"], length: this.texts["length-start"], "": was ? this.texts["mode-off"] : ""}[mode];
    if (text) this.announce(text);
    this.say(mode ? text : "");
    this.standing = "";
    if (mode === "length") this.point(...this.surface.mark);
    this.later("draw");
  }

  // An end of a length, in columns and rows of the picture.
  setEnd(column, row) {
    const {scale, spacing} = this.header.planes[this.plane];
    if (!scale) { this.say(this.texts["length-none"]); this.announce(this.texts["length-none"]); return; }
    this.ends = this.ends.length === 2 ? [[column, row]] : [...this.ends, [column, row]];
    if (this.ends.length === 2) {
      const [[x0, y0], [x1, y1]] = this.ends;
      this.mm = Math.hypot((x1 - x0) * spacing[1], (y1 - y0) * spacing[0]);
      const text = put(this.texts[scale === "mm" ? "length" : "length-detector"], {mm: this.mm.toFixed(1)});
      this.surface.lines = [[...this.ends, text]];
      this.say(text);
      this.announce(text);
    } else {
      this.surface.lines = [];
      this.say(this.texts["length-from"]);
      this.announce(this.texts["length-from"]);
    }
    this.later("draw");
  }

  // The value below a column and a row; "" beside the picture.
  point(column, row) {
    this.pointed = [column, row];
    const {samples, rows, columns} = this.surface.frame;
    const isInside = column >= 0 && row >= 0 && column < columns && row < rows;
    const at = Math.floor(row) * columns + Math.floor(column), {slope, intercept} = this.stack.rule(this.number);
    const number = (stored) => tidy(stored * slope + intercept, 1000, this.isWhole).toLocaleString("en", {useGrouping: false, maximumFractionDigits: 4});
    const value = this.stack.colour ? Array.from(samples.subarray(3 * at, 3 * at + 3)).join(" ") : number(samples[at]);
    this.parts.value.textContent = isInside ? put(this.texts.value, {value, unit: this.header.unit}).trim() : "";
  }

  say(text) { this.parts.said.textContent = text; }

  // ---- painting

  // "paint" after a change of window or frame, "draw" after one of place; at the next frame of the screen.
  later(what) {
    if (!this.stack) return;
    this.isStale = this.isStale || what === "paint";
    if (!this.pending) this.pending = requestAnimationFrame(() => this.paintNow());
  }

  paintNow() {
    cancelAnimationFrame(this.pending);
    clearTimeout(this.resting);
    this.pending = 0;
    if (!this.stack) return;
    this.surface.resize();
    if (this.surface.isLarge) {
      this.surface.draw(this.surface.sketch(...this.through));
      this.resting = setTimeout(() => this.rest(), RESTS_AFTER_MS);
    } else {
      if (this.isStale) this.surface.paint(...this.through);
      this.isStale = false;
      this.surface.draw();
    }
    this.#tell();
  }

  // All of a large picture, once no hand is on it.
  rest() {
    clearTimeout(this.resting);
    if (!this.stack || !this.surface.isLarge) return;
    if (this.isStale) this.surface.paint(...this.through);
    this.isStale = false;
    this.surface.draw();
  }

  get through() { return [this.rule, this.header.inverted !== this.isInverted, this.stack.isWhole]; }

  #cut() {
    this.surface.show(this.stack.frame(this.plane, this.number), this.stack.colour, this.header.planes[this.plane].spacing);
    this.isStale = true;
    if (this.pointed) this.point(...this.pointed);
  }

  // A volume opens in its middle, frames at the first.
  #middle() { this.number = this.header.planes[this.plane].axis === null ? 0 : Math.floor(this.count / 2); }

  #clearEnds() { this.ends = []; this.mm = null; this.surface.lines = []; }

  #presets() {
    const {kind, windows, unit} = this.header, rule = this.stack.rule(0), texts = this.texts;
    const named = ({name}, n) => name ? put(texts["file-window"], {name}) : put(texts["file-window-number"], {n: n + 1});
    const isIn = (window) => rule.window && window.center === rule.window[0] && window.width === rule.window[1];
    const first = windows.findIndex(isIn);
    const own = rule.function === "PERCENTILES" ? texts["as-percentiles"] : kind === "raster" || this.stack.colour ? texts["as-stored"] : first >= 0 ? named(windows[first], first) : texts["as-file"];
    const others = windows.map((window, n) => ({label: named(window, n), center: window.center, width: window.width})).filter((_, n) => n !== first);
    return [{label: own}, ...others, ...(unit === "HU" ? CT.map(([name, center, width]) => ({label: texts.ct[name], center, width})) : [])];
  }

  #tell() {
    const {texts, parts, header} = this, {center, width} = this.window, rule = this.rule;
    const what = put(texts.at, {what: header.planes[this.plane].axis === null ? texts.frame : `${texts.planes[this.plane]}`, k: this.number + 1, n: this.count});
    const extra = [texts.function[rule.function], this.isInverted ? texts.inverted : ""].filter(Boolean);
    const isTable = rule.function === "TABLE";
    parts.where.textContent = what;
    parts.window.textContent = [...(isTable ? [] : [put(texts["in-force"], {center, width})]), ...extra].join(", ");
    parts.zoom.textContent = put(texts.zoom, {percent: Math.round(100 * this.surface.scale)});
    const sides = this.stack.sides(this.plane, this.number);
    for (const edge of ["left", "right", "top", "bottom"]) parts[edge].textContent = sides ? sides[edge] : "";
    parts.sync(this);
    const curve = this.own && ["TABLE", "SIGMOID", "LINEAR_EXACT"].includes(this.stack.rule(this.number).function) ? texts.notes["linear-only"] : "";
    const standing = this.own && !this.isShared ? texts["screen-only"] : this.isInverted ? texts["inverted-only"] : curve;
    if (!this.mode && !this.ends.length && standing !== this.standing) { this.standing = standing; this.say(standing); }
    const window = [...(isTable ? [] : [put(texts["in-force-said"], {center, width})]), ...extra].join(", ");
    this.#aloud(put(texts.said, {plane: header.planes[this.plane].axis === null ? texts.frame : texts.planes[this.plane], k: this.number + 1, n: this.count, window}));
    const place = JSON.stringify(this.place());
    if (place !== this.placed) { this.placed = place; this.element.dispatchEvent(new CustomEvent("place", {detail: this.place()})); }
  }

  #aloud(text) {
    clearTimeout(this.saying);
    if (text === this.told) return;
    this.saying = setTimeout(() => { this.told = text; this.announce(text); }, SAID_AFTER_MS);
  }
}
