// Interactive parts of the report page: theme, sorting, filters, operating points, enlarged images, position in the contents.
"use strict";

const all = (selector, root = document) => [...root.querySelectorAll(selector)];
const one = (selector, root = document) => root.querySelector(selector);
const fill = (words, values) => words.replace(/{(\w+)}/g, (whole, name) => values[name] ?? whole);

// The theme follows the system until the reader chooses one; a page opened from a file may have no storage.
const KEY = "avatar_bench.theme";
const remembered = () => { try { return localStorage.getItem(KEY); } catch { return null; } };
const remember = (theme) => { try { localStorage.setItem(KEY, theme); } catch { /* not remembered */ } };
if (remembered()) document.documentElement.dataset.theme = remembered();

function switchTheme(button) {
  const system = matchMedia("(prefers-color-scheme: dark)");
  const dark = () => (document.documentElement.dataset.theme ?? (system.matches ? "dark" : "light")) === "dark";
  const show = () => button.setAttribute("aria-pressed", dark());
  button.hidden = false;
  button.addEventListener("click", () => {
    document.documentElement.dataset.theme = dark() ? "light" : "dark";
    remember(document.documentElement.dataset.theme);
    show();
  });
  system.addEventListener("change", show);
  show();
}

// Clicking a heading sorts its column in three steps: one order, the other, the original. Blanks stay last, ties in order.
function sortable(table) {
  const body = table.tBodies[0];
  let original = [...body.rows];
  const heads = all("thead th", table);
  heads.forEach((head, column) => {
    const ways = head.dataset.better === "higher" ? ["descending", "ascending"] : ["ascending", "descending"];
    const cycle = ["none", ...ways];
    const button = document.createElement("button");
    button.type = "button";
    button.append(...[...head.childNodes].filter((node) => node.nodeName !== "SMALL"));
    head.prepend(button);
    head.setAttribute("aria-sort", "none");
    button.addEventListener("click", () => {
      const way = cycle[(cycle.indexOf(head.getAttribute("aria-sort")) + 1) % 3];
      heads.forEach((other) => other.setAttribute("aria-sort", "none"));
      head.setAttribute("aria-sort", way);
      const known = new Set(original); // rows may have come and gone since
      original = [...original.filter((row) => row.isConnected), ...[...body.rows].filter((row) => !known.has(row))];
      body.append(...(way === "none" ? original : sorted(original, column, way)));
    });
  });
}

function sorted(rows, column, way) {
  const keys = new Map(rows.map((row) => [row, key(row.cells[column])]));
  const sign = way === "ascending" ? 1 : -1;
  return [...rows].sort((a, b) => {
    const [x, y] = [keys.get(a), keys.get(b)];
    return (x === "") - (y === "") || (x === "" ? 0 : sign * compare(x, y));
  });
}

function key(cell) {
  const text = (cell.dataset.value ?? cell.textContent).trim();
  const plain = text.replace("−", "-");
  return plain !== "" && Number.isFinite(Number(plain)) ? Number(plain) : text;
}

function compare(x, y) {
  const numbers = (typeof x === "string") - (typeof y === "string"); // numbers before text
  return numbers || (typeof x === "number" ? x - y : x.localeCompare(y, document.documentElement.lang, { numeric: true }));
}

// Search rows by words. Rows hidden by the model filter have a separate mark, so that neither undoes the other.
function searchable(box) {
  const [field, status] = [one("input", box), one("[role=status]", box)];
  const rows = all("tbody tr", box.parentElement);
  box.hidden = false;
  field.addEventListener("input", () => {
    const words = field.value.toLocaleLowerCase().split(/\s+/);
    rows.forEach((row) => {
      const text = row.textContent.toLocaleLowerCase();
      mark(row, "search", !words.every((word) => text.includes(word)));
    });
    status.textContent = fill(status.dataset.words, { shown: rows.filter((row) => !row.hidden).length, all: rows.length });
  });
}

function mark(node, why, hide) {
  node.dataset[why] = hide ? "hidden" : "";
  node.hidden = node.dataset.search === "hidden" || node.dataset.filter === "hidden";
}

