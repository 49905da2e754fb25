// What /reading/picture answers, and how a frame is cut out of it: medvlm_r1/data/stack.py says what the parts mean.

const KINDS = {uint8: Uint8Array, int16: Int16Array, uint16: Uint16Array, float32: Float32Array, float64: Float64Array};

export class Stack {
  constructor(buffer) {
    const length = new DataView(buffer).getUint32(0, true);
    this.header = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 4, length)));
    const Kind = KINDS[this.header.dtype], size = this.header.shape.reduce((a, b) => a * b, 1);
    this.samples = new Kind(buffer, 4 + length, size);
    this.colour = this.header.shape.length === 4;
    this.isWhole = !this.header.dtype.startsWith("float");
  }

  get planes() { return Object.keys(this.header.planes); }

  // {samples, rows, columns, least, greatest}: contiguous; not copied where it lies so already.
  frame(plane, number) {
    const {rows, columns, start, step} = this.header.planes[plane], n = rows * columns, parts = this.colour ? 3 : 1;
    const first = start + number * step[0];
    const samples = step[2] === 1 && step[1] === columns ? this.samples.subarray(first * parts, (first + n) * parts) : this.#cut(first, rows, columns, step, parts);
    let least = 0, greatest = 255;
    if (this.isWhole && !this.colour) {
      least = Infinity; greatest = -Infinity;
      for (let i = 0; i < n; i++) { const v = samples[i]; if (v < least) least = v; if (v > greatest) greatest = v; }
    }
    return {samples, rows, columns, least, greatest};
  }

  #cut(first, rows, columns, step, parts) {
    const out = new this.samples.constructor(rows * columns * parts);
    for (let r = 0, i = 0; r < rows; r++) {
      let at = first + r * step[1];
      for (let c = 0; c < columns; c++, at += step[2]) for (let part = 0; part < parts; part++) out[i++] = this.samples[at * parts + part];
    }
    return out;
  }

  rule(number) {
    const {rules, rule_of_frame: which, planes} = this.header;
    if (!rules.length) return {function: "RANGE", low: 0, high: 255, window: null, slope: 1, intercept: 0};
    return rules[which[planes.frames ? Math.min(number, which.length - 1) : 0]];
  }

  sides(plane, number) {
    const {sides} = this.header.planes[plane];
    return sides[Math.min(number, sides.length - 1)];
  }
}

// Means of blocks of `by` x `by` samples, in their own kind: what a screen with fewer pixels shows of a frame. What does not fill a block is left out.
export function reduced({samples, rows, columns, least, greatest}, by, parts) {
  const down = Math.max(1, Math.floor(rows / by)), across = Math.max(1, Math.floor(columns / by)), out = new samples.constructor(down * across * parts);
  const high = Math.min(by, rows), wide = Math.min(by, columns), n = high * wide, sums = new Float64Array(across * parts), isWhole = !(samples instanceof Float32Array || samples instanceof Float64Array);
  for (let row = 0; row < down; row++) {
    sums.fill(0);
    for (let y = 0; y < high; y++) {
      let at = (row * by + y) * columns * parts;
      for (let column = 0; column < across; column++) {
        for (let x = 0; x < wide; x++) for (let part = 0; part < parts; part++) sums[column * parts + part] += samples[at++];
      }
    }
    for (let i = 0; i < sums.length; i++) out[row * across * parts + i] = isWhole ? Math.round(sums[i] / n) : sums[i] / n;
  }
  return {samples: out, rows: down, columns: across, least, greatest};
}
