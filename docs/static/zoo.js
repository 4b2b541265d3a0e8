// The gallery of the zoo shows the models of one family, or of one data set.
const form = document.querySelector(".zoo-filter");
const cards = [...document.querySelectorAll(".zoo-card")];

function show() {
  for (const card of cards)
    card.hidden = [...form.querySelectorAll("select")].some(
      (choice) => choice.value && choice.value !== card.dataset[choice.name],
    );
  form.querySelector("output").textContent = `${cards.filter((card) => !card.hidden).length} models`;
}

if (form) {
  form.addEventListener("change", show);
  show();
}
