// Before the page is drawn: the theme that was chosen here.
(() => {
  try {
    const theme = localStorage.getItem("catchment-theme");
    if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
  } catch { /* no storage: the system's theme */ }
})();
