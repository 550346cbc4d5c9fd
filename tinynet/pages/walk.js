"use strict";
// One training step as moments: the input, each layer forward, the loss, its gradient, each layer backward.
// data.arrays hold the numbers, flat; data.steps the layers, with links[k] = [[array, entry, derivative, array, entry]]
// for output k: what it was made of, the derivative, and which number that is (-1: none).

const data = JSON.parse(document.getElementById("data").textContent);
const { arrays, steps, loss, small } = data;
const $ = (id) => document.getElementById(id);

function make(tag, parent, text = "", name = "") {
  const element = document.createElement(tag);
  element.textContent = text;
  if (name) element.className = name;
  parent.append(element);
  return element;
}

// --- Numbers and names ---------------------------------------------------------------------------------------

const show = (v) => (typeof v === "number" ? String(Number(v.toPrecision(4))) : String(v)).replace("-", "\u2212");
const enclosed = (v) => (v < 0 ? `(${show(v)})` : show(v));

function place(array, entry) {
  const index = [];
  for (let axis = array.shape.length - 1; axis >= 0; axis--) {
    index.unshift(entry % array.shape[axis]);
    entry = Math.floor(entry / array.shape[axis]);
  }
  return index;
}

function called(a, e) {
  const array = arrays[a];
  return array.shape.length ? `${array.name}[${place(array, e)}]` : array.name;
}

const value = (a, e) => arrays[a].values[e];
const grad = (a, e) => arrays[a].grads?.[e];
const isParameter = (a) => arrays[a].kind === "parameter";
const inputs = [...arrays.keys()].filter((a) => arrays[a].kind === "input");
const named = (list) => list.map((a) => arrays[a].name).join(", ");

// --- What is known when --------------------------------------------------------------------------------------

const moments = [{ kind: "input", array: 0 }];
const maker = new Map(); // array -> the step that computes it
const touches = new Map(); // "array,entry" -> [[array, entry, derivative, array, entry] of each output it touched]

if (small) {
  const last = arrays.length - 1;
  arrays.push({ name: "L", kind: "output", shape: [], values: [loss.value], grads: [1] });
  const links = [arrays[last].grads.map((g, e) => [last, e, g, -1, -1])];
  const lossStep = { name: "loss", formula: loss.formula, backward: loss.backward, form: "loss", inputs: [last], output: last + 1, links };
  const all = [...steps, lossStep];
  all.forEach((step) => moments.push({ kind: "forward", step }));
  [...all].reverse().forEach((step) => moments.push({ kind: "backward", step }));
  arrays.forEach((array) => { array.valueAt = 0; });
  arrays[last + 1].gradAt = moments.findIndex((m) => m.kind === "backward");
  moments.forEach(({ kind, step }, at) => {
    if (kind === "forward") {
      arrays[step.output].valueAt = at;
      maker.set(step.output, step);
    }
    if (kind === "backward") for (const a of step.inputs) arrays[a].gradAt = at;
  });
  for (const step of all) {
    step.links.forEach((row, k) => {
      for (const [a, e, ...times] of row) {
        const key = `${a},${e}`;
        if (!touches.has(key)) touches.set(key, []);
        touches.get(key).push([step.output, k, ...times]);
      }
    });
  }
}

// --- Formulas with their numbers -----------------------------------------------------------------------------

const factorName = (d, fa, fe) => (fa >= 0 ? called(fa, fe) : show(d));

function sum(terms) {
  return terms.length ? terms.join(" + ") : "0";
}

function forwardLine(a, e) {
  const step = maker.get(a);
  if (!step) return "";
  const links = step.links[e], start = `${called(a, e)} = `, end = ` = ${show(value(a, e))}`;
  if (step.form === "each") {
    const [i, j] = links[0] ?? [step.inputs[0], e];
    const right = step.formula.replace(/^y = /, "");
    return `${start}${right.replace(/\bx\b/g, called(i, j))} = ${right.replace(/\bx\b/g, enclosed(value(i, j)))}${end}`;
  }
  if (step.form === "other" || step.form === "loss") return `${start}${show(value(a, e))}, of ${links.map(([i, j]) => `${called(i, j)} = ${show(value(i, j))}`).join(", ")}`;
  const own = links.filter(([i]) => ["both", "joined"].includes(step.form) || isParameter(i) === (step.form === "sums"));
  const one = (d, fa) => d === 1 && fa < 0;
  const names = own.map(([i, j, d, fa, fe]) => (one(d, fa) ? called(i, j) : `${factorName(d, fa, fe)} ${called(i, j)}`));
  const numbers = own.map(([i, j, d, fa]) => (one(d, fa) ? enclosed(value(i, j)) : `${enclosed(d)} \u00b7 ${enclosed(value(i, j))}`));
  return numbers.length === 1 && one(own[0][2], own[0][3]) ? `${start}${names[0]}${end}` : `${start}${sum(names)} = ${sum(numbers)}${end}`;
}

