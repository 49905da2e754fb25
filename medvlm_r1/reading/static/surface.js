// One frame on a canvas: painted at the size it has in the file, drawn at the size it has on the screen.
import {paintCodes, paintColours, paintNumbers, words} from "./window.js";

const MOST_ZOOM = 64, LEAST_ZOOM = 0.02;

export class Surface {
  constructor(canvas) {
    this.canvas = canvas;
    this.context = canvas.getContext("2d", {alpha: false});
    this.native = document.createElement("canvas");
    this.nativeContext = this.native.getContext("2d", {willReadFrequently: true});
    this.frame = null; this.image = null; this.lines = []; this.region = null; this.mark = null;
    this.aspect = 1; // height of a pixel by its width
    this.fit();
  }

  // A frame as Stack.frame cuts it; `spacing` height and width of a pixel, or null where they are not known.
  show(frame, colour, spacing) {
    const {rows, columns} = frame;
    if (!this.image || this.image.width !== columns || this.image.height !== rows) {
      this.native.width = columns; this.native.height = rows;
      this.image = new ImageData(columns, rows);
      this.pixels = new Uint32Array(this.image.data.buffer);
    }
    this.frame = frame; this.colour = colour; this.aspect = spacing ? spacing[0] / spacing[1] : 1;
  }

  // Through a window: the one step that is done again for each. Nothing is drawn yet.
  paint(rule, flip, whole) {
    const {samples, least, greatest} = this.frame;
    if (this.colour) paintColours(samples, rule, flip, this.pixels);
    else if (whole) paintCodes(samples, words(rule, flip, least, greatest), least, this.pixels);
    else paintNumbers(samples, rule, flip, this.pixels);
    this.nativeContext.putImageData(this.image, 0, 0);
  }

  // The bytes that are shown, before they are drawn smaller or larger: RGBA.
  shown() { return this.image.data; }

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

  draw() {
    const {canvas, context: c} = this, p = this.place;
    c.setTransform(1, 0, 0, 1, 0, 0);
    c.fillStyle = "#000";
    c.fillRect(0, 0, canvas.width, canvas.height);
    c.imageSmoothingEnabled = !(p.sx === 1 && p.sy === 1);
    c.imageSmoothingQuality = "medium";
    c.drawImage(this.native, p.x, p.y, this.frame.columns * p.sx, this.frame.rows * p.sy);
    const thick = Math.max(1, Math.round(window.devicePixelRatio || 1));
    for (const [from, to] of this.lines) this.#line(p, from, to, thick);
    if (this.region) this.#outline(p, thick);
    if (this.mark) this.#cross(p, this.mark, thick);
  }

  // Lines are black below and yellow above, to be seen on every grey.
  #stroke(path, thick) {
    const c = this.context;
    for (const [colour, width] of [["#000", 3 * thick], ["#ffd400", thick * 1.5]]) { c.strokeStyle = colour; c.lineWidth = width; c.beginPath(); path(c); c.stroke(); }
  }

  #line(p, from, to, thick) {
    const [x0, y0, x1, y1] = [p.x + from[0] * p.sx, p.y + from[1] * p.sy, p.x + to[0] * p.sx, p.y + to[1] * p.sy];
    const long = Math.hypot(x1 - x0, y1 - y0) || 1, nx = (y0 - y1) / long * 6 * thick, ny = (x1 - x0) / long * 6 * thick;
    this.#stroke((c) => {
      c.moveTo(x0, y0); c.lineTo(x1, y1);
      for (const [x, y] of [[x0, y0], [x1, y1]]) { c.moveTo(x - nx, y - ny); c.lineTo(x + nx, y + ny); }
    }, thick);
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
