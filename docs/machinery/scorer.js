// What a search finds first: guides whose title has the words, other guides, single names, and at
// last pages for those who work on the package. The numbers are those of Sphinx.
const words = (new URLSearchParams(location.search).get("q") ?? "").toLowerCase().match(/\w+/g) ?? [];

var Scorer = {
  score: ([page, title, , , score]) => {
    const found = words.filter((word) => title.toLowerCase().includes(word));
    const later = page.startsWith("api/") ? 2 : /^(project\/|architecture|maintaining)/.test(page) ? 4 : 1;
    return (score + 5 * found.length) / later;
  },
  objNameMatch: 11,
  objPartialMatch: 6,
  objPrio: { 0: 15, 1: 5, 2: -5 },
  objPrioDefault: 0,
  title: 15,
  partialTitle: 7,
  term: 5,
  partialTerm: 2,
};