// Show the ticked models, or all where none is ticked; a part of several models is shown with any of them.
function filterModels(form) {
  const boxes = all("input[type=checkbox]", form);
  const parts = all("[data-model]");
  const status = one("[role=status]", form);
  const apply = () => {
    const ticked = new Set(boxes.filter((box) => box.checked).map((box) => box.value));
    const wanted = (part) => !ticked.size || part.dataset.model.split("\n").some((label) => ticked.has(label));
    parts.forEach((part) => mark(part, "filter", !wanted(part)));
    all(".contents a").forEach((link) => {
      const target = document.getElementById(link.hash.slice(1));
      link.parentElement.hidden = Boolean(target?.closest("[data-filter=hidden]"));
    });
    status.textContent = fill(form.dataset.words, { shown: ticked.size || boxes.length, all: boxes.length });
  };
  form.hidden = false;
  form.addEventListener("change", apply);
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("reset", () => setTimeout(apply)); // the boxes change after the event
  addEventListener("hashchange", () => {
    if (document.getElementById(location.hash.slice(1))?.closest("[data-filter=hidden]")) form.reset(); // the link leads to a hidden part
  });
  apply();
}

// An image opens in a dialog; the arrow keys go through the images of its wall, or of the page.
function enlarge(viewer) {
  const [stage, image] = [one(".stage", viewer), one("img", viewer)];
  const [caption, status] = [one("p", viewer), one("[role=status]", viewer)];
  const tool = (name) => one(`[data-do=${name}]`, viewer);
  let group = [];
  let at = 0;
  const full = (on) => {
    stage.classList.toggle("full", on);
    tool("size").setAttribute("aria-pressed", on);
  };
  const show = (index) => {
    at = (index + group.length) % group.length;
    const shown = one("img", group[at]);
    full(false);
    [image.src, image.alt, image.className] = [shown.src, shown.alt, shown.className];
    caption.textContent = one("figcaption", group[at].closest("figure"))?.firstChild.textContent.trim() ?? "";
    status.textContent = `${at + 1} / ${group.length}`;
  };
  const open = (button) => {
    const wall = button.closest(".wall");
    const buttons = all(".enlarge", wall ?? document).filter((other) => other.closest(".wall") === wall);
    group = buttons.filter((other) => other.checkVisibility());
    [tool("previous"), status, tool("next")].forEach((part) => { part.hidden = group.length < 2; });
    show(group.indexOf(button));
    viewer.showModal();
    stage.focus();
  };
  const acts = {
    previous: () => show(at - 1), next: () => show(at + 1), close: () => viewer.close(),
    size: () => full(!stage.classList.contains("full")),
  };
  document.addEventListener("click", (event) => {
    const button = event.target.closest(".enlarge, [data-do]");
    if (button) button.dataset.do ? acts[button.dataset.do]() : open(button);
    else if (event.target === viewer) viewer.close(); // the backdrop
  });
  viewer.addEventListener("keydown", (event) => {
    const act = { ArrowLeft: acts.previous, ArrowRight: acts.next }[event.key];
    if (!act || stage.classList.contains("full")) return; // at full size, the arrow keys scroll
    event.preventDefault();
    act();
  });
}

