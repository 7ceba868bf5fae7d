"use strict";
/* Sortable tables with a line per case or lesion, and their copy as CSV. */
const L2S = {};

L2S.data = id => JSON.parse(document.getElementById(id).textContent);

L2S.format = (value, key, digits, none) =>
  value === null || value === undefined || Number.isNaN(value) ? none : Number(value).toFixed(digits[key] ?? 0);

/* Sort the rows of a table's body by a column's number, or its text; the same head again turns it round. */
L2S.sortable = table => {
  const heads = [...table.tHead.rows[0].cells];
  const sort = (head, column) => {
    const down = head.getAttribute("aria-sort") === "ascending";
    const body = table.tBodies[0];
    const value = row => {
      const cell = row.cells[column], text = (cell.dataset.value ?? cell.textContent).trim(), number = parseFloat(text);
      return Number.isNaN(number) ? text : number;
    };
    const before = (a, b) => typeof a === typeof b ? (a < b ? -1 : a > b ? 1 : 0) : typeof a === "number" ? -1 : 1;
    const rows = [...body.rows].sort((a, b) => before(value(a), value(b)) * (down ? -1 : 1));
    body.append(...rows);
    heads.forEach(other => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
  };
  heads.forEach((head, column) => head.querySelector("button")?.addEventListener("click", () => sort(head, column)));
};

/* A field that begins like a formula is made text, so that a spreadsheet does not run it. */
L2S.field = value => {
  if (value === null || value === undefined) return "";
  let text = String(value);
  if (typeof value === "string" && /^[=+\-@\t\r]/.test(text)) text = "'" + text;
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
};

L2S.csv = (rows, columns) =>
  [columns, ...rows.map(row => columns.map(column => row[column]))].map(line => line.map(L2S.field).join(",")).join("\n") + "\n";

/* The clipboard, or, where a page from disk may not use it, a selection. */
L2S.copy = async text => {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    const area = document.createElement("textarea");
    area.value = text;
    area.className = "aside";
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
  }
};
