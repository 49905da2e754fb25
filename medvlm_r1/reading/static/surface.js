// One frame on a canvas: painted at the size it has in the file, drawn at the size it has on the screen.
//
// A large frame has two paintings. While a hand is on it only what the screen has room for is painted: the part in sight, and
// where the screen has fewer pixels than the frame, means of blocks of it. As soon as it rests, all of it is painted.
import {reduced} from "./stack.js";
import {paintCodes, paintColours, paintNumbers, words} from "./window.js";

const MOST_ZOOM = 64, LEAST_ZOOM = 0.02, LARGE = 2 ** 20;

// A canvas that is painted pixel by pixel.
class Painting {
  constructor() {
    this.canvas = document.createElement("canvas");
    this.context = this.canvas.getContext("2d", {willReadFrequently: true});
    this.image = null;
  }

  size(columns, rows) {
    if (this.image?.width === columns && this.image.height === rows) return;
    this.canvas.width = columns; this.canvas.height = rows;
    this.image = new ImageData(columns, rows);
    this.pixels = new Uint32Array(this.image.data.buffer);
  }
}

export class Surface {
  constructor(canvas) {
    this.canvas = canvas;
    this.context = canvas.getContext("2d", {alpha: false});
    this.whole = new Painting();
    this.part = new Painting();
    this.forget();
    this.aspect = 1; // height of a pixel by its width
    this.fit();
  }

  forget() { Object.assign(this, {frame: null, smaller: null, lines: [], region: null, mark: null}); }

  // A frame as Stack.frame cuts it; `spacing` height and width of a pixel, or null where they are not known.
  show(frame, colour, spacing) {
    this.frame = frame; this.colour = colour; this.smaller = null;
    this.aspect = spacing ? spacing[0] / spacing[1] : 1;
  }

  get isLarge() { return this.frame.rows * this.frame.columns > LARGE; }

  // All of the frame through a window, and onto the screen. `isWhole`: are its samples whole numbers?
  paint(rule, flip, isWhole) {
    const {rows, columns, samples} = this.frame;
    this.whole.size(columns, rows);
    this.#through(rule, flip, isWhole)(samples, this.whole.pixels);
    this.whole.context.putImageData(this.whole.image, 0, 0);
  }

  // The same of what is in sight, as finely as the screen shows it: [painting, x, y, width, height] in pixels of the frame.
  sketch(rule, flip, isWhole) {
    const by = Math.max(1, Math.floor(1 / Math.max(this.scale, this.scale * this.aspect))), parts = this.colour ? 3 : 1;
    if (this.smaller?.by !== by) this.smaller = {by, ...(by > 1 ? reduced(this.frame, by, parts) : this.frame)};
    const {rows, columns, samples} = this.smaller, p = this.place, {width, height} = this.canvas;
    const x0 = Math.max(0, Math.floor(-p.x / p.sx / by) - 1), x1 = Math.min(columns, Math.ceil((width - p.x) / p.sx / by) + 1);
    const y0 = Math.max(0, Math.floor(-p.y / p.sy / by) - 1), y1 = Math.min(rows, Math.ceil((height - p.y) / p.sy / by) + 1);
    const across = Math.max(1, x1 - x0), down = Math.max(1, y1 - y0);
    this.part.size(across, down);
    const through = this.#through(rule, flip, isWhole);
    for (let row = 0; row < down; row++) {
      const at = ((y0 + row) * columns + x0) * parts;
      through(samples.subarray(at, at + across * parts), this.part.pixels.subarray(row * across, (row + 1) * across));
    }
    this.part.context.putImageData(this.part.image, 0, 0);
    return [this.part, x0 * by, y0 * by, across * by, down * by];
  }