// Sliders choose a threshold and a prevalence: the tables below them follow, and the address, so that a link shows the same.
function operate(form) {
  const [section, kind, sliders] = [form.closest("section"), one("select", form), all("input", form)];
  const sentence = one(".point", section);
  const values = sliders.map((slider) => JSON.parse(slider.dataset.values));
  const chosen = () => sliders.map((slider, k) => values[k][slider.value]);
  const tables = all("[data-curve]", section).map((part) => ({ ...JSON.parse(part.dataset.curve), rows: all("tbody tr", part) }));
  const show = () => {
    const [threshold, prevalence] = chosen();
    sliders.forEach((slider, k) => {
      const text = fill(slider.dataset.words, { value: values[k][slider.value], n: Math.round(1 / values[k][slider.value]) });
      slider.setAttribute("aria-valuetext", text);
      slider.previousElementSibling.value = text;
    });
    sentence.textContent = fill(sentence.dataset.words, { threshold, prevalence });
    tables.forEach(({ thresholds, sets, rows }) => {
      const at = thresholds.findLastIndex((other) => other <= threshold);
      rows.forEach((row, k) => {
        const [index, what] = [Math.floor((k - 2) / 3), (k - 2) % 3]; // after two rows of all images, three of each class
        row.hidden = k > 1 && index !== kind.selectedIndex;
        sets.forEach((measures, column) => {
          const point = (measure) => measures[measure].map((numbers) => numbers[at] ?? NaN);
          const [recall, alarms] = k > 1 ? [2, 3].map((first) => point(first + 2 * index)) : [];
          const numbers = k < 2 ? point(k) : [recall, alarms, recall && precise(recall, alarms, prevalence)][what];
          write(row.cells[column + 1], numbers.map((number) => number * (what === 1 ? 1000 : 100)));
        });
      });
    });
  };
  const follow = () => {
    const [id, query] = location.hash.slice(1).split("?");
    if (id !== section.id || !query) return;
    const wanted = new URLSearchParams(query);
    if ([...kind.options].some((option) => option.value === wanted.get("class"))) kind.value = wanted.get("class");
    ["threshold", "prevalence"].forEach((name, k) => {
      const distances = values[k].map((value) => Math.abs(value - Number(wanted.get(name))));
      if (wanted.has(name) && !Number.isNaN(distances[0])) sliders[k].value = distances.indexOf(Math.min(...distances));
    });
    show();
    section.scrollIntoView();
  };
  form.hidden = false;
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("input", show);
  form.addEventListener("change", () => { // not at each step of a drag, which browsers limit
    const [threshold, prevalence] = chosen();
    history.replaceState(null, "", `#${section.id}?${new URLSearchParams({ class: kind.value, threshold, prevalence })}`);
  });
  addEventListener("hashchange", follow);
  show();
  follow();
}

// The precision at a prevalence, with the ends that those of recall and false alarms allow: value, low and high.
function precise(recall, alarms, prevalence) {
  return recall.map((rate, k) => {
    const hits = prevalence * rate;
    return hits / (hits + (1 - prevalence) * alarms[[0, 2, 1][k]]);
  });
}

// Write a value and its interval into a cell, each with three digits.
function write(cell, numbers) {
  const round = (number) => Number(number.toPrecision(3)); // exactly, unlike toLocaleString, which writes no exponents
  const [value, low, high] = numbers.map((number) => round(number).toLocaleString("en", { maximumSignificantDigits: 3, useGrouping: false }));
  const known = Number.isFinite(numbers[0]);
  cell.dataset.value = known ? numbers[0] : "";
  const parts = known ? { value, second: `${low}–${high}` } : { soft: "–" };
  cell.replaceChildren(...Object.entries(parts).map(([name, text]) => {
    const part = document.createElement("span");
    [part.className, part.textContent] = [name, text];
    return part;
  }));
}

// Mark the current section in the contents.
function follow() {
  const links = new Map(all(".contents a").map((link) => [link.hash.slice(1), link]));
  const sections = all("main section[id]").filter((section) => links.has(section.id));
  const update = () => {
    const above = sections.filter((section) => section.getClientRects().length && section.getBoundingClientRect().top < innerHeight / 3);
    links.forEach((link) => link.removeAttribute("aria-current"));
    links.get((above.at(-1) ?? sections[0])?.id)?.setAttribute("aria-current", "location");
  };
  let waiting = 0;
  addEventListener("scroll", () => { waiting ||= requestAnimationFrame(() => { waiting = 0; update(); }); }, { passive: true });
  update();
}

// A region can be focused by keyboard only where it scrolls.
function stops() {
  const set = () => all(".region").forEach((region) => {
    const scrolls = region.scrollWidth > region.clientWidth || region.scrollHeight > region.clientHeight;
    scrolls ? region.setAttribute("tabindex", "0") : region.removeAttribute("tabindex");
  });
  addEventListener("resize", set);
  set();
}

document.addEventListener("DOMContentLoaded", () => {
  all(".theme").forEach(switchTheme);
  all("table").forEach(sortable);
  all(".search").forEach(searchable);
  all("form.models").forEach(filterModels);
  all("dialog.viewer").forEach(enlarge);
  if (!matchMedia("(min-width: 68rem)").matches) all(".side details").forEach((part) => { part.open = false; });
  all("form.operating").forEach(operate);
  follow();
  stops();
});
