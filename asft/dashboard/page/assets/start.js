// The frame around the pages: navigation, theme, the first view, and looking for a newer build.
"use strict";
(() => {
  const { h, pages } = Asft;
  const REFRESH_MS = 2000;
  const media = matchMedia("(prefers-color-scheme: dark)");

  /** The navigation, where there is more than one page. */
  function navigation(index) {
    const links = index.pages.map((name) => h("a", { href: Asft.link(name), "data-page": name }, pages[name].title));
    if (links.length > 1) document.querySelector("nav").append(...links);
  }

  /** The user's own choice; storage may be off for pages on disk. */
  function stored() {
    try {
      return localStorage.getItem("asft-theme");
    } catch {
      return null;
    }
  }

  function setTheme(theme) {
    document.documentElement.dataset.theme = theme;
    document.getElementById("theme").textContent = theme === "dark" ? "Light" : "Dark";
    document.dispatchEvent(new Event("asft-theme"));
  }

  document.getElementById("theme").addEventListener("click", () => {
    const theme = document.documentElement.dataset.theme === "dark" ? "light" : "dark";
    setTheme(theme);
    try {
      localStorage.setItem("asft-theme", theme);
    } catch {
      // the choice then lasts as long as the page
    }
  });
  media.addEventListener("change", () => stored() || setTheme(media.matches ? "dark" : "light"));
  setTheme(stored() ?? (media.matches ? "dark" : "light"));

  document.querySelector("[data-skip]").addEventListener("click", (event) => {
    event.preventDefault(); // the hash holds the view
    document.getElementById("main").focus();
  });
  /** A new view starts at its top, with the navigation in sight. */
  addEventListener("hashchange", async () => {
    await Asft.show();
    scrollTo(0, 0);
    document.getElementById("main").focus({ preventScroll: true });
  });

  async function watch(first) {
    const version = await Asft.reload("version").catch(() => first); // a server that is gone changes nothing
    if (version !== first) location.reload();
    else setTimeout(watch, REFRESH_MS, first);
  }

  async function start() {
    const index = await Asft.load("index").catch(() => null);
    if (index) navigation(index), Asft.cells.know(index);
    await Asft.show();
    if (index?.live) watch(index.version);
  }
  start();
})();
