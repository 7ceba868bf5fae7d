"use strict";
/* The cohort's table. */
(() => {
  const data = L2S.data("l2snet-data");
  L2S.sortable(document.getElementById("table"));
  document.getElementById("copy").addEventListener("click", async () => {
    await L2S.copy(L2S.csv(data.cases, ["case", ...data.keys]));
    document.getElementById("copied").textContent = data.copied.replace("{count}", data.cases.length);
  });
})();
