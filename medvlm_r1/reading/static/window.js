// Values to the 256 grey levels, to the bit as medvlm_r1/data/window.py and data/dicom/grey.py have them: pure functions.
// A rule is what the server sends: {function, low, high, window, slope, intercept}; for a table {first, entries}, for a SIGMOID
// {levels: {first, entries}}, the grey level of each stored value, as the exponential of another machine may differ in its last bit.

// The values shown black and white by a center and a width: DICOM PS3.3 C.11.2.1.2.1 (LINEAR); below a width of 1 C.11.2.1.3.2.
export function bounds(center, width) {
  if (width < 1) return exactBounds(center, width);
  return [center - 0.5 - (width - 1) / 2, center - 0.5 + (width - 1) / 2];
}

export function exactBounds(center, width) {
  return [center - width / 2, center + width / 2];
}

// The center and width whose bounds these are.
export function windowOf(low, high) {
  const range = high - low;
  return range >= 1 ? {center: (low + high) / 2 + 0.5, width: range + 1} : {center: (low + high) / 2, width: Math.max(range, 1e-6)};
}

// To the nearest whole number, halves to the even one, as numpy.rint.
export function rint(x) {
  const r = Math.round(x);
  return r - x === 0.5 && r % 2 !== 0 ? r - 1 : r;
}

// One value between two ends; NaN is background, and black.
export function level(value, low, high) {
  const scaled = (value - low) * 255 / Math.max(high - low, 1e-12);
  return scaled >= 255 ? 255 : scaled > 0 ? rint(scaled) : 0;
}

// The rule that a person's own window is: LINEAR, as the model is shown it when it is asked with this window.
export function asked(rule, center, width) {
  const [low, high] = bounds(center, width);
  return {function: "LINEAR", low, high, slope: rule.slope, intercept: rule.intercept};
}

// The grey level of one stored sample.
export function grey(stored, rule) {
  if (rule.levels) return rule.levels.entries[Math.min(Math.max(stored - rule.levels.first, 0), rule.levels.entries.length - 1)];
  const value = stored * rule.slope + rule.intercept;
  if (rule.function === "TABLE") {
    const at = Math.min(Math.max((Number.isNaN(value) ? -Infinity : rint(value)) - rule.first, 0), rule.entries.length - 1);
    return level(rule.entries[at], rule.low, rule.high);
  }
  if (rule.function === "SIGMOID") {
    const [center, width] = rule.window;
    return level(1 / (1 + Math.exp(-4 * (value - center) / width)), 0, 1);
  }
  return level(value, rule.low, rule.high);
}

const RGBA = Uint32Array.from({length: 256}, (_, g) => (0xff000000 | g << 16 | g << 8 | g) >>> 0); // little-endian, as every browser's machine

// A colour word for each stored sample from `least` to `greatest`: one pass over a few thousand levels, and none over the pixels.
export function words(rule, flip, least, greatest) {
  const found = new Uint32Array(greatest - least + 1);
  for (let at = 0; at < found.length; at++) {
    const g = grey(at + least, rule);
    found[at] = RGBA[flip ? 255 - g : g];
  }
  return found;
}

// Whole samples through one table.
export function paintCodes(samples, table, least, out) {
  if (least === 0) for (let i = 0; i < samples.length; i++) out[i] = table[samples[i]];
  else for (let i = 0; i < samples.length; i++) out[i] = table[samples[i] - least];
}

// Samples that are no whole numbers, each by itself.
export function paintNumbers(samples, rule, flip, out) {
  const plain = rule.function !== "TABLE" && rule.function !== "SIGMOID";
  const {slope, intercept, low} = rule, range = Math.max(rule.high - rule.low, 1e-12);
  for (let i = 0; i < samples.length; i++) {
    let g;
    if (plain) {
      const scaled = (samples[i] * slope + intercept - low) * 255 / range;
      g = scaled >= 255 ? 255 : scaled > 0 ? rint(scaled) : 0;
    } else g = grey(samples[i], rule);
    out[i] = RGBA[flip ? 255 - g : g];
  }
}

// RGB, brighter or darker on the screen: each part through the same levels.
export function paintColours(samples, rule, flip, out) {
  const part = Uint8Array.from({length: 256}, (_, v) => flip ? 255 - grey(v, rule) : grey(v, rule));
  for (let i = 0, j = 0; i < out.length; i++, j += 3) out[i] = 0xff000000 | part[samples[j + 2]] << 16 | part[samples[j + 1]] << 8 | part[samples[j]];
}

// A number for a window that can be read aloud, and that the API takes: whole where the levels are, else three digits of the range.
export function tidy(number, range, whole) {
  const step = whole && range >= 2 ? 1 : Math.max(10 ** (Math.floor(Math.log10(Math.max(range, 1e-6))) - 2), 1e-6);
  const places = Math.max(0, Math.round(-Math.log10(step)));
  return Number(Math.max(-1e6, Math.min(1e6, number)).toFixed(Math.min(places, 6)));
}
