// The page that classifies images: it unpacks the network, and shows a prediction of each dropped image.

const one = (selector, root = document) => root.querySelector(selector);
const settings = JSON.parse(one("#settings").textContent);
const words = JSON.parse(one("#words").textContent);
const fill = (text, values) => text.replace(/{(\w+)}/g, (whole, name) => values[name] ?? whole);
const toBytes = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));

async function unpack(id) {
  const holder = one(id);
  const packed = new Blob([toBytes(holder.textContent)]).stream();
  holder.remove(); // its text takes more memory than its content
  return new Response(packed.pipeThrough(new DecompressionStream("gzip"))).arrayBuffer();
}

async function loadNetwork() {
  ort.env.wasm.numThreads = 1;
  ort.env.wasm.wasmBinary = await unpack("#binary");
  return ort.InferenceSession.create(new Uint8Array(await unpack("#network")), { executionProviders: ["wasm"] });
}

// An error whose message is for the reader.
class Refusal extends Error {}

// Decode a file as data/decoding.py does: upright, on white, without colour profile, the first frame.
async function decode(file) {
  const start = String.fromCharCode(...new Uint8Array(await file.slice(0, 1024).arrayBuffer()));
  const matches = ([, pattern]) => new RegExp(`^(?:${pattern})`, "s").test(start);
  const name = Object.entries(settings.patterns).find(matches)?.[0];
  const format = settings.formats[name];
  if (!format) throw new Refusal(name ? fill(words.format, { format: name }) : words.unknown);
  if (file.size > format.bytes) throw new Refusal(fill(words.bytes, { n: format.bytes / 2 ** 20 }));
  const bitmap = await createImageBitmap(file, { colorSpaceConversion: "none" }).catch(() => {
    throw new Refusal(fill(unread.includes(name) ? words.browser : words.broken, { format: name }));
  });
  const { width, height } = bitmap;
  if (width * height > format.pixels) throw new Refusal(fill(words.pixels, { n: format.pixels / 1e6 }));
  const canvas = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
  canvas.fillStyle = "white";
  canvas.fillRect(0, 0, width, height);
  canvas.drawImage(bitmap, 0, 0);
  bitmap.close();
  const pixels = canvas.getImageData(0, 0, width, height).data;
  const data = new Uint8ClampedArray(3 * width * height);
  for (let from = 0, to = 0; to < data.length; from += 4, to += 3) {
    data[to] = pixels[from];
    data[to + 1] = pixels[from + 1];
    data[to + 2] = pixels[from + 2];
  }
  return { data, width, height };
}

// The formats of `predict` that this browser cannot read.
async function findUnread() {
  const found = [];
  for (const [name, { example }] of Object.entries(settings.formats)) {
    await createImageBitmap(new Blob([toBytes(example)])).catch(() => found.push(name));
  }
  return found;
}

async function compute(image) {
  const { size, resize, temperature } = settings;
  const { data } = resizeToSquare(image, size, resize);
  const input = new Uint8Array(data.length);
  for (let i = 0; i < size * size; i++) for (let k = 0; k < 3; k++) input[k * size * size + i] = data[3 * i + k];
  const { logits, embeddings } = await session.run({ images: new ort.Tensor("uint8", input, [1, 3, size, size]) });
  const scaled = [...logits.data].map((logit) => logit / temperature);
  const powers = scaled.map((value) => Math.exp(value - Math.max(...scaled)));
  const total = powers.reduce((sum, power) => sum + power);
  return { probabilities: powers.map((power) => power / total), embedding: embeddings.data };
}

const lowest = (values) => values.indexOf(Math.min(...values));

// Decide as runs/decisions.py does.
function decide(probabilities, embedding) {
  const { classes, rule } = settings;
  const best = lowest(probabilities.map((value) => -value));
  const answer = { prediction: classes[best], confidence: probabilities[best] };
  if (!rule) return answer;
  const isIn = (value, place) => place === best || 1 - value <= rule.set_score;
  if (rule.set_score !== null) answer.set = classes.filter((_, place) => isIn(probabilities[place], place));
  if (rule.distances) answer.percentile = rankEmbedding(embedding);
  if (rule.costs) {
    const costs = rule.costs.map((row) => row.reduce((sum, cost, place) => sum + cost * probabilities[place], 0));
    return { ...answer, decision: classes[lowest(costs)] ?? rule.abstain, reason: rule.reasons.cost };
  }
  const isSure = probabilities[best] >= (rule.thresholds[best] ?? Infinity);
  const isLike = !(answer.percentile > rule.max_percentile);
  const reason = isLike ? (isSure ? "confident" : "unsure") : "unlike";
  return { ...answer, decision: isSure && isLike ? answer.prediction : rule.abstain, reason: rule.reasons[reason] };
}

