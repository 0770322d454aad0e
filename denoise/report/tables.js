"use strict";
// Sort by a click on a heading, filter by text or by flag; the tables are whole without this script.
for (const box of document.querySelectorAll("[data-table]")) {
  const table = document.getElementById(box.dataset.table);
  const body = table.tBodies[0];
  const rows = Array.from(body.rows);
  const text = box.querySelector("input[type=search]");
  const flagged = box.querySelector("input[type=checkbox]");
  const told = box.querySelector("output");
  const names = rows.map((row) => row.textContent.toLowerCase());
  const filter = () => {
    const wanted = text.value.trim().toLowerCase();
    let shown = 0;
    rows.forEach((row, i) => {
      row.hidden = !names[i].includes(wanted) || Boolean(flagged?.checked && !row.dataset.flagged);
      shown += row.hidden ? 0 : 1;
    });
    told.textContent = `${shown.toLocaleString("en")} of ${rows.length.toLocaleString("en")} shown`;
  };
  const value = (row, column) => {
    const cell = row.cells[column];
    return cell.dataset.value === undefined ? cell.textContent.trim() : Number(cell.dataset.value);
  };
  const sort = (heading) => {
    const rising = heading.getAttribute("aria-sort") !== "ascending";
    for (const other of heading.parentNode.cells) other.removeAttribute("aria-sort");
    heading.setAttribute("aria-sort", rising ? "ascending" : "descending");
    const column = heading.cellIndex;
    const keyed = rows.map((row) => [value(row, column), row]);
    keyed.sort(([a], [b]) => {
      if (typeof a === "string") return (rising ? 1 : -1) * a.localeCompare(b, "en", { numeric: true });
      if (Number.isNaN(a) || Number.isNaN(b)) return Number.isNaN(a) - Number.isNaN(b); // unknown last
      return (rising ? 1 : -1) * (a - b);
    });
    body.append(...keyed.map(([, row]) => row));
  };
  for (const button of table.tHead.querySelectorAll("button"))
    button.addEventListener("click", () => sort(button.closest("th")));
  text.addEventListener("input", filter);
  flagged?.addEventListener("change", filter);
  box.hidden = false;
  filter();
}
