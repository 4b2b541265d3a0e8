// A click on a head sorts a table of models: their first column is called "model", and no line of
// it is empty or begins with "the same", which would mean the model above. Scores of several units
// have no order.
Tablesort.extend(
  "number",
  (text) => /^[-+]?\d[\d,.]*(\s±.*)?$/.test(text),
  (a, b) => number(b) - number(a),
);

function number(text) {
  const found = parseFloat(text.replaceAll(",", ""));
  return Number.isNaN(found) ? -Infinity : found; // empty cells
}

// What follows the numbers of a column: "nats", "bits/dim".
function units(table, column) {
  const texts = [...table.tBodies[0].rows].map((row) => row.cells[column].textContent.trim());
  return new Set(texts.map((text) => text.match(/^[-\d.,]+\s±\s[\d.,]+\s(.+)$/)?.[1]).filter(Boolean));
}

for (const table of document.querySelectorAll("table.docutils"))
  if (
    table.tHead?.textContent.trim().startsWith("model") &&
    [...table.tBodies[0].rows].every((row) => !/^$|^the same/.test(row.cells[0].textContent.trim()))
  ) {
    for (const head of table.tHead.rows[0].cells)
      if (units(table, head.cellIndex).size > 1) head.dataset.sortMethod = "none";
    new Tablesort(table);
  }