// What percentage of the reference images is no farther from its neighbours than this one.
function rankEmbedding(embedding) {
  const { distances, neighbours } = settings.rule;
  const asked = scaleToOne(embedding);
  const squares = known.map((row) => Math.max(2 - 2 * row.reduce((sum, value, i) => sum + value * asked[i], 0), 0));
  squares.sort((a, b) => a - b);
  const distance = Math.sqrt(squares[Math.min(neighbours, squares.length) - 1]);
  return (100 * distances.filter((other) => other <= distance).length) / distances.length;
}

function scaleToOne(values) {
  const length = Math.hypot(...values) || 1;
  return Float64Array.from(values, (value) => value / length);
}

async function loadReference() {
  const values = new Float32Array(await unpack("#reference"));
  const count = settings.rule?.distances?.length ?? 0;
  const size = values.length / (count || 1);
  return Array.from({ length: count }, (_, row) => scaleToOne(values.subarray(row * size, (row + 1) * size)));
}

// Each file becomes a card from a template; all that a file states, its name among them, is set as text.
function addCard(file) {
  const card = one("#card").content.firstElementChild.cloneNode(true);
  const image = one("img", card);
  one("figcaption", card).textContent = file.name;
  image.addEventListener("error", () => image.remove());
  image.src = URL.createObjectURL(file);
  one(".cards").append(card);
  return card;
}

const percent = (value) => `${(100 * value).toFixed(value >= 0.9995 || value < 0.0005 ? 0 : 1)} %`;

const translate = (label) => settings.names[settings.classes.indexOf(label)] ?? label;

function showAnswer(card, probabilities, answer) {
  const { prediction, decision, reason } = answer;
  Object.assign(card.dataset, { ...answer, probabilities: JSON.stringify(probabilities), state: "done" });
  const isAbstained = settings.rule && decision === settings.rule.abstain;
  const [, phrase] = settings.phrases.find(([least]) => answer.confidence >= least);
  const name = isAbstained ? words.abstained : decision ? translate(decision) : fill(phrase, { class_: translate(prediction) });
  one(".what", card).append(Object.assign(document.createElement("strong"), { textContent: name }));
  if (decision) one(".what", card).append(`: ${words[reason]}`);
  card.classList.toggle("abstained", Boolean(isAbstained));
  settings.names.forEach((label, place) => {
    const row = one("#chance").content.cloneNode(true);
    one("dt", row).textContent = label;
    one("rect + rect", row).setAttribute("width", 100 * probabilities[place]);
    one("dd:last-child", row).textContent = percent(probabilities[place]);
    one(".chances", card).append(row);
  });
  const term = isAbstained && answer.set?.length === 1 ? words.likeliest : words.possible;
  if (answer.set) addFact(card, term, answer.set.map(translate).join(", "));
  for (const [term, text] of settings.worth[prediction] ?? []) addFact(card, term, text);
  if (answer.percentile !== undefined) {
    const textContent = fill(words.percentile, { percent: answer.percentile.toFixed(0) });
    card.append(Object.assign(document.createElement("p"), { textContent }));
  }
  return name;
}

function addFact(card, term, text) {
  const pair = document.createElement("div");
  pair.append(...[["dt", term], ["dd", text]].map(([tag, textContent]) => Object.assign(document.createElement(tag), { textContent })));
  one(".about", card).append(pair);
}

function showRefusal(card, error) {
  card.dataset.state = "failed";
  card.classList.add("failed");
  one(".what", card).textContent = error instanceof Refusal ? error.message : fill(words.failed, { error: error.message });
}

// The table of all images, which report.js sorts: the card of each row, and the cells of its row in the CSV.
const results = one(".results");
const body = one("tbody", results);
const rows = new Map();