  // One table for all of a frame, where there can be one.
  #through(rule, flip, isWhole) {
    const {least, greatest} = this.frame;
    if (this.colour) return (samples, out) => paintColours(samples, rule, flip, out);
    if (!isWhole) return (samples, out) => paintNumbers(samples, rule, flip, out);
    const table = words(rule, flip, least, greatest);
    return (samples, out) => paintCodes(samples, table, least, out);
  }

  // The bytes of the whole frame, before they are drawn smaller or larger: RGBA.
  shown() { return this.whole.image.data; }

  resize() {
    const ratio = window.devicePixelRatio || 1, box = this.canvas.parentElement.getBoundingClientRect();
    const width = Math.max(1, Math.round(box.width * ratio)), height = Math.max(1, Math.round(box.height * ratio));
    if (width !== this.canvas.width || height !== this.canvas.height) { this.canvas.width = width; this.canvas.height = height; }
  }

  fit() { this.zoom = null; this.x = this.y = 0; }

  // Screen pixels a picture's column: where it fits into the canvas unless a zoom was chosen.
  get scale() {
    if (this.zoom !== null) return this.zoom;
    return Math.min(this.canvas.width / this.frame.columns, this.canvas.height / (this.frame.rows * this.aspect));
  }

  // Zoom, keeping what is at (x, y) of the canvas where it is.
  zoomTo(scale, x = this.canvas.width / 2, y = this.canvas.height / 2) {
    const before = this.place, next = Math.max(LEAST_ZOOM, Math.min(MOST_ZOOM, scale)), by = next / before.sx;
    this.zoom = next;
    const after = this.place;
    this.x += x - (x - before.x) * by - after.x;
    this.y += y - (y - before.y) * by - after.y;
    this.#keep();
  }

  move(dx, dy) { this.zoom = this.scale; this.x += dx; this.y += dy; this.#keep(); }

  // Where the picture lies on the canvas; whole pixels where it is drawn 1:1, so that nothing is smoothed.
  get place() {
    const sx = this.scale, sy = sx * this.aspect, {rows, columns} = this.frame;
    const x = (this.canvas.width - columns * sx) / 2 + this.x, y = (this.canvas.height - rows * sy) / 2 + this.y;
    return {x: Math.round(x), y: Math.round(y), sx, sy};
  }

  // Column and row, with fractions, below a point of the canvas.
  at(x, y) { const p = this.place; return [(x - p.x) / p.sx, (y - p.y) / p.sy]; }

  // `sketched`: what `sketch` brought; without it the whole frame is drawn.
  draw(sketched) {
    const {canvas, context: c} = this, p = this.place, {rows, columns} = this.frame;
    const [painting, x, y, width, height] = sketched ?? [this.whole, 0, 0, columns, rows];
    c.setTransform(1, 0, 0, 1, 0, 0);
    c.fillStyle = "#000";
    c.fillRect(0, 0, canvas.width, canvas.height);
    c.imageSmoothingEnabled = !(p.sx === 1 && p.sy === 1);
    c.imageSmoothingQuality = "medium";
    c.drawImage(painting.canvas, p.x + x * p.sx, p.y + y * p.sy, width * p.sx, height * p.sy);
    const thick = Math.max(1, Math.round(window.devicePixelRatio || 1));
    for (const [from, to, text] of this.lines) this.#line(p, from, to, text, thick);
    if (this.region) this.#outline(p, thick);
    if (this.mark) this.#cross(p, this.mark, thick);
  }

  // Lines are black below and yellow above, to be seen on every grey.
  #stroke(path, thick) {
    const c = this.context;
    for (const [colour, width] of [["#000", 3 * thick], ["#ffd400", thick * 1.5]]) { c.strokeStyle = colour; c.lineWidth = width; c.beginPath(); path(c); c.stroke(); }
  }

  #line(p, from, to, text, thick) {
    const [x0, y0, x1, y1] = [p.x + from[0] * p.sx, p.y + from[1] * p.sy, p.x + to[0] * p.sx, p.y + to[1] * p.sy];
    const long = Math.hypot(x1 - x0, y1 - y0) || 1, nx = (y0 - y1) / long * 6 * thick, ny = (x1 - x0) / long * 6 * thick;
    this.#stroke((c) => {
      c.moveTo(x0, y0); c.lineTo(x1, y1);
      for (const [x, y] of [[x0, y0], [x1, y1]]) { c.moveTo(x - nx, y - ny); c.lineTo(x + nx, y + ny); }
    }, thick);
    const c = this.context, size = Math.round(15 * (window.devicePixelRatio || 1));
    c.font = `600 ${size}px system-ui, sans-serif`;
    c.lineWidth = 4 * thick; c.strokeStyle = "#000"; c.fillStyle = "#ffd400"; c.lineJoin = "round";
    const x = Math.min(Math.max(x1, x0) + 10 * thick, this.canvas.width - c.measureText(text).width - 4), y = Math.max(size, x1 > x0 ? y1 : y0);
    c.strokeText(text, x, y);
    c.fillText(text, x, y);
  }

  #outline(p, thick) {
    const {rows, columns} = this.frame, {x0, y0, x1, y1} = this.region;
    this.#stroke((c) => c.rect(p.x + x0 * columns * p.sx, p.y + y0 * rows * p.sy, (x1 - x0) * columns * p.sx, (y1 - y0) * rows * p.sy), thick);
  }

  #cross(p, [column, row], thick) {
    const x = p.x + (column + 0.5) * p.sx, y = p.y + (row + 0.5) * p.sy, arm = 10 * thick, gap = 3 * thick;
    this.#stroke((c) => { for (const [a, b] of [[1, 0], [-1, 0], [0, 1], [0, -1]]) { c.moveTo(x + a * gap, y + b * gap); c.lineTo(x + a * arm, y + b * arm); } }, thick);
  }

  // Some of the picture stays in sight.
  #keep() {
    const {rows, columns} = this.frame, sx = this.scale;
    const mostX = (this.canvas.width + columns * sx) / 2 - 40, mostY = (this.canvas.height + rows * sx * this.aspect) / 2 - 40;
    this.x = Math.max(-mostX, Math.min(mostX, this.x));
    this.y = Math.max(-mostY, Math.min(mostY, this.y));
  }
}
