// Clicking a heading sorts the table of a batch by its column, once more in the other order; unread images stay last.
document.addEventListener("click", (event) => {
  const head = event.target.closest?.(".ab-table thead th");
  if (!head) return;
  const isNumber = head.classList.contains("ab-number");
  const isAscending = head.ariaSort ? head.ariaSort === "descending" : !isNumber; // probabilities: the highest first
  for (const other of head.parentElement.children) other.removeAttribute("aria-sort");
  head.ariaSort = isAscending ? "ascending" : "descending";
  const key = (row) => row.cells[head.cellIndex]?.dataset.value ?? row.cells[head.cellIndex]?.textContent ?? "";
  const isUnread = (row) => Boolean(row.querySelector(".ab-error"));
  const compare = (a, b) => (isNumber ? key(a) - key(b) : key(a).localeCompare(key(b), document.documentElement.lang, { numeric: true }));
  const body = head.closest("table").tBodies[0];
  body.append(...[...body.rows].sort((a, b) => isUnread(a) - isUnread(b) || (isAscending ? 1 : -1) * compare(a, b)));
});
