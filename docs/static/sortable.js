// A click on a head sorts a table of models: their first column is called "model", and no line of
// it is empty or begins with "the same", which would mean the model above.
Tablesort.extend(
  "number",
  (text) => /^[-+]?\d[\d,.]*(\s±.*)?$/.test(text),
  (a, b) => number(b) - number(a),
);

function number(text) {
  const found = parseFloat(text.replaceAll(",", ""));
  return Number.isNaN(found) ? -Infinity : found; // empty cells
}

for (const table of document.querySelectorAll("table.docutils"))
  if (
    table.tHead?.textContent.trim().startsWith("model") &&
    [...table.tBodies[0].rows].every((row) => !/^$|^the same/.test(row.cells[0].textContent.trim()))
  )
    new Tablesort(table);
