// The viewer's elements: made once, filled when a picture opens. Every word is text, from texts.en.json or a number.

function make(kind, name, parent, words = {}) {
  const element = document.createElement(kind);
  if (name) element.className = `viewer-${name}`;
  const {text, ...attributes} = words;
  if (text !== undefined) element.textContent = text;
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  parent.append(element);
  return element;
}

export function build(section, texts, viewer) {
  section.replaceChildren();
  section.classList.add("viewer");
  const tools = make("div", "tools", section, {role: "group", "aria-label": texts.tools});
  const button = (name, key, done, parent = tools) => {
    const made = make("button", "button", parent, {type: "button", text: texts[name], "aria-keyshortcuts": key, title: `${texts[name]} (${key})`});
    made.addEventListener("click", () => { if (viewer.stack) done(); });
    return made;
  };
  const planes = make("div", "planes", tools, {role: "group", "aria-label": texts.plane});
  const labelled = (text, kind, name) => { const label = make("label", "labelled", tools, {text}); return make(kind, name, label); };
  const presets = labelled(texts.window, "select", "presets");
  presets.addEventListener("change", () => viewer.preset(Number(presets.value)));
  const drag = labelled(texts.drag, "select", "drag");
  for (const [name, text] of Object.entries(texts.drags)) make("option", "", drag, {value: name, text});
  drag.addEventListener("change", () => { viewer.tool = drag.value; });
  const invert = button("invert", "i", () => viewer.invert());
  invert.setAttribute("aria-pressed", "false");
  const zooming = make("div", "zooming", tools);
  button("out", "-", () => viewer.zoomOut(), zooming);
  button("in", "+", () => viewer.zoomIn(), zooming);
  button("fit", "f", () => viewer.fit(), zooming);
  button("one", "1", () => viewer.oneToOne(), zooming);
  button("reset", "r", () => viewer.reset());
  const stage = make("div", "stage", section, {tabindex: "0", role: "application", "aria-label": texts.about});
  const parts = {section, tools, planes, presets, drag, invert, stage, canvas: make("canvas", "canvas", stage, {"aria-hidden": "true"})};
  for (const name of ["left", "right", "top", "bottom"]) parts[name] = make("span", `side viewer-${name}`, stage);
  for (const name of ["where", "zoom", "window", "value", "label"]) parts[name] = make("span", `corner viewer-${name}`, stage);
  const row = make("label", "slide", section, {text: texts.frame});
  parts.slide = row;
  parts.slider = make("input", "slider", row, {type: "range", min: "1", step: "1"});
  parts.slider.addEventListener("input", () => viewer.go(Number(parts.slider.value) - 1));
  parts.said = make("p", "said", section);
  parts.notes = make("ul", "notes", section, {"aria-label": texts["notes-title"]});
  parts.sync = sync;
  return parts;
}

// What depends on the file: planes, presets, notes.
export function fill(viewer) {
  const {parts, texts, header, stack} = viewer;
  parts.section.classList.add("viewer-open");
  parts.planes.replaceChildren();
  parts.planes.hidden = stack.planes.length < 2;
  for (const plane of stack.planes) {
    const made = make("button", "button", parts.planes, {type: "button", text: texts.planes[plane], "aria-pressed": String(plane === viewer.plane)});
    made.addEventListener("click", () => viewer.turnTo(plane));
    made.dataset.plane = plane;
  }
  parts.presets.replaceChildren();
  viewer.presets.forEach(({label}, n) => make("option", "", parts.presets, {value: String(n), text: label}));
  make("option", "", parts.presets, {value: "-1", text: texts.own, disabled: "", hidden: ""});
  const hasLength = Boolean(header.planes[viewer.plane].scale);
  parts.drag.querySelector("option[value=length]").disabled = !hasLength;
  if (!hasLength && viewer.tool === "length") { viewer.tool = "window"; parts.drag.value = "window"; }
  parts.slide.hidden = viewer.count < 2;
  parts.slide.firstChild.textContent = header.planes[viewer.plane].axis === null ? texts.frame : texts.slice;
  parts.slider.max = String(viewer.count);
  parts.notes.replaceChildren();
  const isRaster = header.kind === "raster";
  for (const code of header.notes) {
    if (texts.notes[code] && !(isRaster && ["no-sides", "no-spacing"].includes(code))) make("li", "", parts.notes, {text: texts.notes[code]});
  }
}

// What changes while a picture is read.
function sync(viewer) {
  const {parts} = viewer;
  parts.presets.value = String(viewer.presetIndex);
  parts.invert.setAttribute("aria-pressed", String(viewer.isInverted));
  parts.slider.value = String(viewer.number + 1);
  parts.slider.setAttribute("aria-valuetext", parts.where.textContent);
  for (const made of parts.planes.children) made.setAttribute("aria-pressed", String(made.dataset.plane === viewer.plane));
  parts.label.hidden = !viewer.surface.region;
}

// Fills {names} of a text.
export function put(text, values) { return text.replace(/\{(\w+)\}/g, (_, name) => String(values[name] ?? "")); }
