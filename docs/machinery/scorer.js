// What a search finds first: guides, then single names, then pages on the project. The numbers are
// those of Sphinx.
var Scorer = {
  score: ([page, , , , score]) => (/^(api|project)\//.test(page) ? score / 2 : score),
  objNameMatch: 11,
  objPartialMatch: 6,
  objPrio: { 0: 15, 1: 5, 2: -5 },
  objPrioDefault: 0,
  title: 15,
  partialTitle: 7,
  term: 5,
  partialTerm: 2,
};