function backwardLine(a, e) {
  const to = touches.get(`${a},${e}`) ?? [], start = `d${called(a, e)} = `;
  const result = grad(a, e);
  if (result === undefined) return "";
  if (!to.length) return arrays[a].shape.length ? `${start}0: it touched nothing` : `${start}1`;
  if (maker.get(to[0][0]).form === "loss") {
    const written = loss.lines?.backward[e];
    return written ? `${start}${written} = ${show(result)}` : `${start}${show(result)}`;
  }
  const names = to.map(([o, k, d, fa, fe]) => (d === 1 && fa < 0 ? `d${called(o, k)}` : `${factorName(d, fa, fe)} d${called(o, k)}`));
  const numbers = to.map(([o, k, d, fa]) => (d === 1 && fa < 0 ? enclosed(grad(o, k)) : `${enclosed(d)} \u00b7 ${enclosed(grad(o, k))}`));
  return `${start}${sum(names)} = ${sum(numbers)} = ${show(result)}`;
}

// --- The network as a graph ----------------------------------------------------------------------------------

const cells = new Map(); // "array,entry" -> its element
let now = 0, pointed = null;

function drawArray(a, parent) {
  const array = arrays[a], { shape, kind } = array;
  const box = make("div", parent, "", `array ${kind}`);
  make("span", box, shape.length ? `${array.name} (${shape.join(", ")})` : array.name);
  // An image (N, H, W, C) and a kernel (I, J, C, K) are shown as pictures of rows and columns; others by the last two axes.
  const n = shape.length, [row, column] = n === 4 ? (kind === "parameter" ? [0, 1] : [1, 2]) : [n - 2, n - 1];
  const set = make("div", box, "", "blocks"), blocks = new Map();
  array.values.forEach((_, e) => {
    const at = place(array, e);
    const rest = at.map((i, axis) => (axis === row || axis === column ? ":" : i));
    const key = rest.join(",");
    if (!blocks.has(key)) {
      const block = make("div", set, "", "block");
      if (n > 2) make("span", block, `[${key}]`);
      block.style.gridTemplateColumns = `repeat(${n ? shape[column] : 1}, auto)`;
      blocks.set(key, block);
    }
    const cell = make("button", blocks.get(key), "", "cell");
    cell.type = "button";
    cell.tabIndex = e ? -1 : 0;
    Object.assign(cell.dataset, { array: a, entry: e, value: value(a, e), grad: grad(a, e) ?? "" });
    cells.set(`${a},${e}`, cell);
  });
}

function tint(v, most) {
  if (typeof v !== "number" || !v || !most) return "";
  const part = Math.round(10 + (28 * Math.abs(v)) / most);
  return `color-mix(in srgb, var(--${v < 0 ? "negative" : "positive"}) ${part}%, var(--box))`;
}

function fillCells() {
  arrays.forEach((array, a) => {
    const largest = (list) => list.reduce((m, v) => Math.max(m, Math.abs(Number(v)) || 0), 0);
    const most = largest(array.values), steepest = largest(array.grads ?? []);
    array.values.forEach((v, e) => {
      const cell = cells.get(`${a},${e}`), known = now >= array.valueAt, g = grad(a, e);
      const seen = g !== undefined && now >= array.gradAt;
      cell.replaceChildren(known ? show(v) : "\u00b7");
      make("i", cell, seen ? show(g) : "").style.background = seen ? tint(g, steepest) : "";
      cell.style.background = known ? tint(v, most) : "";
      cell.setAttribute("aria-label", `${called(a, e)} ${known ? show(v) : "not computed yet"}${seen ? `, gradient ${show(g)}` : ""}`);
    });
  });
}

