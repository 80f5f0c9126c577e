// A table that updates in place: sorted, filtered and paged in the kernel, drawn here.
import { age, connect, element, everySecond, setText, standing } from "./live.js";

const SORTED = ["key", "value", "type", "age", "revision"];
const PAGE = 25;
const FRESH = 1500;

/** Which rows have changed since they were shown last: those that came, or have another stamp. */
export function changedKeys(before, rows) {
  return rows.filter((row) => row[6] && before.get(row[0]) !== row[6]).map((row) => row[0]);
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

function rowOf(columns) {
  const cells = columns.map((name) => element("td", `ds-${name}`));
  return { line: element("tr", "", "", ...cells), cells };
}

function fill(drawn, row, now) {
  const [key, text, remark, type, time, revision, , layer] = row;
  const texts = [key, null, type, age(time, now), revision, layer ?? ""];
  drawn.cells.forEach((cell, at) => at === 1 || setText(cell, texts[at]));
  const shown = remark ? `${text}\u2003${remark}` : text;
  setText(drawn.cells[1], shown);
  drawn.cells[3].title = time ? new Date(time).toISOString() : "";
  drawn.time = time;
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
  const head = element("tr");
  const body = element("tbody");
  const table = element("table", "", "", element("thead", "", "", head), body);
  const tools = element("div", "ds-tools", "", filter, back, on, where);
  root.append(state.line, tools, element("div", "ds-scroll", "", table));
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
        ...columns.map((name) => {
          const cell = element("th", "", name);
          if (SORTED.includes(name)) cell.onclick = () => ask(resorted(asked, name));
          return cell;
        }),
      );
    }
    const arrow = message.page.down ? " ▾" : " ▴";
    [...head.children].forEach((cell, at) => {
      const name = columns[at];
      setText(cell, name === message.page.sort ? name + arrow : name);
    });
  };
  const show = (message) => {
    const now = Date.now();
    drawHead(message);
    state.show(message, `${message.count.toLocaleString("en")} keys`);
    const fresh = new Set(stamps === null ? [] : changedKeys(stamps, message.rows));
    while (drawn.length < message.rows.length) {
      drawn.push(rowOf(columns));
      body.append(drawn.at(-1).line);
    }
    while (drawn.length > message.rows.length) drawn.pop().line.remove();
    message.rows.forEach((row, at) => {
      fill(drawn[at], row, now);
      drawn[at].line.dataset.key = row[0];
      if (fresh.has(row[0]) && now - row[6] < FRESH) mark(drawn[at].line);
      else if (drawn[at].key !== row[0]) drawn[at].line.classList.remove("ds-fresh");
      drawn[at].key = row[0];
    });
    stamps = stamps ?? new Map();
    message.rows.forEach((row) => stamps.set(row[0], row[6]));
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
    drawn.forEach((row) => setText(row.cells[3], age(row.time, now)));
  });
  return () => {
    quiet();
    page.leave();
  };
}

export default { render };
