// The frame around the pages: navigation, theme, the first view, and looking for a newer build.
"use strict";
(() => {
  const { h, pages } = Asft;
  const REFRESH_MS = 2000;
  const media = matchMedia("(prefers-color-scheme: dark)");

  document.querySelector("nav").append(
    ...Object.entries(pages).map(([name, page]) => h("a", { href: Asft.link(name), "data-page": name }, page.title)),
  );

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
  addEventListener("hashchange", () => Asft.show().then(() => document.getElementById("main").focus()));

  async function watch(first) {
    const version = await Asft.reload("version").catch(() => first); // a server that is gone changes nothing
    if (version !== first) location.reload();
    else setTimeout(watch, REFRESH_MS, first);
  }

  Asft.show().then(async () => {
    if ((await Asft.load("index")).live) watch(await Asft.load("version"));
  });
})();
