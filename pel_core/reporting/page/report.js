// Sorting by a column and filtering by words. The page says everything without it.
(() => {
  const table = document.getElementById("run-table"), body = table.tBodies[0];
  const heads = [...table.tHead.rows[0].cells], rows = [...body.rows];
  const field = document.getElementById("filter"), shown = document.getElementById("shown");

  const filter = () => {
    const words = field.value.toLowerCase().split(/\s+/).filter(Boolean);
    let count = 0;
    for (const row of rows) {
      const text = row.textContent.toLowerCase();
      row.hidden = !words.every(word => text.includes(word));
      count += !row.hidden;
    }
    shown.textContent = `${count} of ${rows.length}`;
  };
  field.addEventListener("input", filter);
  field.closest("[hidden]").hidden = false;
  filter();

  // What has no value stays below, whichever the order.
  const compare = (column, numeric, sign) => (one, other) => {
    const [a, b] = [one, other].map(row => numeric ? row.cells[column].dataset.value ?? "" : row.cells[column].textContent);
    if (a === "" || b === "") return (a === "") - (b === "");
    return sign * (numeric ? a - b : a.localeCompare(b, "en", {numeric: true}));
  };
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      heads.forEach(other => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const numeric = rows.some(row => "value" in row.cells[column].dataset);
      body.append(...rows.sort(compare(column, numeric, down ? -1 : 1)));
    });
  });
})();
