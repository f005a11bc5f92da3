// A click on a column's head sorts by it; a second click turns the order.
for (const head of document.querySelectorAll("th[data-sort]")) {
  head.addEventListener("click", () => {
    const row = head.parentNode;
    const column = [...row.children].indexOf(head);
    const numeric = head.dataset.sort === "number";
    const falling = head.getAttribute("aria-sort") === "descending";
    const down = numeric ? !falling : head.getAttribute("aria-sort") === "ascending";
    for (const other of row.children) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const key = (line) => {
      const cell = line.children[column];
      return numeric ? Number(cell.dataset.v) : cell.textContent;
    };
    const body = head.closest("table").tBodies[0];
    const lines = [...body.rows].sort((a, b) => numeric
      ? key(a) - key(b)
      : key(a).localeCompare(key(b), undefined, {numeric: true}));
    if (down) lines.reverse();
    body.append(...lines);
  });
}
