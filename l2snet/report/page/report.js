"use strict";
/* The page without the viewer: choosing a lesion, the table, the window of the projections, the turning picture. */
(() => {
  const data = L2S.data("l2snet-data"), text = data.text;
  const table = document.getElementById("table"), body = table.tBodies[0];
  L2S.sortable(table);
  let rows = data.rows;

  /* A lesion chosen anywhere is marked everywhere; `viewer.js` listens, too. */
  const choose = number => {
    document.querySelectorAll(".chosen").forEach(element => element.classList.remove("chosen"));
    document.querySelectorAll(`[data-lesion="${number}"]`).forEach(element => element.classList.add("chosen"));
    body.querySelector("tr.chosen")?.scrollIntoView({ block: "nearest" });
    const row = rows.find(row => row.number === number);
    if (row) document.dispatchEvent(new CustomEvent("l2snet-lesion", { detail: row }));
  };
  document.addEventListener("click", event => {
    const element = event.target.closest("[data-lesion]");
    if (element) choose(Number(element.dataset.lesion));
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

  /* Show other lesions than the program's own, as the viewer finds them at other thresholds. */
  L2S.show = (lesions, totals) => {
    rows = lesions;
    body.replaceChildren(...(rows.length ? rows.map(line) : [element("tr", {}, element("td", { colSpan: keys.length, textContent: text.table.empty }))]));
    table.querySelectorAll("th").forEach(head => head.removeAttribute("aria-sort"));
    document.querySelectorAll("[data-total]").forEach(cell => { cell.textContent = number(totals[cell.dataset.total], cell.dataset.total); });
    table.querySelectorAll("[data-sum]").forEach(cell => { if (cell.dataset.sum) cell.textContent = number(totals[cell.dataset.sum], cell.dataset.sum); });
  };

  document.getElementById("copy").addEventListener("click", async () => {
    const columns = ["case", ...Object.keys(data.rows[0] ?? { number: 0 }).filter(key => key !== "at")];
    await L2S.copy(L2S.csv(rows.map(row => ({ case: data.name, ...row })), columns));
    document.getElementById("copied").textContent = text.table.copied.replace("{count}", rows.length);
  });

  /* Projections are stored as the root of SUV; the filter's table makes them inverse grey. */
  const window_ = document.getElementById("suv-max");
  const setWindow = () => {
    const highest = Number(window_.max), darkest = Number(window_.value), steps = 64;
    const values = Array.from({ length: steps + 1 }, (_, i) => 1 - Math.min(1, (i / steps) ** 2 * highest / darkest));
    document.querySelectorAll("#suv-window feComponentTransfer > *").forEach(part => part.setAttribute("tableValues", values.join(" ")));
    window_.nextElementSibling.textContent = darkest;
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
