"use strict";
// A network of Dense and Sigmoid with softmax cross-entropy, forward and backward, as tinynet computes it.

const data = JSON.parse(document.getElementById("data").textContent);
const $ = (id) => document.getElementById(id);
const show = (v) => String(Number(v.toPrecision(4))).replace("-", "\u2212");
const SPAN = 4; // how far a slider goes to both sides of where its number was at the start

const rowsOf = (flat, width) => Array.from({ length: flat.length / width }, (_, n) => flat.slice(n * width, (n + 1) * width));
const x = rowsOf(data.x.values, data.x.shape[1]);
const parameters = data.layers.flatMap((layer) => layer.own.map((a) => data.arrays[a]));
const start = parameters.map((p) => [...p.values]);

// --- The mathematics -----------------------------------------------------------------------------------------

// Each layer's forward returns y; backward takes dy, fills the gradients (flat) and returns dx.
function dense([w, b]) {
  const O = w.shape[1], I = w.shape[0];
  let kept;
  return {
    forward(x) {
      kept = x;
      return x.map((row) => Array.from({ length: O }, (_, o) =>
        row.reduce((z, xi, i) => z + xi * w.values[i * O + o], b ? b.values[o] : 0)));
    },
    backward(dz) {
      w.grads = w.values.map((_, k) => dz.reduce((sum, row, n) => sum + kept[n][Math.floor(k / O)] * row[k % O], 0));
      if (b) b.grads = b.values.map((_, o) => dz.reduce((sum, row) => sum + row[o], 0));
      return dz.map((row) => Array.from({ length: I }, (_, i) => row.reduce((sum, d, o) => sum + d * w.values[i * O + o], 0)));
    },
  };
}

function sigmoid() {
  let kept;
  return {
    forward(z) {
      kept = z.map((row) => row.map((v) => (v < 0 ? Math.exp(v) / (1 + Math.exp(v)) : 1 / (1 + Math.exp(-v)))));
      return kept;
    },
    backward: (dy) => dy.map((row, n) => row.map((d, o) => d * kept[n][o] * (1 - kept[n][o]))),
  };
}

function softmaxCrossEntropy(z, t) {
  let value = 0;
  const gradient = z.map((row, n) => {
    const most = Math.max(...row); // so that no exponential overflows
    const total = row.reduce((sum, v) => sum + Math.exp(v - most), 0);
    value += (Math.log(total) + most - row[t[n]]) / z.length;
    return row.map((v, c) => (Math.exp(v - most) / total - (c === t[n] ? 1 : 0)) / z.length);
  });
  return { value, gradient };
}

const layers = data.layers.map(({ kind, own }) => (kind === "Dense" ? dense(own.map((a) => data.arrays[a])) : sigmoid()));

function step() {
  const logits = layers.reduce((y, layer) => layer.forward(y), x);
  const { value, gradient } = softmaxCrossEntropy(logits, data.t);
  layers.reduceRight((dy, layer) => layer.backward(dy), gradient);
  return value;
}

// --- What one sees -------------------------------------------------------------------------------------------

let chosen = [0, 0]; // the parameter and its entry that the curve is over
const rows = [];

function named(k, e) {
  const { name, shape } = parameters[k];
  return `${name}[${shape.length === 2 ? [Math.floor(e / shape[1]), e % shape[1]] : e}]`;
}

function build() {
  parameters.forEach((p, k) => p.values.forEach((v, e) => {
    const label = document.createElement("label"), slider = document.createElement("input"), text = document.createElement("span");
    label.className = "weight";
    Object.assign(slider, { type: "range", min: start[k][e] - SPAN, max: start[k][e] + SPAN, step: "any" });
    slider.setAttribute("aria-label", named(k, e));
    slider.addEventListener("input", () => {
      chosen = [k, e];
      p.values[e] = Number(slider.value);
      draw();
    });
    slider.addEventListener("focus", () => {
      chosen = [k, e];
      draw();
    });
    label.append(slider, text);
    $("weights").append(label);
    rows.push({ k, e, slider, text });
  }));
}

function draw() {
  const loss = step();
  $("loss").textContent = `L = ${show(loss)}`;
  $("loss").dataset.value = loss;
  for (const { k, e, slider, text } of rows) {
    const v = parameters[k].values[e], g = parameters[k].grads[e];
    slider.min = Math.min(slider.min, v); // descent may lead farther
    slider.max = Math.max(slider.max, v);
    slider.value = v;
    slider.setAttribute("aria-valuetext", `${show(v)}, gradient ${show(g)}`);
    text.textContent = `${named(k, e)} = ${show(v)}, gradient ${show(g)}`;
    text.className = g < 0 ? "negative" : "positive";
    Object.assign(text.dataset, { value: v, grad: g });
  }
  drawCurve(loss);
}

function drawCurve(loss) {
  const [k, e] = chosen, p = parameters[k], here = p.values[e], slope = p.grads[e];
  const { slider } = rows.find((row) => row.k === k && row.e === e);
  const low = Number(slider.min), high = Number(slider.max), points = [];
  for (let i = 0; i <= 80; i++) {
    p.values[e] = low + ((high - low) * i) / 80;
    points.push([p.values[e], step()]);
  }
  p.values[e] = here;
  step(); // the gradients are those of `here` again
  const most = Math.max(...points.map(([, y]) => y)), least = Math.min(...points.map(([, y]) => y));
  const across = (v) => (400 * (v - low)) / (high - low), down = (y) => 225 - (210 * (y - least)) / (most - least || 1);
  const tangent = [low, high].map((v) => `${across(v)},${down(loss + slope * (v - here))}`).join(" ");
  $("curve").innerHTML = `<polyline class="tangent" points="${tangent}"/>
    <polyline class="over" points="${points.map(([v, y]) => `${across(v)},${down(y)}`).join(" ")}"/>
    <circle cx="${across(here)}" cy="${down(loss)}" r="6"/>`;
  $("over").textContent = `The loss over ${named(k, e)}, whose gradient is ${show(slope)}`;
  $("range").textContent = `${named(k, e)} from ${show(low)} to ${show(high)}, L from ${show(least)} to ${show(most)}`;
}

$("descend").addEventListener("click", () => {
  const rate = Number($("rate").value);
  if (!(rate >= 0 && Number.isFinite(rate))) return;
  for (const p of parameters) p.values = p.values.map((v, e) => v - rate * p.grads[e]);
  draw();
});
$("reset").addEventListener("click", () => {
  parameters.forEach((p, k) => { p.values = [...start[k]]; });
  draw();
});
$("title").textContent = data.title;
build();
draw();
