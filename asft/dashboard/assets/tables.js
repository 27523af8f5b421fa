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

  function escaped(columns) {
    return columns.map((column) => ({
      ...column,
      title: escape(column.title),
      ...(column.columns ? { columns: escaped(column.columns) } : {}),
    }));
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
      columns: escaped(columns),
      columnDefaults: { formatter: "plaintext", headerSortTristate: true, resizable: false },
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

  return { number, element, show };
})();
