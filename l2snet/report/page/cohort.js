"use strict";
/* The cohort's table. */
(() => {
  const data = L2S.data("l2snet-data");
  L2S.sortable(document.getElementById("table"), data.none);
  document.getElementById("copy").addEventListener("click", async () => {
    const copied = await L2S.copy(L2S.csv(data.cases, ["case", ...data.keys]));
    document.getElementById("copied").textContent = copied ? data.copied.replace("{count}", data.cases.length) : data.not_copied;
  });
})();
