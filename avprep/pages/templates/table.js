"use strict";
// Every <section data-table>: headings with a button sort, controls with a name filter by the rows' data of that name,
// a search box by their words; rows beyond the first ones wait for a button.
for (const section of document.querySelectorAll("[data-table]")) {
  const body = section.querySelector("tbody"), rows = [...body.rows], heads = [...section.querySelectorAll("th[aria-sort]")];
  const form = section.querySelector("form"), search = form.querySelector("[type=search]"), more = section.querySelector(".more");
  const status = section.querySelector("[role=status]"), step = Number(section.dataset.table);
  const words = new Map(rows.map((row) => [row, row.textContent.toLowerCase()]));
  const order = new Intl.Collator("en", { numeric: true });
  let sorted = rows, shown = step;

  const show = () => {
    const asked = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    const chosen = [...form.querySelectorAll("select")].filter((select) => select.value !== "");
    const fits = (row) => chosen.every((select) => row.dataset[select.name] === select.value) && asked.every((word) => words.get(row).includes(word));
    const kept = sorted.filter(fits);
    body.replaceChildren(...kept.slice(0, shown));
    const left = kept.length - Math.min(shown, kept.length);
    more.hidden = left === 0;
    more.textContent = `Show ${Math.min(step, left)} more`;
    status.textContent = `${Math.min(shown, kept.length)} of ${kept.length} shown` + (kept.length < rows.length ? `, ${rows.length} without the filter` : "");
  };
  const value = (row, column) => row.cells[column].dataset.sort ?? row.cells[column].textContent;
  for (const head of heads) {
    head.querySelector("button").addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      for (const other of heads) other.setAttribute("aria-sort", "none");
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const sign = down ? -1 : 1;
      sorted = rows.map((row) => [value(row, head.cellIndex), row]).sort((a, b) => sign * order.compare(a[0], b[0])).map(([, row]) => row);
      show();
    });
  }
  form.addEventListener("input", () => { shown = step; show(); });
  form.addEventListener("submit", (event) => event.preventDefault());
  more.addEventListener("click", () => { shown += step; show(); });
  form.hidden = false;
  show();
}
