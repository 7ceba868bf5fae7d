"use strict";
/* The page without the viewer: choosing a lesion, the table, the window of the projections, the turning picture. */
(() => {
  const data = L2S.data("l2snet-data"), text = data.text;
  const table = document.getElementById("table"), body = table.tBodies[0];
  L2S.sortable(table, text.undefined);
  let rows = data.rows, totals = data.totals, moved = null;

  const forget = () => document.querySelectorAll(".chosen").forEach(element => element.classList.remove("chosen"));

  /* A lesion chosen anywhere is marked everywhere; `viewer.js` listens, too. With other thresholds, the table has numbers of
     its own: pictures keep the program's, and what is chosen in one is not marked in the other. */
  const choose = (number, inTable) => {
    forget();
    document.querySelectorAll(`[data-lesion="${number}"]`).forEach(element => {
      if (!moved || body.contains(element) === inTable) element.classList.add("chosen");
    });
    body.querySelector("tr.chosen")?.scrollIntoView({ block: "nearest" });
    const row = (inTable ? rows : data.rows).find(row => row.number === number);
    if (row) document.dispatchEvent(new CustomEvent("l2snet-lesion", { detail: row }));
  };
  document.addEventListener("click", event => {
    const element = event.target.closest("[data-lesion]");
    if (element) choose(Number(element.dataset.lesion), body.contains(element));
  });

  const element = (tag, properties = {}, ...children) => {
    const made = Object.assign(document.createElement(tag), properties);
    made.append(...children);
    return made;
  };
  const keys = [...table.tHead.rows[0].cells].map(head => head.dataset.key);
  const number = (value, key) => L2S.format(value, key, data.digits, text.undefined);
  const line = row => {
    const made = element("tr");
    made.dataset.lesion = row.number;
    for (const key of keys) {
      if (key !== "number") { made.append(element("td", { textContent: number(row[key], key) })); continue; }
      const swatch = element("span", { className: "swatch" });
      swatch.style.setProperty("--c", data.colours[(row.number - 1) % data.colours.length]);
      const button = element("button", { type: "button", className: "number" }, swatch, String(row.number));
      button.setAttribute("aria-label", text.table.show.replace("{number}", row.number));
      made.append(element("td", {}, button));
    }
    return made;
  };

  /* Show other lesions than the program's own, as the viewer finds them at other thresholds: `other` is null, or holds these
     thresholds by the name of their column, and what to say of them. */
  L2S.show = (lesions, sums, other) => {
    if (moved || other) forget();
    [rows, totals, moved] = [lesions, sums, other];
    const notice = document.getElementById("moved");
    notice.hidden = !moved;
    notice.textContent = moved ? moved.notice : "";
    body.replaceChildren(...(rows.length ? rows.map(line) : [element("tr", {}, element("td", { colSpan: keys.length, textContent: text.table.empty }))]));
    table.querySelectorAll("th").forEach(head => head.removeAttribute("aria-sort"));
    document.querySelectorAll("[data-total]").forEach(cell => { cell.textContent = number(totals[cell.dataset.total], cell.dataset.total); });
    table.querySelectorAll("[data-sum]").forEach(cell => { if (cell.dataset.sum) cell.textContent = number(totals[cell.dataset.sum], cell.dataset.sum); });
  };

  document.getElementById("copy").addEventListener("click", async () => {
    const { columns, sums, totals: others } = data.csv, thresholds = moved ? moved.thresholds : {};
    const last = { number: text.table.all };
    for (const [column, key] of Object.entries(sums)) last[column] = totals[key];
    for (const key of others) last[key] = totals[key];
    const lines = [...rows, last].map(row => ({ ...row, ...thresholds, case: data.name }));
    const copied = await L2S.copy(L2S.csv(lines, [...columns, ...others, ...Object.keys(thresholds)]));
    document.getElementById("copied").textContent = copied ? text.table.copied.replace("{count}", rows.length) : text.table.not_copied;
  });

  /* Projections are stored as the root of SUV; the filter's table makes them inverse grey. */
  const window_ = document.getElementById("suv-max");
  const setWindow = () => {
    const highest = Number(window_.max), darkest = Number(window_.value), steps = 64;
    const values = Array.from({ length: steps + 1 }, (_, i) => 1 - Math.min(1, (i / steps) ** 2 * highest / darkest));
    document.querySelectorAll("#suv-window feComponentTransfer > *").forEach(part => part.setAttribute("tableValues", values.join(" ")));
    for (const shown of [window_.nextElementSibling, document.getElementById("suv-window-text")]) shown.textContent = L2S.short(darkest);
  };
  window_.addEventListener("input", setWindow);

  const turning = document.getElementById("turning"), turn = document.getElementById("turn");
  turn.addEventListener("click", () => {
    const runs = turn.getAttribute("aria-pressed") === "true";
    turning.src = runs ? turning.dataset.still : turning.dataset.turning;
    turn.setAttribute("aria-pressed", String(!runs));
    turn.textContent = runs ? text.pictures.play : text.pictures.pause;
  });
})();
