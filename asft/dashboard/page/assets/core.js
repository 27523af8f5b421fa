// The page's ground: data files, elements, and views that live in the URL's hash.
"use strict";
window.Asft = (() => {
  const pages = {}; // name -> {title, show(root, view, index)}; each file below pages/ adds itself
  const values = new Map(); // data file -> promise of its value
  const waiting = new Map();

  /** Called by each data file with its own name. */
  function put(name, value) {
    waiting.get(name)?.(value);
  }

  /** The value of `data/<name>.js`: a script, since a page opened from disk may not fetch. */
  function load(name) {
    if (!values.has(name)) values.set(name, read(name, address(name)));
    return values.get(name);
  }

  /** Where a data file is. Names come from links, which must not lead out of the folder. */
  function address(name) {
    const parts = name.split("/");
    if (parts.some((part) => ["", ".", ".."].includes(part))) throw new Error(`there is no ${name} in this dashboard`);
    return `data/${parts.map(encodeURIComponent).join("/")}.js`;
  }

  /** As `load`, past every cache. */
  function reload(name) {
    return read(name, `${address(name)}?${Date.now()}`);
  }

  function read(name, url) {
    return new Promise((resolve, reject) => {
      waiting.set(name, resolve);
      script(url).catch(() => {
        values.delete(name);
        reject(new Error(`${url} cannot be read; write this page again`));
      });
    });
  }

  function script(url) {
    return new Promise((resolve, reject) => {
      const element = document.createElement("script");
      element.src = url;
      element.onload = () => (element.remove(), resolve());
      element.onerror = () => (element.remove(), reject(new Error(`${url} cannot be read`)));
      document.head.append(element);
    });
  }

  /** An element with attributes (functions become listeners) and children; strings are text, never HTML. */
  function h(tag, attributes = {}, ...children) {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (typeof value === "function") element.addEventListener(name, value);
      else if (value === true) element.setAttribute(name, "");
      else if (value !== false && value !== null && value !== undefined) element.setAttribute(name, value);
    }
    element.append(...children.flat().filter((child) => child !== null && child !== undefined));
    return element;
  }

  /** For Tabulator, which reads titles as HTML. */
  function escape(text) {
    const names = { "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "'": "&#39;" };
    return String(text).replace(/[&<>"']/g, (character) => names[character]);
  }

  /** A part of a link; one that was cut short in the middle of a character stays as it is. */
  function decoded(part) {
    try {
      return decodeURIComponent(part);
    } catch {
      return part;
    }
  }

  /** `#/page/part?key=value` as an object. */
  function view() {
    const [path, query = ""] = location.hash.replace(/^#\/?/, "").split("?");
    const [page, ...parts] = path.split("/").map(decoded);
    return { page, parts, params: new URLSearchParams(query) };
  }

  function link(page, parts = [], params = {}) {
    const query = new URLSearchParams(Object.entries(params).filter(([, value]) => value !== "" && value !== null));
    return `#/${[page, ...parts].map(encodeURIComponent).join("/")}${query.size ? `?${query}` : ""}`;
  }

  /** Keeps a control's state in the URL without drawing the page anew, so that the focus stays where it is. */
  function remember(changes) {
    const { page, parts, params } = view();
    for (const [name, value] of Object.entries(changes)) {
      if (value === "" || value === null) params.delete(name);
      else params.set(name, value);
    }
    history.replaceState(null, "", link(page, parts, Object.fromEntries(params)));
  }

  let shown = 0;

  /** Draws the view that the address names; without one the first page. */
  async function show() {
    const turn = ++shown;
    const now = view();
    const main = document.getElementById("main");
    const root = h("div", { class: "page" });
    say("");
    try {
      const index = await load("index");
      const name = now.page || index.pages[0];
      for (const item of document.querySelectorAll("nav a")) {
        if (item.dataset.page === name) item.setAttribute("aria-current", "page"), item.scrollIntoView({ block: "nearest", inline: "center" });
        else item.removeAttribute("aria-current");
      }
      if (!index.pages.includes(name)) throw new Error(`there is no page ${name}; choose one above`);
      document.title = `${pages[name].title} · asft`;
      root.append(h("h1", {}, pages[name].title));
      main.replaceChildren(root); // in the document first: the libraries measure their place
      await pages[name].show(root, now, index);
    } catch (error) {
      root.append(h("p", { class: "bad", role: "alert" }, error.message));
      if (turn === shown) main.replaceChildren(root);
    }
    // A table lays its rows anew in the frame in which it is told its size; only then does the page stand still.
    await new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)));
    main.dataset.ready = String(turn);
  }

  function say(text) {
    document.getElementById("status").textContent = text;
  }

  /** Hands the user what a link holds as a file. */
  function save(name, url) {
    h("a", { href: url, download: name }).click();
    setTimeout(() => URL.revokeObjectURL(url), 10000);
  }

  function download(name, text) {
    save(name, URL.createObjectURL(new Blob([text], { type: "text/plain;charset=utf-8" })));
  }

  /** A sentence's parts; `code` in it is set as such. */
  const words = (text) => text.split("`").map((part, place) => (place % 2 ? h("code", {}, part) : part));

  /** A sentence in small print. */
  const note = (text) => h("p", { class: "note" }, words(text));

  /** A labelled menu; `options` are [value, words] and `picked` is called with a value. */
  function select(words, options, now, picked) {
    const items = options.map(([value, text]) => h("option", { value, selected: value === now }, text));
    return h("label", {}, words, h("select", { change: (event) => picked(event.target.value) }, items));
  }

  return { pages, put, load, reload, script, h, escape, decoded, view, link, remember, show, say, save, download, words, note, select };
})();
