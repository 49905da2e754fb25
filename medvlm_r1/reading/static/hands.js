// What hands do: keys, mouse, pen and fingers. The viewer does the rest.

const ZOOMS_OVER_PX = 400, WHEEL_TURN = 40;

export function listen(viewer, stage) {
  viewer.element.addEventListener("keydown", (event) => {
    if (!viewer.stack || event.altKey || event.metaKey || event.ctrlKey || !pressed(viewer, event)) return;
    event.preventDefault();
    event.stopPropagation();
  });
  new ResizeObserver(() => viewer.later("draw")).observe(stage);
  new Pointers(viewer, stage);
}

function pressed(viewer, {key, shiftKey, target}) {
  const isControl = target !== viewer.parts.stage && /^(SELECT|INPUT|BUTTON)$/.test(target.tagName);
  if (isControl && (/^(Arrow|Page|Home|End|Enter| )/.test(key) || target.tagName === "SELECT")) return false;
  const direction = {ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1]}[key];
  if (direction) return arrow(viewer, direction, shiftKey);
  if (key === "Enter" && viewer.mode === "length") { viewer.setEnd(viewer.surface.mark[0] + 0.5, viewer.surface.mark[1] + 0.5); return true; }
  if (key === "Escape" && (viewer.mode || viewer.ends.length)) { viewer.setMode(""); return true; }
  const done = {
    PageUp: () => viewer.go(viewer.number - 10), PageDown: () => viewer.go(viewer.number + 10), Home: () => viewer.go(0), End: () => viewer.go(viewer.count - 1),
    "[": () => viewer.go(viewer.number - 1), "]": () => viewer.go(viewer.number + 1), "+": () => viewer.zoomIn(), "=": () => viewer.zoomIn(), "-": () => viewer.zoomOut(),
    f: () => viewer.fit(), i: () => viewer.invert(), r: () => viewer.reset(), 1: () => viewer.oneToOne(), w: () => viewer.setMode(viewer.mode === "window" ? "" : "window"),
    p: () => viewer.preset((viewer.presetIndex + 1) % viewer.presets.length), l: () => viewer.setMode(viewer.mode === "length" ? "" : "length"),
    v: () => viewer.turnTo(viewer.stack.planes[(viewer.stack.planes.indexOf(viewer.plane) + 1) % viewer.stack.planes.length]),
  }[key];
  done?.();
  return Boolean(done);
}

function arrow(viewer, [x, y], isFar) {
  if (viewer.mode === "window") {
    const from = viewer.window, step = Math.max(isFar ? 0.1 : 0.02, viewer.isWhole ? 1 / from.width : 0);
    viewer.steer(from, y * step, 1 + x * step);
  } else if (viewer.mode === "length") {
    const {rows, columns} = viewer.surface.frame, far = isFar ? 10 : 1, [column, row] = viewer.surface.mark;
    viewer.surface.mark = [Math.max(0, Math.min(columns - 1, column + x * far)), Math.max(0, Math.min(rows - 1, row + y * far))];
    viewer.point(...viewer.surface.mark);
    viewer.later("draw");
  } else if (isFar) viewer.move(-40 * x, -40 * y);
  else viewer.go(viewer.number + (x || y));
  return true;
}

// Mouse, pen and fingers over the picture.
class Pointers {
  constructor(viewer, stage) {
    this.viewer = viewer; this.down = new Map(); this.from = null; this.rolled = 0;
    stage.addEventListener("pointerdown", (event) => this.#begin(event, stage));
    stage.addEventListener("pointermove", (event) => this.#move(event));
    for (const name of ["pointerup", "pointercancel"]) stage.addEventListener(name, (event) => this.#end(event));
    stage.addEventListener("pointerleave", () => { if (viewer.stack && !viewer.mode) { viewer.pointed = null; viewer.parts.value.textContent = ""; } });
    stage.addEventListener("contextmenu", (event) => event.preventDefault());
    stage.addEventListener("wheel", (event) => this.#wheel(event), {passive: false});
  }

  #at(event) {
    const box = this.viewer.parts.canvas.getBoundingClientRect(), ratio = this.viewer.parts.canvas.width / box.width;
    return [(event.clientX - box.left) * ratio, (event.clientY - box.top) * ratio];
  }

  #begin(event, stage) {
    if (!this.viewer.stack) return;
    this.down.set(event.pointerId, this.#at(event));
    stage.setPointerCapture(event.pointerId);
    const {center, width} = this.viewer.window;
    const tool = event.button === 1 || event.shiftKey ? "pan" : event.button === 2 ? "zoom" : this.viewer.tool;
    this.from = {at: this.#at(event), center, width, tool, scale: this.viewer.surface.scale};
    if (tool === "length" && this.down.size === 1) this.viewer.setEnd(...this.viewer.surface.at(...this.#at(event)));
  }

  #move(event) {
    const {viewer} = this;
    if (!viewer.stack) return;
    const at = this.#at(event), before = this.down.get(event.pointerId);
    if (!before) { if (viewer.mode !== "length") viewer.point(...viewer.surface.at(...at)); return; }
    this.down.set(event.pointerId, at);
    if (this.down.size === 2) { this.#pinch(event.pointerId, before, at); return; }
    const dx = at[0] - this.from.at[0], dy = at[1] - this.from.at[1], ratio = window.devicePixelRatio || 1;
    if (this.from.tool === "window" && (dx || dy)) viewer.steer(this.from, dy / ratio / 400, Math.exp(dx / ratio / 250));
    else if (this.from.tool === "pan") viewer.move(at[0] - before[0], at[1] - before[1]);
    else if (this.from.tool === "zoom") { viewer.surface.zoomTo(this.from.scale * Math.exp(-dy / ratio / 200), ...this.from.at); viewer.later("draw"); }
    viewer.point(...viewer.surface.at(...at));
  }

  #pinch(id, before, at) {
    const [, other] = [...this.down].find(([key]) => key !== id);
    const apart = (point) => Math.hypot(point[0] - other[0], point[1] - other[1]) || 1;
    this.from.tool = "pinch";
    this.viewer.zoomBy(apart(at) / apart(before), (at[0] + other[0]) / 2, (at[1] + other[1]) / 2);
  }

  #end(event) {
    this.down.delete(event.pointerId);
    if (!this.down.size) this.from = null;
  }

  #wheel(event) {
    const {viewer} = this;
    if (!viewer.stack) return;
    event.preventDefault();
    if (event.ctrlKey || viewer.count === 1) { viewer.zoomBy(Math.exp(-event.deltaY / ZOOMS_OVER_PX), ...this.#at(event)); return; }
    this.rolled += event.deltaY; // a touchpad sends many small turns
    if (Math.abs(this.rolled) < WHEEL_TURN) return;
    viewer.go(viewer.number + Math.sign(this.rolled));
    this.rolled = 0;
  }
}