function line(from, to, derivative, strong) {
  const frame = $("graph").getBoundingClientRect();
  const [p, q] = [from, to].map((key) => cells.get(key).getBoundingClientRect());
  const beside = p.right <= q.left; // else one above the other, a parameter and its output: from edge to edge
  const x = (r, share) => r.left + share * r.width - frame.left + $("graph").scrollLeft - 1;
  const y = (r, share) => r.top + share * r.height - frame.top + $("graph").scrollTop - 1;
  const path = document.createElementNS("http://www.w3.org/2000/svg", "line");
  const set = (name, v) => path.setAttribute(name, v);
  set("x1", x(p, beside ? 1 : 0.5)); set("y1", y(p, beside ? 0.5 : 1));
  set("x2", x(q, beside ? 0 : 0.5)); set("y2", y(q, beside ? 0.5 : 0));
  set("stroke", derivative === 0 ? "var(--soft)" : `var(--${derivative < 0 ? "negative" : "positive"})`);
  set("stroke-width", strong ? 2.5 : 1);
  set("stroke-opacity", strong ? 1 : 0.25);
  if (derivative === 0) set("stroke-dasharray", "4 4");
  $("lines").append(path);
}

function drawLines() {
  const svg = $("lines");
  svg.replaceChildren();
  svg.style.display = "none"; // as large as what else is there, not as it was itself
  svg.setAttribute("width", $("graph").scrollWidth);
  svg.setAttribute("height", $("graph").scrollHeight);
  svg.style.display = "";
  cells.forEach((cell) => cell.classList.remove("here", "source", "touched"));
  for (const [a, step] of maker) {
    step.links.forEach((row, k) => row.forEach(([i, j, d]) => {
      if (!isParameter(i)) line(`${i},${j}`, `${a},${k}`, d, false);
    }));
  }
  if (!pointed) return;
  const [a, e] = pointed, key = `${a},${e}`;
  cells.get(key).classList.add("here");
  for (const [i, j, d] of maker.get(a)?.links[e] ?? []) {
    cells.get(`${i},${j}`).classList.add("source");
    line(`${i},${j}`, key, d, true);
  }
  for (const [o, k, d] of touches.get(key) ?? []) {
    cells.get(`${o},${k}`).classList.add("touched");
    line(key, `${o},${k}`, d, true);
  }
}

// --- The texts -----------------------------------------------------------------------------------------------

function tell() {
  const section = $("number");
  section.replaceChildren();
  if (!pointed) {
    make("p", section, "Point at a number.");
    return;
  }
  const [a, e] = pointed, array = arrays[a], known = now >= array.valueAt;
  const seen = grad(a, e) !== undefined && now >= array.gradAt;
  make("h2", section, `${called(a, e)}${known ? ` = ${show(value(a, e))}` : ""}${seen ? `, its gradient d${called(a, e)} = ${show(grad(a, e))}` : ""}`);
  if (!known) {
    make("p", section, "It is not computed yet: step on.");
    return;
  }
  make("p", section, "Made of");
  make("p", section, forwardLine(a, e) || (array.kind === "input" ? "nothing: it is the input" : "nothing: it is a parameter"), "line made");
  const to = touches.get(`${a},${e}`) ?? [];
  make("p", section, to.length ? "Touches" : "Touches nothing");
  for (const [o, k, d, fa, fe] of to) {
    const its = now >= arrays[o].valueAt || d === 1;
    make("p", section, `${called(o, k)}, times ${fa >= 0 ? `${called(fa, fe)} = ` : ""}${its ? show(d) : "what is not computed yet"}`, "line touches");
  }
  if (seen) {
    make("p", section, "So its gradient is");
    make("p", section, backwardLine(a, e), "line gradient");
  }
}

function heading({ kind, step }) {
  if (kind === "input") return "The input";
  return `${step.name}, ${kind}`;
}

function write(moment, section) {
  const { kind, step } = moment;
  make("h2", section, heading(moment));
  if (kind === "input") {
    make("p", section, `${named(inputs)} and the parameters are given; the targets are ${loss.targets}.`);
    return;
  }
  make("p", section, kind === "forward" ? step.formula : step.backward, "rule");
  if (step.form !== "loss" && step.form !== "joined") {
    make("p", section, `Here x is ${named(step.inputs.filter((a) => !isParameter(a)))}, and y is ${arrays[step.output].name}.`);
  }
  if (kind === "forward") {
    arrays[step.output].values.forEach((_, e) => make("p", section, forwardLine(step.output, e), "line"));
    if (step.form === "loss") (loss.lines?.forward ?? []).forEach((text) => make("p", section, text, "line"));
  } else {
    for (const a of step.inputs) {
      const { grads, gradAt, name } = arrays[a];
      if (moments[gradAt] === moment) (grads ?? []).forEach((_, e) => make("p", section, backwardLine(a, e), "line"));
      else make("p", section, `d${name} is not complete yet: ${name} touched more than this, of which a later step tells.`);
    }
  }
}

