
// The page of the app: two tabs, on which images are dropped; the server answers with lines of JSON, each the HTML to show.
function tabs(list) {
  const buttons = all("[role=tab]", list);
  const choose = (chosen) => buttons.forEach((button) => {
    button.ariaSelected = button === chosen;
    button.tabIndex = button === chosen ? 0 : -1;
    document.getElementById(button.getAttribute("aria-controls")).hidden = button !== chosen;
  });
  buttons.forEach((button, place) => {
    button.addEventListener("click", () => choose(button));
    button.addEventListener("keydown", (event) => {
      const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (!step) return;
      const next = buttons.at((place + step) % buttons.length);
      choose(next);
      next.focus();
    });
  });
  choose(buttons[0]);
}

function droppable(panel) {
  const [zone, field, shown] = [one(".ab-drop", panel), one("input", panel), one(".ab-shown", panel)];
  const words = document.body.dataset;
  const say = (text, role) => {
    shown.innerHTML = `<p role="${role}"></p>`;
    shown.firstChild.textContent = text;
  };
  const ask = async (files) => {
    if (!files.length || field.disabled) return;
    if (files.length > words.most) return say(fill(words.many, { n: files.length }), "alert");
    const form = new FormData();
    for (const file of files) form.append("files", file);
    field.disabled = true;
    say(fill(words.progress, { done: 0, total: files.length }), "status");
    try {
      const answer = await fetch(zone.dataset.action, { method: "POST", body: form });
      if (answer.status === 503) return say(words.busy, "alert");
      if (!answer.ok) return say((await answer.text()).replace(/^{"detail":"(.*)"}$/, "$1"), "alert");
      const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
      let text = "";
      for (let part = await reader.read(); !part.done; part = await reader.read()) {
        text += part.value;
        if (!part.value.includes("\n")) continue;
        const lines = text.split("\n");
        text = lines.pop();
        shown.innerHTML = JSON.parse(lines.at(-1));
      }
      all("table.ab-table", shown).forEach(sortable);
    } catch (error) {
      say(error, "alert");
    } finally {
      field.disabled = false;
      field.value = "";
    }
  };
  field.addEventListener("change", () => ask(field.files));
  zone.addEventListener("dragover", (event) => { event.preventDefault(); zone.classList.add("over"); });
  zone.addEventListener("dragleave", () => zone.classList.remove("over"));
  zone.addEventListener("drop", (event) => {
    event.preventDefault();
    zone.classList.remove("over");
    ask(event.dataTransfer.files);
  });
}

document.addEventListener("DOMContentLoaded", () => {
  all("[role=tablist]").forEach(tabs);
  all(".ab-panel").forEach(droppable);
});
