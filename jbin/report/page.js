"use strict";
// The reader's theme is kept by the browser, where it allows that.
const page = document.documentElement;
const KEPT = "jbin-theme";
try {
  const kept = localStorage.getItem(KEPT);
  if (kept === "dark" || kept === "light") page.dataset.theme = kept;
} catch { /* a page from a file may have no storage */ }

document.addEventListener("DOMContentLoaded", () => {
  for (const button of document.querySelectorAll("button.theme")) theme(button);
  for (const element of document.querySelectorAll("table.layers")) table(element);
  for (const element of document.querySelectorAll(".icicle")) icicle(element);
});

function theme(button) {
  const system = matchMedia("(prefers-color-scheme: dark)");
  const dark = () => (page.dataset.theme ?? (system.matches ? "dark" : "light")) === "dark";
  const say = () => button.setAttribute("aria-pressed", String(dark()));
  button.hidden = false;
  say();
  system.addEventListener("change", say);
  button.addEventListener("click", () => {
    page.dataset.theme = dark() ? "light" : "dark";
    say();
    try { localStorage.setItem(KEPT, page.dataset.theme); } catch { /* as above */ }
  });
}

// --- Tables: sorting, folding of modules, search ------------------------------

const ROOM = 40; // lines that a folded table begins with, at most

function table(element) {
  const body = element.tBodies[0];
  const heads = [...element.tHead.rows[0].cells].filter((head) => head.dataset.sort);
  const box = element.closest("details, section");
  const tools = element.closest(".sheet")?.querySelector(".tools");
  const {root, lines} = read(body);
  const state = {sort: null, words: [], grouped: lines.some((line) => line.module)};

  const render = () => {
    const order = state.sort ? compare(state.sort) : (a, b) => a.order - b.order;
    const wanted = (line) => state.words.every((word) => line.text.includes(word));
    const shown = [];
    const visit = (line, seen) => {
      const inside = [...line.children].sort(order);
      const found = inside.map((child) => [child, child.module ? hits(child, wanted) : wanted(child)]);
      for (const [child, hit] of found) {
        child.row.hidden = !(hit && seen);
        shown.push(child.row);
        const open = child.open || state.words.length > 0;
        child.button?.setAttribute("aria-expanded", String(open));
        visit(child, hit && seen && open);
      }
    };
    if (state.grouped) {
      visit(root, true);
    } else {
      for (const line of lines) line.row.hidden = line.module || !wanted(line);
      const flat = lines.filter((line) => !line.module);
      shown.push(...flat.sort(order).map((line) => line.row));
    }
    element.classList.toggle("grouped", state.grouped);
    for (const line of lines) line.say(state.grouped);
    body.append(...shown);
    count();
  };
  const count = () => {
    const all = lines.filter((line) => !line.module);
    const left = all.filter((line) => state.words.every((word) => line.text.includes(word)));
    const said = tools?.querySelector(".count");
    if (said) said.textContent = state.words.length ? `${left.length} of ${all.length}` : "";
  };

  for (const head of heads) {
    head.querySelector("button").addEventListener("click", () => {
      state.sort = next(head);
      for (const other of heads) other.removeAttribute("aria-sort");
      if (state.sort) head.setAttribute("aria-sort", state.sort.down ? "descending" : "ascending");
      render();
    });
  }
  for (const line of lines) {
    line.button?.addEventListener("click", () => {
      line.open = !line.open;
      render();
    });
  }
  if (state.grouped) unfold(root);
  if (tools) wire(tools, state, lines, render);
  if (tools || state.grouped) render();
}

// The tree of the lines, by their depths.
function read(body) {
  const root = {children: [], depth: -1, name: ""};
  const above = [root];
  const lines = [...body.rows].map((row, i) => {
    const depth = Number(row.dataset.d ?? 0);
    const cell = row.cells[0];
    const text = cell.querySelector(".path")?.firstChild ?? cell.firstChild;
    while (above.at(-1).depth >= depth) above.pop();
    const parent = above.at(-1);
    const name = text?.data?.trim() ?? "";
    const line = {
      row, depth, name, children: [], open: false,
      order: Number(row.dataset.i ?? i),
      module: row.classList.contains("module"),
      button: row.querySelector("button"),
      text: row.textContent.toLowerCase().replaceAll("×", "x"),
    };
    const end = parent.name && name.startsWith(parent.name + "/") ? name.slice(parent.name.length + 1) : name;
    // Only the text node changes: whatever a name holds stays text.
    line.say = (grouped) => { if (text) text.data = grouped ? end : name; };
    parent.children.push(line);
    if (line.module) above.push(line);
    return line;
  });
  return {root, lines};
}

function hits(line, wanted) {
  return line.children.some((child) => child.module ? hits(child, wanted) : wanted(child));
}

// Opens whole levels while the table stays short.
function unfold(root) {
  let level = root.children;
  let size = level.length;
  while (level.length) {
    const below = level.flatMap((line) => line.children);
    if (size + below.length > ROOM) return;
    for (const line of level) line.open = true;
    size += below.length;
    level = below;
  }
}

// Numbers: falling, rising, as it was. Text: rising, falling, as it was.
function next(head) {
  const numeric = head.dataset.sort === "number";
  const cycle = numeric ? ["descending", "ascending"] : ["ascending", "descending"];
  const now = cycle.indexOf(head.getAttribute("aria-sort")) + 1;
  if (now === cycle.length) return null;
  return {column: Number(head.dataset.by ?? head.cellIndex), numeric, down: cycle[now] === "descending"};
}