// --- Steps ---------------------------------------------------------------------------------------------------

function go(to) {
  now = Math.min(Math.max(to, 0), moments.length - 1);
  $("back").disabled = now === 0;
  $("next").disabled = now === moments.length - 1;
  const moment = moments[now];
  $("step").textContent = `Step ${now + 1} of ${moments.length}: ${heading(moment)}`;
  $("formula").replaceChildren();
  write(moment, $("formula"));
  fillCells();
  document.querySelectorAll(".column").forEach((column) => {
    const is = Number(column.dataset.output) === (moment.step ? moment.step.output : 0);
    column.classList.toggle("now", is);
    if (is) $("graph").scrollLeft = column.offsetLeft - ($("graph").clientWidth - column.offsetWidth) / 2;
  });
  tell();
  drawLines();
}

function point(cell) {
  const { array, entry } = cell.dataset;
  pointed = [Number(array), Number(entry)];
  tell();
  drawLines();
}

function onKey(event) {
  if (event.altKey || event.ctrlKey || event.metaKey) return;
  const by = { ArrowRight: 1, ArrowLeft: -1 }[event.key], along = { ArrowDown: 1, ArrowUp: -1 }[event.key];
  if (by) {
    go(now + by);
    event.preventDefault();
  } else if (along && event.target.classList?.contains("cell")) {
    const { array, entry } = event.target.dataset;
    cells.get(`${array},${Number(entry) + along}`)?.focus();
    event.preventDefault();
  }
}

function start() {
  const column = (title, output) => {
    const box = make("div", $("columns"), "", "column");
    box.dataset.output = output;
    make("h2", box, title);
    return box;
  };
  const first = column("input", 0);
  inputs.forEach((a) => drawArray(a, first));
  for (const step of maker.values()) {
    const box = column(step.name, step.output);
    step.inputs.filter(isParameter).forEach((a) => drawArray(a, box));
    drawArray(step.output, box);
  }
  moments.forEach((moment) => write(moment, $("all")));
  $("columns").addEventListener("pointerover", (event) => {
    const cell = event.target.closest(".cell");
    if (cell) point(cell);
  });
  $("columns").addEventListener("focusin", (event) => event.target.closest(".cell") && point(event.target));
  $("back").addEventListener("click", () => go(now - 1));
  $("next").addEventListener("click", () => go(now + 1));
  document.addEventListener("keydown", onKey);
  new ResizeObserver(drawLines).observe($("columns"));
  go(0);
}

// --- Larger networks: the table, norms and histograms --------------------------------------------------------

function bars({ low, high, counts, norm }, title, parent) {
  const figure = make("figure", parent), most = Math.max(...counts);
  const rects = counts.map((c, i) => {
    const middle = low + ((i + 0.5) * (high - low)) / counts.length;
    return `<rect x="${i}" y="${1 - c / most}" width="0.9" height="${c / most}" fill="var(--${middle < 0 ? "negative" : "positive"})"/>`;
  });
  figure.innerHTML = `<svg viewBox="0 0 ${counts.length} 1" preserveAspectRatio="none" role="img" aria-label="histogram">${rects.join("")}</svg>`;
  make("figcaption", figure, `${title}: norm ${show(norm)}, from ${show(low)} to ${show(high)}`);
}

function startLarge() {
  document.body.classList.add("large");
  document.querySelector("h1").textContent = "One training step, layer by layer";
  make("p", $("all"), "A network of many numbers, or with tied weights, is shown by norms and histograms.");
  make("pre", $("all"), data.table);
  for (const array of arrays) {
    make("h2", $("all"), `${array.name} (${array.shape.join(", ")})`);
    const row = make("div", $("all"), "", "bars");
    if (array.values) bars(array.values, "values", row);
    if (array.grads) bars(array.grads, "gradients", row);
  }
}

$("title").textContent = data.title;
document.title = data.title;
if (small) start();
else startLarge();
