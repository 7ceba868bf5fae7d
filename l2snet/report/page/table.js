"use strict";
/* Sortable tables with a line per case or lesion, and their copy as CSV. */
const L2S = {};

L2S.data = id => JSON.parse(document.getElementById(id).textContent);

L2S.format = (value, key, digits, none) =>
  value === null || value === undefined || Number.isNaN(value) ? none : Number(value).toFixed(digits[key] ?? 0);

/* What a slider stands at: three digits are as fine as anyone sets it. */
L2S.short = value => String(Number(Number(value).toPrecision(3)));

/* Sort the rows of a table's body; the same head again turns it round. A column is sorted as numbers where it holds nothing
   but numbers and `none`, which comes last; else as text, in which 9 comes before 12a. */
L2S.sortable = (table, none) => {
  const inWords = new Intl.Collator("en", { numeric: true }).compare;
  const heads = [...table.tHead.rows[0].cells];
  const sort = (head, column) => {
    const down = head.getAttribute("aria-sort") === "ascending";
    const body = table.tBodies[0];
    const lines = [...body.rows].filter(row => row.cells[column]).map(row => {
      const cell = row.cells[column];
      return { row, text: (cell.dataset.value ?? cell.textContent).trim() };
    });
    const known = lines.filter(line => line.text !== none);
    const counts = known.every(line => line.text !== "" && Number.isFinite(Number(line.text)));
    known.sort((a, b) => (counts ? Number(a.text) - Number(b.text) : inWords(a.text, b.text)) * (down ? -1 : 1));
    body.append(...[...known, ...lines.filter(line => line.text === none)].map(line => line.row));
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

/* The clipboard, or, where a page from disk may not use it, a selection; whether it was copied. */
L2S.copy = async text => {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    const area = document.createElement("textarea");
    area.value = text;
    area.className = "aside";
    document.body.append(area);
    area.select();
    const copied = document.execCommand("copy");
    area.remove();
    return copied;
  }
};