function compare({column, numeric, down}) {
  const value = (line) => {
    const cell = line.row.cells[column];
    const text = cell.dataset.v ?? cell.textContent;
    if (!numeric) return text;
    const parts = text.replaceAll(",", "").split("×").map(parseFloat);
    const n = parts.reduce((product, part) => product * part, 1);
    return Number.isNaN(n) ? -Infinity : n;
  };
  const way = down ? -1 : 1;
  return (a, b) => {
    const [x, y] = [value(a), value(b)];
    const by = numeric ? (x < y ? -1 : x > y ? 1 : 0) : x.localeCompare(y, undefined, {numeric: true});
    return way * by || a.order - b.order;
  };
}

function wire(tools, state, lines, render) {
  tools.hidden = false;
  tools.querySelector("input")?.addEventListener("input", (event) => {
    state.words = event.target.value.toLowerCase().replaceAll("×", "x").split(/\s+/).filter(Boolean);
    render();
  });
  const group = tools.querySelector("[data-do=group]");
  const folds = tools.querySelectorAll("[data-do=open], [data-do=close]");
  const say = () => {
    group?.setAttribute("aria-pressed", String(state.grouped));
    for (const button of folds) button.disabled = !state.grouped;
  };
  if (group && !state.grouped) for (const button of [group, ...folds]) button.hidden = true;
  say();
  group?.addEventListener("click", () => { state.grouped = !state.grouped; say(); render(); });
  for (const button of folds) {
    button.addEventListener("click", () => {
      for (const line of lines) line.open = button.dataset.do === "open";
      render();
    });
  }
}

// --- The drawing of the modules -------------------------------------------------

function icicle(element) {
  const drawing = element.querySelector("svg");
  const said = element.querySelector(".said");
  const buttons = [...element.querySelectorAll("[data-metric]")];
  const numbers = (text) => text.split(" ").map(Number);
  const cells = [...drawing.children].map((cell) => ({
    cell, x: numbers(cell.dataset.x), width: numbers(cell.dataset.w),
    y: Number(cell.getAttribute("y")), text: cell.querySelector("text"),
    name: cell.dataset.n, title: cell.querySelector("title").textContent,
  }));
  for (const part of cells) {
    part.label = part.text.textContent;
    part.cell.setAttribute("role", "button");
    part.cell.setAttribute("aria-label", part.title);
    part.cell.tabIndex = -1;
  }
  let metric = 1;
  let zoomed = cells[0];
  let at = cells[0];
  const share = (part) => part.width[metric];

  const place = () => {
    const pixels = drawing.clientWidth;
    const left = zoomed.x[metric];
    const scale = 100 / (zoomed.width[metric] || 100);
    for (const part of cells) {
      const from = Math.max(0, (part.x[metric] - left) * scale);
      const to = Math.min(100, (part.x[metric] + share(part) - left) * scale);
      part.shown = to - from > 0.04 && share(part) > 0;
      part.from = from;
      part.cell.style.display = part.shown ? "" : "none";
      part.cell.setAttribute("x", `${from}%`);
      part.cell.setAttribute("width", `${Math.max(to - from, 0)}%`);
      label(part, ((to - from) / 100) * pixels - 14);
    }
  };
  // A label that does not fit ends in an ellipsis, or is left out.
  const label = (part, room) => {
    part.text.textContent = part.label;
    if (!part.shown) return;
    const full = part.text.getComputedTextLength();
    if (full <= room) return;
    const letters = Math.floor((room / full) * part.label.length) - 1;
    part.text.textContent = letters < 2 ? "" : part.label.slice(0, letters) + "…";
  };
  const tell = (part) => {
    const percent = share(part) < 0.01 && share(part) > 0 ? "<0.01" : Number(share(part).toFixed(2));
    said.textContent = `${part.title}, ${percent} % of ${buttons[metric].textContent}`;
  };
  const focus = (part) => {
    at.cell.tabIndex = -1;
    at = part;
    at.cell.tabIndex = 0;
  };
  const zoom = (part) => {
    zoomed = part === zoomed ? cells[0] : part;
    focus(part);
    place();
    tell(part);
  };
  const move = (key) => {
    const inside = (part) => part.x[metric] < at.x[metric] + share(at) && part.x[metric] + share(part) > at.x[metric];
    const shown = cells.filter((part) => part.shown && part !== at);
    const level = shown.filter((part) => part.y === at.y);
    if (key === "ArrowRight") return level.find((part) => part.x[metric] > at.x[metric]);
    if (key === "ArrowLeft") return level.findLast((part) => part.x[metric] < at.x[metric]);
    if (key === "ArrowDown") return shown.find((part) => part.y > at.y && inside(part));
    if (key === "ArrowUp") return shown.findLast((part) => part.y < at.y && inside(part));
    return undefined;
  };

  for (const part of cells) {
    part.cell.addEventListener("click", () => zoom(part));
    part.cell.addEventListener("pointerenter", () => tell(part));
    part.cell.addEventListener("focus", () => tell(part));
  }
  drawing.addEventListener("pointerleave", () => tell(zoomed));
  drawing.addEventListener("keydown", (event) => {
    if (event.key === "Enter" || event.key === " ") {
      zoom(at);
    } else if (event.key === "Escape") {
      zoom(cells[0]);
    } else {
      const found = move(event.key);
      if (!found) return;
      focus(found);
      found.cell.focus();
    }
    event.preventDefault();
  });
  for (const [i, button] of buttons.entries()) {
    button.disabled = share(cells[0]) >= 0 && cells[0].width[i] === 0;
    button.addEventListener("click", () => {
      metric = i;
      if (!zoomed.width[i]) zoomed = cells[0];
      for (const other of buttons) other.setAttribute("aria-pressed", String(other === button));
      place();
      tell(zoomed);
    });
  }
  element.querySelector(".tools").hidden = false;
  focus(cells[0]);
  new ResizeObserver(place).observe(drawing);
  tell(zoomed);
}
