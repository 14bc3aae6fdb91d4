
// The page for review: labels by keyboard, filters, order, and the manifest of labelled images.
function review(list) {
  const cards = all(".card", list);
  const form = one(".controls-form");
  const field = (name) => form.elements.namedItem(name);
  const classes = JSON.parse(list.dataset.classes);
  const names = JSON.parse(list.dataset.names);
  const cells = JSON.parse(list.dataset.cells);
  const sample = Number(list.dataset.sample);
  const drawn = [...cards].sort((a, b) => a.dataset.draw - b.dataset.draw);
  const orders = {
    need: cards,
    draw: drawn,
    confidence: [...cards].sort((a, b) => a.dataset.confidence - b.dataset.confidence),
    name: [...cards].sort((a, b) => compare(a.dataset.name, b.dataset.name)),
  };

  // Labels by card: a class, or "" for a skipped image. They stay in the browser where it keeps anything for a file.
  const KEPT = `avatar_bench.review.${list.dataset.key}`;
  const labels = new Map();
  const past = [];
  const load = () => { try { return JSON.parse(localStorage.getItem(KEPT)) ?? {}; } catch { return {}; } };
  let keeps = true;
  let saved = true;
  const keep = () => {
    saved = false;
    const found = Object.fromEntries([...labels].map(([card, label]) => [card.dataset.draw, label]));
    try { localStorage.setItem(KEPT, JSON.stringify(found)); } catch { keeps = false; }
  };

  const state = (card) => {
    if (!labels.has(card)) return "open";
    const label = labels.get(card);
    return label === "" ? "skipped" : label === card.dataset.prediction ? "confirmed" : "corrected";
  };
  // Of a random order, any beginning that is reviewed without a gap is a random sample.
  const countRandom = () => { const gap = drawn.findIndex((card) => !labels.has(card)); return gap < 0 ? drawn.length : gap; };

  function show(card) {
    const now = state(card);
    card.dataset.state = now;
    one(".state", card).textContent = now === "open" ? "" : fill(list.dataset[now], { name: names[classes.indexOf(labels.get(card))] });
    all(".labels button", card).forEach((button) => {
      const is = "skip" in button.dataset ? now === "skipped" : now !== "open" && labels.get(card) === button.dataset.class;
      button.setAttribute("aria-pressed", is);
    });
  }

  function count() {
    const random = countRandom();
    const status = one(".progress");
    const given = [...labels.values()];
    const skipped = given.filter((label) => label === "").length;
    const words = fill(status.dataset.progress, { labelled: given.length - skipped, skipped, random: Math.min(random, sample), sample });
    const notes = [words, random >= sample && sample ? status.dataset.done : "", keeps ? "" : list.dataset.unsaved];
    status.textContent = notes.filter(Boolean).join(" ");
  }

  const shown = () => [...list.children].filter((card) => !card.hidden);
  const go = (card) => {
    card?.focus({ preventScroll: true });
    card?.scrollIntoView({ block: card.offsetHeight > .8 * innerHeight ? "start" : "center", behavior: "instant" });
  };
  const step = (card, by) => { const among = shown(); go(among[among.indexOf(card) + by]); };

  function set(card, label, next = true) {
    past.push([card, labels.get(card)]);
    label === undefined ? labels.delete(card) : labels.set(card, label);
    keep();
    show(card);
    count();
    if (!next) return;
    const among = shown();
    go(among.slice(among.indexOf(card) + 1).find((other) => !labels.has(other)) ?? card);
  }

  function undo() {
    const last = past.pop();
    if (!last) return;
    set(...last, false);
    past.pop();
    go(last[0]);
  }

  function filter() {
    const words = field("words").value.toLocaleLowerCase().split(/\s+/);
    cards.forEach((card) => {
      const { prediction, needs, name } = card.dataset;
      card.hidden = Boolean((field("state").value && field("state").value !== state(card))
        || (field("prediction").value && field("prediction").value !== prediction)
        || (field("need").value && !needs.split(" ").includes(field("need").value))
        || !words.every((word) => name.toLocaleLowerCase().includes(word)));
    });
    const status = one("[role=status]", form);
    status.textContent = fill(status.dataset.words, { shown: shown().length, all: cards.length });
  }

  const order = () => list.append(...orders[field("order").value]);
  const cams = () => { if (field("cams")) document.body.classList.toggle("cams", field("cams").checked); };

  function download() {
    const random = countRandom();
    const rows = drawn.filter((card) => labels.get(card)).map((card) => {
      const cell = cells[classes.indexOf(labels.get(card))];
      return `${card.dataset.start},${cell},${card.dataset.draw <= random ? "random" : "selected"}\n`;
    });
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([`${list.dataset.columns},label,sampled\n`, ...rows], { type: "text/csv" }));
    link.download = "reviewed.csv";
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
    saved = true;
  }

  // Keys work only while a card, or something in it, has the focus; their place on the keyboard counts, not the layout.
  function press(event) {
    const card = event.target.closest?.(".card");
    if (!card || event.ctrlKey || event.metaKey || event.altKey) return;
    const digit = /^(?:Digit|Numpad)([1-9])$/.exec(event.code)?.[1];
    const confirm = () => card.dataset.prediction && set(card, card.dataset.prediction);
    const act = {
      KeyC: confirm, Enter: event.target === card && confirm, KeyS: () => set(card, ""), KeyU: undo,
      ArrowRight: () => step(card, 1), ArrowLeft: () => step(card, -1),
      KeyG: field("cams") && (() => { field("cams").checked = !field("cams").checked; cams(); }),
    }[event.code] || (digit && classes[digit - 1] !== undefined && (() => set(card, classes[digit - 1])));
    if (!act) return;
    event.preventDefault();
    act();
  }

  all(".labels", list).forEach((group) => { group.hidden = false; });
  [form, one(".intro"), one(".save")].forEach((part) => { part.hidden = false; });
  const known = load();
  cards.filter((card) => known[card.dataset.draw] === "" || classes.includes(known[card.dataset.draw])).forEach((card) => labels.set(card, known[card.dataset.draw]));
  cards.forEach(show);
  list.addEventListener("keydown", press);
  list.addEventListener("click", (event) => {
    const button = event.target.closest(".labels button");
    if (!button) return;
    const card = button.closest(".card");
    set(card, button.getAttribute("aria-pressed") === "true" ? undefined : button.dataset.class ?? "");
  });
  form.addEventListener("input", () => { order(); filter(); cams(); });
  form.addEventListener("submit", (event) => event.preventDefault());
  all("[data-start]", one(".intro")).forEach((button) => button.addEventListener("click", () => {
    form.reset();
    field("order").value = button.dataset.start;
    order();
    filter();
    go(shown().find((card) => !labels.has(card)) ?? shown()[0]);
  }));
  one("[data-do-save]").addEventListener("click", download);
  one("[data-forget]").addEventListener("click", () => {
    if (!labels.size || !confirm(list.dataset.sure)) return;
    labels.clear();
    past.length = 0;
    keep();
    saved = true;
    cards.forEach(show);
    count();
  });
  addEventListener("beforeunload", (event) => { if (!keeps && !saved) event.preventDefault(); });
  order();
  filter();
  count();
}

document.addEventListener("DOMContentLoaded", () => all(".cards").forEach(review));
