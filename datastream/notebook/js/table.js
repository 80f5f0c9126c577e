// A table that updates in place: sorted, filtered and paged in the kernel, drawn here.
import { age, connect, element, everySecond, setText, standing } from "./live.js";

const PAGE = 25;
const FRESH = 1500;

/** Which rows have changed since they were shown last: those that came, or have another stamp. */
export function changedKeys(before, rows) {
  return rows.filter(([key, stamp]) => stamp && before.get(key) !== stamp).map(([key]) => key);
}

/** "1–25 of 100,000", and of how many before the filter. */
export function position(page, shown, matching, count) {
  const number = (value) => value.toLocaleString("en");
  if (!matching) return count ? `none of ${number(count)}` : "no keys";
  const range = `${number(page.first + 1)}–${number(page.first + shown)}`;
  const all = matching === count ? "" : ` (${number(count)} in all)`;
  return `${range} of ${number(matching)}${all}`;
}

/** What to ask for when a heading is clicked. */
export function resorted(asked, column) {
  return { ...asked, sort: column, down: asked.sort === column ? !asked.down : false, first: 0 };
}

/** A line for each value that did not validate, and one for those beyond them. */
export function refusals({ rejected, refusals }) {
  const lines = rejected.map(([key, reason]) => `rejected: ${key ? `${key}: ` : ""}${reason}`);
  const more = refusals - rejected.length;
  return more > 0 ? [...lines, `… and ${more.toLocaleString("en")} more`] : lines;
}

function rowOf(columns) {
  const cells = columns.map(([name]) => element("td", `ds-${name}`));
  const aged = cells[columns.findIndex(([name]) => name === "age")];
  return { line: element("tr", "", "", ...cells), cells, aged };
}

function fill(drawn, row, now) {
  const [, , time, texts] = row;
  drawn.time = time;
  drawn.cells.forEach((cell, at) => cell === drawn.aged || setText(cell, texts[at]));
  setText(drawn.aged, age(time, now));
  drawn.aged.title = time ? new Date(time).toISOString() : "";
}

function render({ model, el }) {
  const root = element("div", "ds-live ds-table");
  const state = standing();
  const filter = element("input", "ds-filter");
  filter.placeholder = "filter";
  filter.setAttribute("aria-label", "filter");
  const where = element("span", "ds-dim ds-where");
  const back = element("button", "ds-button", "‹");
  const on = element("button", "ds-button", "›");
  back.title = "previous page";
  on.title = "next page";
  const refused = element("div", "ds-refused");
  const head = element("tr");
  const body = element("tbody");
  const table = element("table", "", "", element("thead", "", "", head), body);
  const tools = element("div", "ds-tools", "", filter, back, on, where);
  root.append(state.line, refused, tools, element("div", "ds-scroll", "", table));
  el.append(root);

  let asked = { sort: "key", down: false, filter: "", first: 0, size: PAGE };
  let columns = [];
  let drawn = [];
  let matching = 0;
  let stamps = null;

  const ask = (what) => {
    asked = { ...asked, ...what };
    page.ask(asked);
  };
  const mark = (line) => {
    line.classList.remove("ds-fresh");
    void line.offsetWidth; // Without this the animation does not begin again.
    line.classList.add("ds-fresh");
  };
  const drawHead = (message) => {
    if (columns.join() !== message.columns.join()) {
      columns = message.columns;
      head.replaceChildren(
        ...columns.map(([name, title, sorts]) => {
          const cell = element("th", sorts ? "ds-sorts" : "", title);
          if (sorts) cell.onclick = () => ask(resorted(asked, name));
          return cell;
        }),
      );
    }
    const arrow = message.page.down ? " ▾" : " ▴";
    columns.forEach(([name, title], at) => {
      setText(head.children[at], name === message.page.sort ? title + arrow : title);
    });
  };
  const show = (message) => {
    const now = Date.now();
    drawHead(message);
    state.show(message, `${message.count.toLocaleString("en")} keys`);
    refused.replaceChildren(...refusals(message).map((line) => element("div", "", line)));
    const fresh = new Set(stamps === null ? [] : changedKeys(stamps, message.rows));
    while (drawn.length < message.rows.length) {
      drawn.push(rowOf(columns));
      body.append(drawn.at(-1).line);
    }
    while (drawn.length > message.rows.length) drawn.pop().line.remove();
    message.rows.forEach((row, at) => {
      fill(drawn[at], row, now);
      drawn[at].line.dataset.key = row[0];
      if (fresh.has(row[0]) && now - row[1] < FRESH) mark(drawn[at].line);
      else if (drawn[at].key !== row[0]) drawn[at].line.classList.remove("ds-fresh");
      drawn[at].key = row[0];
    });
    stamps = stamps ?? new Map();
    message.rows.forEach((row) => stamps.set(row[0], row[1]));
    matching = message.matching;
    setText(where, position(message.page, message.rows.length, matching, message.count));
    back.disabled = message.page.first === 0;
    on.disabled = message.page.first + message.rows.length >= matching;
  };

  filter.oninput = () => ask({ filter: filter.value, first: 0 });
  back.onclick = () => ask({ first: Math.max(0, asked.first - PAGE) });
  on.onclick = () => ask({ first: asked.first + PAGE });
  const page = connect(model, root, show);
  const quiet = everySecond(() => {
    const now = Date.now();
    drawn.forEach((row) => setText(row.aged, age(row.time, now)));
  });
  return () => {
    quiet();
    page.leave();
  };
}

export default { render };
