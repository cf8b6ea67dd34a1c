"use strict";
(() => {
  const root = document.documentElement;
  const all = (selector, from = document) => [...from.querySelectorAll(selector)];
  root.classList.add("js");

  // Theme: the system's until the button is pressed, then remembered where the browser allows it.
  const remember = (value) => { try { localStorage.setItem("theme", value); } catch { /* a page opened from a file */ } };
  const recall = () => { try { return localStorage.getItem("theme"); } catch { return null; } };
  const dark = () => (root.dataset.theme || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";
  const button = document.getElementById("theme");
  const label = () => { button.textContent = dark() ? "Light" : "Dark"; };
  if (recall() === "dark" || recall() === "light") root.dataset.theme = recall();
  button.addEventListener("click", () => { root.dataset.theme = dark() ? "light" : "dark"; remember(root.dataset.theme); label(); });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", label);
  button.hidden = false;
  label();

  // One section at a time, chosen by the address; #section or #the-id-of-something-inside.
  const sections = all("section.stream");
  const show = () => {
    const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
    const section = (target && target.closest("section.stream")) || sections[0];
    sections.forEach((each) => each.classList.toggle("shown", each === section));
    all("nav a").forEach((link) => {
      const here = link.hash === `#${section.id}`;
      if (here) link.setAttribute("aria-current", "page"); else link.removeAttribute("aria-current");
      if (here) link.parentElement.scrollLeft = link.offsetLeft - link.parentElement.offsetLeft - 40;
    });
    if (target && target !== section) {
      if (target.matches("details")) target.open = true;
      target.scrollIntoView();
    } else scrollTo(0, 0);
  };
  addEventListener("hashchange", show);
  show();

  // Tables: a column's button sorts, again turns it round; cells without a value stay below.
  const value = (row, column) => {
    const text = row.cells[column].dataset.v;
    return text === undefined || text === "" ? null : Number.isNaN(Number(text)) ? text : Number(text);
  };
  const compare = (a, b) => (typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b)));
  const sort = (table, header) => {
    const first = header.dataset.first || "ascending";
    const turned = first === "ascending" ? "descending" : "ascending";
    const direction = header.getAttribute("aria-sort") === first ? turned : first;
    all("th[aria-sort]", table).forEach((each) => each.setAttribute("aria-sort", each === header ? direction : "none"));
    const rows = all("tbody tr", table), column = header.cellIndex, sign = direction === "ascending" ? 1 : -1;
    rows.sort((left, right) => {
      const a = value(left, column), b = value(right, column);
      if (a === null || b === null) return (a === null) - (b === null);
      return sign * compare(a, b);
    });
    table.tBodies[0].append(...rows);
  };
  all("table.board").forEach((table) => {
    all("th[aria-sort] button", table).forEach((each) => each.addEventListener("click", () => sort(table, each.closest("th"))));
  });

  // Answers to read, of all methods or of one.
  all("form.reading").forEach((form) => {
    const rows = all(".shot tr[data-method]", form.closest("section"));
    const choose = () => rows.forEach((row) => {
      row.hidden = form.elements.method.value !== "" && row.dataset.method !== form.elements.method.value;
    });
    form.hidden = false;
    form.addEventListener("change", choose);
    form.addEventListener("submit", (event) => event.preventDefault());
    choose();
  });

  // Filters of a leaderboard.
  all("form.controls[data-table]").forEach((form) => {
    const rows = all("tbody tr", document.getElementById(form.dataset.table));
    const filter = () => {
      const words = form.elements.text.value.toLowerCase().split(/\s+/).filter(Boolean);
      let count = 0;
      rows.forEach((row) => {
        const name = row.cells[0].textContent.toLowerCase();
        row.hidden = (form.elements.group.value !== "" && row.dataset.group !== form.elements.group.value)
          || (form.elements.protocol.value !== "" && row.dataset.protocol !== form.elements.protocol.value)
          || !words.every((word) => name.includes(word));
        count += !row.hidden;
      });
      form.querySelector("output").textContent = `${count} of ${rows.length} rows`;
    };
    form.hidden = false;
    form.addEventListener("input", filter);
    form.addEventListener("change", filter);
    form.addEventListener("submit", (event) => event.preventDefault());
    filter();
  });
})();
