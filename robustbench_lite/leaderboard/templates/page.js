"use strict";
(() => {
  const details = JSON.parse(document.getElementById("details").textContent);
  const number = (text) => (text !== "" && isFinite(text) ? Number(text) : null);

  function compare(a, b) {
    const x = number(a), y = number(b);
    return x !== null && y !== null ? x - y : a.localeCompare(b, "en");
  }

  function sort(button) {
    const heading = button.closest("th"), table = button.closest("table"), body = table.tBodies[0];
    const column = heading.cellIndex, wasAscending = heading.getAttribute("aria-sort") === "ascending";
    for (const other of table.tHead.rows[0].cells) other.setAttribute("aria-sort", "none");
    heading.setAttribute("aria-sort", wasAscending ? "descending" : "ascending");
    const rows = [...body.rows].map((row, place) => ({ row, place }));
    rows.sort((a, b) => {
      const order = compare(a.row.cells[column].dataset.sort, b.row.cells[column].dataset.sort);
      return (wasAscending ? -order : order) || a.place - b.place;
    });
    body.append(...rows.map(({ row }) => row));
  }

  function filter(input) {
    const words = input.value.toLowerCase().split(/\s+/).filter(Boolean), board = input.closest(".board");
    let shown = 0, all = 0;
    for (const table of board.querySelectorAll("table")) {
      shown = all = 0;
      for (const row of table.tBodies[0].rows) {
        const text = (row.cells[1].textContent + " " + row.cells[2].textContent).toLowerCase();
        row.hidden = !words.every((word) => text.includes(word));
        all += 1;
        shown += row.hidden ? 0 : 1;
      }
    }
    board.querySelector("[role=status]").textContent = words.length ? shown + " of " + all + " rows" : "";
  }

  function open(key) {
    const dialog = document.querySelector("dialog"), found = details[key], list = dialog.querySelector("dl");
    dialog.querySelector("h2").textContent = found.title;
    list.replaceChildren();
    for (const [term, text] of found.rows) {
      const name = document.createElement("dt"), value = document.createElement("dd");
      name.textContent = term;
      if (term === "measure it again") {
        const code = document.createElement("code");
        code.textContent = text;
        value.append(code);
      } else value.textContent = text;
      list.append(name, value);
    }
    const link = document.getElementById("cell-record");
    link.hidden = !found.record;
    if (found.record) link.href = found.record;
    dialog.showModal();
  }

  document.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (!button) return;
    if (button.dataset.key) open(button.dataset.key);
    else if (button.closest("thead")) sort(button);
  });
  for (const input of document.querySelectorAll("input[type=search]")) input.addEventListener("input", () => filter(input));
})();
