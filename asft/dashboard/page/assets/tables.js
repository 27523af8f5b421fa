// Tables: Tabulator with the page's habits. Every string reaches the page as text.
"use strict";
Asft.table = (() => {
  const { h, escape } = Asft;

  /** A column of numbers with fixed decimals; nothing where there is none. */
  function number(title, field, digits = 1, more = {}) {
    const formatter = (cell) => (cell.getValue() === null || cell.getValue() === undefined ? "" : cell.getValue().toFixed(digits));
    return { title, field, hozAlign: "right", headerHozAlign: "right", sorter: "number", formatter, ...more };
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
    const numeric = (place) => rows.every((row) => /^[<+−-]? ?[\d.,]+(e[+-]?\d+)?( ✓)?$|^–?$/.test(text(row[place])));
    const value = (cell) => Number.parseFloat(text(cell).replace("−", "-").replace("< ", ""));
    const columns = header.map((words, place) => {
      const right = place > 0 && numeric(place);
      const sorter = right ? (a, b) => (value(a) || 0) - (value(b) || 0) : (a, b) => text(a).localeCompare(text(b));
      const make = (row) => h("span", { class: Array.isArray(row[place]) ? row[place][1] : "" }, text(row[place]));
      const accessorDownload = (cell) => inert(text(cell));
      return element(words, String(place), make, { sorter, accessorDownload, frozen: place === 0, ...(right ? { hozAlign: "right", headerHozAlign: "right" } : {}) });
    });
    return show(parent, { label: title, columns, rows: rows.map((row) => ({ ...row })), height: "26rem", file: title.toLowerCase().replace(/[^a-z]+/g, "-") });
  }

  return { number, element, show, plain };
})();
