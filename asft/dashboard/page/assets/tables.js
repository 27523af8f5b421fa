// Tables: Tabulator with the page's habits. Every string reaches the page as text.
"use strict";
Asft.table = (() => {
  const { h, escape } = Asft;

  /** Sorts by `value(cell)`, a number; NaN is what is missing and stays last in both directions. */
  const byNumber = (value) => (a, b, rowA, rowB, column, direction) => {
    const [x, y] = [value(a), value(b)];
    const missing = Number.isNaN(x) - Number.isNaN(y);
    return missing ? (direction === "asc" ? missing : -missing) : x - y || 0;
  };

  const numeral = (value) => (typeof value === "number" ? value : NaN);

  /** A column of numbers with fixed decimals; nothing where there is none. */
  function number(title, field, digits = 1, more = {}) {
    const formatter = (cell) => (cell.getValue() === null || cell.getValue() === undefined ? "" : cell.getValue().toFixed(digits));
    return { title, field, hozAlign: "right", headerHozAlign: "right", sorter: byNumber(numeral), formatter, ...more };
  }

  /** A column whose cells are elements made of the row's data. */
  function element(title, field, make, more = {}) {
    return { title, field, formatter: (cell) => make(cell.getData(), cell), ...more };
  }

  /** A CSV's cell that a spreadsheet takes for a text: what begins as a formula, and is no number, gets a quote. */
  function inert(value) {
    return /^\s*[=+\-@＝＋－＠]|^[\t\r\n]/.test(value) && Number.isNaN(Number(value)) ? `'${value}` : value;
  }

  /**
   * Appends a table and, with `file`, a button for its CSV.
   * @returns the Tabulator, once it can take data.
   */
  function show(parent, { label, columns, rows, height, file, empty = "nothing here" }) {
    const place = h("div", { "aria-label": label });
    parent.append(place);
    const table = new Tabulator(place, {
      data: rows,
      columns: columns.map((column) => ({ ...column, title: escape(column.title) })),
      columnDefaults: { accessorDownload: inert, formatter: "plaintext", headerSortTristate: true, resizable: false },
      layout: "fitDataTable",
      ...(height && rows.length > 12 ? { height } : {}),
      placeholder: escape(empty),
    });
    if (file) {
      const save = () => table.download("csv", `${file}.csv`);
      parent.append(h("p", { class: "tools" }, h("button", { type: "button", click: save }, "Table as CSV")));
    }
    return new Promise((resolve) => table.on("tableBuilt", () => resolve(table)));
  }

  /** A table written as header and rows; a cell is a text, or a text with a style: [text, style]. */
  function plain(parent, { title, header, rows }) {
    const text = (cell) => (Array.isArray(cell) ? cell[0] : cell);
    // A number may be followed by its interval, a tick or a unit.
    const value = (cell) => Number.parseFloat(text(cell).match(/^[<+−-]? ?[\d.,]+(e[+-]?\d+)?(?=$| |%)/)?.[0].replace("−", "-").replace(/[<+ ,]/g, ""));
    const numeric = (place) => rows.every((row) => ["", "–"].includes(text(row[place])) || !Number.isNaN(value(row[place])));
    const columns = header.map((words, place) => {
      const right = place > 0 && numeric(place);
      const sorter = right ? byNumber(value) : (a, b) => text(a).localeCompare(text(b));
      const make = (row) => h("span", { class: Array.isArray(row[place]) ? row[place][1] : "" }, text(row[place]));
      const accessorDownload = (cell) => inert(text(cell));
      return element(words, String(place), make, { sorter, accessorDownload, frozen: place === 0, ...(right ? { hozAlign: "right", headerHozAlign: "right" } : {}) });
    });
    return show(parent, { label: title, columns, rows: rows.map((row) => ({ ...row })), height: "26rem", file: title.toLowerCase().replace(/[^a-z]+/g, "-") });
  }

  return { byNumber, numeral, number, element, show, plain };
})();
