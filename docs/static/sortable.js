// A click on a head sorts a table of models: those whose first column is called "model".
Tablesort.extend(
  "number",
  (text) => /^[-+]?\d[\d,.]*( ±.*)?$/.test(text),
  (a, b) => number(b) - number(a),
);

function number(text) {
  const found = parseFloat(text.replaceAll(",", ""));
  return Number.isNaN(found) ? -Infinity : found; // empty cells
}

for (const table of document.querySelectorAll("table.docutils"))
  if (table.tHead?.textContent.trim().startsWith("model")) new Tablesort(table);
