// Browse every answer of the report. It loads nothing: all data stands in the page, in blocks of JSON.
// Texts of models and data sets reach the page as text nodes only, never as HTML.
"use strict";
(() => {
  const PAGE = 10; // cards in the document at a time
  const TAG = /(<\/?(?:think|answer)>)/;
  const LETTERS = "ABCDEFGHIJ";
  const LINES = { answered: "line", correct: "dashes" };
  const DRAWN = { blank: "a grey picture", noise: "noise" };
  const $ = (id) => document.getElementById(id);
  const read = (id) => JSON.parse($(id).textContent);
  const data = read("gallery-data");
  const blocks = []; // of picture URLs, read when first needed
  const haystacks = []; // by case, made when first searched
  const named = (list, name) => list.findIndex((item) => item.name === name);

  // ------------------------------------------------ the state: what stands behind "#cases?"

  const image = Math.max(0, named(data.arms, "image"));
  const CHOICES = { modality: Object.keys(data.modalities), type: data.questions.map((q) => q.type), status: data.statuses, kind: ["closed", "open"] };
  const defaults = { model: data.models[data.trained].name, arm: data.arms[image].name, vs: "", outcome: "all", modality: "", type: "", status: "", kind: "", q: "", at: "0" };
  if (data.base !== data.trained) defaults.vs = "model:" + data.models[data.base].name;
  else if (named(data.arms, "blank") >= 0) defaults.vs = "arm:blank";
  let state = { ...defaults };
  let found = []; // positions in data.cases

  function fromHash() {
    state = { ...defaults };
    if (!location.hash.startsWith("#cases?")) return false;
    for (const [key, value] of new URLSearchParams(location.hash.slice(7))) if (Object.hasOwn(defaults, key)) state[key] = value;
    if (named(data.models, state.model) < 0) state.model = defaults.model;
    if (named(data.arms, state.arm) < 0) state.arm = defaults.arm;
    for (const [key, values] of Object.entries(CHOICES)) if (!values.includes(state[key])) state[key] = "";
    const [kind, name] = against();
    if (named(kind === "arm" ? data.arms : data.models, name) < 0) state.vs = "";
    if (!Object.hasOwn(OUTCOMES, state.outcome) || (COMPARING.includes(state.outcome) && !state.vs)) state.outcome = "all";
    return true;
  }

  function toHash() {
    const changed = Object.entries(state).filter(([key, value]) => value !== defaults[key]);
    if (changed.length || location.hash.startsWith("#cases?")) history.replaceState(null, "", "#cases?" + new URLSearchParams(changed));
  }

  // ------------------------------------------------ which cases

  // a: the chosen model's answer; b: what it is compared with, if that was asked too. An answer that could not be had is compared with none.
  const both = (a, b) => b && a.status !== "failed" && b.status !== "failed";
  const OUTCOMES = {
    all: () => true,
    right: (a) => a.right,
    wrong: (a) => !a.right,
    wins: (a, b) => both(a, b) && a.right && !b.right,
    losses: (a, b) => both(a, b) && !a.right && b.right,
    "still-wrong": (a, b) => both(a, b) && !a.right && !b.right,
    "both-right": (a, b) => both(a, b) && a.right && b.right,
    malformed: (a) => a.status,
  };
  const COMPARING = ["wins", "losses", "still-wrong", "both-right"];

  const casesOf = data.arms.map(() => []);
  const caseOf = data.arms.map(() => new Map()); // question -> its first case under an arm
  data.cases.forEach((item, at) => {
    casesOf[item.arm].push(at);
    if (!caseOf[item.arm].has(item.question)) caseOf[item.arm].set(item.question, at);
  });

  // "arm:blank" is ["arm", "blank"].
  function against() {
    const colon = state.vs.indexOf(":");
    return [state.vs.slice(0, colon), state.vs.slice(colon + 1)];
  }

  // The case and the model that the chosen one is compared with.
  function opponent(item) {
    const [kind, name] = against();
    if (kind === "model") return [item, named(data.models, name)];
    if (kind === "arm") return [data.cases[caseOf[named(data.arms, name)]?.get(item.question)], named(data.models, state.model)];
    return [undefined, -1];
  }

  function select() {
    const model = named(data.models, state.model);
    const terms = state.q.toLowerCase().split(/\s+/).filter(Boolean);
    const counts = Object.fromEntries(Object.keys(OUTCOMES).map((key) => [key, 0]));
    found = [];
    for (const at of casesOf[named(data.arms, state.arm)]) {
      const item = data.cases[at];
      const question = data.questions[item.question];
      const a = item.answers[model];
      if (!a || (state.modality && question.modality !== state.modality) || (state.type && question.type !== state.type)) continue;
      if (state.kind && state.kind !== (question.options.length ? "closed" : "open")) continue;
      if (state.status && (a.status || "answered") !== state.status) continue;
      if (terms.length && !terms.every((term) => haystack(at).includes(term))) continue;
      const [other, who] = opponent(item);
      const b = other?.answers[who] || undefined;
      for (const key in OUTCOMES) if (OUTCOMES[key](a, b)) counts[key] += 1;
      if (OUTCOMES[state.outcome](a, b)) found.push(at);
    }
    return counts;
  }

  function haystack(at) {
    if (haystacks[at] === undefined) {
      const item = data.cases[at];
      const question = data.questions[item.question];
      const texts = item.answers.map((answer) => (answer ? answer.text : ""));
      haystacks[at] = [question.id, item.text || question.question, ...(item.options || question.options), question.options.length ? "" : question.gold, ...texts].join("\n").toLowerCase();
    }
    return haystacks[at];
  }

  // ------------------------------------------------ one card

  function make(tag, name, ...children) {
    const node = document.createElement(tag);
    if (name) node.className = name;
    node.append(...children.filter((child) => child !== ""));
    return node;
  }

  function card(at, number) {
    const item = data.cases[at];
    const question = data.questions[item.question];
    const [other, who] = opponent(item);
    const node = make("article", "card");
    node.tabIndex = 0;
    node.dataset.number = number;
    node.setAttribute("aria-label", `${number + 1} of ${found.length}: ${data.modalities[question.modality]} question ${question.id}`);
    node.append(shots(item, question, other), ask(item, question));
    const others = make("div", "completions");
    item.answers.forEach((answer, model) => {
      if (answer) others.append(completion(answer, data.models[model].label, data.models[model].name === state.model));
    });
    if (other && other !== item && other.answers[who]) {
      others.prepend(completion(other.answers[who], `${data.models[who].label}, arm “${data.arms[other.arm].name}”`, false));
    }
    node.append(others);
    return node;
  }

  function shots(item, question, other) {
    const node = make("div", "shots");
    const about = [data.modalities[question.modality], question.type].filter(Boolean).join(", ");
    const marked = marks(item, question, item.answers[named(data.models, state.model)]);
    const pictures = item.pictures || question.pictures;
    for (const picture of pictures) node.append(shot(picture, `${about}: picture of question ${question.id}`, marked));
    if (marked.length && !pictures.every((picture) => picture in DRAWN)) node.append(make("p", "small where", `On screen, not in the patient: ${marked.map(([mark, cell]) => `${mark} ${cell} (${LINES[mark]})`).join(", ")}`));
    const arm = data.arms[item.arm];
    if (arm.name !== "image") node.append(make("p", "small shown", "Shown: " + (arm.meaning || arm.name)));
    const theirs = other && other !== item && other.pictures;
    if (theirs) {
      const pair = make("div", "beside");
      for (const picture of theirs) pair.append(shot(picture, "the picture that it is compared with"));
      if (!theirs.every((picture) => picture in DRAWN)) pair.append(make("p", "small", `arm “${data.arms[other.arm].name}”`));
      node.append(pair);
    }
    node.append(make("p", "small", about, make("br"), question.id));
    return node;
  }

  // The cells of the screen that are outlined, as ``gallery.marks``.
  function marks(item, question, answer) {
    if (!question.cells) return [];
    const cell = (letter) => (letter ? (item.options || question.options)[LETTERS.indexOf(letter)].toLowerCase() : "");
    return [["answered", cell(answer.answer)], ["correct", cell(item.gold ?? question.gold)]].filter(([, name]) => name);
  }

  function outlined(image, marked) {
    const grid = make("div", "grid");
    grid.setAttribute("aria-hidden", "true");
    for (const [mark, cell] of marked) {
      const at = data.cells.indexOf(cell);
      const one = make("span", "cell " + mark);
      one.style.gridArea = `${1 + Math.floor(at / 3)} / ${1 + (at % 3)}`;
      grid.append(one);
    }
    return make("div", "marked", image, grid);
  }

  function shot(picture, alt, marked = []) {
    if (typeof picture === "string") return make("p", "drawn-picture " + picture, DRAWN[picture]);
    const [width, height, missing] = data.pictures[picture];
    if (missing) return make("p", "missing small", "Picture not available: " + missing);
    const block = Math.floor(picture / data.chunk);
    blocks[block] ??= read("pictures-" + block);
    const node = make("img");
    Object.assign(node, { width, height, alt });
    const url = blocks[block][picture % data.chunk];
    if (url.startsWith("data:image/")) node.src = url;
    return marked.length ? outlined(node, marked) : node;
  }

  function ask(item, question) {
    const options = make("ul", "options");
    (item.options || question.options).forEach((option, i) => {
      options.append(make("li", LETTERS[i] === (item.gold ?? question.gold) ? "gold" : "", `${LETTERS[i]}) ${option}`));
    });
    const reference = question.options.length ? "" : make("p", "reference", "Reference: ", make("b", "", item.gold ?? question.gold));
    return make("div", "ask", make("h3", "question", item.text || question.question), reference, options);
  }

  function completion(answer, label, chosen) {
    const verdict = answer.read ? free(answer) : answer.right ? `✓ ${answer.answer}, right` : answer.answer ? `✗ ${answer.answer}, wrong` : `✗ no answer read (${answer.status || "answered"})`;
    const title = make("h4", "", label, make("span", "mark " + (answer.right ? "right" : "wrong"), verdict));
    const text = make("p", "text", ...highlighted(answer.text));
    if (answer.more) text.append(make("span", "tag", ` … ${answer.more} more characters, in the file of samples`));
    const node = make("div", "completion" + (chosen ? " after" : ""), title, text);
    const drawn = answer.drawn ? ` · sampled: ${[...answer.drawn].join(" ")}` : "";
    node.append(make("p", "small", `${answer.tokens} tokens${drawn}`));
    if (answer.texts) {
      const more = make("details", "", make("summary", "", `${answer.texts.length} sampled answers`));
      for (const one of answer.texts) more.append(make("p", "text", ...highlighted(one)));
      node.append(more);
    }
    return node;
  }

  // The verdict on a free answer: the rule's, the share of words, the judge's.
  function free(answer) {
    const words = "f1" in answer && !answer.right ? `, F1 ${answer.f1.toFixed(2)}` : "";
    const judge = "judged" in answer ? ` · judge: ${answer.judged ? "right" : "wrong"}` : "";
    return (answer.right ? "✓ right" : "✗ wrong") + words + judge;
  }

  // As ``gallery.highlight``: tags dimmed, the thought and the answer set apart.
  function highlighted(text) {
    if (!text.trim()) return [make("span", "tag", "(the model wrote nothing)")];
    let within = "";
    return text.split(TAG).filter(Boolean).map((piece) => {
      if (!TAG.test(piece)) return within ? make("span", within, piece) : piece;
      within = { "<think>": "think", "<answer>": "letter" }[piece] || "";
      return make("span", "tag", piece);
    });
  }

  // ------------------------------------------------ the page

  function show(move = false) {
    const start = performance.now();
    const inside = $("gallery").contains(document.activeElement);
    const counts = select();
    const at = Math.min(Math.max(0, Number.parseInt(state.at, 10) || 0), Math.max(0, found.length - 1));
    state.at = String(at);
    const first = at - (at % PAGE);
    $("cards").replaceChildren(...found.slice(first, first + PAGE).map((position, i) => card(position, first + i)));
    if (!found.length) $("cards").append(make("p", "none", "No answer fits these filters."));
    controls(counts);
    const last = Math.min(first + PAGE, found.length);
    $("found").textContent = found.length ? `${first + 1}–${last} of ${found.length.toLocaleString("en")} · ${sentence()}` : sentence();
    $("previous").disabled = first === 0;
    $("next").disabled = last >= found.length;
    toHash();
    if (move) focusCard(at);
    else if (inside && !$("gallery").contains(document.activeElement)) enter(); // the card that had the focus is gone
    $("gallery").dataset.found = found.length;
    $("gallery").dataset.filterMs = (performance.now() - start).toFixed(1);
  }

  function sentence() {
    const label = data.models[named(data.models, state.model)].label;
    const [kind, name] = against();
    const other = kind === "model" ? data.models[named(data.models, name)].label : `the arm “${name}”`;
    const said = {
      all: `all answers of ${label}`, right: `${label} right`, wrong: `${label} wrong`, malformed: `no answer of ${label} could be read`,
      wins: `${label} right, ${other} wrong`, losses: `${label} wrong, ${other} right`,
      "still-wrong": `${label} and ${other} both wrong`, "both-right": `${label} and ${other} both right`,
    };
    return said[state.outcome];
  }

  function controls(counts) {
    for (const button of $("outcomes").children) {
      const key = button.dataset.outcome;
      button.setAttribute("aria-pressed", String(key === state.outcome));
      button.lastChild.textContent = counts[key].toLocaleString("en");
      button.hidden = COMPARING.includes(key) && !state.vs;
    }
    fill($("by-model"), data.models.map((m) => [m.name, m.label]), state.model);
    fill($("by-arm"), data.arms.map((arm) => [arm.name, arm.meaning ? `${arm.name}: ${arm.meaning}` : arm.name]), state.arm);
    const models = data.models.filter((m) => m.name !== state.model).map((m) => ["model:" + m.name, m.label]);
    const arms = data.arms.filter((arm) => arm.name !== state.arm).map((arm) => ["arm:" + arm.name, `itself, arm “${arm.name}”`]);
    fill($("by-vs"), [["", "nothing"], ...models, ...arms], state.vs);
    fill($("by-modality"), [["", "all"], ...Object.entries(data.modalities)], state.modality);
    fill($("by-type"), [["", "all"], ...types.map((type) => [type, type || "not stated"])], state.type);
    fill($("by-status"), [["", "all"], ...data.statuses.map((status) => [status, status])], state.status);
    if ($("by-kind")) fill($("by-kind"), [["", "all"], ["closed", "with options"], ["open", "without options"]], state.kind);
    if ($("by-text").value !== state.q) $("by-text").value = state.q;
  }

  const types = [...new Set(data.questions.map((question) => question.type))].filter(Boolean).sort();

  function fill(box, rows, value) {
    const key = rows.map(([name]) => name).join("\n");
    if (box.dataset.key !== key) {
      box.replaceChildren(...rows.map(([name, label]) => Object.assign(make("option", "", label), { value: name })));
      box.dataset.key = key;
    }
    box.value = value;
  }

  function set(changes) {
    state = { ...state, at: "0", ...changes };
    if (state.vs === "model:" + state.model || state.vs === "arm:" + state.arm) state.vs = "";
    if (!state.vs && COMPARING.includes(state.outcome)) state.outcome = "all";
    show();
  }

  // ------------------------------------------------ keys

  function focusCard(at) {
    const node = $("cards").querySelector(`[data-number="${at}"]`);
    node?.focus({ preventScroll: true });
    node?.scrollIntoView({ block: "start" });
  }

  // From here on the keys act.
  function enter() {
    $("gallery").focus({ preventScroll: true });
  }

  function go(step) {
    const current = document.activeElement?.closest?.(".card");
    const at = current ? Number(current.dataset.number) + step : Number(state.at);
    if (at < 0 || at >= found.length) return;
    const samePage = Math.floor(at / PAGE) === Math.floor(Number(state.at) / PAGE);
    state.at = String(at);
    if (!samePage) return show(true);
    toHash();
    focusCard(at);
  }

  function turn(step) {
    const first = Math.floor(Number(state.at) / PAGE + step) * PAGE;
    if (first < 0 || first >= found.length) return;
    state.at = String(first);
    show(true);
  }

  const KEYS = {
    j: () => go(1), k: () => go(-1), n: () => turn(1), p: () => turn(-1),
    "/": () => $("by-text").focus(), "?": () => $("keys").showModal(), x: () => set({ ...defaults }),
  };
  const CARD_KEYS = { ArrowDown: () => go(1), ArrowUp: () => go(-1), ArrowRight: () => turn(1), ArrowLeft: () => turn(-1) };

  // Only with the focus in the gallery: elsewhere a single letter belongs to the browser and to speech input (WCAG 2.1.4).
  $("gallery").addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || $("keys").open) return;
    if (event.target.closest("input, select, textarea")) {
      if (event.key === "Escape") go(0);
      return;
    }
    const onCard = event.target.classList?.contains("card");
    const action = KEYS[event.key] || (onCard && CARD_KEYS[event.key]);
    if (!action) return;
    event.preventDefault();
    action();
  });

  // ------------------------------------------------ start

  for (const key of ["model", "arm", "vs", "modality", "type", "status", "kind"]) $("by-" + key)?.addEventListener("change", (event) => set({ [key]: event.target.value }));
  let waiting;
  $("by-text").addEventListener("input", (event) => {
    clearTimeout(waiting);
    waiting = setTimeout(() => set({ q: event.target.value }), 150);
  });
  $("outcomes").addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (button) set({ outcome: button.dataset.outcome });
  });
  $("previous").addEventListener("click", () => turn(-1));
  $("next").addEventListener("click", () => turn(1));
  $("clear").addEventListener("click", () => set({ ...defaults }));
  $("help").addEventListener("click", () => $("keys").showModal());
  addEventListener("hashchange", () => {
    if (!fromHash()) return;
    show();
    enter();
    $("gallery").scrollIntoView();
  });
  const asked = fromHash();
  $("browser").hidden = $("turning").hidden = false;
  show();
  if (asked && state.at !== "0") focusCard(Number(state.at));
  else if (asked) {
    enter();
    $("gallery").scrollIntoView();
  }
  $("gallery").dataset.readyMs = performance.now().toFixed(1);
})();
