// What every page can do: switch the theme, send filters as they change, ask before a deed.
"use strict";
(() => {
  const root = document.documentElement;
  const isDark = () => root.dataset.theme
    ? root.dataset.theme === "dark"
    : matchMedia("(prefers-color-scheme: dark)").matches;
  document.addEventListener("click", (event) => {
    const button = event.target.closest("[data-theme-switch]");
    if (button) {
      root.dataset.theme = isDark() ? "light" : "dark";
      try { localStorage.setItem("catchment-theme", root.dataset.theme); } catch { /* as it is */ }
      button.setAttribute("aria-pressed", String(isDark()));
      document.dispatchEvent(new CustomEvent("theme"));
    }
  });
  document.addEventListener("submit", (event) => {
    const question = event.target.dataset.sure;
    if (question && !window.confirm(question)) event.preventDefault();
  });
  document.addEventListener("change", (event) => {
    const form = event.target.closest("form.filters");
    if (form && event.target.tagName === "SELECT") form.requestSubmit();
  });
  // A list that went on: whoever cannot see it is told, and the focus is where it went on.
  document.addEventListener("htmx:afterSettle", (event) => {
    const told = document.getElementById("told");
    if (told) told.textContent = "More is shown.";
    const first = event.detail.elt && event.detail.elt.querySelector && event.detail.elt.querySelector("a");
    if (first) first.focus({ preventScroll: true });
  });
})();