function addResult(card, shown, cells) {
  const row = document.createElement("tr");
  row.append(...shown.map((value) => {
    const cell = document.createElement("td");
    cell.textContent = typeof value === "number" ? percent(value) : value;
    if (typeof value === "number") Object.assign(cell, { className: "number" }).dataset.value = value;
    return cell;
  }));
  rows.set(row, { card, cells });
  body.append(row);
  results.hidden = false;
}

one("thead", results).addEventListener("click", () => one(".cards").prepend(...[...body.rows].map((row) => rows.get(row).card)));

// The columns of `predict`.
function listCells(file, probabilities, { prediction, confidence, decision, reason, set, percentile }) {
  const decided = settings.rule ? [decision, reason, set?.join("|"), percentile, settings.rule.guarantee] : [];
  return [file.name, "ok", "", prediction, confidence, ...probabilities, ...decided];
}

// A text that a spreadsheet would compute is quoted, as by `predict`.
function quote(cell) {
  const text = typeof cell === "string" && /^\s*[=+\-@]/.test(cell) ? `'${cell}` : String(cell ?? "");
  return /["',;\s]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

one("#save").addEventListener("click", () => {
  const columns = ["path", "status", "reason", "prediction", "confidence", ...settings.classes.map((name) => `prob_${name}`)];
  if (settings.rule) columns.push("decision", "decision_reason", "prediction_set", "ood_percentile", "decision_guarantee");
  const lines = [columns, ...[...body.rows].map((row) => columns.map((_, place) => rows.get(row).cells[place]))].map((row) => `${row.map(quote).join(",")}\n`);
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob(lines, { type: "text/csv" }));
  link.download = "predictions.csv";
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
});

// Files are classified one after the other, in the order in which they were dropped.
const status = one("#status");
const counts = { done: 0, all: 0, failed: 0 };
let last = Promise.resolve();

function add(files) {
  for (const file of files) {
    counts.all += 1;
    const card = addCard(file);
    last = last.then(() => classify(file, card));
  }
  showCounts();
}

async function classify(file, card) {
  try {
    const { probabilities, embedding } = await compute(await decode(file));
    const answer = decide(probabilities, embedding);
    const shown = showAnswer(card, probabilities, answer);
    addResult(card, [file.name, shown, answer.confidence, ...probabilities], listCells(file, probabilities, answer));
  } catch (error) {
    counts.failed += 1;
    showRefusal(card, error);
    const reason = one(".what", card).textContent;
    addResult(card, [file.name, words.unreadable, ...Array(1 + settings.classes.length).fill("")], [file.name, "error", reason]);
  }
  counts.done += 1;
  showCounts();
  await new Promise((resolve) => setTimeout(resolve)); // the browser draws, and reacts, in between
}

function showCounts() {
  one("#clear").hidden = !counts.all || counts.done < counts.all;
  status.textContent = fill(counts.failed ? words.counts_failed : words.counts, counts);
}

one("#clear").addEventListener("click", () => {
  document.querySelectorAll(".card img").forEach((image) => URL.revokeObjectURL(image.src));
  one(".cards").replaceChildren();
  body.replaceChildren();
  rows.clear();
  results.hidden = true;
  Object.assign(counts, { done: 0, all: 0, failed: 0 });
  one("#clear").hidden = true;
  status.textContent = words.ready;
});

const zone = one(".drop");
const field = one("#files");
field.addEventListener("change", () => { add(field.files); field.value = ""; });
addEventListener("dragover", (event) => { event.preventDefault(); zone.classList.add("over"); });
addEventListener("dragleave", (event) => { if (!event.relatedTarget) zone.classList.remove("over"); });
addEventListener("drop", (event) => {
  event.preventDefault(); // the browser would open the file instead of the page
  zone.classList.remove("over");
  if (!field.disabled) add(event.dataTransfer.files);
});

let session;
let known = [];
let unread = [];
zone.hidden = false;
try {
  unread = await findUnread();
  if (unread.length) one("#unread").textContent = fill(words.unread, { formats: unread.join(", ") });
  [session, known] = [await loadNetwork(), await loadReference()];
  field.disabled = false;
  status.textContent = words.ready;
} catch (error) {
  status.textContent = fill(words.unable, { error: error.message });
}
